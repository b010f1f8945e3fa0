"""YAML that is safe to read from strangers."""

from typing import Any

import yaml

from ensembles.frozen import first_twice
from ensembles.wording import one_line, shown


class NotPlainError(ValueError):
    """The text is no plain YAML mapping. One line: what was found, what was expected."""


class PlainLoader(yaml.SafeLoader):
    """Safe YAML without aliases (a few lines of them can grow into gigabytes) and without keys given twice."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            line = self.peek_event().start_mark.line + 1  # type: ignore[no-untyped-call]
            raise NotPlainError(f"line {line}: found an alias, expected plain YAML")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        twice = first_twice(str(key.value) for key, _ in node.value)
        if twice is not None:
            raise NotPlainError(f"line {node.start_mark.line + 1}: found key {shown(twice)} twice, expected it once")
        return super().construct_mapping(node, deep)


def mapping(text: str, kind: str) -> dict[Any, Any]:
    """The mapping that the text holds; `kind` is what it should have been. Raises NotPlainError."""
    try:
        content = yaml.load(text, Loader=PlainLoader)  # noqa: S506  a SafeLoader, stricter
    except yaml.YAMLError as error:
        raise NotPlainError(f"expected YAML, found {one_line(error)}") from None
    except RecursionError:
        raise NotPlainError(f"expected {kind}, found YAML that nests too deep") from None
    except NotPlainError:
        raise
    except (ValueError, KeyError, AttributeError, TypeError) as error:  # a date that is none, a number of 5,000 digits
        raise NotPlainError(f"expected YAML, found {one_line(error)}") from None
    if not isinstance(content, dict):
        raise NotPlainError(f"expected a mapping, found {type(content).__name__}")
    return content
