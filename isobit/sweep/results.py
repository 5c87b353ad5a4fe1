"""What came out of every cell, read off its artifact: `index.jsonl`, `index.csv`, and groups of seeds."""

from __future__ import annotations

import csv
import io
import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from isobit.pipeline.artifact.digest import MANIFEST
from isobit.pipeline.artifact.manifest import TIMINGS
from isobit.pipeline.artifact.timings import read_latency
from isobit.pipeline.errors import InputError
from isobit.pipeline.facts.record import FACTS
from isobit.sweep.cells import KEY, Cell
from isobit.sweep.folder import Runs, write_whole
from isobit.sweep.hashes import build_sha256

DONE, FAILED, TODO = "done", "failed", "todo"
INDEX, TABLE = "index.jsonl", "index.csv"
STAGES = ("float", "calibrated", "reference", "artifact")
NOT_OF_TABLES = ("accuracy", "edits", "higher_is_better", "cpu_seconds", "packages")


@dataclass(frozen=True)
class Row:
    """A line of `index.jsonl`.

    Args:
        status: `done`, `failed` or `todo`.
        measure, unit: of `accuracy`, as the build was judged: `top-1`, `%`.
        accuracy: by stage; nothing where nothing was measured.
        bytes: of the model file.
        compared, differing: codes, and of them those that differ from the target's integer arithmetic.
        seconds: of the build.
        cpu_seconds: of its processors by stage; nothing of a build that went on where another was killed.
        units, kept_nearest: that were reconstructed, and of them those that kept nearest rounding.
        undecided: mean share of rounding variables that training left undecided; None where nothing was reconstructed.
        machine: `AMD EPYC, 2 cores`.
        packages: their versions.
        code: hash of the code that built it.
        latency: milliseconds of a sample on the host that built it, where it was measured; other cells ran beside it.
        sha256: the manifest's, of all files: the same for the same cell, whichever engine built it.
        artifact: its folder, below that of the sweep; of a failed cell the log.
        error: `stage: message`.
    """

    key: str
    model: str
    recipe: str
    edits: tuple[str, ...]
    target: str
    profile: str
    seed: int
    status: str
    artifact: str
    measure: str = ""
    unit: str = ""
    higher_is_better: bool = True
    accuracy: Mapping[str, float | None] = field(default_factory=dict)
    bytes: int | None = None
    compared: int | None = None
    differing: int | None = None
    seconds: float | None = None
    cpu_seconds: Mapping[str, float] = field(default_factory=dict)
    units: int | None = None
    kept_nearest: int | None = None
    undecided: float | None = None
    machine: str = ""
    packages: Mapping[str, str] = field(default_factory=dict)
    code: str = ""
    latency: float | None = None
    sha256: str = ""
    error: str = ""

    @property
    def value(self) -> float | None:
        """The artifact's accuracy."""
        return self.accuracy.get("artifact")


def row_of(cell: Cell, runs: Runs) -> Row:
    """What stands on disk of a cell."""
    axes = (cell.key, cell.model, cell.recipe, cell.edits, cell.target, cell.profile, cell.seed)
    if runs.is_done(cell.name):
        return Row(*axes, DONE, f"cells/{cell.name}", **_measured(cell, runs))
    failure = runs.failure(cell.name)
    if failure is None:
        return Row(*axes, TODO, f"cells/{cell.name}")
    return Row(*axes, FAILED, f"work/{cell.name}", error=f"{failure.get('stage')}: {failure.get('message')}")


def _measured(cell: Cell, runs: Runs) -> dict[str, Any]:
    manifest, facts, parity, timings = (
        _json(cell, runs, name) for name in (MANIFEST, FACTS, "parity.json", TIMINGS))
    steps, codes, units = facts.get("steps", {}), parity.get("codes", {}), facts.get("units", ())
    stages, machine = timings.get("stages", {}).values(), timings.get("machine", {})
    begun = sum(attempt.get("event") == "started" for attempt in runs.attempts(cell.name))
    return {
        "measure": steps.get("title", ""), "unit": steps.get("unit", ""),
        "higher_is_better": steps.get("higher_is_better", True),
        "accuracy": {row["stage"]: row["value"] for row in steps.get("rows", ())},
        "bytes": manifest.get("sizes", {}).get("model"),
        "compared": codes.get("compared"), "differing": codes.get("differing"),
        "seconds": round(sum(stages), 3) if stages else None,
        "cpu_seconds": timings.get("cpu_stages", {}) if begun == 1 else {},
        "units": len(units), "kept_nearest": sum(unit["kept_nearest"] for unit in units),
        "undecided": _mean(unit["undecided"] for unit in units), "latency": _latency(runs.artifact(cell.name)),
        "machine": f"{machine['processor']}, {machine['cores']} cores" if machine else "",
        "packages": manifest.get("packages", {}), "code": build_sha256()[:KEY], "sha256": manifest.get("sha256", ""),
    }


