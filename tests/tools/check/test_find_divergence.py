"""A changed artifact: the first differing region is named, and a model or file that does not belong is refused."""

import numpy as np
import onnx
import pytest
import torch

from isobit.backends.base import BACKENDS
from isobit.pipeline.errors import InputError
from isobit.pipeline.graph.quantized_tensors import quantizers
from tests.tools.small_subject import ARCH, small_subject
from tools.bench import builds as bench_builds
from tools.check import find_divergence
from tools.check.restore import restore

pytestmark = pytest.mark.onnxruntime


@pytest.fixture(scope="module", params=["qdrop_w4a4", "nearest_w8a8", "qdrop_w3a3"])
def built(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("built")
    subject = small_subject(folder)
    record = bench_builds.build(subject, request.param, 1005, bench_builds.Settings(folder / "b", 2, 32))
    return subject, folder / "b" / record["artifact"], folder / "tiny.pth"


def test_the_restored_reference_is_the_one_that_was_built(built):
    subject, artifact, _ = built
    reference = restore(artifact, subject.load())
    with np.load(artifact / "golden.npz") as golden:
        got = BACKENDS.get("onnx").arithmetic(reference).run(torch.from_numpy(golden["input"]))
        assert np.array_equal(got["logits"].view(np.uint32), golden["logits"].view(np.uint32))
        assert all(np.array_equal(got[key[5:]], golden[key]) for key in golden.files if key.startswith("code:"))


def test_nothing_differs_in_a_sound_artifact(built, capsys):
    _, artifact, model = built
    assert find_divergence.main([str(artifact), str(model), "--arch", ARCH]) == 0
    assert "no code differs" in capsys.readouterr().out


def test_the_region_with_the_changed_scale_is_named_and_those_after_it_are_not(built):
    """The reference is given another scale at one tensor: only the regions that touch it differ on equal inputs."""
    subject, artifact, _ = built
    reference = restore(artifact, subject.load())
    quantizers(reference.graph)["relu_1_q"].scale.mul_(1.1)
    backend = BACKENDS.get("onnx")
    x, _ = subject.evaluation().materialize()
    findings = find_divergence.per_region(backend.arithmetic(reference), backend.open(artifact, "all"), x)
    own = [finding.name for finding in findings if finding.own.differing]
    travelled = [finding.name for finding in findings if finding.travelled.differing]
    assert own[0] == "relu_1_q" and travelled[0] == "relu_1_q"
    assert set(own) <= {"relu_1_q", "conv2d_2_q"}  # the tensor itself, and the region that reads it
    assert len(travelled) > len(own)


def test_a_changed_weight_in_the_file_is_told_by_tensor(built, tmp_path):
    subject, artifact, _ = built
    changed = tmp_path / "changed"
    changed.mkdir()
    for name in ("manifest.json", "golden.npz"):
        (changed / name).write_bytes((artifact / name).read_bytes())
    model = onnx.load(artifact / "model.onnx")
    stem = next(tensor for tensor in model.graph.initializer if list(tensor.dims) == [8, 3, 3, 3])
    stem.raw_data = bytes([stem.raw_data[0] ^ 1]) + stem.raw_data[1:]
    onnx.save(model, changed / "model.onnx")
    with pytest.raises(InputError, match="'conv2d_w' is not what the manifest says"):
        restore(changed, subject.load())


def test_another_model_is_refused(built, tmp_path, capsys):
    subject, artifact, _ = built
    other = tmp_path / "other.pth"
    torch.save({k: v + 0.1 if v.is_floating_point() else v for k, v in subject.load().module.state_dict().items()},
               other)
    assert find_divergence.main([str(artifact), str(other), "--arch", ARCH]) == 2
    assert "another model" in capsys.readouterr().out
