"""Do artifacts give the same integers on old and new runtimes? Each version in an environment of its own.

Codes, of ONNX Runtime: the artifact's own `run.py`; every quantized tensor and the logits on the golden inputs and on
evaluation samples, compared bit for bit with the target's integer arithmetic; and which kernels the session runs.
Probes, of ONNX Runtime and TVM: `run.py` as a whole, and each kernel by itself; of ONNX Runtime on emulated processors
as well. Environments are made below `build/compat/` (the runtime and numpy, nothing else) and reused.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

import numpy as np
from rich.console import Console
from rich.table import Table

from isobit.backends.base import BACKENDS
from isobit.backends.onnx.model_bytes import with_outputs
from isobit.pipeline.artifact.manifest import read_manifest
from isobit.pipeline.errors import CompileError
from isobit.pipeline.proof.counts import CodeCount
from isobit.pipeline.proof.parity import LOGITS
from tools.bench.subjects import Subject, trained
from tools.check.restore import restore
from tools.code_state import note_state
from tools.compat import probes
from tools.compat.environments import NEWEST, OF_TARGET, ONNX_RUNTIME, TVM, Runtime, environment
from tools.compat.probes import HERE, Probed
from tools.documents import command_text, markdown, read_json
from tools.processor import cpu_name
from tools.publish import publish

VERSIONS = {ONNX_RUNTIME: ("1.17.3", "1.22.1", NEWEST), TVM: ("0.26.0", NEWEST)}
EMULATED = ("Haswell",)  # has no VNNI: 8-bit kernels add two products in 16 bits there
CODES, PROBES = "codes", "probes"
SAMPLES = 256
FLOAT_KERNELS = frozenset({"Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "Add", "Mul", "AveragePool",
                           "GlobalAveragePool", "ReduceMean", "Relu", "Concat", "HardSigmoid", "Sigmoid"})
# Runs in an environment that has onnxruntime and numpy only.
CHILD = """
import sys
import numpy as np
import onnxruntime as ort
plain, tapped, inputs, outputs, optimized = sys.argv[1:]
options = ort.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
options.log_severity_level = 3
session = ort.InferenceSession(tapped, options, providers=["CPUExecutionProvider"])
names = [output.name for output in session.get_outputs()]
x = np.load(inputs)
parts = [session.run(names, {"input": x[start:start + 64]}) for start in range(0, len(x), 64)]
np.savez(outputs, **{name: np.concatenate(column) for name, column in zip(names, zip(*parts))})
options.optimized_model_filepath = optimized
ort.InferenceSession(plain, options, providers=["CPUExecutionProvider"])
print(ort.__version__)
"""


@dataclass(frozen=True)
class Entry:
    """One artifact on one version; `error` is empty where it ran."""

    artifact: str
    version: str
    run_py: str
    samples: int
    compared: int
    differing: int
    max_lsb: int
    integer_kernels: int
    float_kernels: int
    error: str = ""

    @property
    def passed(self) -> bool:
        return not self.error and self.run_py == "PASS" and not self.differing and not self.float_kernels


def check(artifact: Path, subject: Subject, versions: Sequence[str], folder: Path, samples: int) -> list[Entry]:
    """Compare every code of one artifact on every version of ONNX Runtime."""
    reference = restore(artifact, subject.load())
    x = np.concatenate([_golden(artifact), subject.evaluation().first(samples).materialize()[0].numpy()])
    expected = BACKENDS.get("onnx").arithmetic(reference).run(_tensor(x))
    work = folder / "work" / artifact.name
    work.mkdir(parents=True, exist_ok=True)
    model = (artifact / "model.onnx").read_bytes()
    (work / "plain.onnx").write_bytes(model)
    (work / "tapped.onnx").write_bytes(with_outputs(model, [name for name in expected if name != LOGITS]))
    np.save(work / "inputs.npy", x)
    return [_run(artifact, version, environment(Runtime(ONNX_RUNTIME, version), folder), work, expected, len(x))
            for version in versions]


def _golden(artifact: Path) -> np.ndarray:
    with np.load(artifact / "golden.npz", allow_pickle=False) as file:
        return file["input"]


def _tensor(x: np.ndarray) -> Any:
    import torch

    return torch.from_numpy(x)


def _run(artifact: Path, version: str, python: Path, work: Path, expected: Any, samples: int) -> Entry:
    replay = subprocess.run([python, artifact / "run.py", "--seconds", "0.2"], capture_output=True, text=True)
    verdict = (replay.stdout.strip().splitlines() or ["nothing"])[-1]
    outputs, optimized = work / f"{version}.npz", work / f"{version}-optimized.onnx"
    command = [python, "-c", CHILD, work / "plain.onnx", work / "tapped.onnx", work / "inputs.npy", outputs, optimized]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return Entry(artifact.name, version, verdict, samples, 0, 0, 0, 0, 0, reason)
    count = CodeCount()
    with np.load(outputs) as got:
        for name, codes in expected.items():
            if name == LOGITS:
                codes, found = codes.view(np.int32), got[name].view(np.int32)
                count.differing += int(np.count_nonzero(codes != found))
                count.compared += codes.size
            else:
                count.add(codes, got[name])
    integer, floating = kernels(optimized)
    return Entry(artifact.name, done.stdout.strip(), verdict, samples, count.compared, count.differing, count.max_lsb,
                 integer, floating)


def kernels(optimized: Path) -> tuple[int, int]:
    """(integer operators, float operators) of a graph that a session optimised."""
    import onnx

    counts = Counter(node.op_type for node in onnx.load(optimized).graph.node)
    integer = sum(count for name, count in counts.items() if name.startswith("QLinear") or name == "QGemm")
    return integer, sum(counts[name] for name in FLOAT_KERNELS)


COLUMNS = ("artifact", "ONNX Runtime", "run.py", "samples", "codes and logits compared", "differing", "by up to",
           "integer kernels", "float kernels")


def cells(entry: Entry) -> tuple[str, ...]:
    """One line of the table."""
    if entry.error:
        return (entry.artifact, entry.version, entry.run_py, "failed: " + entry.error, *[""] * 5)
    return (entry.artifact, entry.version, entry.run_py, str(entry.samples), f"{entry.compared:,}",
            str(entry.differing), str(entry.max_lsb), str(entry.integer_kernels), str(entry.float_kernels))


def numbers(entries: Sequence[Entry], command: str) -> dict[str, Any]:
    """What docs/compat.json holds of codes: one artifact on one version in a line."""
    return {
        "about": "Every run of tools/check/compat.py: codes and logits that were compared and that differ, by up to "
                 "max_lsb; run.py with and without --probe, kernels that it ran by themselves, and the wrong ones. "
                 "docs/compat.md sums them up.",
        "command": command,
        "entries": [{key: value for key, value in asdict(entry).items() if value != ""} for entry in entries],
    }


SUMMARY = ("artifact", "the same codes on", "samples", "compared on each", "integer kernels", "float kernels")


def tables(content: Mapping[str, Any]) -> dict[str, str]:
    """The tables of docs/compat.md: a row for each artifact, then what did not run or gave other codes."""
    entries = [Entry(**entry) for entry in content["entries"]]
    rows = []
    for name in dict.fromkeys(entry.artifact for entry in entries):
        good = [entry for entry in entries if entry.artifact == name and entry.passed]
        versions = ", ".join(entry.version for entry in good) or "none"
        counts = [{getattr(entry, key) for entry in good}
                  for key in ("samples", "compared", "integer_kernels", "float_kernels")]
        rows.append((name, versions, *(" / ".join(f"{count:,}" for count in sorted(found)) for found in counts)))
    others = [f"- {' | '.join(cell for cell in cells(entry) if cell)}" for entry in entries if not entry.passed]
    said = "Every artifact passed." if not others else "\n".join(["Not every artifact passed:", "", *others])
    return {"matrix": f"{markdown(SUMMARY, rows, tight=True)}\n\n{said}",
            "probes": probes.table([probes.from_json(entry) for entry in content["probes"]["entries"]])}


def run_all(
    artifacts: Sequence[Path], options: argparse.Namespace, console: Console
) -> tuple[list[Entry], list[Probed]]:
    """Codes, or probes, or both, of every artifact."""
    folder, entries, probed = ROOT / "build" / "compat", list[Entry](), list[Probed]()
    versions, subjects = {ONNX_RUNTIME: options.versions, TVM: options.tvm_versions}, trained(options.data)
    for artifact in artifacts:
        package = OF_TARGET.get(read_manifest(artifact).target.name)
        subject = next((s for name, s in subjects.items() if artifact.name.startswith(f"{name}-")), None)
        if options.only != CODES and package is not None:
            probed += [probes.probe(artifact, Runtime(package, version), folder, processor)
                       for processor in [HERE, *(options.processors if package == ONNX_RUNTIME else [])]
                       for version in versions[package]]
        if options.only == PROBES or package == TVM:
            console.print(f"{artifact.name}: done")
        elif subject is None or package is None:
            console.print(f"{artifact.name}: skipped, its network and data are not found below {options.data}")
        else:
            entries += check(artifact, subject, options.versions, folder, options.samples)
            console.print(f"{artifact.name}: done")
    return entries, probed


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 0 where everything is the same, 1 where not, 2 for bad input."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("artifact", type=Path, nargs="*", help="default: all trained builds of tools/bench/bench.py")
    parser.add_argument("--only", choices=(CODES, PROBES), help="measure one of the two")
    parser.add_argument("--versions", type=_list, default=list(VERSIONS[ONNX_RUNTIME]), help="of ONNX Runtime")
    parser.add_argument("--tvm-versions", type=_list, default=list(VERSIONS[TVM]))
    parser.add_argument("--processors", type=_list, default=list(EMULATED), help="that qemu-x86_64 emulates")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--samples", type=int, default=SAMPLES, help="of the evaluation set, beside the golden inputs")
    parser.add_argument("--no-docs", action="store_true", help="leave docs/compat.md and .json as they are")
    options = parser.parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 160)
    artifacts = options.artifact or sorted(path.parent for path in (ROOT / "build" / "bench").glob("*/manifest.json"))
    try:
        entries, probed = run_all([path.resolve() for path in artifacts], options, console)
    except CompileError as error:
        console.print(str(error), markup=False)
        return error.exit_code
    if not entries and not probed:
        console.print("nothing to check: run tools/bench/bench.py first, or name artifacts")
        return 2
    if entries:
        table = Table(*COLUMNS, title="One file, several ONNX Runtimes")
        for entry in entries:
            table.add_row(*cells(entry), style=None if entry.passed else "bold red")
        console.print(table)
    if probed:
        console.print(probes.table(probed), markup=False)
    passed = all(one.passed for one in [*entries, *probed])
    report = {"entries": [asdict(entry) for entry in entries], "probes": [asdict(one) for one in probed]}
    (ROOT / "build" / "compat.json").write_text(json.dumps({**report, "passed": passed}, indent=1) + "\n")
    if not options.no_docs:
        command = command_text("tools/check/compat.py", arguments if arguments is not None else sys.argv[1:])
        write_docs(entries, probed, command)
    return 0 if passed else 1


def write_docs(entries: Sequence[Entry], probed: Sequence[Probed], command: str) -> None:
    """Publish what was measured; what was not stays as it is in docs/compat.json, with the code that measured it."""
    page = ROOT / "docs" / "compat.md"
    content, code = read_json(page.with_suffix(".json")), note_state(page.parent)
    if entries:
        content |= {**numbers(entries, command), "code": code}
    if probed:
        content["probes"] = {"command": command, "code": code, HERE: cpu_name(),
                             "entries": [probes.to_json(one) for one in probed]}
    publish(page, content, tables(content), "compat", parts=True)


def _list(text: str) -> list[str]:
    return [word for word in text.split(",") if word]


if __name__ == "__main__":
    sys.exit(main())
