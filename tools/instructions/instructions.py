"""Instructions of an inference on a Cortex-M4 and M55, plain C beside what DSP instructions and Helium make of it.

    python tools/instructions/instructions.py --write-docs
    python tools/instructions/instructions.py --folder artifacts/kws --steps

The emulator counts exactly and knows no time: loads, multiplications and jumps take a Cortex-M4 one to many cycles, and
a Cortex-M55 works on a vector for two.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path[:0] = [str(ROOT)]

from isobit.backends.c.device_runner import DESCRIPTION
from isobit.backends.c.toolchain import compiler_of, compiler_version
from isobit.build import Options, compile_model
from isobit.pipeline.errors import CompileError
from isobit.pipeline.recipe.file import load_recipe
from tools.documents import command_text, markdown
from tools.instructions.counting import HELIUM, MACHINE, NO_HELIUM, PLAIN, count, count_steps
from tools.instructions.networks import IMAGES, YARDSTICKS, model_of, samples_of
from tools.publish import publish

DOCS = ROOT / "docs"
NUMBERS = DOCS / "instructions.json"
RECIPES = ("mse_w8a8", "mse_w4a8", "mse_w4a4")
LEVELS = ("O2", "Os")
VARIANTS: Mapping[str, tuple[str, tuple[str, ...]]] = {  # profile of the processor, options of the compiler
    "plain": (MACHINE, PLAIN), "dsp": (MACHINE, ()),
    "plain, m55": (HELIUM, (*NO_HELIUM, *PLAIN)), "dsp, m55": (HELIUM, NO_HELIUM), "helium": (HELIUM, ()),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 2 where a compiler or the emulator is missing."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, action="append", help="an artifact of target c, not the yardsticks")
    parser.add_argument("--steps", action="store_true", help="of each tensor too")
    parser.add_argument("--write-docs", action="store_true", help="write docs/instructions.json, the table of c.md")
    options = parser.parse_args(arguments)
    for folder in options.folder or ():
        if not (folder / DESCRIPTION).is_file():
            parser.error(f"{folder} is no artifact of the target c: it has no {DESCRIPTION}")
    try:
        lines = []
        for line in folders(options.folder, options.steps) if options.folder else yardsticks(options.steps):
            lines.append(line)
            print(json.dumps(line), flush=True)
    except CompileError as error:
        print(error, file=sys.stderr)
        return int(error.exit_code)
    if options.write_docs and not options.folder:
        command = command_text("tools/instructions/instructions.py", arguments or sys.argv[1:])
        content = numbers(lines, command, compiler_version(compiler_of(MACHINE)))
        publish(DOCS / "c.md", content, tables(content), "instructions", numbers=NUMBERS)
    return 0


def folders(found: Sequence[Path], steps: bool = False) -> Iterator[dict[str, Any]]:
    """What each of some artifacts takes."""
    for folder in found:
        yield {"folder": folder.name, **counted(folder, steps)}


def yardsticks(steps: bool = False) -> Iterator[dict[str, Any]]:
    """Build each network with each recipe, and count."""
    for network in YARDSTICKS:
        for recipe in RECIPES:
            edits = [f"images.count={IMAGES}", f"images.batch_size={IMAGES}"]
            with tempfile.TemporaryDirectory() as name:
                out = Path(name) / "artifact"
                compile_model(model_of(network), load_recipe(recipe, edits), "c", samples_of(network), None, out,
                              Options(profile=MACHINE))
                yield {"network": network, "recipe": recipe, **counted(out, steps)}


def counted(folder: Path, steps: bool = False) -> dict[str, Any]:
    """Instructions of an inference by level and variant."""
    found: dict[str, Any] = {}
    for level in LEVELS:
        for name, (machine, options) in VARIANTS.items():
            found.setdefault(level, {})[name] = count(folder, [*options, f"-{level}"], machine)
            if steps:
                found[level][f"{name} by tensor"] = count_steps(folder, [*options, f"-{level}"], machine)
    return found


def numbers(lines: Sequence[Mapping[str, Any]], command: str, compiler: str) -> dict[str, Any]:
    """What docs/instructions.json holds."""
    return {"about": "Instructions of an inference on an emulated Cortex-M4 and M55; docs/c.md shows a part.",
            "command": command, "compiler": compiler, "counts": list(lines)}


def tables(content: Mapping[str, Any]) -> dict[str, str]:
    """The table of docs/c.md, in millions."""
    rows = []
    for line in content["counts"]:
        yardstick = YARDSTICKS[line["network"]]
        cells = [f"{line[LEVELS[0]][kind] / 1e6:.1f}" for kind in ("plain", "dsp")]
        cells += [_ratio(line, "dsp", "plain"), f"{yardstick.record}"]
        cells += [f"{line[LEVELS[0]][kind] / 1e6:.1f}" for kind in ("dsp, m55", "helium")]
        rows.append((f"{yardstick.title}, `{line['recipe']}`", *cells, _ratio(line, "helium", "dsp, m55")))
    ratio = f"ratio (`-{LEVELS[1]}`)"
    columns = ("network, recipe", "M4: plain C", "DSP", ratio, "X-CUBE-AI, cycles", "M55: DSP", "Helium", ratio)
    return {"c": markdown(columns, rows, tight=True)}


def _ratio(line: Mapping[str, Any], kind: str, other: str) -> str:
    """How many instructions one variant takes of another's, at the first level and at the second."""
    first, second = (f"{line[level][kind] / line[level][other]:.2f}" for level in LEVELS)
    return f"{first} ({second})"


if __name__ == "__main__":
    sys.exit(main())
