"""Which code measured a figure: hashes of the sources, whole and by area, and the states of the code that are known.

docs/code.json holds a line for each state of the code that a record names, with the hash of every area in it. So a
record keeps one hash, and whether a figure is of the present code is asked of the areas that change it alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from isobit.sweep.hashes import FOLDERS, meaning, sources_sha256
from tools.documents import read_json, write_json

ROOT = Path(__file__).resolve().parents[1]
SOURCES = FOLDERS
DOCS = ROOT / "docs"
KNOWN = "code.json"
SHORT = 12  # characters of a hash that documents show
# Folders whose sources change what a figure says. `pipeline/recipe` is left out: a record names its recipe's hash.
AREAS: Mapping[str, tuple[str, ...]] = {
    "capture": ("pipeline/capture", "pipeline/graph", "pipeline/model", "pipeline/operators"),
    "calibration": ("calib", "passes", "pipeline/quant"),
    "ranges": ("calib/ranges", "pipeline/quant"),
    "arithmetic": ("backends/execution", "backends/fixed_point"),
    "onnx": ("backends/onnx",),
    "tvm": ("backends/tvm",),
    "c": ("backends/c",),
    "evaluation": ("pipeline/proof", "pipeline/samples"),
    "sweep": ("isobit/sweep",),
}
_NOT_SOURCES = frozenset({"__pycache__"})


def code_sha256(root: Path = ROOT) -> str:
    """Hash of the Python sources that a build runs through, comments and docstrings left out."""
    return sources_sha256(root)


def area_sha256(area: str, root: Path = ROOT) -> str:
    """Hash of all files of an area: Python without comments and docstrings, templates and kernels byte by byte."""
    return _hash(root, (path for folder in AREAS[area] for path in (root / folder).rglob("*") if path.is_file()))


def known_states(docs: Path = DOCS) -> dict[str, dict[str, str]]:
    """The areas' hashes by the short hash of a state of the code; those that were never noted are not in it."""
    return read_json(docs / KNOWN).get("states", {})


def note_state(docs: Path = DOCS, root: Path = ROOT, name: str | None = None) -> str:
    """Write the state of the code of the checkout `root` into `docs`; returns its short hash.

    States that no record names any more stay: they are a line each.

    Args:
        name: of the state where it is no hash of all sources: rows of a sweep have that of what a build runs through.
    """
    name = name or code_sha256(root)[:SHORT]
    states = known_states(docs) | {name: {area: area_sha256(area, root)[:SHORT] for area in AREAS}}
    _write(docs, states, read_json(docs / KNOWN).get("same", {}))
    return name


def note_same(older: Path, areas: Iterable[str], docs: Path = DOCS, root: Path = ROOT) -> None:
    """Write into `docs` that areas of the checkouts `older` and `root` compute the same, which somebody has shown."""
    same = {area: [list(pair) for pair in pairs] for area, pairs in read_json(docs / KNOWN).get("same", {}).items()}
    for area in areas:
        pair = [area_sha256(area, older)[:SHORT], area_sha256(area, root)[:SHORT]]
        same[area] = [*(kept for kept in same.get(area, []) if kept != pair), pair]
    _write(docs, known_states(docs), same)


def _write(docs: Path, states: Mapping[str, Mapping[str, str]], same: Mapping[str, Sequence[Sequence[str]]]) -> None:
    about = ("States of the code that measured figures of README and docs, and areas of two states that were shown to "
             "compute the same; tools/code_state.py says what an area is.")
    write_json(docs / KNOWN, {"about": about, "states": dict(sorted(states.items())), "same": same})


def _alike(area: str, root: Path, alike: bool) -> frozenset[str]:
    """Hashes of `area` that compute what today's does; only its own where that is not asked."""
    pairs = read_json(root / "docs" / KNOWN).get("same", {}).get(area, []) if alike else []
    found, before = {area_sha256(area, root)[:SHORT]}, 0
    while len(found) != before:
        before = len(found)
        found.update(name for pair in pairs if found & set(pair) for name in pair)
    return frozenset(found)


def changed_since(
    codes: Iterable[str], areas: Iterable[str], root: Path = ROOT, alike: bool = True
) -> tuple[str, ...]:
    """The areas that are not today what they were when one of `codes` measured; `code` where one is not known.

    Args:
        alike: code that was shown to compute the same is the same; not so for how long it takes.
    """
    states = known_states(root / "docs")
    found: list[str] = []
    for code in codes:
        state = states.get(code[:SHORT])
        if state is None:
            return ("code",)
        found += [area for area in areas if state.get(area) not in _alike(area, root, alike)]
    return tuple(dict.fromkeys(found))


def _hash(root: Path, paths: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in sorted(path for path in paths if not _NOT_SOURCES & set(path.parts)):
        name = path.relative_to(root).as_posix().encode()
        content = meaning(path) if path.suffix == ".py" else path.read_bytes()
        digest.update(name + content)
    return digest.hexdigest()
