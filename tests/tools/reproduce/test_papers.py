"""Published figures: found for the right network, from the best source, and each source is named."""

import pytest

from tools.bench.rows import DS_CNN, RESNET
from tools.reproduce.papers import BESIDE, CIFAR_RESNET, FLOAT, FLOATS, PUBLISHED, SOURCES, TITLES, published


@pytest.mark.parametrize(
    ("method", "bits", "subject", "expected"),
    [
        ("qdrop", "w2a2", RESNET, (51.14, "QDrop")),
        ("qdrop", "w2a4", DS_CNN, (54.29, "QDrop code")),  # the paper's figure is not known there
        ("pdquant", "w2a2", DS_CNN, (13.76, "PD-Quant")),
        ("adaround", "w3a3", DS_CNN, (33.61, "MQBench")),
        ("captq+qdrop", "w2a2", RESNET, (55.26, "CaPTQ")),
        ("zeroq", "w8a8", RESNET, (71.43, "ZeroQ")), ("zeroq", "w8a8", DS_CNN, (72.91, "ZeroQ")),
        ("zeroq", "w4a4", RESNET, (79.30, "CIFAR-10, second-hand")),  # our network before another
        ("zeroq", "wmp4a8", DS_CNN, (69.44, "ZeroQ, second-hand")),
        ("gdfq", "w4a4", RESNET, (90.25, "CIFAR-10, second-hand")), ("gdfq", "w4a4", DS_CNN, None),
        ("fdda", "w4a4", RESNET, (68.88, "FDDA")), ("fdda F8L8", "w5a5", DS_CNN, (71.99, "FDDA")),
        ("dmbq", "w2a2", RESNET, (91.69, "DMBQ, CIFAR-10")),
        ("lsq", "w4a4", RESNET, None),
        ("qdrop", "w4a4", "another", None),
    ],
)
def test_the_figure_beside_ours(method, bits, subject, expected):
    assert published(method, bits, subject) == expected


def test_every_figure_is_below_float_and_has_a_source():
    assert {row.source for row in PUBLISHED} == set(SOURCES)
    for row in PUBLISHED:
        floats = FLOATS.get(row.source, {**FLOAT, CIFAR_RESNET: 94.0})
        assert row.top1 and all(0 < top1 < floats.get(name, 75) for name, top1 in row.top1.items())


def test_a_row_stands_once_per_source():
    rows = [(row.method, row.bits, row.source) for row in PUBLISHED]
    assert len(set(rows)) == len(rows)


def test_networks_beside_ours_have_names_and_a_float_figure():
    assert all(network in FLOAT and network in TITLES for network in BESIDE.values())
