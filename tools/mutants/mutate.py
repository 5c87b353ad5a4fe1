"""Mutates artifacts between emission and proof: each mutant is killed, or changes nothing by a rule of the reader.

    python tools/mutants/mutate.py digits resnet20 ds_cnn transposed --data ../shared/data

The first judge is the read-back, the second parity on samples: what only that sees is a field that the read-back is
blind to, and what neither sees survives. Edits that change nothing must be refused by neither. `--parity` asks parity
of every mutant, to tell what it would miss alone.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

import torch
from torch import Tensor, nn

from isobit import build as story
from isobit import passes
from isobit.backends.base import BACKENDS, Backend
from isobit.calib.calibrate import calibrate
from isobit.pipeline.errors import CompileError, ExitCode, InputError, TargetError
from isobit.pipeline.model.modelfile import LoadedModel
from isobit.pipeline.proof.arithmetic import Arithmetic, Followed
from isobit.pipeline.proof.gates import apply_gates
from isobit.pipeline.proof.parity import compare
from isobit.pipeline.recipe.file import load_recipe
from isobit.pipeline.samples.network_inputs import Inputs
from isobit.pipeline.stages import Reference
from tools import make_checkpoints
from tools.bench.subjects import trained
from tools.mutants.c_source import CDamage
from tools.mutants.onnx_files import OnnxDamage
from tools.mutants.variants import Damage, Variant

DAMAGE: Mapping[str, Damage] = {"onnx": OnnxDamage(), "onnx-qoperator": OnnxDamage(), "c": CDamage()}
RECIPES = {"digits": ("weights.bits=4",), "resnet20": ("weights.bits=3", "activations.bits=4"), "ds_cnn": (),
           "transposed": ("activations.bits=4",)}
SAMPLES = 450
READ, PARITY, RULE, SURVIVED, REFUSED = "read-back", "parity", "equivalent by a rule", "survived", "wrongly refused"
VERDICTS = (READ, PARITY, RULE, SURVIVED, REFUSED)


class Transposed(nn.Module):
    """Transposed convolutions, a gate, a concatenation and two outputs, [N, 3, 12, 12]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.down = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 12, 3, stride=2, padding=1)
        self.up, self.grouped = nn.ConvTranspose2d(12, 8, 2, stride=2), nn.ConvTranspose2d(
            16, 8, 3, stride=2, padding=1, output_padding=1, groups=4)
        self.gate, self.head, self.scores = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 4, 1), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        first = torch.relu(self.stem(x))
        deep = torch.relu(self.down(first))
        joined = torch.cat([torch.relu(self.up(deep)), first], 1)
        joined = nn.functional.max_pool2d(joined, 2)
        wide = torch.nn.functional.gelu(self.grouped(joined))
        gated = wide * nn.functional.hardsigmoid(self.gate(wide.mean((2, 3), keepdim=True)))
        return {"map": self.head(gated), "scores": self.scores(deep.mean((2, 3)))}


@dataclass(frozen=True)
class Frozen:
    """A network with its numbers, and samples to prove it on."""

    reference: Reference
    samples: Inputs


def subject(name: str, data: Path, backend: Backend) -> Frozen:
    """A network by its name, with ranges from the extremes and nearest rounding: learned numbers would change nothing.

    Raises:
        InputError: its files are not below `data`.
    """
    recipe = load_recipe("minmax_w8a8", list(RECIPES[name]))
    if name in ("digits", "transposed"):
        model, calibration, samples = _own(name)
        loaded = LoadedModel(model, None, name, "", None)
        example = calibration[:1]
    else:
        found = trained(data)
        if name not in found:
            raise InputError(f"{name} or its data is not in {data}", field="data", hint="Give the folder by --data.")
        given = found[name].calibration(recipe.images.count, recipe.seed)
        loaded, example, (calibration, _) = found[name].load(), given.example, given.materialize()
        samples = found[name].evaluation().first(SAMPLES).materialize()[0]
    quantized = story.plan(loaded, recipe, backend, example)
    return Frozen(passes.legalize(calibrate(quantized, calibration))[0], samples)


def _own(name: str) -> tuple[nn.Module, Tensor, Tensor]:
    if name == "digits":
        digits = make_checkpoints.load(0)
        return make_checkpoints.train(digits, epochs=25, seed=0), digits.x_train[:256], digits.x_val
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Transposed().eval(), torch.randn(32, 3, 12, 12), torch.randn(24, 3, 12, 12)


class Known:
    """An arithmetic whose results on the samples are worked out once."""

    def __init__(self, arithmetic: Arithmetic, samples: Inputs) -> None:
        self.float_boundaries, self.outputs = arithmetic.float_boundaries, arithmetic.outputs
        self.float_outputs, self._arithmetic = arithmetic.float_outputs, arithmetic
        self._results = arithmetic.run(samples)

    def run(self, x: Inputs) -> Mapping[str, Any]:
        return self._results

    def follow(self, x: Inputs, codes: Mapping[str, Any]) -> Followed:
        return self._arithmetic.follow(x, codes)


