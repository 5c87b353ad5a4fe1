"""The table of README: the same network and pictures by other products and by ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tools.bench.rows import EFFICIENTNET, SUBJECT_TITLES
from tools.documents import markdown

# product, bits, its name in the file of peers, its package
PEERS = (
    ("ONNX Runtime, `quantize_static`", "W8A8", "static-minmax", "onnxruntime"),
    ("NNCF", "W8A8", "nncf", "nncf"),
    ("AIMET", "W8A8", "aimet-w8a8", "aimet-onnx"),
    ("AIMET", "W4A8", "aimet-w4a8", "aimet-onnx"),
    ("AIMET, AdaRound", "W4A8", "aimet-adaround-w4a8", "aimet-onnx"),
)
OURS = ("mse_w8a8", "mse_w4a8", "qdrop_w4a8", "pdquant_w4a8", "qdrop_w4a4")
COLUMNS = ("product", "bits", "top-1, %", "CPU minutes", "compared with what runs")


def tables(peers: Mapping[str, Any], results: Mapping[str, Any]) -> dict[str, str]:
    """The table by the name of its mark; what was not measured has no row.

    Args:
        peers: what docs/peers.json holds.
        results: what docs/results.json holds.
    """
    found = {line["peer"]: line for line in peers.get("peers", []) if line["network"] == EFFICIENTNET}
    rows = [
        (f"{product} {found[name]['versions'][package]}", bits, f"{found[name]['top1']:.1f}",
         _minutes(found[name].get("cpu_s")), "simulated in float" if package == "aimet-onnx" else "no")
        for product, bits, name, package in PEERS if name in found
    ]
    lines = {line["recipe"]: line for line in results["groups"]["imagenet"]["lines"] if "top1" in line}
    rows += [(f"Isobit, `{recipe}`", lines[recipe]["bits"], f"{lines[recipe]['top1']:.1f}",
              _minutes(lines[recipe]["cpu_s"]), "every code") for recipe in OURS if recipe in lines]
    floating = results["groups"]["imagenet"]["networks"][EFFICIENTNET]["float"]
    said = (f"{SUBJECT_TITLES[EFFICIENTNET]}, 500 pictures of ImageNet, float {floating:.1f} %; ours with few images "
            "and steps, stem output and depthwise layers at 8 bits below W8A8 (`edits` in results.json), "
            "theirs by default, all layers alike:")
    return {"imagenet": f"{said}\n\n{markdown(COLUMNS, rows)}"}


def _minutes(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    return "< 1" if seconds < 60 else f"{seconds / 60:.0f}"
