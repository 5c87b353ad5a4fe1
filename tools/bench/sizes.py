"""How large compiled networks are: constants, flash and RAM of the C, `model.so` of the modules.

    python tools/bench/sizes.py --write-docs

Sizes follow from layers and bits alone, so few images calibrate. What a compiler that is missing would say is left out.
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

from isobit.build import Options, compile_model
from isobit.pipeline.errors import CompileError, InputError
from isobit.pipeline.recipe.file import load_recipe
from tools.bench.rows import DS_CNN, RESNET, SUBJECT_TITLES
from tools.bench.subjects import Subject, trained
from tools.documents import command_text, markdown
from tools.processor import cpu_name
from tools.publish import publish

DOCS = ROOT / "docs"
NUMBERS = DOCS / "sizes.json"
IMAGES = 32
# network, recipe, target, profile
BUILDS = (
    *((name, f"nearest_{bits}", "c", "cortex-m4") for name in (RESNET, DS_CNN) for bits in ("w8a8", "w2a2")),
    *((RESNET, f"nearest_{bits}", "tvm", profile) for bits in ("w8a8", "w4a4")
      for profile in ("aarch64", "x86-64-vnni")),
)
C_COLUMNS = ("weights_packed", "model", "flash", "arena", "stack")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 2 where a network or a compiler is missing."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--write-docs", action="store_true", help="write docs/sizes.json, tables of c.md and tvm.md")
    options = parser.parse_args(arguments)
    try:
        lines = []
        for line in measure(trained(options.data), options.data):
            lines.append(line)
            print(json.dumps(line), flush=True)
    except CompileError as error:
        print(error, file=sys.stderr)
        return int(error.exit_code)
    if options.write_docs:
        content = numbers(lines, command_text("tools/bench/sizes.py", arguments or sys.argv[1:]))
        for document, tables in (("c.md", c_tables), ("tvm.md", tvm_tables)):
            publish(DOCS / document, content, tables(content), "sizes", numbers=NUMBERS)
    return 0


def measure(subjects: Mapping[str, Subject], data: Path) -> Iterator[dict[str, Any]]:
    """Build each of BUILDS, and read its sizes off the artifact."""
    for name, recipe, target, profile in BUILDS:
        if name not in subjects:
            raise InputError(f"{SUBJECT_TITLES[name]} is not there", where=str(data), hint="give its folder by --data")
        yield {"network": name, "recipe": recipe, "target": target, "profile": profile,
               **sizes(subjects[name], recipe, target, profile)}


def sizes(subject: Subject, recipe: str, target: str, profile: str) -> dict[str, int]:
    """What the manifest of an artifact says of sizes, in bytes."""
    edits = [f"images.count={IMAGES}", f"images.batch_size={IMAGES}"]
    with tempfile.TemporaryDirectory() as name:
        out = Path(name) / "artifact"
        compile_model(subject.load(), load_recipe(recipe, edits), target, subject.calibration(IMAGES, 0), None, out,
                      Options(profile=profile))
        return json.loads((out / "manifest.json").read_text(encoding="utf-8"))["sizes"]


def numbers(lines: Sequence[Mapping[str, Any]], command: str) -> dict[str, Any]:
    """What docs/sizes.json holds: an artifact in a line, in bytes."""
    return {"about": "Every artifact of tools/bench/sizes.py, in bytes; docs/c.md and docs/tvm.md show a part.",
            "command": command, "cpu": cpu_name(), "artifacts": list(lines)}


def c_tables(content: Mapping[str, Any]) -> dict[str, str]:
    """The table of docs/c.md."""
    rows = [(f"{SUBJECT_TITLES[line['network']]}, `{line['recipe']}`", *(f"{line[key]:,}" for key in C_COLUMNS))
            for line in content["artifacts"] if line["target"] == "c"]
    return {"c": markdown(("network, recipe", "weights", *(f"`{key}`" for key in C_COLUMNS[1:])), rows)}


def tvm_tables(content: Mapping[str, Any]) -> dict[str, str]:
    """The table of docs/tvm.md."""
    rows = [(f"{SUBJECT_TITLES[line['network']]}, `{line['recipe']}`", f"`{line['profile']}`", f"{line['model']:,}")
            for line in content["artifacts"] if line["target"] == "tvm"]
    return {"tvm": markdown(("network, recipe", "profile", "`model.so`, bytes"), rows)}


if __name__ == "__main__":
    sys.exit(main())
