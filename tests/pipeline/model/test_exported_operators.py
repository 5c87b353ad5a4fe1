"""The operators that an exported program may call."""

import pytest
import torch

from isobit.pipeline.model.exported_operators import FUNCTIONS, SIZE_FUNCTIONS, is_known


@pytest.mark.parametrize(
    "target",
    ["torch.ops.aten.conv2d.default", "torch.ops.aten.relu_.default", "torch.ops.aten.add.Tensor",
     "torch.ops.aten._to_copy.default", "torch.ops.aten.sym_size.int", "_operator.mul", "torch.sym_max", "math.trunc"],
)  # fmt: skip
def test_what_networks_call_is_known(target):
    assert is_known(target)


@pytest.mark.parametrize(
    "target",
    ["torch.ops.aten.from_file.default", "torch.ops.aten.save.default", "torch.ops.aten.add.out",
     "torch.ops.aten.add.str", "torch.ops.aten.sort.str", "torch.ops.aten.conv2d", "torch.ops.aten.conv2d.nothing",
     "torch.ops.aten.__class__.mro", "torch.ops.prims.add.default", "torch.ops.higher_order.cond", "torch.os.system",
     "torch.ops.aten.relu.default.__call__", "_operator.pow", "_operator.lshift", "_operator.methodcaller",
     "math.factorial", "builtins.eval", "torch.ops.aten.relu.default\n", "torch.load", ""],
)  # fmt: skip
def test_everything_else_is_not(target):
    assert not is_known(target)


def test_every_name_is_there_and_none_touches_files_or_seeds():
    assert not [name for name in FUNCTIONS if not hasattr(torch.ops.aten, name)]
    assert not FUNCTIONS & {"from_file", "save", "manual_seed", "warn", "set_", "record_stream", "_print"}
    assert "_operator.pow" not in SIZE_FUNCTIONS
