"""Fidelity of the four given ONNX files to their float networks, beside ONNX Runtime's own static quantization.

    python tools/check/onnx_files.py [--data ../shared/data] [--target onnx] [--recipe mse_w8a8] [NAME ...]

Said is the signal to noise ratio of each output, and what the task's metric makes of it with the float network's own
answer as target: average precision of faces, F1 of notes and onsets, intersection over union of text.

Each file is compiled with a recipe (default `mse_w8a8`), and quantized by `onnxruntime.quantization.quantize_static`
with weights of 8 bits per channel and unsigned activations: the best of its three calibration methods, with and
without `reduce_range`, counts for each output by itself. What makes its file unusable is left in float there
(`File.left_out`). Both see the same calibration samples and are judged on the same others, against the float file in
ONNX Runtime. Faces are photographs; text and chords are drawn and synthesised here.

Both of basic-pitch's F1 reach 99 % where the first and the last layer of its onsets stay in float, and so does the text
detector's intersection over union where the first 30 of its 62 convolutions do: 8 bits of activations are too few for
channels that differ that much.

    python tools/check/onnx_files.py basic_pitch --set "overrides=[{where: [last, '*re_lu_3*'], float: true}]"
    python tools/check/onnx_files.py ocr_det \\
        --set "overrides=[{where: ['p2o_Conv_?', 'p2o_Conv_1?', 'p2o_Conv_2?'], float: true}]"
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

import onnx.version_converter
import onnxruntime as ort
from PIL import Image, ImageDraw, ImageFont

from isobit.build import Options, compile_model
from isobit.pipeline.errors import CompileError
from isobit.pipeline.model.modelfile import load_model
from isobit.pipeline.proof.measures import Guarded, Measures, find_measures
from isobit.pipeline.recipe.file import load_recipe
from isobit.pipeline.recipe.schema import Recipe
from isobit.pipeline.samples.data import open_data
from isobit.pipeline.samples.decoder import Decoder, load_decoder
from tools.check.peers import preprocess, quantize_static

CALIBRATION, EVALUATION = 16, 8
DECODERS = Path(__file__).with_name("decoders.py")
RATE = 22050  # of basic-pitch's audio, Hz
PER_CHANNEL_OPSET = 13  # the first whose QuantizeLinear has an axis
ERRORS = 3  # ONNX Runtime's log level: what it cannot do, and no advice


@dataclass(frozen=True)
class File:
    """One network and how its samples are made.

    Args:
        path: below `onnx/`.
        shape: of one sample.
        sample: (data folder, number) -> float32 of that shape; numbers from 0.
        metrics: that judge it against the float network's answers.
        decoder: in `decoders.py`, where a metric reads boxes.
        left_out: part of the names of nodes that quantize_static must leave in float, or its file does not load.
    """

    path: str
    shape: tuple[int, ...]
    sample: Callable[[Path, int], np.ndarray]
    left_out: str = ""
    metrics: tuple[str, ...] = ()
    decoder: str = ""

    @property
    def measures(self) -> Measures:
        """What is measured of every stage."""
        return find_measures(self.metrics, self.found_by).of_input((self.shape[-2], self.shape[-1]))

    @property
    def found_by(self) -> Decoder | None:
        """The decoder."""
        return load_decoder(f"{DECODERS}:{self.decoder}") if self.decoder else None


def _face(data: Path, number: int, width: int, height: int) -> np.ndarray:
    """Photograph `number`, each further round of them mirrored and cut closer; RGB in 0..255, [3, H, W]."""
    files = sorted((data / "faces").glob("*.jpg"))
    with Image.open(files[number % len(files)]) as opened:
        image = opened.convert("RGB")
    for _ in range(number // len(files)):
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        image = image.crop((image.width // 8, image.height // 8, image.width * 7 // 8, image.height * 7 // 8))
    return np.asarray(image.resize((width, height)), np.float32).transpose(2, 0, 1)


def _text(number: int, side: int) -> np.ndarray:
    """Lines of random letters on a coloured page, normalised as PP-OCR wants it, [3, side, side]."""
    draw = np.random.default_rng(number)
    page = Image.new("RGB", (side, side), tuple(int(v) for v in draw.integers(120, 256, 3)))
    pen, y = ImageDraw.Draw(page), 8
    while y < side - 40:
        size = int(draw.integers(12, 36))
        letters = "".join(chr(c) for c in draw.integers(48, 123, draw.integers(4, 24)))
        ink = tuple(int(v) for v in draw.integers(0, 110, 3))
        pen.text((int(draw.integers(0, side // 3)), y), letters, ink, font=ImageFont.load_default(size))
        y += size + int(draw.integers(6, 24))
    pixels = np.asarray(page, np.float32) / 255
    mean, std = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
    return ((pixels - mean) / std).transpose(2, 0, 1)


def _chord(number: int, length: int) -> np.ndarray:
    """Three to five decaying tones with overtones, and faint noise, [length, 1] in -1..1."""
    draw = np.random.default_rng(number)
    time = np.arange(length) / RATE
    wave = draw.normal(0, 0.003, length)
    for _ in range(draw.integers(3, 6)):
        tone, start = 440 * 2 ** ((draw.integers(40, 80) - 69) / 12), draw.uniform(0, 1.2)
        after = np.maximum(time - start, 0)
        for partial in range(1, 6):
            wave += (time >= start) * np.exp(-2 * after) * np.sin(2 * np.pi * tone * partial * after) / partial**1.5
    return (0.8 * wave / np.abs(wave).max()).astype(np.float32)[:, None]


NOTES, ONSETS = "StatefulPartitionedCall:1", "StatefulPartitionedCall:2"  # of basic-pitch, probabilities

FILES = {
    "ultraface": File("ultraface_rfb_320.onnx", (3, 240, 320), lambda data, n: (_face(data, n, 320, 240) - 127) / 128,
                      metrics=("map50", "map"), decoder="ultraface"),
    "centerface": File("centerface.onnx", (3, 256, 256), lambda data, n: _face(data, n, 256, 256),
                       metrics=("map50", "map"), decoder="centerface"),
    "ocr_det": File("ocr_det.onnx", (3, 320, 320), lambda data, n: _text(n, 320), metrics=("iou:threshold=0.3",)),
    "basic_pitch": File("basic_pitch.onnx", (43844, 1), lambda data, n: _chord(n, 43844), "cq_t2010v2",
                        metrics=(f"f1:threshold=0.3,output={NOTES}", f"f1:threshold=0.5,output={ONSETS}")),
}


def samples(file: File, data: Path) -> tuple[np.ndarray, np.ndarray]:
    """(calibration, evaluation), float32 [N, ...]; no sample is in both."""
    made = np.stack([file.sample(data, number) for number in range(CALIBRATION + EVALUATION)])
    return made[EVALUATION:], made[:EVALUATION]


def answers(model: Path, x: np.ndarray) -> dict[str, np.ndarray]:
    """Outputs of an ONNX file by name, sample by sample, [N, ...]."""
    options = ort.SessionOptions()
    options.log_severity_level = ERRORS
    session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    found = [session.run(None, {name: sample[None]}) for sample in x]
    outputs = [output.name for output in session.get_outputs()]
    return {output: np.concatenate([run[place] for run in found]) for place, output in enumerate(outputs)}


def decibel(reference: np.ndarray, got: np.ndarray) -> float:
    """Power of `reference` over that of the difference."""
    noise = float(np.square(got.astype(np.float64) - reference).sum())
    return 10 * math.log10(float(np.square(reference.astype(np.float64)).sum()) / noise) if noise else math.inf


def fidelity(file: File, reference: Mapping[str, np.ndarray], got: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Each of the file's metrics of answers [N, ...], by its name."""
    measures, said = file.measures, {}
    wanted, given = measures.decoded(reference), measures.decoded(got)
    for metric in measures.metrics:
        made = Guarded(metric)
        target = made.yardstick(None, wanted if metric.decoded else reference)
        made.update(given if metric.decoded else got, target)
        said[metric.name] = made.compute() or 0.0
    return said


