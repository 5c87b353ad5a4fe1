"""Damages an artifact in every way that it knows and tells which damage `run.py` does not see.

    python tools/check/mutate_artifact.py artifacts/net-mse_w8a8-onnx --flips 200

Two kinds of mutants: one file damaged as disks and copies do (a bit flipped, cut short, emptied, gone, led elsewhere;
every field of the manifest), and golden numbers changed under a manifest that vouches for them, which only the replay
can tell. Each must end in FAIL and exit status 1, without a traceback. Documents for people are damaged as well, and
that must change nothing. `run.py` itself is left alone: a damaged judge says whatever it says.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import random
import re
import runpy
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from isobit.backends.device.golden import ABOVE, BELOW, GOLDEN, LOGITS, NEAR
from isobit.backends.device.replay import DOCUMENTS
from isobit.pipeline.artifact.digest import DIGEST, MANIFEST, RUNNER, content_digest
from isobit.pipeline.artifact.manifest import file_table

VECTORS = "golden.h"  # golden numbers of a target whose `run.py` has no numpy
Damage = Callable[[Path], object]
Judge = Callable[[Path], tuple[int, str]]


@dataclass(frozen=True)
class Mutant:
    """What it is called, what it does to a copy of the artifact, and whether `run.py` must still pass."""

    name: str
    damage: Damage
    passes: bool = False


def mutants(artifact: Path, flips: int, seed: int = 0) -> Iterator[Mutant]:
    """All mutants of an artifact; of flipped bits `flips`, in the files by turns, where in a file by `seed`."""
    names = sorted(json.loads((artifact / MANIFEST).read_text(encoding="utf-8"))["files"])
    documents = [name for name in names if name.endswith(DOCUMENTS)]
    checked = [MANIFEST, *(name for name in names if name not in documents and name != RUNNER)]
    yield Mutant("nothing", lambda folder: None, passes=True)
    for name in documents:
        yield Mutant(f"{name} gone", _at(name, Path.unlink), passes=True)
        yield Mutant(f"{name} garbage", _at(name, _garbage), passes=True)
    for name in checked:
        for what, damage in _DAMAGES.items():
            yield Mutant(f"{name} {what}", _at(name, damage))
        yield Mutant(f"{name} led elsewhere", _lead_elsewhere(name))
    chance = random.Random(seed)
    for turn in range(flips):
        name = checked[turn % len(checked)]
        size = (artifact / name).stat().st_size
        if size:
            place, bit = chance.randrange(size), chance.randrange(8)
            yield Mutant(f"{name} bit {bit} of byte {place}", _at(name, _flip(place, bit)))
    yield from _manifest_fields(json.loads((artifact / MANIFEST).read_text(encoding="utf-8")))
    yield from _vectors(artifact, chance) if VECTORS in names else _golden(artifact, chance)


def _at(name: str, damage: Damage) -> Damage:
    return lambda folder: damage(folder / name)


def _garbage(path: Path) -> None:
    path.write_bytes(b"\x00\xff{[" * 40)


def _lead_elsewhere(name: str) -> Damage:
    def damage(folder: Path) -> None:
        outside = folder.parent / "outside"
        (folder / name).rename(outside)
        (folder / name).symlink_to(outside)

    return damage


_DAMAGES: dict[str, Damage] = {
    "gone": Path.unlink,
    "emptied": lambda path: path.write_bytes(b""),
    "garbage": _garbage,
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-2]),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\x80"),
}


def _flip(place: int, bit: int) -> Damage:
    def damage(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[place] ^= 1 << bit
        path.write_bytes(content)

    return damage


def _manifest_fields(manifest: dict[str, Any]) -> Iterator[Mutant]:
    """Each field gone and each of another value; of the files also each entry gone; texts that are no manifest."""
    def edited(change: Callable[[dict[str, Any]], object]) -> Damage:
        def damage(folder: Path) -> None:
            content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            change(content)
            (folder / MANIFEST).write_text(json.dumps(content), encoding="utf-8")

        return damage

    for key in manifest:
        yield Mutant(f"manifest without {key}", edited(lambda content, key=key: content.pop(key)))
        for value in ({}, [], "", 1):
            if value != manifest[key]:
                yield Mutant(f"manifest with {key} = {value!r}",
                             edited(lambda content, key=key, value=value: content.update({key: value})))
    for name in manifest["files"]:
        yield Mutant(f"manifest without the file {name}", edited(lambda content, name=name: content["files"].pop(name)))
    for text in ("[]", "null", "1", '"files"', "{", "[" * 100_000):
        yield Mutant(f"manifest {text[:8]}", lambda folder, text=text: (folder / MANIFEST).write_text(text))


def reseal(folder: Path) -> None:
    """Let the manifest vouch for the files as they are."""
    content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    content["files"] = {name: entry.model_dump() for name, entry in file_table(folder).items()}
    content[DIGEST] = content_digest(content)
    (folder / MANIFEST).write_text(json.dumps(content), encoding="utf-8")


def _golden(artifact: Path, chance: random.Random) -> Iterator[Mutant]:
    """golden.npz with a number changed in each array, an array gone, of other shapes and types, too many."""
    with np.load(artifact / GOLDEN, allow_pickle=False) as file:
        arrays = {key: file[key] for key in file.files}

    def vouched(change: Callable[[dict[str, np.ndarray]], object]) -> Damage:
        def damage(folder: Path) -> None:
            edited = {key: array.copy() for key, array in arrays.items()}
            change(edited)
            np.savez(folder / GOLDEN, **edited)
            reseal(folder)

        return damage

    for key, array in arrays.items():
        yield Mutant(f"golden without {key}", vouched(lambda found, key=key: found.pop(key)))
        yield Mutant(f"golden with more than {key}",
                     vouched(lambda found, key=key: found.update({"code:x" + key: found[key]})))
        if not array.ndim:
            continue
        yield Mutant(f"golden with {key} of fewer samples",
                     vouched(lambda found, key=key: found.update({key: found[key][:-1]})))
        yield Mutant(f"golden with {key} of another type",
                     vouched(lambda found, key=key: found.update({key: found[key].astype(np.float64)})))
        if not key.startswith((BELOW, ABOVE)):
            place = _exact_place(arrays, key, chance)
            yield Mutant(f"golden with {key}[{place}] changed", vouched(_changed(key, place)))
    yield Mutant("golden without codes", vouched(lambda found: [
        found.pop(key) for key in arrays if key.startswith(("code:", NEAR, BELOW, ABOVE))
    ]))
    yield Mutant("golden without samples", vouched(lambda found: found.update(
        {key: array[:0] for key, array in arrays.items() if array.ndim}
    )))


def _exact_place(arrays: dict[str, np.ndarray], key: str, chance: random.Random) -> int:
    """A number that may be nothing else: after a float operator one that rounding does not reach."""
    if not key.startswith(NEAR):
        return chance.randrange(arrays[key].size)
    name = key[len(NEAR):]
    return int(chance.choice(np.flatnonzero((arrays[BELOW + name] == 0) & (arrays[ABOVE + name] == 0))))


def _changed(key: str, place: int) -> Callable[[dict[str, np.ndarray]], object]:
    def change(arrays: dict[str, np.ndarray]) -> None:
        flat = arrays[key].reshape(-1)
        if flat.dtype == np.uint8:
            flat[place] ^= 1
        else:  # another image; of a logit the last bit, or more where a float operator computed it
            exact = key == LOGITS and "float_output" not in arrays
            flat[place] = np.nextafter(flat[place], np.float32(np.inf)) if exact else 3 - flat[place]

    return change


def _vectors(artifact: Path, chance: random.Random) -> Iterator[Mutant]:
    """golden.h with one of its numbers changed, and with none."""
    text = (artifact / VECTORS).read_text(encoding="utf-8")
    numbers = [found for found in re.finditer(r"\b\d+(?=u?\b)", text) if found.start() > text.index("golden_tensors[")]

    def vouched(edited: str) -> Damage:
        def damage(folder: Path) -> None:
            (folder / VECTORS).write_text(edited, encoding="utf-8")
            reseal(folder)

        return damage

    for found in chance.sample(numbers, 5):
        changed = str(int(found.group()) ^ 1)
        yield Mutant(f"{VECTORS} {found.group()} at {found.start()}",
                     vouched(text[:found.start()] + changed + text[found.end():]))
    for name in ("GOLDEN_SAMPLES", "GOLDEN_QUANTIZED"):
        yield Mutant(f"{VECTORS} with {name} 0", vouched(re.sub(rf"(define {name}) \d+", r"\1 0", text)))


def judge_as_process(folder: Path) -> tuple[int, str]:
    """Exit status and output of `run.py` as on a device."""
    done = subprocess.run(
        [sys.executable, folder / RUNNER, "--seconds", "0"], cwd=folder, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
    )
    return done.returncode, done.stdout


def judge_here(folder: Path) -> tuple[int, str]:
    """The same in this process: quicker, and a crash is a crash of all."""
    output, status = io.StringIO(), 0
    argv = mock.patch.object(sys, "argv", [RUNNER, "--seconds", "0"])
    with argv, contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        try:
            runpy.run_path(str(folder / RUNNER), run_name="__main__")
        except SystemExit as end:
            status = int(end.code or 0)
    return status, output.getvalue()


def survivors(artifact: Path, cases: Iterable[Mutant], judge: Judge = judge_as_process) -> list[str]:
    """Names of the mutants that `run.py` judged wrongly, each with its output."""
    wrong = []
    for case in cases:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(shutil.copytree(artifact, Path(place) / "artifact"))
            case.damage(folder)
            status, output = judge(folder)
        wanted = (0, "PASS") if case.passes else (1, "FAIL")
        if (status, (output.splitlines() or [""])[-1]) != wanted or "Traceback" in output:
            wrong.append(f"{case.name}: exit status {status}\n{output}")
    return wrong


def main() -> int:
    """0 where every mutant is judged rightly, else 1."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--flips", type=int, default=200, help="how many bits to flip, one at a time")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    cases = list(mutants(given.artifact, given.flips, given.seed))
    wrong = survivors(given.artifact, cases)
    print("\n".join([*wrong, f"{len(cases)} mutants, {len(wrong)} judged wrongly"]))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
