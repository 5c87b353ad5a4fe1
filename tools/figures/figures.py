"""Keeps the measured figures of README and docs true: tables, sentences, and what is said of their age.

    python tools/figures/figures.py            names what is not current; exit status 1 where there is something
    python tools/figures/figures.py --write    writes it from the numbers that are there
    python tools/figures/figures.py --quick    measures again what takes minutes and was measured by older code

A figure whose code has changed since it was measured is allowed to stand as long as its document says so. Numbers come
from the JSON files of docs/, which the tools that measure write.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path[:0] = [str(ROOT)]

from isobit.pipeline.errors import InputError
from tools.figures import prose
from tools.figures.pages import PAGES, Part, current


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """The command line; 1 where a document is not current, 2 where one does not hold what it should."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="write the documents")
    parser.add_argument("--quick", action="store_true", help="measure again what is old and takes minutes, then write")
    options = parser.parse_args(arguments)
    try:
        if options.quick:
            measure_again(cheap_and_old(root))
        found = not_current(root)
    except InputError as error:
        print(error, file=sys.stderr)
        return int(error.exit_code)
    except (OSError, KeyError, TypeError, ValueError) as error:
        print(f"a document, or the numbers that it is made of, cannot be read: {error!r}", file=sys.stderr)
        return int(InputError.exit_code)
    if options.write or options.quick:
        for document, text in found.items():
            (root / document).write_text(text, encoding="utf-8")
            print(f"{document}: written")
        return 0
    for document in found:
        print(f"{document}: not current: python tools/figures/figures.py --write")
    return int(bool(found))


def documents(root: Path = ROOT) -> list[str]:
    """README and every page of docs, from the root of the checkout."""
    return ["README.md", *sorted(path.relative_to(root).as_posix() for path in (root / "docs").rglob("*.md"))]


def not_current(root: Path = ROOT) -> dict[str, str]:
    """The documents that are not what the numbers say, with the text that they should have.

    Raises:
        InputError: marks, or a sentence with figures, are not where they should be.
    """
    numbers, made = prose.read_numbers(root), {page.document for page in PAGES}
    found = {}
    for document in dict.fromkeys([*documents(root), *sorted(made)]):  # one that is gone is an error
        before = (root / document).read_text(encoding="utf-8")
        text = current(document, root) if document in made else before
        text = prose.write(text, document, numbers, prose.FIGURES)
        if text != before:
            found[document] = text
    return found


def cheap_and_old(root: Path = ROOT) -> list[Part]:
    """What older code measured and `--quick` measures again."""
    found = []
    for page in PAGES:
        numbers = page.numbers(root)
        found += [part for part in page.parts(numbers) if part.cheap and part.changed(numbers, root)]
    return found


def measure_again(parts: Sequence[Part]) -> None:
    """Run the commands of `parts`, one after another; stops at the first that fails."""
    for part in parts:
        print(f"{part.name}: {part.command}", flush=True)
        for command in part.command.split(" && "):
            subprocess.run([sys.executable, *shlex.split(command)[1:]], check=True, cwd=ROOT)


if __name__ == "__main__":
    sys.exit(main())
