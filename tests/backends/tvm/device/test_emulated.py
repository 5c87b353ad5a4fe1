"""The session of another machine's artifact: every code, in batches, and loud where the loader fails."""

import shutil

import numpy as np
import pytest
import torch

from isobit.backends.tvm.device import emulated
from isobit.backends.tvm.device.emulated import EmulatedSession, emulated_samples
from isobit.backends.tvm.device.toolchain import emulation
from isobit.backends.tvm.profiles import PROFILES
from isobit.pipeline.errors import ParityError
from isobit.shipping.ship import GOLDEN_SAMPLES
from tests.backends.tvm import toy

pytestmark = pytest.mark.tvm


def test_codes_and_logits_come_back_from_another_machine(artifacts, monkeypatch):
    monkeypatch.setattr(emulated, "BATCH", 3)
    x = toy.images(7, seed=5)
    session = EmulatedSession(artifacts("aarch64-dotprod"), emulation(PROFILES["aarch64-dotprod"]))
    got, expected = session.run(torch.from_numpy(x)), toy.expected(x)
    assert list(got) == list(expected)
    assert all(np.array_equal(got[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("products", "samples"), [(0, 256), (41_000_000, 121), (300_000_000, 16), (1_810_000_000, 16)]
)
def test_large_networks_are_proven_on_fewer_samples_but_never_on_less_than_the_golden_ones(products, samples):
    assert emulated_samples(products) == samples and samples >= GOLDEN_SAMPLES


def test_it_also_runs_natively(artifacts):
    x = toy.images(2)
    got, expected = EmulatedSession(artifacts("native"), ()).run(x), toy.expected(x)
    assert all(np.array_equal(got[name], expected[name]) for name in expected)


def test_a_processor_model_without_the_feature_is_a_parity_error_with_the_loaders_words(artifacts):
    session = EmulatedSession(artifacts("aarch64-dotprod"), emulation(PROFILES["aarch64"]))
    with pytest.raises(ParityError, match=r"'aarch64-dotprod' failed: this module needs asimddp(.|\n)*qemu-aarch64"):
        session.run(toy.images(1))


def test_a_loader_that_is_killed_is_a_parity_error(native):
    (native / "loader").write_text("#!/bin/sh\nkill -ILL $$\n")
    with pytest.raises(ParityError, match="failed: exit status -4"):
        EmulatedSession(native, ()).run(toy.images(1))


def test_results_of_other_samples_are_a_parity_error(native, tmp_path):
    x = toy.images(2)
    whole = tmp_path / "whole.bin"
    expected = toy.expected(x)
    codes = [expected[name].transpose(0, 2, 3, 1) for name in ("input_q", "layer_q")]
    rows = [b"".join(part[i].tobytes() for part in (*codes, expected["logits"])) for i in range(2)]
    whole.write_bytes(rows[0])
    (native / "loader").write_text(f'#!/bin/sh\ncp {whole} "$4"\n')
    with pytest.raises(ParityError, match="another number of samples than 2"):
        EmulatedSession(native, ()).run(x)
    whole.write_bytes(rows[0] + rows[1])
    assert np.array_equal(EmulatedSession(shutil.copytree(native, tmp_path / "b"), ()).run(x)["logits"],
                          expected["logits"])
