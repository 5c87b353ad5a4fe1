"""Float islands and epilogues in an artifact: its codes are the arithmetic's, and another float operator is noticed."""

from __future__ import annotations

import json
import operator
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import fx, nn

from isobit.backends.base import BACKENDS
from isobit.backends.fixed_point.floats.steps import FloatCall
from isobit.backends.tvm import TvmBackend
from isobit.backends.tvm.device.device_runner import follow_problems, in_memory, open_module, read_device, trace
from isobit.backends.tvm.floats import function_of, refusal
from isobit.build import Options, compile_model
from isobit.pipeline.errors import ParityError, TargetError
from isobit.pipeline.recipe.file import load_recipe
from isobit.pipeline.samples.data import array_batches
from isobit.place import place
from tests.backends.tvm.conftest import needs
from tests.examples import nets
from tests.examples.islands import AFTER, INSIDE, MINMAX, frozen_island, network

pytestmark = pytest.mark.tvm


def call_of(function, *shapes):
    """A call of an ATen operator on float32 tensors."""
    graph = fx.Graph()
    inputs = [graph.placeholder(f"input_{place}") for place in range(len(shapes))]
    graph.output(function(graph, *inputs))
    return FloatCall(str(graph), tuple((shape, torch.float32) for shape in shapes), graph)


def computed(call, *values):
    """What the function of a call gives."""
    import tvm
    from tvm import relax

    builder = relax.BlockBuilder()
    builder.add_func(function_of(call).with_attr("global_symbol", "main"), "main")
    target = tvm.target.Target({"kind": "llvm"})
    built = relax.build(builder.get(), target, relax_pipeline=relax.backend.cpu_generic.get_default_pipeline(target))
    return relax.VirtualMachine(built, tvm.cpu())["main"](*map(tvm.runtime.tensor, values)).numpy()


