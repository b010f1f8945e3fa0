"""What users are told of values and errors that may be long, or of several lines. Pure."""

LONGEST = 200


def one_line(said: object) -> str:
    """The text of a value or an error on one line of at most `LONGEST` characters."""
    text = " ".join(str(said).split())
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."


def shown(value: object) -> str:
    """The same of a value as Python writes it: strings in quotes."""
    return one_line(repr(value))
