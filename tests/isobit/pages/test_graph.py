"""The drawing of a network: every step below what it reads, no two at one place."""

from __future__ import annotations

from isobit.pages.graph import HEIGHT, WIDTH, draw_network, shortened
from isobit.pages.layers import layer_rows
from tests.examples.pages import made_artifact, node


def drawn(tmp_path, *nodes):
    return draw_network(layer_rows(made_artifact(tmp_path / "net", nodes=list(nodes))))


def test_steps_stand_below_what_they_read_and_never_on_one_another(tmp_path):
    found = drawn(tmp_path, node("a"), node("b", ["a"]), node("c", ["a"]), node("d", ["b", "c"]), node("e", ["d", "a"]))
    places = {box.row.node.name: (box.x, box.y) for box in found.boxes}
    assert len(set(places.values())) == 5
    assert places["a"][1] < places["b"][1] == places["c"][1] < places["d"][1] < places["e"][1]
    assert len(found.paths) == 6
    assert all(x + WIDTH <= found.width and y + HEIGHT <= found.height for x, y in places.values())


def test_a_connection_that_skips_steps_passes_at_the_side(tmp_path):
    found = drawn(tmp_path, node("a"), node("b", ["a"]), node("c", ["b", "a"]))
    right = max(box.x for box in found.boxes) + WIDTH
    (skipping,) = [path for path in found.paths if "q" in path]
    assert float(skipping.split("H")[1].split("q")[0]) > right


def test_a_graph_of_nothing_and_names_of_nobody_are_drawn(tmp_path):
    assert drawn(tmp_path).boxes == ()
    assert drawn(tmp_path, node("a", ["nobody"])).paths == ()


def test_long_names_keep_their_ends():
    assert shortened("features.stage.very.long.block.11.layers.7").endswith("block.11.layers.7")
    assert len(shortened("x" * 99)) == 27 and shortened("conv") == "conv"
