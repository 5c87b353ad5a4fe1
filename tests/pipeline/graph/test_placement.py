"""A row as it stands in JSON."""

import json

from isobit.pipeline.graph.placement import PlacementRow


def test_a_row_is_a_flat_object():
    row = PlacementRow("relu_q", "stem", "conv2d+relu", "integer", "4 asym", 4, "unsigned", "", "net.py:3")
    assert json.loads(json.dumps(row.to_json())) == {
        "name": "relu_q", "module": "stem", "op": "conv2d+relu", "runs": "integer", "weight": "4 asym", "output": 4,
        "grid": "unsigned", "note": "", "source": "net.py:3",
    }
