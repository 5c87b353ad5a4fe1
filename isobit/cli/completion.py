"""What a shell completes: commands, options, and the names of recipes, targets, profiles, methods and metrics.

A shell asks by the environment, as typer's scripts for bash, zsh and fish do (`isobit --install-completion`). The first
word may name a command, so it is taken away before that command's own options answer.
"""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import typer
from typer.completion import completion_init, shell_complete  # pyright: ignore[reportPrivateImportUsage]

from isobit.backends.base import BACKENDS
from isobit.calib import methods, sources
from isobit.calib.methods import METHODS
from isobit.calib.sources import SOURCES
from isobit.pipeline.proof.metrics import metric_names
from isobit.pipeline.recipe.family import list_families
from isobit.pipeline.registry import discover

VARIABLE = "_ISOBIT_COMPLETE"
BASH, BASH_AT, OTHERS = "COMP_WORDS", "COMP_CWORD", "_TYPER_COMPLETE_ARGS"
DEVICES = ("auto", "cpu", "cuda")


def answer(instruction: str, commands: Mapping[str, Any], first: Any, default: Any) -> int:
    """Print what a shell asks for; the exit code.

    Args:
        instruction: `complete_bash`, `source_zsh`; the value of `VARIABLE`.
        commands: by name.
        first: a command whose argument is the name of one.
        default: what a command line without the name of a command means.
    """
    completion_init()
    words = _words()
    if len(words) < 2:
        given = first
    elif words[0] in commands:
        given, words = commands[words[0]], words[1:]
    else:
        given = default
    _set_words(words)
    last, told = words[-1] if words else "", io.StringIO()
    with contextlib.redirect_stdout(told):
        code = shell_complete(given, {}, "isobit", VARIABLE, instruction)
    lines = told.getvalue().splitlines()
    before = last[:last.rfind("=") + 1] if BASH in os.environ else ""  # bash completes what follows it alone
    print("\n".join(line.removeprefix(before) for line in lines))
    return code


def _words() -> list[str]:
    """The words after the program, the one that is completed last, empty where nothing of it is typed."""
    if BASH in os.environ:
        at = os.environ.get(BASH_AT, "")
        place = int(at) if at.isdecimal() else 1
        words = _split(os.environ[BASH])
        return _joined([*words[1:place], words[place] if place < len(words) else ""])
    text = os.environ.get(OTHERS, "")
    words = _split(text)[1:]
    return [*words, ""] if text.endswith(" ") or not words else words


def _joined(words: Sequence[str]) -> list[str]:
    """The words with `key`, `=` and `value` as one again: bash ends a word at `=`."""
    found: list[str] = []
    for word in words:
        if found and (word == "=" or found[-1].endswith("=")):
            found[-1] += word
        else:
            found.append(word)
    return found


def _set_words(words: list[str]) -> None:
    text = " ".join(["isobit", *(shlex.quote(word) if word else "" for word in words)])
    if BASH in os.environ:
        os.environ[BASH], os.environ[BASH_AT] = text, str(len(words))
    else:
        os.environ[OTHERS] = text


def _split(text: str) -> list[str]:
    """Words as a shell reads them; those of a quote that is still open as they are."""
    try:
        return shlex.split(text)
    except ValueError:
        return text.split()


def first_word(names: Iterable[str]) -> Any:
    """A command that does nothing: its argument completes to `names`, and to files where none begins so."""
    known = sorted(names)
    argument = typer.Argument(autocompletion=one_of(*known))

    def command(word: str = argument) -> None:
        sys.exit(2)

    return command


def recipe_names(incomplete: str) -> list[str]:
    """Every family, and where one is written out its recipes."""
    families = {family.name: family.recipes for family in list_families()}
    found = _begin([f"{name}_" for name in families], incomplete)
    if len(found) != 1 and incomplete.rstrip("_") not in families and "_w" not in incomplete:
        return found
    return _begin([recipe for recipes in families.values() for recipe in recipes], incomplete)


def target_names(incomplete: str) -> list[str]:
    """Targets."""
    return _begin(BACKENDS.names(), incomplete)


def profile_names(ctx: typer.Context, incomplete: str) -> list[str]:
    """Profiles of the target that is named before, else of all."""
    target = ctx.params.get("target")
    known = BACKENDS.loaded()
    chosen = [known[target]] if target in known and _is_said(ctx, "target") else known.values()
    return _begin(sorted({profile for backend in chosen for profile in backend.profiles}), incomplete)


def _is_said(ctx: typer.Context, name: str) -> bool:
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def metrics(incomplete: str) -> list[str]:
    """Metrics."""
    return _begin(metric_names(), incomplete)


def devices(incomplete: str) -> list[str]:
    """Kinds of devices for calibration."""
    return _begin(DEVICES, incomplete)


def edits(incomplete: str) -> list[str]:
    """Fields of a recipe that name something, with every name."""
    discover(methods)
    discover(sources)
    return _begin([*(f"method.name={name}" for name in METHODS.names()),
                   *(f"images.source={name}" for name in SOURCES.names())], incomplete)


def one_of(*names: str) -> Any:
    """A function that completes to these."""
    return lambda incomplete: _begin(names, incomplete)


def _begin(names: Iterable[str], incomplete: str) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]
