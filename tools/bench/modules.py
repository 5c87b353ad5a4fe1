"""Latency and size of `--target tvm` modules beside ONNX Runtime and beside what TVM makes of the same network itself.

    python tools/bench/modules.py [--rounds 31] [--write-docs]
    python tools/bench/peers/without_avx512.py tools/bench/modules.py [--rounds 31] [--write-docs]

All contenders run in one process on one thread, interleaved, batch 1: the float ONNX file, our `onnx` artifact, our
modules in four widths for the best x86 profile that the processor at hand can run (the artifact is of the profile that
fits it as well), what peers make of the network that are installed (ONNX Runtime's quantizer,
OpenVINO, and LiteRT by `pip install litert-torch ai-edge-quantizer`), and with AVX-512 TVM's import of our QDQ file
with its default pipeline, and Relax integer operators that compute our program, untuned. Ratios are taken within a
round (see backends/device/timing.py). The second command measures the same as on a processor without AVX-512. Networks:
ResNet-20 and DS-CNN where their data is found, ResNet-18 and MobileNetV2 at 224 with random weights. Which kernels a
layer gets depends on the ends of its codes alone, so rounding is nearest. A processor's run replaces its earlier one in
docs/latency.json, and leaves those of others.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

import torch

from isobit.backends.base import BACKENDS
from isobit.backends.device.processor import description, read_cpuinfo
from isobit.backends.device.replay import CannotCheck
from isobit.backends.device.timing import Contender, interleave, summarize
from isobit.backends.fixed_point.lower import lower
from isobit.backends.fixed_point.program import Program
from isobit.bench.peers import PEERS, open_litert, quiet
from isobit.build import Options, compile_model, plan
from isobit.calib.calibrate import calibrate
from isobit.passes import legalize
from isobit.pipeline.errors import TargetError
from isobit.pipeline.recipe.file import load_recipe
from isobit.pipeline.recipe.schema import Recipe
from tools.bench.latency import export_float, session_caller
from tools.bench.peers import tflite
from tools.bench.peers.relax import imported_caller, module_caller, relax_caller
from tools.bench.peers.without_avx512 import is_hidden
from tools.bench.rows import SUBJECT_TITLES
from tools.bench.subjects import Subject, random_weights, trained
from tools.code_state import note_state
from tools.documents import command_text, markdown, read_json
from tools.publish import publish

DOCUMENT = ROOT / "docs" / "latency.md"
FLOAT, ONNX = "ONNX Runtime, float", "ONNX Runtime, our artifact"
W8A8, W7A8, W4A8, W4A4 = "W8A8", "W7A8", "W4A8", "W4A4"
WIDTHS = {W8A8: ("minmax_w8a8", ()), W7A8: ("minmax_w8a8", ("weights.bits=7",)), W4A8: ("mse_w4a8", ()),
          W4A4: ("mse_w4a4", ())}
VNNI, AVX_VNNI, AVX2 = "tvm, x86-64-vnni", "tvm, x86-64-avxvnni", "tvm, x86-64-v3"
IMPORTED, RELAX = "TVM's import of the QDQ file", "Relax integer operators, untuned"
PROFILES = {VNNI: "x86-64-vnni", AVX_VNNI: "x86-64-avxvnni", AVX2: "x86-64-v3"}  # the better ones first
HIDING = "tools/bench/peers/without_avx512.py "
NETWORKS = ("resnet20", "ds_cnn", "resnet18", "mobilenet_v2")
WITH_TVMS_OWN = "resnet20"  # where TVM's own ways are timed as well
ABOUT = ("Every number of tools/bench/modules.py: median milliseconds with quartiles, time over that of our ONNX "
         "artifact and of the float file (medians of ratios within a round); docs/latency.md shows a part.")
BLOCK_SECONDS = 0.06
ROUNDS, IMAGES = 31, 8
LITERT = "LiteRT, int8"
PEER_TITLES = {"quantize_static": "ONNX Runtime's quantizer", "openvino-int8": "OpenVINO, int8 (NNCF)"}
INT8_PEERS = (*PEER_TITLES.values(), LITERT)
OTHERS = (FLOAT, ONNX, *INT8_PEERS)


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
    title = best_profile(PROFILES)
    if title is None:
        print("modules: not measured: no device profile of the target tvm runs here")
        return 0
    subjects = {**trained(options.data), **random_weights(options.folder, options.size)}
    given = arguments if arguments is not None else sys.argv[1:]
    command = HIDING * is_hidden() + command_text("tools/bench/modules.py", given)
    found: dict[str, Any] = {}
    for name in options.networks:
        if name not in subjects:
            print(f"{SUBJECT_TITLES[name]}: not measured, it is not found below {options.data} (--data)")
            continue
        found[name] = measure(subjects[name], options.folder / name, options.rounds, title)
        show(run_of({name: found[name]}, command))
    options.folder.mkdir(parents=True, exist_ok=True)
    (options.folder / "results.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if options.write_docs:
        run = run_of(found, command) | {"code": note_state(DOCUMENT.parent)}
        content = joined(read_json(DOCUMENT.with_suffix(".json")), run)
        publish(DOCUMENT, content, tables(content), parts=True)
    return 0


def best_profile(profiles: Mapping[str, str]) -> str | None:
    """The first title of `profiles` (title -> device profile of `tvm`) whose modules this machine runs itself.

    Prints why earlier ones are left out. Where AVX-512 is hidden from others, it is left out for us too.
    """
    for title, profile in profiles.items():
        try:
            BACKENDS.get("tvm").target(profile)
        except TargetError as error:
            print(f"{title}: not measured: {error}")
            continue
        if title == AVX2 or not is_hidden():
            return title
    return None


def processor() -> str:
    """The processor and its instructions, and whether AVX-512 is hidden from what is measured."""
    return description(read_cpuinfo()) + ", AVX-512 hidden" * is_hidden()


def measure(subject: Subject, folder: Path, rounds: int, title: str) -> dict[str, Any]:
    """Times of every contender of one network; the baselines of TVM for ResNet-20 only."""
    sample = subject.evaluation().example.numpy()
    profile = PROFILES[title]
    files = {titled(title, width): build(subject, folder / f"{profile}-{width}", "tvm", profile, width)
             for width in WIDTHS}
    artifact = "generic" if title == AVX2 else "vnni"
    onnx_file = build(subject, folder / f"onnx-{artifact}", "onnx", artifact) / "model.onnx"
    float_file = export_float(subject, folder / "float.onnx")
    runs = {
        FLOAT: session_caller(float_file, sample),
        ONNX: session_caller(onnx_file, sample),
        **{name: module_caller(path / "model.so", sample) for name, path in files.items()},
        **peer_callers(subject, float_file, folder),
    }
    if subject.name == WITH_TVMS_OWN and title == VNNI:
        runs |= {IMPORTED: imported_caller(onnx_file, sample), RELAX: relax_caller(program_of(subject), sample)}
    return {"contenders": summarize(interleave(runs, rounds, BLOCK_SECONDS))}


def titled(title: str, width: str) -> str:
    """The contender of a profile and a width."""
    return f"{title}, {width}"


def recipe(width: str = W8A8) -> Recipe:
    """A width without any reconstruction."""
    name, edits = WIDTHS[width]
    return load_recipe(name, [f"images.count={IMAGES}", f"images.batch_size={IMAGES}", *edits])


def peer_callers(subject: Subject, source: Path, folder: Path) -> dict[str, Callable[[], object]]:
    """What other tools make of the network; prints which of them are not installed."""
    ways = {title: partial(open_peer, name, source, folder) for name, title in PEER_TITLES.items()}
    ways[LITERT] = partial(open_quantized_litert, subject, folder)
    found = {}
    for title, open_ in ways.items():
        try:
            with quiet():
                found[title] = open_().run
        except CannotCheck as error:
            print(f"{title}: not measured: {error}")
    return found


def open_peer(name: str, source: Path, folder: Path) -> Contender:
    """A peer of `isobit bench` on one thread; raises CannotCheck where it is not installed."""
    PEERS[name].check()
    return PEERS[name].open(source, folder, 1, 1)


def open_quantized_litert(subject: Subject, folder: Path) -> Contender:
    """The network by LiteRT's own tools."""
    source = tflite.export(subject.load().module, subject.evaluation().example, folder / "float.tflite")
    return open_litert(tflite.quantize(source, folder / "int8.tflite"), 1, 1)


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