def static(
    file: File, path: Path, calibration: np.ndarray, evaluation: np.ndarray, folder: Path
) -> dict[str, float]:
    """Best signal to noise ratio of each output, and best of each metric, over ONNX Runtime's calibration methods and
    weight ranges.
    """
    from onnxruntime.quantization import CalibrationMethod

    ready, out, best = folder / "ready.onnx", folder / "static.onnx", {}
    model = onnx.load(path)
    opset = max(PER_CHANNEL_OPSET, model.opset_import[0].version)
    onnx.save(onnx.version_converter.convert_version(model, opset), ready)
    preprocess(ready, ready)
    reference = answers(path, evaluation)
    nodes = [node.name for node in onnx.load(ready).graph.node]
    left_out = [node for node in nodes if file.left_out and file.left_out in node]
    for method, reduced in itertools.product(CalibrationMethod, (False, True)):
        if method is CalibrationMethod.Distribution:  # for 8-bit floats
            continue
        try:
            quantize_static(ready, out, calibration, method.name, reduced, left_out)
            got = answers(out, evaluation)
        except Exception as error:  # what its calibration cannot do is not ours to judge
            print(f"  quantize_static, {method.name}, reduce_range={reduced}: {type(error).__name__}: {error}"[:160])
            continue
        for output, values in got.items():
            best[output] = max(best.get(output, -math.inf), decibel(reference[output], values))
        for metric, value in fidelity(file, reference, got).items():
            best[metric] = max(best.get(metric, -math.inf), value)
    return best


