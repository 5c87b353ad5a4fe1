"""The plain loop: what it caches are the network's values, and nothing after a unit runs for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from isobit import build as story
from isobit.backends.base import BACKENDS
from isobit.pipeline.recipe.file import load_recipe
from tests.tools.small_subject import small_subject
from tools.bench.literal_qdrop import _cache


def test_a_cache_holds_the_values_of_a_run_that_ends_with_them(tmp_path: Path) -> None:
    subject = small_subject(tmp_path)
    data = subject.calibration(40, 0)
    plan = story.plan(subject.load(), load_recipe("qdrop_w4a4"), BACKENDS.get("reference"), data.example)
    images, nodes = data.materialize()[0], [n for n in plan.teacher.graph.nodes if n.op == "call_function"]
    convolve = torch.ops.aten.conv2d.default
    layers = [n.name for n in nodes if n.target is convolve]
    values: dict[str, Any] = {}

    class Noting(torch.fx.Interpreter):
        def run_node(self, n: torch.fx.Node) -> Any:
            values[n.name] = super().run_node(n)
            return values[n.name]

    with torch.no_grad():
        Noting(plan.teacher).run(images)
    for name, convolutions in ((layers[0], 1), (nodes[-1].name, len(layers))):
        (found,) = _cache(plan.teacher, (name,), images)
        torch.testing.assert_close(found, values[name], rtol=1e-5, atol=1e-5)
        with torch.profiler.profile() as profile:
            _cache(plan.teacher, (name,), images[:1])
        assert sum(event.count for event in profile.key_averages() if event.key == "aten::conv2d") == convolutions
