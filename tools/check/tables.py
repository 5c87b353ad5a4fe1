"""The tables of README.md and docs/ that follow from the code: written between marks, and checked for being current.

    python tools/check/tables.py            names the documents that are not current; exit status 1 where there is one
    python tools/check/tables.py --write    writes their tables

A table stands between `<!-- table:NAME -->` and `<!-- /table:NAME -->`.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from typer.main import get_command

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path[:0] = [str(ROOT)]

from isobit import backends
from isobit.backends.base import BACKENDS
from isobit.backends.fixed_point.rules import integer_target
from isobit.backends.onnx.target import TARGETS as ONNX_TARGETS
from isobit.backends.rules import COMPUTED
from isobit.calib import methods as all_methods
from isobit.calib import sources as all_sources
from isobit.calib.corrected import Corrected
from isobit.calib.methods import METHODS
from isobit.calib.sources import SOURCES, Source
from isobit.cli.app import OTHERS, app
from isobit.cli.listing import NEEDS as OTHER_NEEDS
from isobit.passes.decompose import GATES
from isobit.pipeline.operators.moves import MOVES
from isobit.pipeline.operators.unary import UNARY
from isobit.pipeline.recipe.family import families_table, list_families
from isobit.pipeline.recipe.policy import POLICIES
from isobit.pipeline.recipe.schema import Override
from isobit.pipeline.registry import discover
from isobit.pipeline.target import Target
from tools.documents import fill, markdown

DOCUMENTS = ("docs/reference.md", "docs/artifact.md")
for _package in (backends, all_methods, all_sources):
    discover(_package)

NEEDS = {"images": "images", "labels": "labels", **OTHER_NEEDS}


def commands() -> str:
    """The sub-commands, and what each does."""
    listed = [(name, get_command(made).help or "") for name, made in OTHERS.items()]
    rows = [("build", get_command(app).help or ""), *listed]
    return _table(("command", "what it does"), [(f"`isobit {name}`", _sentence(text)) for name, text in rows])


def options() -> str:
    """The options of `isobit build`, with the help that the command itself shows."""
    return _table(("option", "meaning"), list(_options(get_command(app)).items()))


def analysis() -> str:
    """The options of `isobit analyze` that a build has not, or not in this meaning."""
    built = _options(get_command(app))
    own = {name: text for name, text in _options(get_command(OTHERS["analyze"])).items() if built.get(name) != text}
    return _table(("option", "meaning"), list(own.items()))


def _options(command: Any) -> dict[str, str]:
    """What stands on a command line -> its help."""
    found = {}
    for parameter in command.params:
        shown = str(parameter.metavar) if parameter.param_type_name == "argument" else ", ".join(parameter.opts)
        found[f"`{shown}`"] = (getattr(parameter, "help", None) or "").replace("<", "&lt;")
    return found


def targets() -> str:
    """Targets with their device profiles, the default first."""
    rows = []
    for name in BACKENDS.names():
        backend = BACKENDS.get(name)
        profiles = ", ".join(f"`{profile}`" for profile in backend.profiles)
        rows.append((f"`{name}`", profiles, f"`{backend.model_file}`", backend.device_needs))
    return _table(("target", "`--device-profile`, the default first", "writes", "on the device"), rows)


def policies() -> str:
    """What each policy keeps at 8 bits."""
    places = {"first": "first layer", "penultimate": "penultimate layer", "last": "last layer",
              "op:depthwise_conv2d": "depthwise convolutions"}
    rows = [
        (f"`{name}`", *(_kept(overrides, where) for where in places)) for name, overrides in POLICIES.items()
    ]
    return _table(("policy", *places.values()), rows)


def recipes() -> str:
    """Every family of recipes."""
    return families_table(list_families()).rstrip().replace("| ", "|").replace(" |", "|")


def methods() -> str:
    """Methods: what they need, and their parameters with the defaults."""
    rows = []
    for name in METHODS.names():
        found = METHODS.get(name)
        needed = found.needed(found.parameters())
        needs = ", ".join(word for need, word in NEEDS.items() if need in needed)
        common = Corrected.model_fields if issubclass(found.parameters, Corrected) else ()
        rows.append((f"`{name}`" + ("+" if common else ""), needs or "nothing", _parameters(found.parameters, common)))
    rows.append(("+", "", _parameters(Corrected)))
    return _table(("method", "needs", "`method.` parameters and defaults"), rows)


def sources() -> str:
    """Sources of calibration images, and their parameters with the defaults."""
    rows = []
    for name in SOURCES.names():
        found = SOURCES.get(name)
        what = "chooses from the data" if isinstance(found, Source) else "reads no data"
        rows.append((f"`{name}`", what, _parameters(found.parameters)))
    return _table(("source", "", "`images.` parameters and defaults"), rows)


def operators() -> str:
    """How each operator runs on which target; those that run alike share a row."""
    onnx, fixed = next(iter(ONNX_TARGETS.values())), integer_target("c", "")
    kinds: dict[tuple[str, str], list[str]] = {}
    for name in (*COMPUTED, "max_pool2d", *UNARY, *MOVES):
        if name in GATES:
            continue
        cells = (_runs(onnx, name, "float between quantizers"), _runs(fixed, name, "refused"))
        if name not in (names := kinds.setdefault(cells, [])):
            names.append(name)
    rows = [(", ".join(f"`{name}`" for name in names), *cells) for cells, names in kinds.items()]
    gated = ", ".join(f"`{name}`" for name in GATES)
    rows.append((gated, *["integers: a product with its gate"] * 2))
    rows.append(("any other", "float between quantizers, or refused", "refused"))
    return _table(("operator", "`onnx`, `onnx-qoperator`", "`tvm`, `c`"), rows)


TABLES: Mapping[str, Callable[[], str]] = {
    made.__name__: made
    for made in (
        commands, options, analysis, targets, policies, recipes, methods, sources, operators,
    )
}


def current(text: str, document: str) -> str:
    """`text` with its tables as the code says them now.

    Raises:
        InputError: marks of a table that does not exist, or that are not closed.
    """
    wanted = re.findall(r"<!-- table:(\w+) -->", text)
    return fill(text, {name: TABLES[name]() for name in wanted if name in TABLES}, mark="table", document=document)


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    """0 where every document is current, or is written; 1 where one is not."""
    parser = argparse.ArgumentParser(description="Tables of the documents that follow from the code.")
    parser.add_argument("--write", action="store_true", help="write them")
    write = parser.parse_args(arguments).write
    stale = []
    for document in DOCUMENTS:
        path = root / document
        text = path.read_text(encoding="utf-8")
        made = current(text, document)
        if made != text:
            stale.append(document)
            if write:
                path.write_text(made, encoding="utf-8")
    for document in stale:
        print(f"{document}: {'written' if write else 'not current; run python tools/check/tables.py --write'}")
    return 1 if stale and not write else 0


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return markdown(columns, rows, tight=True)


def _sentence(text: str) -> str:
    return " ".join(text.split("\n\n")[0].split())


def _parameters(model: type[BaseModel], besides: Collection[str] = ()) -> str:
    made = model()
    return ", ".join(f"`{name}={_value(getattr(made, name))}`" for name in model.model_fields if name not in besides)


def _value(value: object) -> str:
    if isinstance(value, tuple):
        return f"[{','.join(_value(item) for item in value)}]"
    return {None: "null", True: "true", False: "false"}.get(value, str(value)) if _is_word(value) else str(value)


def _is_word(value: object) -> bool:
    return value is None or isinstance(value, bool)


def _kept(overrides: Iterable[Override], where: str) -> str:
    """What the overrides say of one layer: `weights 8, input 8`."""
    kept = []
    for override in overrides:
        if override.where == where:
            parts = {"weights": override.weights, "input": override.activations, "output": override.output}
            kept += [f"{part} {change.bits}" for part, change in parts.items() if change is not None]
    return ", ".join(kept) or "–"


def _runs(target: Target, name: str, otherwise: str) -> str:
    """How the target computes operator `name`."""
    if target.tables is not None and name in UNARY and name not in target.ops:
        return "integers: a table of codes"
    rule = target.rule(name)
    if rule.inputs == "float":
        return otherwise
    return "integers: codes move" if rule.output == "as_input" else "integers"


if __name__ == "__main__":
    sys.exit(main())
