"""The table of README: peers and ours, each from its own record."""

from tools.documents import read_json
from tools.figures import beside
from tools.figures.pages import PEERS as PEERS_FILE

PEERS = {"peers": [
    {"network": "efficientnet_lite0", "peer": "nncf", "top1": 86.2, "cpu_s": 29, "versions": {"nncf": "3.4.0"}},
    {"network": "cell_detector", "peer": "static-minmax", "ap": 56.7, "cpu_s": 12, "versions": {}},
    {"network": "efficientnet_lite0", "peer": "aimet-w4a8", "top1": 3.0, "cpu_s": 130,
     "versions": {"aimet-onnx": "2.42"}},
]}
RESULTS = {"groups": {"imagenet": {"networks": {"efficientnet_lite0": {"float": 86.8}}, "lines": [
    {"recipe": "mse_w8a8", "bits": "W8A8", "top1": 87.0, "cpu_s": 38},
    {"recipe": "pdquant_w4a8", "bits": "W4A8", "state": "not measured"},
    {"recipe": "qdrop_w4a4", "bits": "W4A4", "top1": 81.8, "cpu_s": 1200},
]}}}


def test_rows_are_what_was_measured_of_this_network():
    said, _, *rows = beside.tables(PEERS, RESULTS)["imagenet"].splitlines()
    assert "float 86.8 %" in said and "`edits` in results.json" in said  # plain recipes take longer
    assert rows[2:] == [
        "| NNCF 3.4.0 | W8A8 | 86.2 | < 1 | no |",
        "| AIMET 2.42 | W4A8 | 3.0 | 2 | simulated in float |",
        "| Isobit, `mse_w8a8` | W8A8 | 87.0 | < 1 | every code |",
        "| Isobit, `qdrop_w4a4` | W4A4 | 81.8 | 20 | every code |",
    ]


def test_readme_has_products_beside_ours():
    peers, results = read_json(PEERS_FILE), read_json(PEERS_FILE.with_name("results.json"))
    table = beside.tables(peers, results)["imagenet"]
    assert all(name in table for name in ("ONNX Runtime", "NNCF", "AIMET, AdaRound", "`mse_w8a8`", "W4A4"))
