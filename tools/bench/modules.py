"""Latency and size of `--target tvm` modules beside ONNX Runtime and beside what TVM makes of the same network itself.

    python tools/bench/modules.py [--rounds 31] [--write-docs]

All contenders run in one process on one thread, interleaved, batch 1: the float ONNX file, our `onnx` artifact, our
modules in four widths for those of x86-64-vnni and x86-64-v3 that the processor at hand can run (the artifact is of
the profile that fits it as well), the peers of `isobit bench` that are installed, TVM's import of our QDQ file with its
default pipeline, and Relax integer operators that compute our program, untuned. Ratios are taken within a round (see
backends/device/timing.py). Networks: ResNet-20 and DS-CNN where their data is found, ResNet-18 and MobileNetV2 at 224
with random weights. Which kernels a layer gets depends on the ends of its codes alone, so rounding is nearest.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

import torch

from isobit.backends.base import BACKENDS
from isobit.backends.device.replay import CannotCheck
from isobit.backends.device.timing import interleave, summarize
from isobit.backends.fixed_point.lower import lower
from isobit.backends.fixed_point.program import Conv, Dequantize, GlobalAverage, MaxPool, Move, Program, Sum
from isobit.bench.peers import PEERS, quiet
from isobit.build import Options, compile_model, plan
from isobit.calib.calibrate import calibrate
from isobit.passes import legalize
from isobit.pipeline.errors import TargetError
from isobit.pipeline.recipe.file import load_recipe
from isobit.pipeline.recipe.schema import Recipe
from tools.bench.latency import export_float, session_caller
from tools.bench.rows import SUBJECT_TITLES
from tools.bench.subjects import Subject, random_weights, trained
from tools.documents import command_text, markdown
from tools.processor import cpu_name
from tools.publish import publish

DOCUMENT = ROOT / "docs" / "latency.md"
FLOAT, ONNX = "ONNX Runtime, float", "ONNX Runtime, our artifact"
W8A8, W7A8, W4A8, W4A4 = "W8A8", "W7A8", "W4A8", "W4A4"
WIDTHS = {W8A8: ("minmax_w8a8", ()), W7A8: ("minmax_w8a8", ("weights.bits=7",)), W4A8: ("mse_w4a8", ()),
          W4A4: ("mse_w4a4", ())}
VNNI, AVX2 = "tvm, x86-64-vnni", "tvm, x86-64-v3"
IMPORTED, RELAX = "TVM's import of the QDQ file", "Relax integer operators, untuned"
PROFILES = {VNNI: "x86-64-vnni", AVX2: "x86-64-v3"}
NETWORKS = ("resnet20", "ds_cnn", "resnet18", "mobilenet_v2")
WITH_TVMS_OWN = "resnet20"  # where TVM's own ways are timed as well
ABOUT = ("Every number of tools/bench/modules.py: median milliseconds with quartiles, time over that of our ONNX "
         "artifact and of the float file (medians of ratios within a round); docs/latency.md shows a part.")
BLOCK_SECONDS = 0.06
ROUNDS, IMAGES = 31, 8
PEER_TITLES = {"quantize_static": "ONNX Runtime's quantizer", "openvino-int8": "OpenVINO, int8 (NNCF)"}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--networks", type=lambda text: text.split(","), default=list(NETWORKS))
    parser.add_argument("--size", type=int, default=224, help="of the images of the networks with random weights")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "bench-modules")
    parser.add_argument("--write-docs", action="store_true", help="write docs/latency.json and .md")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    os.environ["TVM_NUM_THREADS"] = "1"  # else TVM takes all cores
    profiles = runnable(PROFILES)
    if not profiles:
        print("modules: not measured: no device profile of the target tvm runs here")
        return 0
    subjects = {**trained(options.data), **random_weights(options.folder, options.size)}
    found: dict[str, Any] = {}
    for name in options.networks:
        if name not in subjects:
            print(f"{SUBJECT_TITLES[name]}: not measured, it is not found below {options.data} (--data)")
            continue
        found[name] = measure(subjects[name], options.folder / name, options.rounds, profiles)
        show(name, found[name])
    options.folder.mkdir(parents=True, exist_ok=True)
    (options.folder / "results.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if options.write_docs:
        given = arguments if arguments is not None else sys.argv[1:]
        content = numbers(found, command_text("tools/bench/modules.py", given))
        publish(DOCUMENT, content, tables(content))
    return 0


def runnable(profiles: Mapping[str, str]) -> dict[str, str]:
    """Those of `profiles` (title -> device profile of `tvm`) whose modules this machine runs itself.

    Prints why the others are left out.
    """
    found = {}
    for title, profile in profiles.items():
        try:
            BACKENDS.get("tvm").target(profile)
        except TargetError as error:
            print(f"{title}: not measured: {error}")
        else:
            found[title] = profile
    return found


def measure(subject: Subject, folder: Path, rounds: int, profiles: Mapping[str, str]) -> dict[str, Any]:
    """Times of every contender of one network; the baselines of TVM for ResNet-20 only."""
    sample = subject.evaluation().example.numpy()
    files = {titled(title, width): build(subject, folder / f"{profile}-{width}", "tvm", profile, width)
             for title, profile in profiles.items() for width in WIDTHS}
    onnx_file = build(subject, folder / "onnx", "onnx", "vnni" if VNNI in profiles else "generic") / "model.onnx"
    float_file = export_float(subject, folder / "float.onnx")
    runs = {
        FLOAT: session_caller(float_file, sample),
        ONNX: session_caller(onnx_file, sample),
        **{title: module_caller(path / "model.so", sample) for title, path in files.items()},
        **peer_callers(float_file, folder),
    }
    if subject.name == WITH_TVMS_OWN:
        runs |= {IMPORTED: imported_caller(onnx_file, sample), RELAX: relax_caller(program_of(subject), sample)}
    return {"contenders": summarize(interleave(runs, rounds, BLOCK_SECONDS))}


def titled(title: str, width: str) -> str:
    """The contender of a profile and a width."""
    return f"{title}, {width}"


def recipe(width: str = W8A8) -> Recipe:
    """A width without any reconstruction."""
    name, edits = WIDTHS[width]
    return load_recipe(name, [f"images.count={IMAGES}", f"images.batch_size={IMAGES}", *edits])


def peer_callers(source: Path, folder: Path) -> dict[str, Callable[[], object]]:
    """What other tools make of the float file; prints which of them are not installed."""
    found = {}
    for name, title in PEER_TITLES.items():
        try:
            PEERS[name].check()
        except CannotCheck as error:
            print(f"{title}: not measured: {error}")
            continue
        with quiet():
            found[title] = PEERS[name].open(source, folder, 1, 1).run
    return found


def build(subject: Subject, folder: Path, target: str, profile: str, width: str = W8A8) -> Path:
    """The artifact's folder; it is built and proven on a few samples."""
    calibration = subject.calibration(IMAGES, 0)
    options = Options(profile=profile, overwrite=True)
    compile_model(subject.load(), recipe(width), target, calibration, None, folder, options)
    return folder


