"""The load test's commands, a file each: from what was typed to the library, and from its answer to the terminal."""

DONE, NO, USAGE, MISSED, INVALID = 0, 1, 2, 3, 4
"""Exit codes: done; the answer is no, or the target went away; wrong usage; an objective was missed; the run is invalid."""


class Fault(Exception):
    """The command ends here: one line for the user, and the exit code."""

    def __init__(self, text: str, code: int = NO) -> None:
        super().__init__(text)
        self.code = code
