"""Every network, bit width and device profile of the integer targets: how many codes differ from the integer reference.

    python tools/check/parity_matrix.py [--networks resnet20,...] [--targets tvm:x86-64-v3,...] [--write-docs]

Each network is quantized once per bit width (min-max ranges, nearest rounding: no search changes what is proven here),
frozen, and emitted for every profile; each artifact then runs on the same samples, natively or on an emulated
processor, and every integer code and logit is compared. Networks: ResNet-20 and DS-CNN where their data is found,
torchvision's with random weights, some with channel counts that fill no vector. Lines are kept in
`build/parity-matrix.json` as they come: an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

import torch
import torchvision
from torch import Tensor

from isobit import passes
from isobit.backends.base import BACKENDS, Backend
from isobit.build import plan
from isobit.calib.calibrate import calibrate
from isobit.pipeline.errors import CompileError
from isobit.pipeline.model.modelfile import LoadedModel
from isobit.pipeline.proof.counts import CodeCount
from isobit.pipeline.proof.parity import LOGITS
from isobit.pipeline.recipe.file import load_recipe
from isobit.pipeline.stages import Reference
from tools.bench.rows import SUBJECT_TITLES
from tools.bench.subjects import lively, trained
from tools.documents import command_text, markdown
from tools.publish import publish

DOCUMENT = ROOT / "docs" / "parity.md"
TRAINED = ("resnet20", "ds_cnn")
RANDOM = ("resnet18", "mobilenet_v2", "regnet_x_400mf")
BITS = ((8, 8), (4, 8), (4, 4), (2, 2))
TARGETS = (
    "tvm:x86-64-v3", "tvm:x86-64-vnni", "tvm:aarch64", "tvm:aarch64-dotprod", "tvm:aarch64-i8mm", "c:generic",
    "c:cortex-m4", "c:cortex-m55",
)
FIELDS = ("network", "bits", "target", "runs", "samples", "compared", "differing", "largest")
SUMMED = ("artifacts", "codes and logits compared", "differing")
CALIBRATION = 8


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 1 where a code differs."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--networks", type=lambda text: text.split(","), default=[*TRAINED, *RANDOM])
    parser.add_argument("--targets", type=lambda text: text.split(","), default=list(TARGETS))
    parser.add_argument("--bits", type=_bits, default=list(BITS), help="such as 8-8,4-4: weights, activations")
    parser.add_argument("--samples", type=int, default=16, help="where the artifact runs natively")
    parser.add_argument("--emulated", type=int, default=2, help="samples where its processor is emulated")
    parser.add_argument("--size", type=int, default=64, help="of the images of torchvision's networks")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "parity-matrix.json")
    parser.add_argument("--write-docs", action="store_true", help="write docs/parity.json and .md")
    options = parser.parse_args(arguments)
    kept = json.loads(options.out.read_text(encoding="utf-8")) if options.out.is_file() else {}
    for name in options.networks:
        for bits in options.bits:
            wanted = [target for target in options.targets if _key(name, bits, target) not in kept]
            for line in measure(name, bits, wanted, options) if wanted else ():
                kept[_key(name, bits, line["target"])] = line
                print(" | ".join(cells(line)), flush=True)
                options.out.parent.mkdir(parents=True, exist_ok=True)
                options.out.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    lines = [kept[key] for key in (_key(n, b, t) for n in options.networks for b in options.bits
                                   for t in options.targets) if key in kept]
    if options.write_docs:
        given = arguments if arguments is not None else sys.argv[1:]
        command = command_text("tools/check/parity_matrix.py", given)
        content = numbers(lines, command)
        publish(DOCUMENT, content, tables(content), "parity")
    return int(any(line.get("error") or line["differing"] for line in lines))


def _bits(text: str) -> list[tuple[int, int]]:
    return [(int(pair.split("-")[0]), int(pair.split("-")[1])) for pair in text.split(",")]


def _key(name: str, bits: tuple[int, int], target: str) -> str:
    return f"{name}/w{bits[0]}a{bits[1]}/{target}"


def network(name: str, options: argparse.Namespace) -> tuple[LoadedModel, Tensor]:
    """A network and images [N, C, H, W]: the first ones calibrate, all of them are evaluated."""
    count = max(options.samples, CALIBRATION)
    if name not in TRAINED:
        images = np.random.default_rng(1).standard_normal((count, 3, options.size, options.size), dtype=np.float32)
        model = lively(lambda: getattr(torchvision.models, name)(weights=None), options.size)
        return LoadedModel(model, None, name, "", name), torch.from_numpy(images)
    subjects = trained(options.data)
    if name not in subjects:
        raise SystemExit(f"{SUBJECT_TITLES[name]} is not found below {options.data} (--data)")
    images, _ = subjects[name].calibration(count, 0).materialize()
    return subjects[name].load(), images


def freeze(loaded: LoadedModel, images: Tensor, bits: tuple[int, int], backend: Backend, profile: str) -> Reference:
    """The network with min-max ranges and nearest rounding."""
    recipe = load_recipe("minmax_w8a8", [
        f"weights.bits={bits[0]}", f"activations.bits={bits[1]}", f"images.batch_size={CALIBRATION}",
    ])
    quantized = plan(loaded, recipe, backend, images[:1], profile)
    return passes.legalize(calibrate(quantized, images[:CALIBRATION]))[0]


def measure(name: str, bits: tuple[int, int], targets: Sequence[str], options: argparse.Namespace) -> Any:
    """Yields a line for each target."""
    loaded, images = network(name, options)
    reference = expected = None
    for target in targets:
        backend, profile = BACKENDS.get(target.partition(":")[0]), target.partition(":")[2]
        about = {"network": name, "bits": f"W{bits[0]}A{bits[1]}", "target": target}
        try:
            if reference is None:
                # Profiles of the integer targets have one operator table, so one frozen graph serves them all.
                reference = freeze(loaded, images, bits, backend, profile)
                expected = backend.arithmetic(reference).run(images)
            placed = replace(reference.quantized, target=backend.target(profile))
            yield about | compare(replace(reference, quantized=placed), expected, images, backend, options)
        except CompileError as error:
            yield about | {"error": str(error), "differing": 0}


def compare(
    reference: Reference, expected: Mapping[str, np.ndarray], images: Tensor, backend: Backend,
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Emit, run at the deployed level, count."""
    with tempfile.TemporaryDirectory() as text:
        folder, start = Path(text), time.perf_counter()
        backend.emit(reference, folder)
        emulated = backend.proof_samples(folder) is not None
        count = min(len(images), options.emulated if emulated else options.samples)
        got = backend.open(folder, backend.levels[0]).run(images[:count])
        codes, logits = CodeCount(), CodeCount()
        for key, wanted in expected.items():
            if key == LOGITS:  # bit by bit; how far apart the bits are says nothing
                logits.add(wanted[:count].view(np.uint32), got[key].view(np.uint32))
            else:
                codes.add(wanted[:count], got[key])
        return {
            "runs": "emulated" if emulated else "natively", "samples": count,
            "compared": codes.compared + logits.compared, "differing": codes.differing + logits.differing,
            "largest": codes.max_lsb, "seconds": round(time.perf_counter() - start, 1),
        }


