"""What a law is: an assertion about the objects of a rendering, the renderings that it is about, and changes that break it."""

import contextlib
import functools
import io
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import typer

from serving import cli, door, receipts
from serving.settings import Settings

from .conftest import COMPONENTS, OVERLAYS

LOADTEST = ["overlays/loadtest"]
SERVERS = [name for name in [*OVERLAYS, *COMPONENTS, "base"] if name not in LOADTEST]
DEPLOYED = [name for name in SERVERS if name != "overlays/ci"]
"""Those with all that a cluster has: podman runs pods and their settings only."""
GUARDED = ["overlays/cpu", "overlays/gpu", "components/networkpolicy"]
GPUS = ["overlays/gpu", "components/gpu", "components/mig", "components/timeslicing"]
PODS = [*SERVERS, *LOADTEST]


@dataclass
class World:
    """What the manifests have to fit: series by name, and what PromQL asks for."""

    shown: set[str]
    recorded: set[str]
    asked_for: Callable[[str], set[str]]


class Made:
    """The objects of one rendering."""

    def __init__(self, objects: list[dict]) -> None:
        self.objects = objects

    def all(self, kind: str) -> list[dict]:
        return [each for each in self.objects if each["kind"] == kind]

    def one(self, kind: str, name: str = "") -> dict:
        found = [each for each in self.all(kind) if each["metadata"]["name"].startswith(name)]
        assert len(found) == 1, f"{len(found)} of {kind} {name}"
        return found[0]

    def remove(self, kind: str, name: str = "") -> None:
        self.objects.remove(self.one(kind, name))

    @property
    def templates(self) -> list[dict]:
        return [each["spec"]["template"] for kind in ("Deployment", "Job") for each in self.all(kind)]

    @property
    def pods(self) -> list[dict]:
        return [template["spec"] for template in self.templates]

    @property
    def containers(self) -> list[dict]:
        return [container for pod in self.pods for container in pod["containers"]]

    @property
    def deployment(self) -> dict:
        return self.one("Deployment", "scrutin")

    @property
    def pod(self) -> dict:
        return self.deployment["spec"]["template"]["spec"]

    @property
    def labels(self) -> dict:
        return self.deployment["spec"]["template"]["metadata"]["labels"]

    @property
    def container(self) -> dict:
        return self.pod["containers"][0]

    @property
    def config_map(self) -> dict:
        return self.one("ConfigMap", "scrutin-settings")

    @property
    def settings(self) -> Settings:
        """What the command line of `serving` makes of this container's arguments and this ConfigMap."""
        return parsed(tuple(self.container["args"]), self.config_map["data"]["settings.yaml"])

    def replace_in_settings(self, pattern: str, text: str) -> None:
        data = self.config_map["data"]
        changed = re.sub(pattern, text, data["settings.yaml"], flags=re.MULTILINE)
        assert changed != data["settings.yaml"], f"{pattern} is not in the settings"
        data["settings.yaml"] = changed


class Started(Exception):
    """`serving run` has got as far as becoming the server."""


@functools.cache
def parsed(arguments: tuple[str, ...], file: str = "") -> Settings:
    """By the real command line, up to where it would look at the repository and at keys. AssertionError with its line where it refuses."""
    taken: list[Settings] = []

    def become(settings: Settings) -> None:
        taken.append(settings)
        raise Started

    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as patches:
        config = Path(folder) / "settings.yaml"
        config.write_text(file)
        given = [str(config) if word == "/etc/scrutin/settings.yaml" else word for word in arguments]
        said = patches.enter_context(contextlib.redirect_stderr(io.StringIO()))
        patches.enter_context(mock.patch.object(cli, "_verified"))
        patches.enter_context(mock.patch.object(receipts, "read_key"))
        patches.enter_context(mock.patch.object(door, "with_free_ports", lambda settings: settings))
        patches.enter_context(mock.patch.object(door, "become", become))
        try:
            typer.main.get_command(cli.app)(given, standalone_mode=False)
        except Started:
            return taken[0]
        except cli.WrongUsage as error:
            raise AssertionError(error.format_message()) from None
    raise AssertionError(said.getvalue())


@dataclass
class Law:
    name: str
    on: list[str]
    holds: Callable[[Made, World], None]
    breaks: tuple[Callable[[Made], object], ...]


LAWS: list[Law] = []


def law(on: list[str], *breaks: Callable[[Made], object]) -> Callable:
    """The function asserts something of every rendering in `on`; each of `breaks` changes the first of them so that it fails."""

    def registered(holds: Callable[[Made, World], None]) -> Callable:
        LAWS.append(Law(holds.__name__, on, holds, breaks))
        return holds

    return registered


def put(where: Callable[[Made], dict], **values: object) -> Callable[[Made], None]:
    """A change: these keys of this mapping have other values; None leaves one out."""

    def change(made: Made) -> None:
        target = where(made)
        for key, value in values.items():
            if value is None:
                del target[key]
            else:
                target[key] = value

    return change


def matches(selector: dict | None, labels: dict) -> bool:
    """A selector by labels. None selects nothing, an empty one everything."""
    return selector is not None and selector.get("matchLabels", {}).items() <= labels.items()


def words(value: object) -> Iterator[str]:
    """All texts in an object, keys too."""
    if isinstance(value, dict):
        for key, each in value.items():
            yield key
            yield from words(each)
    elif isinstance(value, list):
        for each in value:
            yield from words(each)
    elif isinstance(value, str):
        yield value
