"""Mutates artifacts between emission and proof: each mutant is killed, or changes nothing by a rule of the reader.

    python tools/mutants/mutate.py digits resnet20 ds_cnn transposed --data ../shared/data

The first judge is the read-back, the second parity on samples: what only that sees is a field that the read-back is
blind to, and what neither sees survives. Where a target has no reader of its files the directed samples come first.
Edits that change nothing must be refused by none. `--parity` asks parity of every mutant, to tell what it would miss
alone.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
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
from isobit.backends.execution.directed import direct
from isobit.calib.calibrate import calibrate
from isobit.pipeline.errors import CompileError, ExitCode, InputError, ParityError, TargetError
from isobit.pipeline.model.modelfile import LoadedModel
from isobit.pipeline.proof.arithmetic import Arithmetic, Chosen, Followed
from isobit.pipeline.proof.gates import apply_gates
from isobit.pipeline.proof.parity import compare
from isobit.pipeline.recipe.file import load_recipe
from isobit.pipeline.samples.network_inputs import Inputs
from isobit.pipeline.stages import Reference
from tools import make_checkpoints
from tools.bench.subjects import trained
from tools.mutants.apart import apart
from tools.mutants.c_source import CDamage
from tools.mutants.onnx_files import OnnxDamage
from tools.mutants.tvm_module import TvmDamage
from tools.mutants.variants import Damage, Variant

DAMAGE: Mapping[str, Damage] = {"onnx": OnnxDamage(), "onnx-qoperator": OnnxDamage(), "c": CDamage(),
                              "tvm": TvmDamage()}
RECIPES = {"digits": ("weights.bits=4",), "resnet20": ("weights.bits=3", "activations.bits=4"), "ds_cnn": (),
           "transposed": ("activations.bits=4",)}
SAMPLES = 450
READ, UNLOADED, DIRECTED, PARITY = "read-back", "refused by runtime", "directed", "parity"
RULE, SURVIVED, REFUSED = "equivalent by a rule", "survived", "wrongly refused"
VERDICTS = (READ, UNLOADED, DIRECTED, PARITY, RULE, SURVIVED, REFUSED)
EQUAL = "equal"


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


def subject(name: str, data: Path, backend: Backend, profile: str | None = None) -> Frozen:
    """A network by its name, with ranges from the extremes and nearest rounding: learned numbers would change nothing.

    Args:
        profile: of the device; None for the target's own.

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
    quantized = story.plan(loaded, recipe, backend, example, profile)
    return Frozen(passes.legalize(calibrate(quantized, calibration))[0], samples)


def _own(name: str) -> tuple[nn.Module, Tensor, Tensor]:
    if name == "digits":
        digits = make_checkpoints.load(0)
        return make_checkpoints.train(digits, epochs=25, seed=0), digits.x_train[:256], digits.x_val
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Transposed().eval(), torch.randn(32, 3, 12, 12), torch.randn(24, 3, 12, 12)


class Known:
    """An arithmetic whose results on the samples, and on the chosen ones, are worked out once."""

    def __init__(self, arithmetic: Arithmetic, samples: Inputs) -> None:
        self.float_boundaries, self.outputs = arithmetic.float_boundaries, arithmetic.outputs
        self.float_outputs, self.jumping, self._arithmetic = arithmetic.float_outputs, arithmetic.jumping, arithmetic
        self._results = arithmetic.run(samples)
        self._chosen = arithmetic.directed(samples)
        self._pieces, self._whole = Followed({}, {}), Followed({}, {})
        if self._chosen is not None:
            self._pieces = arithmetic.pieces(self._chosen.inputs, self._chosen.codes)
            if not self.float_boundaries:
                self._whole = arithmetic.follow(self._chosen.inputs, {})

    def run(self, x: Inputs) -> Mapping[str, Any]:
        return self._results

    def follow(self, x: Inputs, codes: Mapping[str, Any]) -> Followed:
        if self._chosen is not None and x is self._chosen.inputs and not self.float_boundaries:
            return self._whole
        return self._arithmetic.follow(x, codes)

    def every_input(self) -> Any:
        return self._arithmetic.every_input()

    def directed(self, like: Inputs) -> Chosen | None:
        return self._chosen

    def pieces(self, x: Inputs, codes: Mapping[str, Any]) -> Followed:
        return self._pieces