def program_of(subject: Subject) -> Program:
    """The integer program of a network at W8A8."""
    calibration = subject.calibration(IMAGES, 0)
    images, labels = calibration.materialize()
    quantized = plan(subject.load(), recipe(), BACKENDS.get("tvm"), calibration.example)
    reference, _ = legalize(calibrate(quantized, images, labels=labels))
    return lower(reference)


# --- contenders ---------------------------------------------------------------------------------------------------


def module_caller(path: Path, sample: np.ndarray) -> Callable[[], object]:
    """`main` of a compiled module, from float images to float logits as in ONNX Runtime."""
    import tvm

    return _calls(tvm.runtime.load_module(str(path)), sample)


def _calls(module: Any, sample: np.ndarray) -> Callable[[], object]:
    import tvm
    from tvm import relax

    machine = relax.VirtualMachine(module, tvm.cpu())
    argument = tvm.runtime.tensor(sample)
    run = machine["main"]
    return lambda: run(argument)


def _built(module: Any) -> Any:
    """A Relax module through TVM's default pipeline for CPUs, for the processor at hand."""
    import tvm
    from tvm import relax

    target = tvm.target.Target({"kind": "llvm", "mcpu": tvm.target.codegen.llvm_get_system_cpu()})
    return relax.build(module, target, relax_pipeline=relax.backend.cpu_generic.get_default_pipeline(target))