def _latency(artifact: Path) -> float | None:
    try:
        found = read_latency(artifact)
    except InputError:
        return None
    return None if found is None else found.artifact_ms


def _json(cell: Cell, runs: Runs, name: str) -> dict[str, Any]:
    try:
        found = json.loads((runs.artifact(cell.name) / name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


class Index:
    """Rows of all cells; those of done cells are read once."""

    def __init__(self, cells: Sequence[Cell], runs: Runs) -> None:
        self.cells, self.runs = cells, runs
        self._done: dict[str, Row] = {}

    def rows(self) -> list[Row]:
        """In the order of the cells, as things stand now."""
        return [self._row(cell) for cell in self.cells]

    def _row(self, cell: Cell) -> Row:
        known = self._done.get(cell.key)
        if known is None:
            known = row_of(cell, self.runs)
            if known.status == DONE:
                self._done[cell.key] = known
        return known

    def write(self) -> list[Row]:
        """Write `index.jsonl` and `index.csv`; any number of drivers may."""
        rows = self.rows()
        write_whole(self.runs.root / INDEX, "".join(json.dumps(asdict(row)) + "\n" for row in rows))
        write_whole(self.runs.root / TABLE, as_csv(rows))
        return rows


def as_csv(rows: Iterable[Row]) -> str:
    """A line a cell; a column for every stage of accuracy."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    plain = [name for name in Row.__dataclass_fields__ if name not in NOT_OF_TABLES]
    writer.writerow([*plain, "edits", *(f"accuracy_{stage}" for stage in STAGES)])
    for row in rows:
        said = asdict(row)
        writer.writerow([*(_safe(said[name]) for name in plain), _safe(" ".join(row.edits)),
                         *(row.accuracy.get(stage) for stage in STAGES)])
    return text.getvalue()


def _safe(value: Any) -> Any:
    """A spreadsheet takes a text that begins so for a formula."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@") else value


@dataclass(frozen=True)
class Group:
    """The cells that differ in the seed alone; means over those that are done."""

    model: str
    recipe: str
    edits: tuple[str, ...]
    target: str
    profile: str
    rows: tuple[Row, ...]

    @property
    def head(self) -> Row:
        """A row that says how accuracy is measured: one that is done, where there is one."""
        return (self.done or self.rows)[0]

    @property
    def done(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if row.status == DONE)

    @property
    def whole(self) -> bool:
        """Every seed is done."""
        return len(self.done) == len(self.rows)

    @property
    def title(self) -> str:
        """`qdrop_w4a4 method.steps=300`."""
        return " ".join((self.recipe, *self.edits))

    @property
    def accuracy(self) -> float | None:
        """Mean of the artifacts'."""
        return _mean([row.value for row in self.done])

    @property
    def float_accuracy(self) -> float | None:
        return _mean([row.accuracy.get("float") for row in self.done])

    @property
    def deviation(self) -> float | None:
        """Standard deviation over the seeds (n - 1); None of one."""
        known = [row.value for row in self.done if row.value is not None]
        return statistics.stdev(known) if len(known) > 1 else None

    @property
    def bytes(self) -> float | None:
        return _mean([row.bytes for row in self.done])

    @property
    def latency(self) -> float | None:
        """Milliseconds."""
        return _mean([row.latency for row in self.done])

    @property
    def seconds(self) -> float | None:
        """Mean of the builds."""
        return _mean([row.seconds for row in self.done])

    @property
    def values(self) -> dict[str, float | None]:
        """What rules speak of."""
        return {"accuracy": self.accuracy, "size": self.bytes, "latency": self.latency}


def groups(rows: Iterable[Row]) -> list[Group]:
    """In the order of their first rows."""
    found: dict[Any, list[Row]] = {}
    for row in rows:
        found.setdefault((row.model, row.recipe, row.edits, row.target, row.profile), []).append(row)
    return [Group(one.model, one.recipe, one.edits, one.target, one.profile, tuple(members))
            for members in found.values() for one in members[:1]]


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None
