"""The command line that repeats a build, as an artifact keeps it: without what belongs to one machine or one run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath
from typing import Any

# Parameters that say nothing about the artifact.
OF_ONE_RUN = frozenset({"--overwrite", "--json", "--debug", "--resume", "--dry-run", "--out"})
# Texts that may name a file of Python or a recipe, but for the parameters that are paths by their type.
MAY_NAME_FILES = frozenset({"--arch", "--recipe", "--metric", "--decoder"})


def repeatable(parameters: Sequence[Any], context: Any) -> tuple[str, ...]:
    """The words after `isobit`: arguments, then options by name, each value a word of its own.

    `--x 1` and `--x=1`, and options in any order, give the same words. Of a path the last part is kept, as folders are
    of one machine; every other text stays as it is.

    Args:
        parameters: of the command, with `name` and `opts`.
        context: of typer, after the command line was read.
    """
    values = context.params
    said = [one for one in parameters if _is_given(context, one.name) and not OF_ONE_RUN & {*one.opts}]
    arguments = [_word(values[one.name], one.opts[0]) for one in said if not one.opts[0].startswith("-")]
    options = sorted((one for one in said if one.opts[0].startswith("-")), key=lambda one: one.opts[0])
    shown = [f"./{word}" if word.startswith("-") else word for word in arguments]
    return (*shown, *(word for one in options for word in _words(one.opts[0], values[one.name])))


def _is_given(context: Any, name: str) -> bool:
    """The command line says this parameter."""
    source = context.get_parameter_source(name)
    return name in context.params and source is not None and source.name == "COMMANDLINE"


def _words(option: str, value: Any) -> Iterator[str]:
    if isinstance(value, bool):
        if value:
            yield option
        return
    for each in value if isinstance(value, list | tuple) else [value]:
        yield from (option, _word(each, option))


def _word(value: Any, option: str) -> str:
    return last_part(str(value)) if isinstance(value, Path) or option in MAY_NAME_FILES else str(value)


def last_part(text: str) -> str:
    """`digits.pth` of a path to it, `net.py:make` of a path to a function; a text without folders as it is."""
    return PurePath(text).name or text
