"""The papers' own figures on ImageNet, to stand beside ours: top-1 in %, by method, bits and network, with source.

Other networks and other data: they show by how much a method leads and where it breaks, not what ours must reach. All
rest on the same published float checkpoints, whose quoted top-1 is `FLOAT`; a source with others of its own says so.
Where a paper has a CIFAR-10 ResNet-20, the network of ours, that figure is the one shown, and its source says that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tools.bench.rows import DS_CNN, RESNET

NETWORKS = ("resnet18", "resnet50", "mobilenet_v2", "regnet_x_600mf", "regnet_x_3_2gf", "mnasnet")
MQBENCH_NETWORKS = ("resnet18", "resnet50", "mobilenet_v2", "regnet_x_600mf", "regnet_x_800mf")
FLOAT = dict(zip(NETWORKS, (71.08, 77.00, 72.49, 73.71, 78.36, 76.68), strict=True))
CIFAR_RESNET = "resnet20 on cifar10"
# Of sources with float checkpoints of their own, where they are known.
FLOATS = {
    "ZeroQ": {"resnet18": 71.47, "resnet50": 77.72, "mobilenet_v2": 73.03},
    "ZeroQ, second-hand": {"resnet18": 71.47, "resnet50": 77.72, "mobilenet_v2": 73.03},
    "GDFQ": {"resnet18": 71.47}, "FDDA": {"resnet18": 71.47},
}
# The network of the papers that stands beside one of ours: a residual one, and one of depthwise convolutions.
BESIDE = {RESNET: "resnet18", DS_CNN: "mobilenet_v2"}
TITLES = {"resnet18": "ResNet-18", "mobilenet_v2": "MobileNetV2"}
SOURCES = {
    "QDrop": "QDrop, ICLR 2022: the paper, W2A4 and W3A3 as its author gives them in issue 4 of its repository",
    "QDrop code": "README of QDrop's repository, branch qdrop",
    "PD-Quant": "PD-Quant, CVPR 2023",
    "PD-Quant code": "README of PD-Quant's repository",
    "BRECQ, unchecked": "BRECQ, ICLR 2021, as recalled: the paper's text was not at hand",
    "MQBench": "MQBench's table of its academic setting (float: ResNet-18 71.06, MobileNetV2 72.68)",
    "CaPTQ": "README of CaPTQ's repository; the stem's output has 8 bits there",
    "ZeroQ": "README of ZeroQ's repository (float: ResNet-18 71.47, MobileNetV2 73.03)",
    "ZeroQ, second-hand": "the paper's mixed precision as the README of ZeroQ-MP quotes it, W4A4 as a summary of "
                          "GDFQ's table does: the papers' text was not at hand",
    "CIFAR-10, second-hand": "ResNet-20 on CIFAR-10, trained on the whole training set, from a summary of GDFQ's "
                             "table: the paper's text was not at hand",
    "GDFQ": "README of GDFQ's repository (float: ResNet-18 71.47), the best epoch by test accuracy",
    "FDDA": "README of FDDA's repository (float: ResNet-18 71.47), the best epoch by test accuracy; what is not from "
            "a ReLU stays float there",
    "DMBQ, CIFAR-10": "README of DMBQ's first repository, ResNet-20 on CIFAR-10 with the whole training set; the log "
                      "of the second has 92.71 for W4A4; for W2.0A2.0 92.13 at the last and 92.32 at the best epoch",
}


@dataclass(frozen=True)
class Published:
    """One row of somebody's table."""

    method: str
    bits: str
    source: str
    top1: Mapping[str, float]


def _row(method: str, bits: str, source: str, *figures: float | None) -> Published:
    names = MQBENCH_NETWORKS if source == "MQBench" else (CIFAR_RESNET,) if "CIFAR-10" in source else NETWORKS
    known = zip(names, figures, strict=False)  # a row may end early
    return Published(method, bits, source, {name: figure for name, figure in known if figure is not None})


