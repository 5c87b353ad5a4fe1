"""Published figures: found for the right network, from the best source, and each source is named."""

import pytest
from bench_rows import DS_CNN, RESNET
from reproduce_papers import BESIDE, FLOAT, PUBLISHED, SOURCES, TITLES, published


@pytest.mark.parametrize(
    ("method", "bits", "subject", "expected"),
    [
        ("qdrop", "w2a2", RESNET, (51.14, "QDrop")),
        ("qdrop", "w2a4", DS_CNN, (54.29, "QDrop code")),  # the paper's figure is not known there
        ("pdquant", "w2a2", DS_CNN, (13.76, "PD-Quant")),
        ("adaround", "w3a3", DS_CNN, (33.61, "MQBench")),
        ("captq+qdrop", "w2a2", RESNET, (55.26, "CaPTQ")),
        ("lsq", "w4a4", RESNET, None),
        ("qdrop", "w4a4", "another", None),
    ],
)
def test_the_figure_beside_ours(method, bits, subject, expected):
    assert published(method, bits, subject) == expected


def test_every_figure_is_below_float_and_has_a_source():
    assert {row.source for row in PUBLISHED} == set(SOURCES)
    for row in PUBLISHED:
        assert row.top1 and all(0 < top1 < FLOAT.get(name, 75) for name, top1 in row.top1.items())


def test_a_row_stands_once_per_source():
    rows = [(row.method, row.bits, row.source) for row in PUBLISHED]
    assert len(set(rows)) == len(rows)


def test_networks_beside_ours_have_names_and_a_float_figure():
    assert all(network in FLOAT and network in TITLES for network in BESIDE.values())
