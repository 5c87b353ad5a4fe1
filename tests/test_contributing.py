"""The steps of CONTRIBUTING.md: what they name is there, and here or where they say each list is performed.

What is added comes from a distribution `throw-away` by its entry point, a file in a temporary folder.
"""

import ast
import re
import shutil
import textwrap
from pathlib import Path

import pytest
import torch
from torch import nn

from isobit import build as story
from isobit import passes
from isobit.backends.base import BACKENDS
from isobit.calib.methods import METHODS
from isobit.calib.sources import SOURCES
from isobit.cli.listing import target_rows
from isobit.pipeline.capture.capture import capture
from isobit.pipeline.errors import RecipeError, TargetError
from isobit.pipeline.graph.nodes import finish, op_name
from isobit.pipeline.recipe import family, file
from isobit.pipeline.recipe.file import load_recipe
from isobit.pipeline.samples.data import array_batches
from tests.examples import plugins, tiny

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", TEXT, flags=re.MULTILINE | re.DOTALL))
SMALL = ("images.batch_size=4", "images.count=12")
# torch 2.11's torch.export.load warns of its own read-only buffer.
pytestmark = pytest.mark.filterwarnings("ignore:The given buffer is not writable:UserWarning")


def definitions(path):
    return {node.name for node in ast.parse(path.read_text(encoding="utf-8")).body if hasattr(node, "name")}


def test_there_is_a_list_for_each_thing_that_people_add():
    kinds = ("operator of one tensor", "operator that moves", "rounding", "method", "source", "pass", "target",
             "metric", "kind of grid", "family of recipes")  # fmt: skip
    assert len(SECTIONS) == len(kinds) and len(TEXT.split()) <= 900
    assert all(any(kind in title for title in SECTIONS) for kind in kinds)


@pytest.mark.parametrize("title", SECTIONS)
def test_what_the_steps_name_is_there_and_a_test_performs_them(title):
    steps = re.findall(r"^(\d)\. ", SECTIONS[title], flags=re.MULTILINE)
    assert steps == [str(number) for number in range(1, len(steps) + 1)] and 5 <= len(steps) <= 7
    performed = False
    for name in re.findall(r"`([^`\s]*/[^`\s]*)`", SECTIONS[title]):
        path, _, inside = name.partition("::")
        assert (ROOT / path).exists(), f"{title}: {path}"
        assert not inside or inside in definitions(ROOT / path), f"{title}: {name}"
        performed |= inside.startswith("test_")
    assert performed, f"{title}: no test performs it"


def test_tables_that_the_steps_name_are_there():
    for table, place in (("UNARY", "pipeline/operators/unary.py"), ("MOVES", "pipeline/operators/moves.py"),
                         ("PREPARE", "passes/__init__.py"), ("KINDS", "tests/pipeline/quant/test_grids.py")):
        assert re.search(rf"^{table}\b.* = ", (ROOT / place).read_text(), flags=re.MULTILINE)
        assert f"`{table}` in `{place}`" in TEXT


def built(tmp_path, target="reference", *edits, labels=None):
    """A tiny network, 8 bits, built and proven in a temporary folder."""
    model, images = tiny.model_and_images()
    data = array_batches(images, labels, 4, "calib", "memory")
    recipe = load_recipe("minmax_w8a8", [*SMALL, *edits])
    return story.compile_model(model, recipe, target, data, None, tmp_path / "out")


METHOD = """\
from isobit.calib.methods import method
from isobit.calib.parameters import Parameters
from isobit.calib.ranges.ranges import round_weights, search_ranges


class HalvesParameters(Parameters):
    images: int = 4


@method("halves", HalvesParameters, needs={"images"}, cost=lambda parameters, facts: facts.searched(parameters.images))
def halves(calibration, parameters):
    search_ranges(calibration, parameters.images)
    round_weights(calibration)
    return ()
"""


def test_a_method_calibrates(monkeypatch, tmp_path):
    plugins.install(monkeypatch, tmp_path, "isobit.methods", "halves", METHOD, METHODS)
    build = built(tmp_path, "reference", "method.name=halves", "method.images=8")
    assert build.parity.passed and build.parity.deployed.codes.compared > 0
    assert "name: halves" in build.manifest.recipe.text and "images: 8" in build.manifest.recipe.text
    assert "halves" in METHODS.names()


def test_a_method_that_does_not_import_is_refused_before_anything_is_read(monkeypatch, tmp_path):
    plugins.install(monkeypatch, tmp_path, "isobit.methods", "halves", "import no_such_module\n", METHODS)
    with pytest.raises(RecipeError, match=r"the method 'halves' of throw-away 1.2 does not import"):
        built(tmp_path, "reference", "method.name=halves")
    assert not (tmp_path / "out").exists()
    assert load_recipe("qdrop_w4a4").method.name == "qdrop"