@dataclass
class Tally:
    """What became of the mutants.

    Attributes:
        verdicts: how many, by kind and verdict.
        told: those that were judged wrongly.
        loaded, missed: where parity was asked of all: how many mutants a session loads, and what it misses of them.
        read: the target has a reader of its files, and what only others see is wrong.
    """

    verdicts: Counter[tuple[str, str]] = field(default_factory=Counter)
    told: list[str] = field(default_factory=list)
    loaded: int = 0
    missed: Counter[str] = field(default_factory=Counter)
    read: bool = True

    @property
    def wrong(self) -> tuple[str, ...]:
        """The verdicts that no mutant may have."""
        return (*((UNLOADED, DIRECTED, PARITY) if self.read else ()), SURVIVED, REFUSED)

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
            tally.read = not read.reason
            judges = [*([_directed] if read.reason else []),
                      *([_parity] if ask_parity or not read.differences else [])]
            seen = _seen([partial(judge, frozen, backend, arithmetic, changed) for judge in judges],
                         ask_parity, damage.own_process)
            equal = all(each == EQUAL for each in seen)
            same = not read.differences and equal and damage.loaded(changed) == loaded
            verdict = _verdict(variant, bool(read.differences), seen, same)
            tally.verdicts[variant.kind, verdict] += 1
            if verdict in tally.wrong:
                tally.told.append(f"{verdict}: {variant.kind}: {variant.name}: {read.text}")
            if ask_parity and not variant.rule and seen[-1] != UNLOADED:
                tally.loaded += 1
                tally.missed[variant.kind] += seen[-1] == EQUAL
    return tally


def _copied(whole: Path, variant: Variant, folder: Path) -> bool:
    """Whether `folder` now holds the variant; not where it is the whole artifact."""
    files = variant.files()
    if all((whole / path).read_bytes() == content for path, content in files.items()):
        return False
    if folder.exists():
        shutil.rmtree(folder)
    shutil.copytree(whole, folder, copy_function=os.link)  # a target may bring libraries of many megabytes
    for path, content in files.items():
        (folder / path).unlink()
        (folder / path).write_bytes(content)
    return True


def _verdict(variant: Variant, differs: bool, seen: Sequence[str], same: bool) -> str:
    """What becomes of a mutant.

    Args:
        differs: it was read back, and a field is not as it must be.
        seen: what the other judges say, in their order.
        same: the loaded network is the one it must be. Constants are compared as they are once a session has loaded;
            that rule is not taken from the reader alone: the runtime's own folding must give the same model.
    """
    killed = next((each for each in seen if each != EQUAL), None)
    if variant.rule:
        return REFUSED if differs or killed else RULE
    if differs:
        return READ
    return killed or (RULE if same else SURVIVED)


def _seen(judges: Sequence[Callable[[], str]], all_of_them: bool, own_process: bool) -> list[str]:
    """What each judge says, up to the first that kills unless all are asked."""

    def asked() -> list[str]:
        seen: list[str] = []
        for judge in judges:
            if all_of_them or not seen or seen[-1] == EQUAL:
                seen.append(judge())
        return seen

    def alone() -> list[str]:
        torch.set_num_threads(1)  # a forked process has none of its parent's threads
        return asked()

    if not own_process or not judges:
        return asked()
    seen = apart(alone)
    return [UNLOADED] * len(judges) if seen is None else seen


def _directed(frozen: Frozen, backend: Backend, arithmetic: Known, folder: Path) -> str:
    """What the directed samples say of the files in `folder`."""
    try:
        found = direct(arithmetic, backend.open(folder, backend.levels[0]), backend.pieces(folder), frozen.samples)
    except ParityError:  # a session says itself that it is wrong
        return DIRECTED
    except Exception:  # whatever a runtime says of a damaged file
        return UNLOADED
    return DIRECTED if found.wrong else EQUAL


def _parity(frozen: Frozen, backend: Backend, arithmetic: Known, folder: Path) -> str:
    """What the gate on codes says of the files in `folder`."""
    try:
        sessions = {level: backend.open(folder, level) for level in backend.levels}
        report = compare([(frozen.samples, None)], {"float": frozen.reference.quantized.captured.graph}, arithmetic,
                         sessions, gated=backend.gated_levels)
    except ParityError:  # a session says itself that it is wrong
        return PARITY
    except Exception:  # whatever a runtime says of a damaged file
        return UNLOADED
    apply_gates(report)
    return EQUAL if report.parity_passed else PARITY


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
    parser.add_argument("--profile", help="of the device; default: the target's own")
    parser.add_argument("--every", type=int, default=1, help="judge every so many-th mutant")
    parser.add_argument("--parity", action="store_true", help="ask parity of every mutant, too")
    given = parser.parse_args()
    wrong = 0
    try:
        for name in given.networks:
            for target in given.targets:
                backend = BACKENDS.get(target)
                try:
                    frozen = subject(name, given.data, backend, given.profile)
                except TargetError as error:  # not every target has every operator
                    print(f"\n{name} on {target}: {error.message}", flush=True)
                    continue
                tally = judged(frozen, backend, DAMAGE[target],
                               lambda variants: islice(variants, 0, None, given.every), given.parity)
                print("\n".join([f"\n{name} on {target}", *table(tally), *tally.told]), flush=True)
                wrong += sum(map(tally.of, tally.wrong))
    except CompileError as error:
        print(error, file=sys.stderr)
        return ExitCode.BAD_INPUT
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