ATEN = torch.ops.aten
CALLS = {
    "softmax": lambda graph, x: graph.call_function(ATEN.softmax.int, (x, -1)),
    "amax": lambda graph, x: graph.call_function(ATEN.amax.default, (x, [1, 2])),
    "amin of all": lambda graph, x: graph.call_function(ATEN.amin.default, (x,), {"keepdim": True}),
    "exp2": lambda graph, x: graph.call_function(ATEN.exp2.default, (x,)),
    "nearest": lambda graph, x: graph.call_function(ATEN.upsample_nearest2d.vec, (x, [7, 5], None)),
    "nearest by a scale": lambda graph, x: graph.call_function(ATEN.upsample_nearest2d.vec, (x, None, [1.55, 1.7])),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_function_computes_what_torch_computes(name):
    needs("native")
    call = call_of(CALLS[name], (1, 3, 4, 6))
    x = np.random.default_rng(0).standard_normal((1, 3, 4, 6), np.float32)
    wanted = fx.GraphModule({}, call.graph)(torch.from_numpy(x)).numpy()
    assert refusal(call) == ""
    got = computed(call, x)
    assert got.shape == wanted.shape and np.allclose(got, wanted, atol=1e-6)


@pytest.mark.parametrize("given", [0, 1, 2, 3])
def test_a_layer_norm_is_right_where_the_mean_is_far_larger_than_the_deviation(given):
    needs("native")
    shapes = [(1, 4, 6), (6,), (6,)][:1 + min(given, 2)]
    rest = {0: (), 1: (), 2: (), 3: (1e-3,)}[given]
    call = call_of(lambda graph, x, *wb: graph.call_function(
        ATEN.layer_norm.default, (x, [6], *wb, *rest), {} if given else {"eps": 1e-4}), *shapes)
    rng = np.random.default_rng(0)
    x, *others = [rng.standard_normal(shape, np.float32) for shape in shapes]
    x[0, 0], x[0, 1] = 3e5, x[0, 1] + 4096
    wanted = fx.GraphModule({}, call.graph)(*map(torch.from_numpy, [x, *others])).numpy()
    assert np.allclose(computed(call, x, *others), wanted, atol=2e-3)


def test_what_the_importer_does_not_know_is_said():
    needs("native")
    call = call_of(lambda graph, x: graph.call_function(ATEN.digamma.default, (x,)), (1, 3))
    assert refusal(call).startswith("TVM's importer cannot read it (") and "digamma" in refusal(call)


def test_what_only_the_compiler_s_library_has_is_refused():
    needs("native")
    call = call_of(lambda graph, x: graph.call_function(
        operator.getitem, (graph.call_function(ATEN.topk.default, (x, 2, 1)), 0)), (1, 5))
    assert refusal(call) == "TVM's runtime for devices lacks tvm.contrib.sort.topk"


def target_of(name):
    target = TvmBackend().target("native")
    return target.with_float() if name in INSIDE else target


@pytest.mark.parametrize("name", [*INSIDE, *AFTER])
def test_an_artifact_computes_what_the_arithmetic_says(name, tmp_path):
    needs("native")
    backend = TvmBackend()
    reference, images = frozen_island(name, target_of(name))
    assert not list(backend.unsupported(reference.graph, reference.quantized.target))
    backend.emit(reference, tmp_path)
    arithmetic, got = backend.arithmetic(reference), backend.open(tmp_path, "compiled").run(images)
    followed = arithmetic.follow(images, got)
    assert set(got) == set(followed.results)
    for key, wanted in followed.results.items():
        if key in followed.bounds:
            low, high = followed.bounds[key]
            assert np.all((got[key] >= low) & (got[key] <= high)), key
        elif key in arithmetic.float_outputs:
            assert np.allclose(got[key], wanted, atol=1e-5), key
        else:
            assert np.array_equal(got[key], wanted), key
    assert backend.integer_ops(tmp_path)["float"] >= 1


def test_users_arrays_may_start_anywhere(tmp_path):
    """TVM's functions load whole vectors from multiples of 64 bytes: another start would end the process."""
    needs("native")
    backend = TvmBackend()
    reference, images = frozen_island("normed first", target_of("normed first"))
    backend.emit(reference, tmp_path)
    code = (
        "import sys, numpy as np, tvm, tvm_ffi; from pathlib import Path\n"
        "from isobit.backends.tvm.device.device_runner import open_module\n"
        "main, given = open_module(Path(sys.argv[1]))['main'], np.load(sys.argv[2])\n"
        "for start in range(17):\n"
        "    room = np.empty(given.size + 32, np.float32)\n"
        "    first = -(room.ctypes.data // 4) % 16 + start\n"
        "    here = room[first:first + given.size].reshape(given.shape); here[:] = given\n"
        "    print(np.from_dlpack(main(tvm_ffi.from_dlpack(here))).tobytes().hex())\n"
    )
    np.save(tmp_path / "given.npy", images[:1].numpy())
    command = [sys.executable, "-c", code, tmp_path, tmp_path / "given.npy"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.split()
    assert len(lines) == 17 and len(set(lines)) == 1


def test_a_module_goes_on_from_the_codes_that_it_is_given(tmp_path):
    needs("native")
    backend = TvmBackend()
    reference, images = frozen_island("two islands", target_of("two islands"))
    backend.emit(reference, tmp_path)
    arithmetic, device = backend.arithmetic(reference), read_device(tmp_path)
    assert device["follow"] == list(arithmetic.float_boundaries)
    moved = {name: codes ^ 1 for name, codes in arithmetic.run(images).items() if name in device["follow"]}
    given = [images.numpy(), *(in_memory(moved[name], name, device) for name in device["follow"])]
    got, followed = trace(open_module(tmp_path)["follow"], given, device), arithmetic.follow(images, moved)
    for name, wanted in followed.results.items():
        assert np.abs(got[name] - wanted.astype(got[name].dtype)).max() <= (name in moved), name
    golden = {"input": images.numpy(), "logits": followed.results["logits"]}
    golden |= {f"near:{name}" if name in moved else f"code:{name}": moved.get(name, codes)
               for name, codes in followed.results.items() if name != "logits"}
    found = backend.open(tmp_path, "compiled").run(images)  # of this processor: one code off everywhere
    for room, wrong in ((2, []), (0, device["follow"])):
        ends = {f"{end}:{name}": np.full_like(moved[name], room) for name in moved for end in ("below", "above")}
        lines = follow_problems(open_module(tmp_path)["follow"], [images.numpy()], golden | ends, found, device)
        assert [line.split(":")[0] for line in lines] == wrong


def built(name, folder, allow_float):
    model, images = network(name)
    batches = array_batches(images, None, 5, "calib", "images")
    recipe = load_recipe(MINMAX, ["images.batch_size=5", "images.count=10"])
    return compile_model(model, recipe, "tvm", batches, None, folder, Options(allow_float=allow_float))


def test_a_build_is_proven_replayed_and_named(tmp_path):
    needs("native")
    build = built("two inputs", tmp_path / "out", True)
    assert build.parity.passed and build.parity.deployed.codes.differing == 0
    floats = {row.op: row.note for row in build.placement if row.runs == "float"}
    assert floats["softmax"].startswith("tvm has no integer kernel for softmax")
    found = json.loads((tmp_path / "out" / "parity.json").read_text())
    assert found["float_boundaries"] and found["integer_ops"]["float"] == len(floats)
    done = subprocess.run([sys.executable, tmp_path / "out" / "run.py", "--seconds", "0.01"], capture_output=True,
                          text=True)
    assert done.returncode == 0 and done.stdout.endswith("PASS\n"), done.stderr


def test_another_float_operator_fails_the_gate(tmp_path, monkeypatch):
    needs("native")

    def other(call):
        graph = fx.Graph()
        copied = graph.graph_copy(call.graph, {})
        graph.output(graph.call_function(ATEN.mul.Tensor, (copied, 1.1)))
        return function_of(FloatCall(str(graph), call.arguments, graph))

    monkeypatch.setattr("isobit.backends.tvm.module.function_of", other)
    with pytest.raises(ParityError, match="softmax"):
        built("softmax", tmp_path / "out", True)


def test_without_permission_the_refusal_names_it():
    needs("native")
    captured = nets.captured_of(network("softmax")[0], 3, 6, 6)[0]
    with pytest.raises(TargetError, match=r"cannot compute aten\.softmax.*: tvm has no integer kernel") as caught:
        place(captured, load_recipe(MINMAX), BACKENDS.get("tvm"), None, allow_float=False)
    assert "allow_float" in caught.value.hint


def test_what_no_road_computes_is_refused_with_permission_too():
    needs("native")

    class Digamma(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x):
            return self.last(torch.digamma(self.first(x)))

    captured = nets.captured_of(Digamma().eval(), 4)[0]
    with pytest.raises(TargetError, match="neither in integers nor in float: TVM's importer cannot read it"):
        place(captured, load_recipe(MINMAX), BACKENDS.get("tvm"), None, allow_float=True)
