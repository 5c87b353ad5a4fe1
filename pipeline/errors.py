"""What goes wrong on purpose: one exception type per stage, each saying what, where, what is allowed, what to do.

Everything that a user can cause is a `CompileError`; any other exception is a defect of ours.
Exit codes of the command line are a published contract (README): see `ExitCode`.

Texts name arguments and fields in backticks, by the path that a Python caller writes: `options.max_drop`,
`target=reference`, `recipe.images.count=0`. The command line turns those into its options (`isobit.fields`).
"""

from __future__ import annotations

import difflib
import enum
import os
from collections.abc import Iterable
from pathlib import Path

MESSAGE = 300  # characters of another library's message that one of ours repeats


LONGEST = 2000  # characters of one field of an error: what a file says is quoted in it


def _plain(text: str) -> str:
    """One line that can be shown: a file's own line breaks must not look like lines of ours."""
    line = " ".join(text.split("\n"))
    return line if len(line) <= LONGEST else f"{line[:LONGEST]}..."


class ExitCode(enum.IntEnum):
    """Process exit codes of the command line and of the artifact's `run.py`."""

    OK = 0
    GATE_FAILED = 1
    BAD_INPUT = 2
    INTERNAL = 3
    INTERRUPTED = 130  # what a shell gives a program that Ctrl-C ended


class CompileError(Exception):
    """A condition that the user can act on.

    Args:
        what: one sentence, what is wrong.
        where: where it was found: file, node, module path or source line; by default the field.
        allowed: what would have been accepted.
        hint: what to do next.
        field: path of the argument or recipe key that is at fault: `options.max_drop`, `calibration`,
            `recipe.method.steps`; empty where none is.
    """

    stage = "compile"
    exit_code = ExitCode.BAD_INPUT

    def __init__(self, what: str, *, where: str = "", allowed: str = "", hint: str = "", field: str = "") -> None:
        self.field = field
        where = where or (f"`{field}`" if field else "")
        self.what, self.where, self.allowed, self.hint = map(_plain, (what, where, allowed, hint))
        super().__init__(str(self))

    def __str__(self) -> str:
        lines = [f"{self.stage}: {self.what}"]
        for label, text in (("where", self.where), ("allowed", self.allowed), ("do", self.hint)):
            if text:
                lines.append(f"  {label + ':':9}{text}")
        return "\n".join(lines)


class InputError(CompileError):
    """A file, folder or argument that cannot be used: model, data set, output folder."""

    stage = "input"


class CaptureError(CompileError):
    """`torch.export` cannot turn the model into one graph, or the graph holds what no pass understands."""

    stage = "capture"


class RecipeError(CompileError):
    """A recipe that is not well formed or names what does not exist."""

    stage = "recipe"


class TargetError(CompileError):
    """A recipe that the target cannot honour for this graph; raised as soon as it is known, mostly before any image."""

    stage = "annotate"


class CalibrationError(CompileError):
    """Calibration cannot start or cannot go on: data that does not fit, numbers that are not finite."""

    stage = "calibrate"


class ParityError(CompileError):
    """The artifact does not compute what the reference computes, or an accuracy gate failed."""

    stage = "parity"
    exit_code = ExitCode.GATE_FAILED


def nearest_spelling(name: str, known: Iterable[str]) -> str:
    """`Did you mean 'x'?` for the closest of `known`, or an empty string where nothing is close."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"Did you mean '{close[0]}'?" if close else ""


def nearest_path(path: Path) -> str:
    """What to type in place of a path that does not exist: one of a like name, or from where paths start."""
    while not path.parent.is_dir():
        path = path.parent
    there = os.listdir(path.parent) if os.access(path.parent, os.R_OK) else []
    close = difflib.get_close_matches(path.name, there, n=1, cutoff=0.5)
    return f"Did you mean '{path.parent / close[0]}'?" if close else f"Paths start at {Path.cwd()}."


def first_line(error: BaseException) -> str:
    """Type and first line of an exception, for a message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:MESSAGE]}" if lines else type(error).__name__