@dataclass
class Tally:
    """What became of the mutants.

    Attributes:
        verdicts: how many, by kind and verdict.
        told: those that were judged wrongly.
        loaded, missed: where parity was asked of all: how many mutants a session loads, and what it misses of them.
    """

    verdicts: Counter[tuple[str, str]] = field(default_factory=Counter)
    told: list[str] = field(default_factory=list)
    loaded: int = 0
    missed: Counter[str] = field(default_factory=Counter)

    def of(self, verdict: str) -> int:
        """How many have a verdict."""
        return sum(count for (_, found), count in self.verdicts.items() if found == verdict)

    @property
    def total(self) -> int:
        return sum(self.verdicts.values())


def judged(
    frozen: Frozen, backend: Backend, damage: Damage, choose: Callable[[Iterable[Variant]], Iterable[Variant]],
    ask_parity: bool = False,
) -> Tally:
    """Every variant of one artifact that is chosen."""
    tally = Tally()
    with tempfile.TemporaryDirectory() as name:
        whole, changed = Path(name) / "whole", Path(name) / "changed"
        whole.mkdir()
        backend.emit(frozen.reference, whole)
        arithmetic = Known(backend.arithmetic(frozen.reference), frozen.samples)
        loaded = damage.loaded(whole)
        for variant in choose(damage.variants(frozen.reference, whole)):
            if not _copied(whole, variant, changed):
                continue
            read = backend.read_back(frozen.reference, changed, None)
            if read.reason:
                raise ValueError(read.text)
            seen = None
            if not read.differences or ask_parity:
                seen = _parity(frozen, backend, arithmetic, changed)
            same = not read.differences and seen == "equal" and damage.loaded(changed) == loaded
            verdict = _verdict(variant, bool(read.differences), seen, same)
            tally.verdicts[variant.kind, verdict] += 1
            if verdict in (PARITY, SURVIVED, REFUSED):
                tally.told.append(f"{verdict}: {variant.kind}: {variant.name}: {read.text}")
            if not variant.rule and seen is not None and seen != "refused":
                tally.loaded += 1
                tally.missed[variant.kind] += seen == "equal"
    return tally


def _copied(whole: Path, variant: Variant, folder: Path) -> bool:
    """Whether `folder` now holds the variant; not where it is the whole artifact."""
    files = variant.files()
    if all((whole / path).read_bytes() == content for path, content in files.items()):
        return False
    if folder.exists():
        shutil.rmtree(folder)
    shutil.copytree(whole, folder)
    for path, content in files.items():
        (folder / path).write_bytes(content)
    return True


def _verdict(variant: Variant, differs: bool, seen: str | None, same: bool) -> str:
    """What becomes of a mutant.

    Args:
        same: a rule of the reader says that it changes nothing. Constants are compared as they are once a session has
            loaded; that rule is not taken from the reader alone: the runtime's own folding must give the same model.
    """
    if variant.rule:
        return REFUSED if differs or seen != "equal" else RULE
    if differs:
        return READ
    return RULE if same else SURVIVED if seen == "equal" else PARITY


def _parity(frozen: Frozen, backend: Backend, arithmetic: Known, folder: Path) -> str:
    """`refused` where no session loads or runs the file, `equal` where the gate on codes passes, else `differs`."""
    try:
        sessions = {level: backend.open(folder, level) for level in backend.levels}
        report = compare([(frozen.samples, None)], {"float": frozen.reference.quantized.captured.graph}, arithmetic,
                         sessions, gated=backend.gated_levels)
    except Exception:  # whatever a runtime says of a damaged file
        return "refused"
    apply_gates(report)
    return "equal" if report.parity_passed else "differs"


def table(tally: Tally) -> Iterator[str]:
    """One line for each kind of damage, and the sums."""
    kinds = sorted({kind for kind, _ in tally.verdicts})
    yield f"{'kind':<20}" + "".join(f"{verdict:>22}" for verdict in VERDICTS)
    for kind in kinds:
        yield f"{kind:<20}" + "".join(f"{tally.verdicts[kind, verdict]:>22}" for verdict in VERDICTS)
    yield f"{'all ' + format(tally.total, ','):<20}" + "".join(f"{tally.of(verdict):>22}" for verdict in VERDICTS)
    if tally.loaded:
        missed = ", ".join(f"{kind} {count}" for kind, count in sorted(tally.missed.items()) if count)
        yield f"parity alone: {sum(tally.missed.values()):,} of {tally.loaded:,} that load survive ({missed})"


def main() -> int:
    """0 where no mutant survives and none is refused wrongly, 1 otherwise."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("networks", nargs="+", choices=sorted(RECIPES))
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--targets", nargs="+", choices=list(DAMAGE), default=list(DAMAGE))
    parser.add_argument("--every", type=int, default=1, help="judge every so many-th mutant")
    parser.add_argument("--parity", action="store_true", help="ask parity of every mutant, too")
    given = parser.parse_args()
    wrong = 0
    try:
        for name in given.networks:
            for target in given.targets:
                backend = BACKENDS.get(target)
                try:
                    frozen = subject(name, given.data, backend)
                except TargetError as error:  # not every target has every operator
                    print(f"\n{name} on {target}: {error.message}", flush=True)
                    continue
                tally = judged(frozen, backend, DAMAGE[target],
                               lambda variants: islice(variants, 0, None, given.every), given.parity)
                print("\n".join([f"\n{name} on {target}", *table(tally), *tally.told]), flush=True)
                wrong += tally.of(PARITY) + tally.of(SURVIVED) + tally.of(REFUSED)
    except CompileError as error:
        print(error, file=sys.stderr)
        return ExitCode.BAD_INPUT
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