# --- tables ---------------------------------------------------------------------------------------------------------


def run_of(found: dict[str, Any], command: str) -> dict[str, Any]:
    """One processor's part of docs/latency.json: a contender in a line, with its time and that over the bases'."""
    return {
        "processor": processor(), "command": command,
        "contenders": [contender(name, title, figures) for name, measured in found.items()
                       for title, figures in measured["contenders"].items()],
    }


def joined(content: Mapping[str, Any], run: Mapping[str, Any]) -> dict[str, Any]:
    """docs/latency.json with a run in place of the same processor's earlier one."""
    others = [other for other in content.get("runs", ()) if other["processor"] != run["processor"]]
    return {"about": ABOUT, "runs": sorted([*others, run], key=itemgetter("processor"))}


def contender(name: str, title: str, figures: dict[str, Any]) -> dict[str, Any]:
    """Median milliseconds with quartiles, and our time by each base's: the median over the rounds."""
    speeds = figures["speed_over"]
    ours = title == titled(VNNI, W8A8)
    faster = {base: round(speeds[base][1]) for base in (IMPORTED, RELAX) if base in speeds and ours}
    wide = titled(title.rpartition(",")[0], W8A8)
    others = [1 / speeds[base][1] for base in (FLOAT, *INT8_PEERS) if base in speeds]
    return {
        "network": name, "contender": title, "ms": round(figures["ms"][1], 3),
        "quartiles": [round(figures["ms"][0], 3), round(figures["ms"][2], 3)],
        **{key: round(1 / speeds[base][1], 3)
           for key, base in (("over_our_onnx", ONNX), ("over_float", FLOAT), ("over_w8a8", wide))
           if base in speeds and (base, key) != (title, "over_w8a8")},
    } | ({"over_fastest_other": round(max(others), 3)} if others else {}) \
        | ({"times_as_fast": faster} if faster else {})


