"""Which command a command line means: `build` unless its first word is the name of another.

    isobit MODEL --recipe qdrop_w4a4 --target onnx      builds, as does `isobit build MODEL ...`
    isobit analyze MODEL --calib-data ...               says which layers suffer at few bits
    isobit compare ARTIFACT ARTIFACT                    draws artifacts side by side
    isobit report ARTIFACT                              draws its page with the latency beside float
    isobit bench ARTIFACT... MODEL...                   times them in turns
    isobit verify ARTIFACT                              checks its certificate from the files
    isobit sign ARTIFACT --key key.pem                  signs it
    isobit sweep study.yaml                             builds models x recipes x targets x seeds, and says what is best
    isobit recipes | targets | doctor                   list what there is

A model file with the name of a command is reached as `./recipes` or `build recipes`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer
from typer.main import get_command

from isobit import __version__
from isobit.cli import completion
from isobit.cli import options as cli
from isobit.cli.analyze import analyze
from isobit.cli.artifacts.bench import bench
from isobit.cli.artifacts.compare import compare
from isobit.cli.artifacts.report import report
from isobit.cli.artifacts.sign import sign
from isobit.cli.artifacts.sweep import sweep
from isobit.cli.artifacts.verify import verify
from isobit.cli.build import build
from isobit.cli.doctor import doctor
from isobit.cli.listing import recipes, targets
from isobit.pipeline.errors import InputError, nearest_spelling

BUILD = "build"


def single(command: Any, add_completion: bool = False, **settings: Any) -> typer.Typer:
    """An application of one command."""
    made = typer.Typer(add_completion=add_completion, pretty_exceptions_enable=False, rich_markup_mode=None)
    made.command(**settings)(command)
    return made


LISTS = {"recipes": single(recipes), "targets": single(targets), "doctor": single(doctor)}
OTHERS = {"analyze": single(analyze, cls=cli.NumbersSideBySide), "compare": single(compare),
          "report": single(report), "bench": single(bench), "sweep": single(sweep), "verify": single(verify),
          "sign": single(sign), **LISTS}


class FirstWord(cli.NumbersSideBySide):
    """The command `build`, which hands over to another where the first word names it."""

    def main(
        self, args: Sequence[str] | None = None, prog_name: str | None = None, complete_var: str | None = None,
        standalone_mode: bool = True, windows_expand_args: bool = True, **extra: Any,
    ) -> Any:
        extra |= {"standalone_mode": standalone_mode, "windows_expand_args": windows_expand_args}
        asked = os.environ.get(completion.VARIABLE)
        if asked:
            commands = {BUILD: app, **OTHERS}
            named = {name: get_command(command) for name, command in commands.items()}
            first = get_command(single(completion.first_word(named)))
            sys.exit(completion.answer(asked, named, first, named[BUILD]))
        given = list(sys.argv[1:] if args is None else args)
        first = given[0] if given else ""
        if first == "--version":
            print(f"isobit {__version__}")
            return None
        refuse_misspelt(first)
        if first in OTHERS:
            program = prog_name or Path(sys.argv[0]).name
            return get_command(OTHERS[first]).main(given[1:], f"{program} {first}", complete_var, **extra)
        return super().main(given[1:] if first == BUILD else given, prog_name, complete_var, **extra)


def refuse_misspelt(word: str) -> None:
    """Exit with code 2 where the first word is no file and nearly the name of a command."""
    meant = nearest_spelling(word, [BUILD, *OTHERS])
    if meant and word not in (BUILD, *OTHERS) and not Path(word).suffix and not Path(word).exists():
        print(f"error: there is no command and no model file '{word}'\n  do:      {meant}", file=sys.stderr)
        sys.exit(int(InputError.exit_code))


app = single(build, add_completion=True, cls=FirstWord, help=cli.HELP)