def imported_caller(path: Path, sample: np.ndarray) -> Callable[[], object]:
    """Our QDQ file through TVM's ONNX front end, which computes it in float."""
    import onnx
    from onnx import inliner
    from tvm.relax.frontend.onnx import from_onnx

    model = inliner.inline_local_functions(onnx.load(path))
    module = from_onnx(model, shape_dict={"input": list(sample.shape)}, keep_params_in_input=False)
    return _calls(_built(module), sample)


def relax_caller(program: Program, sample: np.ndarray) -> Callable[[], object]:
    """Our program in Relax's own integer operators: conv2d to int32, a 64-bit multiplier and shift."""
    return _calls(_built(relax_module(program, sample.shape)), sample)


def relax_module(program: Program, shape: tuple[int, ...]) -> Any:
    """`main(x: float32 NCHW) -> logits`, for the steps that ResNet-20 has."""
    from tvm import relax

    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType(shape, "float32"))
    with builder.function("main", [x]):
        steps = relax.op.round(relax.op.divide(x, _constant(program.input.scale, "float32")))
        codes = relax.op.clip(relax.op.add(steps, _constant(program.input.zero_point, "float32")), 0, 255)
        values = {0: builder.emit(relax.op.astype(codes, "uint8"))}
        for step in program.steps:
            result = builder.emit(_relax_step(step, program, [values[number] for number in step.inputs]))
            values[-1 if step.output is None else step.output] = result
        builder.emit_func_output(values[-1])
    return builder.get()


def _relax_step(step: Any, program: Program, inputs: list[Any]) -> Any:
    from tvm import relax

    centered = [_centered(value, program.buffers[number].zero_point)
                for value, number in zip(inputs, step.inputs, strict=True)]
    match step:
        case Conv():
            return _relax_conv(step, program, centered)
        case Sum():
            return _rescaled(step, centered)
        case GlobalAverage():
            return _rescaled(step, [relax.op.sum(relax.op.astype(centered[0], "int32"), [2, 3], keepdims=True)])
        case MaxPool():
            window = step.window
            return relax.op.nn.max_pool2d(inputs[0], window.kernel, window.stride, window.padding, window.dilation)
        case Move() if step.index is None:
            return _relax_move(step, program, inputs[0])
        case Dequantize(parts=()):
            return relax.op.multiply(relax.op.astype(centered[0], "float32"),
                                     _constant(program.buffers[step.inputs[0]].scale, "float32"))
    raise TypeError(f"no Relax operator for {type(step).__name__}")


def _centered(value: Any, zero_point: int) -> Any:
    """Codes minus their zero point: uint8 as they are where that is 0, else int16."""
    from tvm import relax

    if zero_point == 0:
        return value
    return relax.op.subtract(relax.op.astype(value, "int16"), _constant(zero_point, "int16"))


def _relax_conv(step: Conv, program: Program, centered: list[Any]) -> Any:
    from tvm import relax

    codes = np.ascontiguousarray(step.weights.codes.transpose(0, 3, 1, 2))
    # The same type on both sides where codes have become int16; uint8 with int8 everywhere else.
    weights = relax.const(codes.astype(np.int16) if program.buffers[step.inputs[0]].zero_point else codes)
    total = relax.op.nn.conv2d(
        centered[0], weights, step.window.stride, step.window.padding, step.window.dilation, step.groups,
        out_dtype="int32",
    )
    total = relax.op.add(total, relax.const(step.bias.reshape(1, -1, 1, 1), "int32"))
    if step.rescale is None:
        scale = relax.const(step.logit_scale.reshape(1, -1, 1, 1), "float32")
        return relax.op.multiply(relax.op.astype(total, "float32"), scale)
    return _rescaled(step, [total, *centered[1:]])


def _rescaled(step: Any, values: list[Any]) -> Any:
    from tvm import relax

    total = _constant(step.rescale.offset, "int64")
    for term, value in zip(step.rescale.terms, values, strict=True):
        factor = term.multiplier.astype(np.int64).reshape(1, -1, 1, 1) << term.lift
        product = relax.op.multiply(relax.op.astype(value, "int64"), relax.const(factor, "int64"))
        total = relax.op.add(product, total)
    codes = relax.op.clip(relax.op.right_shift(total, _constant(step.rescale.shift, "int64")), step.low, step.high)
    return relax.op.astype(codes, "uint8")


