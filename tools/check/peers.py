"""What other products' post-training quantization makes of a network, on the calibration and evaluation data of ours.

    python tools/check/peers.py prepare efficientnet_lite0 FOLDER      any network of tools/reproduce/study.py
    python -P tools/check/peers.py run FOLDER float static-minmax      any of PEERS; -P: `types` is Python's own

`prepare` writes the float network as an .onnx and both sets as arrays; it needs Isobit. `run` quantizes with one peer
and measures the file in ONNX Runtime; it needs numpy, onnx, onnxruntime and that peer only, so that a peer may live in
an environment of its own: `pip install nncf onnx onnxruntime`, or `aimet-onnx`. `--record` keeps the lines of all peers
in one file, which README shows a part of (docs/peers.json). Detections are decoded and judged by
the function `judge` of a file that is named (--judge); `tools/reproduce/cell_boxes.py` has one, which needs Isobit.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

from tools.processor import cpu_name

FLOAT, CALIBRATION, EVALUATION, TARGETS = "float.onnx", "calib.npz", "val.npz", "targets.json"
NETWORK = "network.txt"
ERRORS = 3  # ONNX Runtime's log level: what it cannot do, and no advice
SAMPLES = 512


def quantize_static(
    ready: Path, out: Path, samples: Sequence[np.ndarray] | np.ndarray, method: str, reduced: bool,
    left_out: Sequence[str] = (),
) -> None:
    """ONNX Runtime's static quantization, weights of 8 bits per channel and unsigned activations.

    Args:
        ready: the float file, as `quant_pre_process` left it.
        samples: each without a batch dimension.
        method: name of its CalibrationMethod.
        reduced: weights keep to 7 bits, for CPUs whose 8-bit products saturate.
        left_out: names of nodes that stay in float.
    """
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType
    from onnxruntime.quantization import quantize_static as quantize

    class Reader(CalibrationDataReader):
        def __init__(self, name: str) -> None:
            self.feeds: Iterator[dict[str, np.ndarray]] = iter([{name: sample[None]} for sample in samples])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.feeds, None)

    name = ort.InferenceSession(str(ready)).get_inputs()[0].name
    quantize(
        str(ready), str(out), Reader(name), per_channel=True, reduce_range=reduced,
        calibrate_method=CalibrationMethod[method], activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
        nodes_to_exclude=list(left_out),
    )


def preprocess(path: Path, out: Path) -> None:
    """ONNX Runtime's own preparation of a file for `quantize_static`: shapes, and batch norms folded."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    quant_pre_process(str(path), str(out), skip_symbolic_shape=True)


def _static(method: str, reduced: bool, count: int) -> Callable[[Path, Path, np.ndarray], None]:
    def run(folder: Path, out: Path, x: np.ndarray) -> None:
        preprocess(folder / FLOAT, folder / "ready.onnx")
        quantize_static(folder / "ready.onnx", out, x[:count], method, reduced)

    return run


def _nncf(folder: Path, out: Path, x: np.ndarray) -> None:
    """NNCF's default: 8 bits, mixed preset off, fast bias correction, 300 samples."""
    import nncf
    import onnx

    model = onnx.load(folder / FLOAT)
    name = model.graph.input[0].name
    onnx.save(nncf.quantize(model, nncf.Dataset([{name: sample[None]} for sample in x])), out)


def _aimet(weights: int, activations: int, adaround: bool) -> Callable[[Path, Path, np.ndarray], None]:
    """AIMET's defaults with batch norms folded; AdaRound where asked for, 500 steps a layer; simulated in float."""

    def run(folder: Path, out: Path, x: np.ndarray) -> None:
        import onnx
        from aimet_onnx import QuantizationSimModel, apply_adaround
        from aimet_onnx.batch_norm_fold import fold_all_batch_norms_to_weight

        model = onnx.load(folder / FLOAT)
        fold_all_batch_norms_to_weight(model)
        name = model.graph.input[0].name
        feeds = [{name: sample[None]} for sample in x[:128]]
        sim = QuantizationSimModel(
            model, param_type=f"int{weights}", activation_type=f"int{activations}",
            providers=["CPUExecutionProvider"],
        )
        if adaround:
            apply_adaround(sim, feeds, num_iterations=500)
        sim.compute_encodings(feeds)
        _measured_by[out] = sim

    return run


_measured_by: dict[Path, Any] = {}  # peers that only simulate
PEERS: dict[str, Callable[[Path, Path, np.ndarray], None]] = {
    "static-minmax": _static("MinMax", False, SAMPLES), "static-minmax-reduced": _static("MinMax", True, SAMPLES),
    "static-entropy-reduced": _static("Entropy", True, 64),
    "static-percentile-reduced": _static("Percentile", True, 64),
    "nncf": _nncf,
    "aimet-w8a8": _aimet(8, 8, False), "aimet-w4a8": _aimet(4, 8, False), "aimet-adaround-w4a8": _aimet(4, 8, True),
}