# The first row that has the network is the one shown: papers before repositories before other people's runs.
PUBLISHED = (
    _row("qdrop", "w4a4", "QDrop", 69.10, 75.03, 67.89),
    _row("qdrop", "w2a4", "QDrop", 64.66, None, None, None, None, 62.36),
    _row("qdrop", "w3a3", "QDrop", 65.56, None, 54.27),
    _row("qdrop", "w2a2", "QDrop", 51.14, 54.74, 8.46, 38.90, None, 22.70),
    _row("qdrop", "w4a4", "QDrop code", 69.13, 75.12, 67.83, 70.95, 76.46, 73.04),
    _row("qdrop", "w2a4", "QDrop code", 64.38, 70.31, 54.29, 63.07, 71.84, 63.28),
    _row("qdrop", "w3a3", "QDrop code", 65.68, 71.28, 54.38, 64.65, 71.69, 64.05),
    _row("qdrop", "w2a2", "QDrop code", 51.69, 55.18, 11.95, 39.13, 54.40, 23.66),
    _row("pdquant", "w4a4", "PD-Quant", 69.23, 75.16, 68.19),
    _row("pdquant", "w2a2", "PD-Quant", 53.14, 57.16, 13.76, 40.67),
    _row("pdquant", "w4a4", "PD-Quant code", 69.30, 75.09, 68.33, 71.04, 76.57, 73.30),
    _row("pdquant", "w2a4", "PD-Quant code", 65.07, 70.92, 55.27, 64.00, 72.43, 63.33),
    _row("pdquant", "w4a2", "PD-Quant code", 58.65, 64.18, 20.40, 51.29, 62.76, 38.89),
    _row("pdquant", "w2a2", "PD-Quant code", 53.08, 56.98, 14.17, 40.92, 55.13, 28.03),
    _row("brecq", "w4a4", "BRECQ, unchecked", 69.60, 75.05, 66.57, 68.33, 74.21, 73.56),
    _row("brecq", "w2a4", "BRECQ, unchecked", 64.80, 70.29, 53.34, 59.31, 67.15, 63.01),
    _row("brecq", "w3a3", "MQBench", 64.24, 70.17, 51.86, 62.83, 65.49),
    _row("brecq", "w2a2", "CaPTQ", 42.54, 17.68, 0.24, 3.24, None, 0.49),
    _row("adaround", "w4a8", "MQBench", 70.35, 76.87, 71.82, 72.32, 73.58),
    _row("adaround", "w4a4", "MQBench", 68.67, 73.79, 65.74, 70.24, 71.54),
    _row("adaround", "w2a4", "MQBench", 62.31, 63.65, 40.60, 57.14, 58.33),
    _row("adaround", "w3a3", "MQBench", 64.18, 64.76, 33.61, 59.57, 61.45),
    _row("captq+qdrop", "w2a2", "CaPTQ", 55.26, 59.84, 14.47, 42.55, None, 29.74),
    _row("captq+brecq", "w2a2", "CaPTQ", 42.68, 18.86, 0.24, 3.43, None, 0.59),
    _row("zeroq", "w4a4", "CIFAR-10, second-hand", 79.30),
    _row("zeroq", "w8a8", "ZeroQ", 71.43, 77.67, 72.91),
    _row("zeroq", "w4a4", "ZeroQ, second-hand", 26.04),
    _row("zeroq", "wmp6a6", "ZeroQ, second-hand", 71.30, 77.43, 72.85),
    _row("zeroq", "wmp4a8", "ZeroQ, second-hand", None, 75.80, 69.44),
    _row("gdfq", "w4a4", "CIFAR-10, second-hand", 90.25),
    _row("gdfq", "w4a4", "GDFQ", 60.60),
    _row("fdda", "w4a4", "FDDA", 68.88, None, 68.38, 68.96),
    _row("fdda F8L8", "w4a4", "FDDA", 69.76, None, 69.32, 70.33),
    _row("fdda", "w5a5", "FDDA", 70.56, None, 71.63, 73.62),
    _row("fdda F8L8", "w5a5", "FDDA", 70.86, None, 71.99, 74.00),
    _row("dmbq", "w4a4", "DMBQ, CIFAR-10", 92.45),
    _row("dmbq", "w2a2", "DMBQ, CIFAR-10", 91.69),
)


def published(method: str, bits: str, subject: str) -> tuple[float, str] | None:
    """(top-1 in %, key of `SOURCES`) of the network that stands beside `subject`; None where nobody gives one."""
    networks = (*((CIFAR_RESNET,) if subject == RESNET else ()), BESIDE.get(subject))
    for network in networks:
        for row in PUBLISHED:
            if (row.method, row.bits) == (method, bits) and network in row.top1:
                return row.top1[network], row.source
    return None
