"""The workbench's commands, a file each: from what was typed to the library, and from its answer to the terminal."""

USAGE = 2
"""The exit code of wrong usage."""


DATA = "An .npz file with x and y, or a folder or .zip with a folder of images for each class; data.zip#test for a part of it."
"""The help on labelled data."""


class Fault(Exception):
    """The command ends here: one line for the user, and the exit code (1: the answer is no, 2: wrong usage)."""

    def __init__(self, text: str, code: int = 1) -> None:
        super().__init__(text)
        self.code = code