def session(path: Path) -> Any:
    """A file in ONNX Runtime's CPU kernels."""
    options = ort.SessionOptions()
    options.log_severity_level = ERRORS
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def answers(run: Any, x: np.ndarray) -> dict[str, np.ndarray]:
    """Outputs of a session by name, sample by sample, [N, ...]."""
    (name, *_) = [given.name for given in run.get_inputs()]
    found = [run.run(None, {name: sample[None]}) for sample in x]
    outputs = [output.name for output in run.get_outputs()]
    return {output: np.concatenate([each[place] for each in found]) for place, output in enumerate(outputs)}


def top1(found: dict[str, np.ndarray], labels: np.ndarray) -> dict[str, float]:
    """Share of right answers in %, of the only output."""
    (logits,) = found.values()
    return {"top1": round(100.0 * float((logits.argmax(1) == labels).mean()), 2)}


def judged(path: Path, found: dict[str, np.ndarray], folder: Path) -> dict[str, float]:
    """What `judge` of a file says: (outputs by name [N, ...], the folder) -> numbers by name."""
    spec = importlib.util.spec_from_file_location("judge", path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.judge(found, folder)


def run(folder: Path, peer: str, judge: Path | None) -> dict[str, Any]:
    """Quantize with one peer, or nothing for `float`, and measure."""
    x = np.load(folder / CALIBRATION)["x"]
    evaluation = np.load(folder / EVALUATION)
    began, out = time.process_time(), folder / f"{peer}.onnx"
    if peer == "float":
        out = folder / FLOAT
    else:
        PEERS[peer](folder, out, x)
    seconds = time.process_time() - began  # a busy machine makes no peer slower
    got = answers(_measured_by[out].session if out in _measured_by else session(out), evaluation["x"])
    said = top1(got, evaluation["y"]) if judge is None else judged(judge, got, folder)
    return {"network": (folder / NETWORK).read_text(encoding="utf-8"), "peer": peer, **said,
            "samples": len(evaluation["x"]), "cpu_s": round(seconds), "versions": versions()}


def versions() -> dict[str, str]:
    """What is installed here of what peers need."""
    found = {}
    for name in ("onnxruntime", "nncf", "aimet-onnx"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def record(line: dict[str, Any], path: Path) -> None:
    """Put a peer's line into the file, in the place of an older one of the same network and peer."""
    before = json.loads(path.read_text(encoding="utf-8"))["peers"] if path.is_file() else []
    kept = [other for other in before if (other["network"], other["peer"]) != (line["network"], line["peer"])]
    lines = sorted([*kept, line | {"cpu": cpu_name()}], key=lambda each: (each["network"], each["peer"]))
    about = "Every run of tools/check/peers.py: other products on the same calibration and evaluation data."
    text = ",\n".join(f"  {json.dumps(each)}" for each in lines)
    path.write_text(f'{{"about": {json.dumps(about)}, "peers": [\n{text}\n]}}\n', encoding="utf-8")


def prepare(network: str, folder: Path, data: Path) -> None:
    """Write the network and its data."""
    import torch

    from isobit.cli.artifacts.sweep import model_options, parameters
    from isobit.cli.build import model_request, open_both
    from isobit.cli.options import image_options
    from isobit.pipeline.recipe.file import load_recipe
    from isobit.sweep.study import load_study
    from tools.reproduce.experiments import Group, Line
    from tools.reproduce.study import write_study

    recipe = load_recipe("nearest_w8a8", [f"images.count={SAMPLES}"])
    study = write_study([Group("prepare", (Line(network, recipe.name, seeds=(1,)),))], data, folder)
    given = parameters(load_study(study, model_options()).models[0])
    loaded = model_request(given).load()
    sets = open_both(loaded, recipe, image_options(given), given["calib_data"], given["eval_data"])
    (folder / NETWORK).write_text(network, encoding="utf-8")
    for name, batches in zip((CALIBRATION, EVALUATION), sets[:2], strict=True):
        x, y = batches.materialize()
        if isinstance(y, list):
            kept = [{key: np.asarray(value).tolist() for key, value in target.items()} for target in y]
            (folder / TARGETS).write_text(json.dumps(kept), encoding="utf-8")  # those of the evaluation set come last
            np.savez(folder / name, x=x.numpy())
        else:
            np.savez(folder / name, x=x.numpy(), y=y.numpy())
    torch.onnx.export(
        loaded.module.eval(), (torch.from_numpy(np.load(folder / CALIBRATION)["x"][:1]),), folder / FLOAT,
        dynamo=False, opset_version=17, dynamic_axes={"x": {0: "n"}}, input_names=["x"],
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    first = verbs.add_parser("prepare")
    first.add_argument("network")
    first.add_argument("folder", type=Path)
    first.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    second = verbs.add_parser("run")
    second.add_argument("folder", type=Path)
    second.add_argument("peers", nargs="+", choices=[*PEERS, "float"], metavar="PEER", help=", ".join(PEERS))
    second.add_argument("--judge", type=Path, help="a Python file with judge(outputs, folder) -> numbers by name")
    second.add_argument("--record", type=Path, metavar="FILE", help="keep what was measured in this JSON file")
    options = parser.parse_args(arguments)
    if options.verb == "prepare":
        prepare(options.network, options.folder, options.data)
        return 0
    for peer in options.peers:
        line = run(options.folder, peer, options.judge)
        print(json.dumps(line), flush=True)
        if options.record:
            record(line, options.record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