SOURCE = """\
from isobit.calib.parameters import Parameters
from isobit.calib.sources import source


class LastParameters(Parameters):
    pass


@source("last", LastParameters, needs=set())
def last(pool, parameters, count, seed):
    return pool.select(range(len(pool) - count, len(pool)))
"""


def test_a_source_chooses(monkeypatch, tmp_path):
    from isobit.calib.sources import draw

    plugins.install(monkeypatch, tmp_path, "isobit.sources", "last", SOURCE, SOURCES)
    _, images = tiny.model_and_images()
    rule = load_recipe("minmax_w8a8", ["images.source=last", "images.count=3"]).images
    drawn, _ = draw(array_batches(images, None, 4, "calib", "memory"), rule, seed=0).materialize()
    assert torch.equal(drawn, images[-3:])


class Twice(nn.Module):
    """A convolution, and an absolute value taken twice."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return self.layer(x).abs().abs().mean(dim=(2, 3))


def drop_second_absolute(graph):
    """|(|x|)| is |x|."""
    changed = False
    for node in list(graph.graph.nodes):
        if op_name(node) == "abs" and op_name(node.args[0]) == "abs":
            node.replace_all_uses_with(node.args[0])
            graph.graph.erase_node(node)
            changed = True
    if changed:
        finish(graph)
    return changed


def test_a_pass_edits_the_graph(monkeypatch):
    torch.manual_seed(0)
    model, images = Twice().eval(), torch.randn(2, 3, 8, 8)
    captured = capture(model, images[:1])

    def prepared():
        graph = passes.prepare(captured.graph)
        return sum(op_name(node) == "abs" for node in graph.graph.nodes), graph(images)

    count, before = prepared()
    monkeypatch.setattr(passes, "PREPARE", (passes.PREPARE[0], drop_second_absolute, *passes.PREPARE[1:]))
    fewer, after = prepared()
    assert (count, fewer) == (2, 1) and torch.equal(before[0], after[0])


# The code of CONTRIBUTING.md itself.
TARGET = textwrap.dedent(SECTIONS["Add a target (plug-in)"].partition(":\n\n")[2].partition("\n2. ")[0])
WRONG = """

class Off:
    def __init__(self, session):
        self.session = session

    def run(self, x):
        results = self.session.run(x)
        return {**results, "logits": results["logits"] + 1}


Mine.open = lambda self, folder, level: Off(SavedGraph(folder / self.model_file))
"""


def test_a_target_touches_nothing_outside_its_folder(monkeypatch, tmp_path):
    plugins.install(monkeypatch, tmp_path, "isobit.targets", "mine", TARGET, BACKENDS)
    build = built(tmp_path, "mine")
    assert build.parity.passed and build.parity.deployed.codes.compared > 0
    assert build.manifest.target.name == "mine" and (tmp_path / "out" / "mine.pt2").is_file()
    assert ("mine", "generic", True) in [(row.target, row.profile, row.ready) for row in target_rows()]


def test_a_target_that_computes_something_else_fails_its_proof(monkeypatch, tmp_path):
    plugins.install(monkeypatch, tmp_path, "isobit.targets", "mine", TARGET + WRONG, BACKENDS)
    with pytest.raises(story.GateFailed) as failed:
        built(tmp_path, "mine")
    assert failed.value.build.parity.deployed.logits_differing > 0


def test_a_target_of_a_name_that_is_taken_is_refused(monkeypatch, tmp_path):
    plugins.install(monkeypatch, tmp_path, "isobit.targets", "onnx", TARGET, BACKENDS)
    with pytest.raises(TargetError, match="the target 'onnx' of throw-away 1.2 has the same name as one that is there"):
        BACKENDS.get("reference")


def test_a_family_of_recipes_is_one_file(monkeypatch, tmp_path):
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    (tmp_path / "recipes" / "halving.yaml").write_text(
        'summary: "nearest on few images"\npaper: "Nobody, Nowhere, 2026"\nextends: nearest\nimages: {count: 8}\n'
        "at:\n  w2: {images: {count: 16}}\n"
    )
    for module in (family, file):
        monkeypatch.setattr(module, "recipes_folder", lambda: tmp_path / "recipes")
    assert "halving" in family.family_names()
    found = {bits: load_recipe(f"halving_{bits}") for bits in ("w4a4", "w2a8")}
    assert found["w4a4"].images.count == 8 and found["w2a8"].images.count == 16
    assert found["w4a4"].method.name == "nearest" and found["w4a4"].name == "halving_w4a4"