def numbers(lines: Sequence[Mapping[str, Any]], command: str) -> dict[str, Any]:
    """What docs/parity.json holds: an artifact in a line; `largest` is the largest step between two codes."""
    return {
        "about": "Every artifact of tools/check/parity_matrix.py: codes and logits that were compared and that differ, "
                 "and the largest step between two codes; docs/parity.md sums them up.",
        "command": command,
        "lines": [{key: line[key] for key in (*FIELDS, "error") if key in line} for line in lines],
    }


def tables(content: Mapping[str, Any]) -> dict[str, str]:
    """The table of docs/parity.md by the name of its mark: by target, over everything else."""
    lines, targets = content["lines"], dict[str, list[Mapping[str, Any]]]()
    for line in lines:
        if not line.get("error"):
            targets.setdefault(line["target"], []).append(line)
    by_target = [(f"`{name}`", ", ".join(dict.fromkeys(line["runs"] for line in found)), *_sums(found))
                 for name, found in targets.items()]
    failed = [f"- {' '.join(cells(line)[:4])}" for line in lines if line.get("error")]
    parts = [f"`{content['command']}`:", markdown(("target", "runs", *SUMMED), by_target),
             *(["\n".join(failed)] if failed else [])]
    return {"matrix": "\n\n".join(parts)}


def _sums(lines: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    return (str(len(lines)), *(f"{sum(line[key] for line in lines):,}" for key in ("compared", "differing")))


def cells(line: Mapping[str, Any]) -> tuple[str, ...]:
    """A line as it is printed."""
    title = SUBJECT_TITLES.get(line["network"], line["network"])
    if line.get("error"):
        return title, line["bits"], line["target"], f"not built: {line['error']}", "", "", "", ""
    return (title, line["bits"], line["target"], line["runs"], str(line["samples"]), f"{line['compared']:,}",
            f"{line['differing']:,}", str(line["largest"]))


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
