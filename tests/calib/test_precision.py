"""`auto` follows the device."""

from __future__ import annotations

import pytest
import torch

from isobit.calib.precision import resolve_precision

CPU = torch.device("cpu")


def test_precision_is_what_was_asked_and_auto_what_the_device_multiplies_in(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_precision("float32", CPU) is torch.float32 and resolve_precision("bfloat16", CPU) is torch.bfloat16
    for fast, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda fast=fast: fast)
        assert resolve_precision("auto", CPU) is expected
