"""Random networks x recipes x targets, each built in a process of its own: what fails is made small and shown.

    python tools/fuzz/fuzz.py --count 2000 --target onnx
    python tools/fuzz/fuzz.py --count 300 --target tvm --workers 2
    python tools/fuzz/fuzz.py --seed 17 --count 1 --target c

A case is its seed: network, samples and recipe follow from it; without `--target` the target does, too. Verdicts are
`held` (built and proven), `refused` (as bad input, with a reason), `noise` (by the gate, since float rounding alone
moves codes by many steps), `failed` (the gate), `internal` (an exception that is no `CompileError`), `died` (the
process ended, or gave no answer in time). All but the first three are findings; each
is shown with its seed, its reason and the shortest network that was found with the same verdict and reason.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

import torch

from isobit.build import Options, compile_model
from isobit.pipeline.errors import CompileError, ExitCode
from isobit.pipeline.proof.gates import UNSTEADY
from isobit.pipeline.quiet import quiet
from isobit.pipeline.recipe.file import load_recipe
from isobit.pipeline.samples.data import array_batches
from isobit.pipeline.samples.network_inputs import grouped
from isobit.result import GateFailed
from tools.fuzz.networks import Plan, draw_plan, module_of, shrunk
from tools.fuzz.workers import Answer, Worker

TARGETS = ("onnx", "onnx-qoperator", "tvm", "c", "reference")
HELD, REFUSED, NOISE, FAILED, INTERNAL, DIED = VERDICTS = ("held", "refused", "noise", "failed", "internal", "died")
FINDINGS = (FAILED, INTERNAL, DIED)
BITS = ("w8a8", "w8a8", "w4a8", "w4a4", "w3a3", "w2a2", "w2a4", "w8a4")
PLAIN = ("nearest", "minmax", "mse")
LEARNED = ("adaround", "brecq", "qdrop")  # two steps a unit
LIMIT_S = 180.0
SIMPLEST = "minmax_w8a8"


@dataclass(frozen=True)
class Case:
    """One build.

    Args:
        network: `Plan.to_list`, printed.
        steps: of the method; 0 where it takes none.
        profile: of the device; None for the target's own.
    """

    network: str
    recipe: str
    target: str
    steps: int = 0
    allow_float: bool = False
    profile: str | None = None


@dataclass(frozen=True)
class Verdict:
    """What became of a case; `reason` is without what differs from network to network."""

    kind: str
    reason: str = ""
    text: str = ""

    def same_as(self, other: Verdict) -> bool:
        """Whether both are one finding."""
        return (self.kind, self.reason) == (other.kind, other.reason)


@dataclass(frozen=True)
class Finding:
    """A case that must not happen, and the shortest one like it."""

    seed: int
    case: Case
    verdict: Verdict
    shortest: Case


def draw_case(seed: int, target: str | None = None, profile: str | None = None) -> Case:
    """The case of a seed; network and recipe do not depend on a target and a profile that are given."""
    chance = random.Random(f"recipe {seed}")
    learned = chance.random() < 0.1
    recipe = f"{chance.choice(LEARNED if learned else PLAIN)}_{chance.choice(BITS)}"
    drawn, allow_float = chance.choice(TARGETS), chance.random() < 0.5
    return Case(repr(draw_plan(seed).to_list()), recipe, target or drawn, 2 if learned else 0, allow_float,
                profile)


def build(case: Case) -> Verdict:
    """Build and prove one case, in this process."""
    plan = Plan.of(case.network)
    edits = [f"method.steps={case.steps}"] if case.steps else []
    samples = array_batches(grouped(plan.samples()), None, 4, "calib", "random samples", ("x", "y")[:len(plan.inputs)])
    with tempfile.TemporaryDirectory() as folder, quiet():
        try:
            torch.manual_seed(0)
            recipe = load_recipe(case.recipe, [f"images.count={len(samples)}", "images.batch_size=4", *edits])
            options = Options(allow_float=case.allow_float, profile=case.profile)
            compile_model(module_of(plan), recipe, case.target, samples, None, Path(folder) / "out", options)
        except CompileError as error:
            kind = REFUSED if error.exit_code == ExitCode.BAD_INPUT else NOISE if _only_unsteady(error) else FAILED
            return Verdict(kind, f"{error.stage}: {_general(error.what)}", str(error))
        except Exception as error:  # a defect, which is what is looked for
            frame = traceback.extract_tb(error.__traceback__)[-1]
            text = "".join(traceback.format_exception(error)[-8:])
            return Verdict(INTERNAL, f"{type(error).__name__} at {Path(frame.filename).name}:{frame.lineno}", text)
    return Verdict(HELD)


def _only_unsteady(error: CompileError) -> bool:
    """Whether all that the gate holds against a network are values in float that rounding decides."""
    failed = [rule for rule in error.build.parity.gate if not rule.passed] if isinstance(error, GateFailed) else []
    return bool(failed) and all(rule.rule.startswith(UNSTEADY) for rule in failed)


def _general(text: str) -> str:
    """A message without names and numbers."""
    text = re.sub(r"'[^']*'", "'..'", text)
    return re.sub(r"-?\d[\d.,e+-]*", "#", text)[:160]


def judge(worker: Worker, case: Case) -> tuple[Verdict, float]:
    """(verdict, processor seconds) of a case built by a worker."""
    answer: Answer = worker.ask(case)
    return (Verdict(DIED, answer.died), 0.0) if answer.died else (answer.value, answer.cpu_s or 0.0)


def shortest(worker: Worker, case: Case, verdict: Verdict, tries: int) -> Case:
    """The smallest case found with the same finding: first a plain recipe, then a smaller network."""
    def still(smaller: Case) -> bool:
        return judge(worker, smaller)[0].same_as(verdict)

    plain = replace(case, recipe=SIMPLEST, steps=0)
    case = plain if plain != case and still(plain) else case
    plan = shrunk(
        Plan.of(case.network), lambda smaller: still(replace(case, network=repr(smaller.to_list()))), tries)
    return replace(case, network=repr(plan.to_list()))


@dataclass
class Tally:
    """Verdicts by target, reasons of refusals, findings, processor seconds."""

    verdicts: dict[str, Counter[str]]
    reasons: Counter[str]
    findings: list[Finding]
    cpu_s: float = 0.0

    @classmethod
    def empty(cls) -> Tally:
        """A tally of no case."""
        return cls({}, Counter(), [])

    def table(self) -> Iterator[str]:
        """Lines for people: counts by target, then why cases were refused."""
        yield f"{'target':<16}{'cases':>8}" + "".join(f"{kind:>10}" for kind in VERDICTS)
        for target, found in self.verdicts.items():
            yield f"{target:<16}{found.total():>8}" + "".join(f"{found[kind]:>10}" for kind in VERDICTS)
        yield f"{self.cpu_s:.0f} processor seconds"
        for reason, count in sorted(self.reasons.items(), key=lambda item: (-item[1], item[0])):
            yield f"  refused {count:>5} x  {reason}"


def run(
    seeds: Sequence[int], target: str | None, workers: int = 1, tries: int = 60, seconds: float = LIMIT_S,
    profile: str | None = None,
) -> Tally:
    """Every case of `seeds`; what it says does not depend on `workers`.

    Args:
        tries: builds that making one finding smaller may take.
        seconds: that a case may take.
    """
    tally, idle, open_workers = Tally.empty(), SimpleQueue[Worker](), []
    for _ in range(workers):
        open_workers.append(Worker(build, seconds))
        idle.put(open_workers[-1])

    def one(seed: int) -> tuple[int, Case, Verdict, Case, float]:
        case, worker = draw_case(seed, target, profile), idle.get()
        try:
            verdict, cpu_s = judge(worker, case)
            small = shortest(worker, case, verdict, tries) if verdict.kind in FINDINGS else case
        finally:
            idle.put(worker)
        return seed, case, verdict, small, cpu_s

    try:
        with ThreadPoolExecutor(workers) as pool:
            for seed, case, verdict, small, cpu_s in pool.map(one, seeds):
                tally.verdicts.setdefault(case.target, Counter())[verdict.kind] += 1
                tally.cpu_s += cpu_s
                if verdict.kind == REFUSED:
                    tally.reasons[f"{case.target}: {verdict.reason}"] += 1
                elif verdict.kind in FINDINGS:
                    tally.findings.append(Finding(seed, case, verdict, small))
                    print(described(tally.findings[-1]), flush=True)
    finally:
        for worker in open_workers:
            worker.end()
    return tally


def described(finding: Finding) -> str:
    """A finding for people: why, how to repeat it, the shortest case."""
    case, small = finding.case, finding.shortest
    lines = [f"{finding.verdict.kind}: seed {finding.seed}, {case.recipe}, {case.target}: {finding.verdict.reason}"]
    lines += [f"    {line}" for line in finding.verdict.text.strip().splitlines()[-6:]]
    lines.append(f"  repeat:   python tools/fuzz/fuzz.py --seed {finding.seed} --count 1 --target {case.target}"
                 + (f" --profile {case.profile}" if case.profile else ""))
    lines.append(f"  shortest: {small.recipe}, {small.target}, {small.network}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 1 where there is a finding."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=0, help="of the first case; the others follow it")
    parser.add_argument("--count", type=int, default=100, help="how many cases")
    parser.add_argument("--target", choices=TARGETS, help="default: each case has its own")
    parser.add_argument("--profile", help="of the device; default: the target's own")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--tries", type=int, default=60, help="builds to make one finding smaller")
    parser.add_argument("--limit", type=float, default=LIMIT_S, help="seconds that a case may take")
    parser.add_argument("--json", type=Path, help="write verdicts, reasons and findings to this file")
    given = parser.parse_args(arguments)
    started = time.perf_counter()
    seeds = range(given.seed, given.seed + given.count)
    tally = run(seeds, given.target, given.workers, given.tries, given.limit, given.profile)
    print("\n".join(tally.table()), f"\n{time.perf_counter() - started:.0f} seconds", sep="")
    if given.json is not None:
        said = {
            "verdicts": tally.verdicts, "reasons": tally.reasons,
            "findings": [
                {"seed": each.seed, "target": each.case.target, "recipe": each.case.recipe, "kind": each.verdict.kind,
                 "reason": each.verdict.reason, "text": each.verdict.text, "network": each.shortest.network}
                for each in tally.findings
            ],
        }
        given.json.write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")
    return int(bool(tally.findings))


if __name__ == "__main__":
    sys.exit(main())
