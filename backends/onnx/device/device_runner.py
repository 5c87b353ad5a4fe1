"""Replays this artifact's golden inputs on the device at hand: hashes, every integer code, the logits, the latency.

With --probe it runs each layer by itself instead, on codes that bring its kernel to its ends, and names those that are
wrong; with --bench it says what an inference takes.

Needs numpy and onnxruntime (1.17 or newer) and nothing else: copy the folder to the device and run `python run.py`.
Prints PASS or FAIL as its last line and exits with 0 or 1, or with 2 where it cannot check. Runs on Python 3.8 and
newer, so keep its syntax old.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from isobit.backends.device.golden import (
    GOLDEN,
    NEAR,
    boundaries,
    code_steps,
    compare_golden,
    float_key,
    golden_inputs,
    golden_outputs,
    logit_differences,
    read_golden,
    step_problems,
)
from isobit.backends.device.inputs import random_inputs, runs_of
from isobit.backends.device.probe import PROBE, probe_problems, read_probe
from isobit.backends.device.processor import read_cpuinfo, this_machine
from isobit.backends.device.replay import (
    CannotCheck,
    add_options,
    broken_files,
    check_files,
    need_probe,
    print_latency,
    read_manifest,
    show_bench,
    unsigned,
    verdict,
)
from isobit.backends.device.timing import Contender, repeated
from isobit.backends.onnx.model_bytes import OWN, cut_at, quantized_tensors, with_outputs
from isobit.backends.onnx.profiles import DEFAULT_PROFILE, has_wide_weights, why_inexact, why_untimed
from isobit.pipeline.artifact.digest import RUNNER

MODEL = "model.onnx"
FILES = (MODEL, RUNNER, GOLDEN)  # what is on the device
INTEGERS = (np.int64, np.int32, np.int16, np.int8)  # of outputs; uint8 is a code's
# numpy's types of the runtime's.
NUMPY = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16,
         "tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(int16)": np.int16, "tensor(int8)": np.int8,
         "tensor(uint8)": np.uint8, "tensor(bool)": np.bool_}


def open_session(model: Any, threads: int = 1) -> Any:
    """A session as users deploy it, of a file's path or its bytes."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    if threads > 1:  # else its threads go on spinning after a run, and who runs next on few cores pays for it
        options.add_session_config_entry("session.force_spinning_stop", "1")
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def compare(model: bytes, plain: Any, golden: Mapping[str, np.ndarray], names: Sequence[str]) -> list[str]:
    """What a model computes against the golden numbers: every code and every logit of every sample.

    Where float operators stand, two sessions of a model that is cut after each are compared. Fed with golden's codes,
    every piece must give golden's. Fed with the codes that the uncut model computed, the pieces must give what it gave:
    so what is deployed is those pieces, each after the code that this device rounded to.

    Args:
        model: the file.
        plain: its session.
        golden: see `read_golden`.
        names: quantized tensors of the model.
    """
    images, returned = golden_inputs(golden), golden_outputs(golden)
    results = [*names, *returned]
    whole = named(open_session(with_outputs(model, names)).run(results, images), results)
    alone = named(plain.run(returned, images), returned)
    read_out = [line for name in returned for line in logit_differences(alone[name], whole[name], None, name)]
    problems = ["reading the tensors out changes them: " + line for line in read_out]
    near = boundaries(golden)
    if not near:
        return problems + compare_golden(golden, whole)
    pieces = open_session(cut_at(with_outputs(model, [n for n in names if n not in near]),
                                 {name: golden[NEAR + name].shape[1:] for name in near}))
    outputs = [OWN + name if name in near else name for name in results]

    def run_pieces(codes: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return named(pieces.run(outputs, {**images, **codes}), results)

    problems += compare_golden(golden, run_pieces({name: golden[NEAR + name] for name in near}))
    allowed = {name: golden.get(float_key(name)) for name in returned}
    follows = compare_runs(whole, run_pieces({name: whole[name] for name in near}), near, allowed)
    return problems + ["the whole model and its pieces: " + line for line in follows]


def compare_runs(
    whole: Mapping[str, np.ndarray], pieces: Mapping[str, np.ndarray], near: Sequence[str],
    allowed: Mapping[str, np.ndarray | None],
) -> list[str]:
    """Equal codes, one step where a float operator may have been rounded twice; outputs as `logit_differences`.

    Args:
        allowed: by output, the relative error that it may have; None where every bit counts.
    """
    lines = []
    for name in whole:
        if name in allowed:
            lines += logit_differences(pieces[name], whole[name], allowed[name], name)
            continue
        steps = code_steps(pieces[name], whole[name])
        if steps is not None:
            lines += step_problems(name, steps, np.abs(steps) > (1 if name in near else 0))
    return lines


def named(arrays: Sequence[np.ndarray], names: Sequence[str]) -> dict[str, np.ndarray]:
    """What a session returned, by name: codes as they are, integers that are an output as float32, as in golden.npz."""
    return {name: array.astype(np.float32) if array.dtype in INTEGERS else array
            for name, array in zip(names, arrays)}  # noqa: B905 (Python 3.8)


def inexact(manifest: dict[str, Any]) -> list[str]:
    """Why this processor gives other codes, if it does."""
    if has_wide_weights(manifest["tensors"]):
        reason = why_inexact(manifest["target"]["profile"], this_machine(), read_cpuinfo())
        if reason:
            return [reason + ": build with --device-profile " + DEFAULT_PROFILE]
    return []


def check(folder: Path, seconds: float) -> list[str]:
    """What is not as it was built; the latency is measured for `seconds`."""
    manifest = read_manifest(folder)
    problems = broken_files(folder, manifest, FILES) or inexact(manifest)
    if problems:
        return problems
    model = (folder / MODEL).read_bytes()
    names = quantized_tensors(model)
    plain = open_session(model)
    inputs, outputs = ([value.name for value in values] for values in (plain.get_inputs(), plain.get_outputs()))
    golden = read_golden(folder, names, inputs, outputs)
    problems = compare(model, plain, golden, names)
    sample = {name: array[:1] for name, array in golden_inputs(golden).items()}
    print_latency(lambda: plain.run(None, sample), seconds)
    return problems


def check_layers(folder: Path) -> list[str]:
    """The layers that give other codes than they must, each run by itself; also on a processor that is known for it."""
    manifest = read_manifest(folder)
    need_probe(folder, manifest, PROBE)
    broken = broken_files(folder, manifest, (*FILES, PROBE))
    if broken:
        return broken
    model = (folder / MODEL).read_bytes()
    plain, names = open_session(model), quantized_tensors(model)
    inputs, outputs = ([value.name for value in values] for values in (plain.get_inputs(), plain.get_outputs()))
    probe = read_probe(folder, names, inputs, outputs)
    pieces = open_session(cut_at(model, {pattern.name: pattern.shape for pattern in probe.patterns}))
    results = [*names, *outputs]
    asked = [*(OWN + name for name in names), *outputs]
    wrong = probe_problems(probe, lambda x, codes: named(pieces.run(asked, {**x, **codes}), results), manifest)
    return inexact(manifest) + wrong


def timed(folder: Path, batch: int, threads: int) -> Contender:
    """The artifact for `isobit bench`; raises ValueError where it is damaged, CannotCheck where it cannot run here."""
    manifest = check_files(folder, FILES)
    elsewhere = why_untimed(manifest["target"]["profile"], this_machine())
    problems = [elsewhere] if elsewhere else inexact(manifest)
    if problems:
        raise CannotCheck(problems[0])
    return timed_model((folder / MODEL).read_bytes(), batch, threads)


def timed_model(model: Any, batch: int, threads: int) -> Contender:
    """One batch of random inputs in a session of any model; raises CannotCheck where its inputs have no known sizes.

    Args:
        model: a file's path or its bytes.
    """
    import onnxruntime

    session = open_session(model, threads)
    feed, runs = random_feed(session, batch)
    return Contender("onnxruntime " + onnxruntime.__version__, repeated(lambda: session.run(None, feed), runs))


def random_feed(session: Any, batch: int) -> tuple[dict[str, np.ndarray], int]:
    """(inputs by name, how many runs of them are a batch); raises CannotCheck as `runs_of` does."""
    declared = [(value.name, value.shape, value.type) for value in session.get_inputs()]
    shapes, runs = runs_of([shape for _, shape, _ in declared], batch)
    values = random_inputs([(shape, NUMPY[kind]) for shape, (_, _, kind) in zip(shapes, declared)])  # noqa: B905
    return {name: array for (name, _, _), array in zip(declared, values)}, runs  # noqa: B905 (Python 3.8)


def main() -> int:
    """Check, replay, time; 0 where everything is as it was built, 1 where not, 2 where that cannot be said."""
    parser = argparse.ArgumentParser(description="replay the golden inputs of this artifact")
    instead = add_options(parser)
    instead.add_argument("--probe", action="store_true", help="run each layer by itself on chosen codes, no more")
    given, folder = parser.parse_args(), Path(__file__).resolve().parent
    return verdict(lambda: unsigned(folder, given.require_signature) or (
        show_bench(folder, timed, given.seconds) if given.bench else
        check_layers(folder) if given.probe else check(folder, given.seconds)), checks=not given.bench)


if __name__ == "__main__":
    sys.exit(main())
