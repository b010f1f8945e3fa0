"""The load test's commands, a file each: from what was typed to the library, and from its answer to the terminal."""

from ensembles.command_line import USAGE, Fault

__all__ = ["DONE", "INVALID", "MISSED", "NO", "USAGE", "Fault"]

DONE, NO, MISSED, INVALID = 0, 1, 3, 4
"""Exit codes: done; the answer is no, or the target went away; an objective was missed; the run is invalid; 2 is wrong usage."""