def _relax_move(step: Move, program: Program, x: Any) -> Any:
    from tvm import relax

    source, zero = program.buffers[step.inputs[0]], program.buffers[step.inputs[0]].zero_point
    channels = program.buffers[step.output].shape[2]
    known = step.channels[step.channels >= 0]
    first = int(np.flatnonzero(step.channels >= 0)[0])
    if step.origin != (0, 0) or not np.array_equal(known, np.arange(source.shape[2])):
        raise TypeError("a move that ResNet-20 does not have")
    moved = relax.op.strided_slice(x, [2, 3], [0, 0], list(source.shape[:2]), list(step.stride))
    after = channels - first - len(known)
    return relax.op.nn.pad(moved, [0, 0, first, after, 0, 0, 0, 0], pad_value=float(zero))


def _constant(value: float, kind: str) -> Any:
    from tvm import relax

    return relax.const(np.asarray(value, kind), kind)


# --- tables ---------------------------------------------------------------------------------------------------------


def numbers(found: dict[str, Any], command: str) -> dict[str, Any]:
    """What docs/latency.json holds: a contender in a line, with its milliseconds and its time over the bases'."""
    return {
        "about": ABOUT,
        "command": command, "cpu": cpu_name(),
        "contenders": [contender(name, title, figures) for name, measured in found.items()
                       for title, figures in measured["contenders"].items()],
    }


def contender(name: str, title: str, figures: dict[str, Any]) -> dict[str, Any]:
    """Median milliseconds with quartiles, and our time by each base's: the median over the rounds."""
    speeds = figures["speed_over"]
    ours = title == titled(VNNI, W8A8)
    faster = {base: round(speeds[base][1]) for base in (IMPORTED, RELAX) if base in speeds and ours}
    wide = next((base for base in (titled(VNNI, W8A8), titled(AVX2, W8A8))
                 if base.rpartition(",")[0] == title.rpartition(",")[0] and base != title), None)
    return {
        "network": name, "contender": title, "ms": round(figures["ms"][1], 3),
        "quartiles": [round(figures["ms"][0], 3), round(figures["ms"][2], 3)],
        **{key: round(1 / speeds[base][1], 3)
           for key, base in (("over_our_onnx", ONNX), ("over_float", FLOAT), ("over_w8a8", wide)) if base in speeds},
    } | ({"times_as_fast": faster} if faster else {})


def by_network(content: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Entries by network and contender."""
    found: dict[str, dict[str, Any]] = {}
    for entry in content["contenders"]:
        found.setdefault(entry["network"], {})[entry["contender"]] = entry
    return found


def rows(content: Mapping[str, Any], titles: Sequence[str]) -> list[tuple[str, ...]]:
    """A line for each network: milliseconds of each contender, and the time over the float file's."""
    return [(SUBJECT_TITLES[name], *(_cell(entries.get(title)) for title in titles))
            for name, entries in by_network(content).items()]


def width_rows(content: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """A line for each network and profile: milliseconds of each width, and the time over the float file's."""
    return [(SUBJECT_TITLES[name], PROFILES[title], *(_cell(entries.get(titled(title, width))) for width in WIDTHS))
            for name, entries in by_network(content).items() for title in PROFILES if titled(title, W8A8) in entries]


def _cell(entry: Mapping[str, Any] | None) -> str:
    return "–" if entry is None else f"{entry['ms']:.3f} ({entry['over_float']:.3f}x)"


def show(name: str, measured: dict[str, Any]) -> None:
    """Print what was measured of one network."""
    for text in tables(numbers({name: measured}, "")).values():
        print(text)
    print()


def tables(content: Mapping[str, Any]) -> dict[str, str]:
    """Markdown by the name of its place in docs/latency.md; `content` is what docs/latency.json holds."""
    peers = [title for title in PEER_TITLES.values()
             if any(entry["contender"] == title for entry in content["contenders"])]
    others = (FLOAT, ONNX, *peers)
    parts = [f"`{content['command']}`, {content['cpu']}:",
             markdown(("network", "profile", *WIDTHS), width_rows(content)),
             markdown(("network", *others), rows(content, others))]
    return {"modules": "\n\n".join(parts)}


if __name__ == "__main__":
    sys.exit(main())