def rows(content: Mapping[str, Any], titles: Sequence[str]) -> list[tuple[str, ...]]:
    """A line for each network and profile: what was measured of `titles`; a width is that of the profile's modules."""
    found = []
    for run in content["runs"]:
        for name in dict.fromkeys(entry["network"] for entry in run["contenders"]):
            entries = {entry["contender"]: entry for entry in run["contenders"] if entry["network"] == name}
            (title,) = (title for title in PROFILES if titled(title, W8A8) in entries)
            cells = (_cell(column, entries.get(titled(title, column) if column in WIDTHS else column))
                     for column in titles)
            found.append((SUBJECT_TITLES[name], PROFILES[title], *cells))
    return found


def _cell(title: str, entry: Mapping[str, Any] | None) -> str:
    """Milliseconds of the float file and of our modules; the time over the float file's of all but that."""
    if entry is None:
        return "–"
    time, ratio = f"{entry['ms']:.3f}", f"{entry['over_float']:.3f}"
    if title == FLOAT:
        return time
    return f"{time} ({ratio})" if title in WIDTHS else ratio


def show(run: Mapping[str, Any]) -> None:
    """Print what was measured of one network."""
    for text in tables({"runs": [run]}).values():
        print(text, end="\n\n")


def tables(content: Mapping[str, Any]) -> dict[str, str]:
    """Markdown by the name of its place in docs/latency.md; `content` is what docs/latency.json holds."""
    parts = [*(f"`{run['command']}`, {run['processor']}" for run in content["runs"]),
             markdown(("network", "profile", *WIDTHS, *OTHERS), rows(content, (*WIDTHS, *OTHERS)))]
    return {"modules": "\n\n".join(parts)}


if __name__ == "__main__":
    sys.exit(main())