def ours(
    file: File, path: Path, calibration: np.ndarray, evaluation: np.ndarray, folder: Path, target: str, recipe: Recipe,
    options: Options,
) -> tuple[dict[str, float], dict[str, float], dict[str, Any]]:
    """(signal to noise ratio by output, each metric, parity.json) of one build: of the artifact's own answers."""
    for name, x in {"calib": calibration, "eval": evaluation}.items():
        np.savez(folder / f"{name}.npz", x=x)
    calib = open_data(folder / "calib.npz", batch_size=8, purpose="calib", count=len(calibration))
    judged = open_data(folder / "eval.npz", batch_size=8, purpose="eval")
    made = compile_model(
        load_model(path), recipe, target, calib, judged, folder / "out",
        replace(options, metrics=file.metrics, decoder=file.found_by),
    )
    report = made.parity.to_json()
    kept = {metric.name: report["metrics"][metric.name]["values"]["artifact"] for metric in file.measures.metrics}
    noise = {name: said["signal_to_noise_db"]["artifact"] for name, said in report["output_values"].items()}
    return noise, kept, report


def measure(name: str, data: Path, target: str, recipe: Recipe, options: Options, compared: bool) -> dict[str, Any]:
    """All that is known of one file."""
    file = FILES[name]
    path = data / "onnx" / file.path
    calibration, evaluation = samples(file, data)
    with tempfile.TemporaryDirectory() as folder:
        try:
            mine, kept, report = ours(file, path, calibration, evaluation, Path(folder), target, recipe, options)
        except CompileError as error:
            return {"file": name, "target": target, "error": str(error)}
        other = static(file, path, calibration, evaluation, Path(folder)) if compared else {}
    return {
        "file": name, "target": target, "recipe": recipe.name, "compared": report["codes"]["compared"],
        "differing": report["codes"]["differing"],
        "outputs": {output: {"ours": value, "static": other.get(output)} for output, value in mine.items()},
        "metrics": {metric: {"ours": value, "static": other.get(metric)} for metric, value in kept.items()},
    }


def show(found: Mapping[str, Any]) -> None:
    """One file on the terminal."""
    if "error" in found:
        print(f"{found['file']} on {found['target']}: not built: {found['error']}")
        return
    print(f"{found['file']} on {found['target']}: {found['differing']} of {found['compared']:,} codes differ")
    for output, values in found["outputs"].items():
        other = "" if values["static"] is None else f", quantize_static at its best {values['static']:.2f} dB"
        print(f"  {output}: {values['ours']:.2f} dB{other}", flush=True)
    for metric, values in found["metrics"].items():
        other = "" if values["static"] is None else f", quantize_static at its best {values['static']:.2f} %"
        print(f"  {metric}: {values['ours']:.2f} %{other}", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default: {', '.join(FILES)}")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--target", default="onnx")
    parser.add_argument("--recipe", default="mse_w8a8")
    parser.add_argument("--set", action="append", default=[], help="changes a field of the recipe: method.steps=500")
    parser.add_argument("--profile", help="device profile of the target; default: its first")
    parser.add_argument("--allow-float", action="store_true", help="as of isobit; basic_pitch on tvm needs it")
    parser.add_argument("--alone", action="store_true", help="without quantize_static")
    parser.add_argument("--json", type=Path, help="write all numbers to this file")
    options = parser.parse_args(arguments)
    built = Options(profile=options.profile, allow_float=options.allow_float)
    rows, recipe = [], load_recipe(options.recipe, ["images.batch_size=8", *options.set])
    for name in options.names or FILES:
        rows.append(measure(name, options.data, options.target, recipe, built, not options.alone))
        show(rows[-1])
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return int(any("error" in row or row["differing"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
