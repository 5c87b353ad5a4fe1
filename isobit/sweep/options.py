"""What a study may say of a model: the options of `isobit build` by their parameters' names, as words of its command.

Which there are is told by the command line (`isobit.cli.artifacts.sweep`); no list of them stands here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isobit.pipeline.errors import InputError, nearest_spelling

Scalar = str | int | float
ARGUMENTS = "arch_args"  # the one option whose values are key=value: a study may write a mapping


@dataclass(frozen=True)
class Option:
    """One option of a build.

    Args:
        name: of the parameter: `calib_data`.
        flag: `--calib-data`.
        repeatable: may be given several times, a list in a study.
        switch: has no value: true or false in a study.
        joined: takes numbers joined by commas, a list in a study.
        path: its value is a path, or begins with one up to a colon; relative to the study.
        names_file: its value may be `file.py:function`, relative to the study where that file is there.
    """

    name: str
    flag: str
    repeatable: bool = False
    switch: bool = False
    joined: bool = False
    path: bool = False
    names_file: bool = False


@dataclass(frozen=True)
class Word:
    """A value of an option: its text for the command line, and the file or folder whose bytes it stands for."""

    flag: str
    text: str | None
    file: Path | None = None


def words(option: Option, value: Any, folder: Path, field: str) -> list[Word]:
    """A study's value as words of a command line.

    Args:
        folder: of the study: what its relative paths begin with.
        field: key path of the value, for messages.

    Raises:
        InputError: a value of another kind than the option takes.
    """
    if option.switch:
        if not isinstance(value, bool):
            raise _refused(field, value, "true or false")
        return [Word(option.flag, None)] if value else []
    if option.name == ARGUMENTS and isinstance(value, Mapping):
        try:
            return [Word(option.flag, f"{key}={json.dumps(one)}") for key, one in value.items()]
        except TypeError:  # YAML knows dates, bytes and sets
            raise _refused(field, value, "numbers, texts, true, false, null and lists of them") from None
    if option.joined and isinstance(value, list):
        if not value or not all(_is_number(one) for one in value):
            raise _refused(field, value, "a number, or a list of numbers")
        return [Word(option.flag, ",".join(map(str, value)))]
    values = value if option.repeatable and isinstance(value, list) else [value]
    if not values or not all(isinstance(one, Scalar) and not isinstance(one, bool) and one != "" for one in values):
        raise _refused(field, value, "a text or a number, or a list of them" if option.repeatable else
                       "a text or a number")
    return [_word(option, str(one), folder) for one in values]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _refused(field: str, value: Any, allowed: str) -> InputError:
    try:
        text = repr(value)
    except ValueError:  # Python writes no integers of so many digits
        text = "a number of thousands of digits"
    return InputError(f"'{field}' is {text[:80]}", field=field, allowed=allowed)


def _word(option: Option, text: str, folder: Path) -> Word:
    name, colon, function = text.partition(":")
    if option.path or (option.names_file and colon and _is_file(folder / name)):
        file = (folder / text) if not colon else folder / name
        return Word(option.flag, f"{file}{colon}{function}", file)
    return Word(option.flag, text)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that no file can have
        return False


def check_known(options: Mapping[str, Option], given: Mapping[str, Any], field: str, more: tuple[str, ...]) -> None:
    """Raises InputError for the first key that is no option of a build.

    Args:
        field: key path of the model.
        more: further keys that it may have.
    """
    known = [*more, *sorted(options)]
    for key in given:
        if key not in known:
            raise InputError(f"unknown key '{field}.{key}'", field=f"{field}.{key}",
                             allowed=f"the keys {', '.join(known)}", hint=nearest_spelling(str(key), known))
