"""The workbench's commands, a file each: from what was typed to the library, and from its answer to the terminal."""

from ensembles.command_line import USAGE, Fault

__all__ = ["DATA", "USAGE", "Fault"]

DATA = "An .npz file with x and y, or a folder or .zip with a folder of images for each class; data.zip#test for a part of it."
"""The help on labelled data."""
