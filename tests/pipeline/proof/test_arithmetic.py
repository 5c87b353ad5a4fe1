"""Every arithmetic and every runner takes what the protocols say."""

import inspect

import pytest

from isobit.backends.c.session import CPieces, CSession
from isobit.backends.execution.exact import ExactArithmetic
from isobit.backends.execution.integer import ExecutedArithmetic
from isobit.backends.onnx.session import OnnxPieces, OnnxSession
from isobit.backends.tvm.session import NativePieces, NativeSession
from isobit.pipeline.proof.arithmetic import Arithmetic, Pieces, Runner


def methods(protocol):
    return {name: list(inspect.signature(method).parameters) for base in (*protocol.__bases__, protocol)
            for name, method in vars(base).items() if inspect.isfunction(method) and not name.startswith("_")}


@pytest.mark.parametrize(("protocol", "kinds"), [
    (Arithmetic, (ExecutedArithmetic, ExactArithmetic)), (Runner, (CSession, OnnxSession, NativeSession)),
    (Pieces, (CPieces, OnnxPieces, NativePieces)),
])
def test_an_implementation_takes_the_arguments_of_its_protocol(protocol, kinds):
    wanted = methods(protocol)
    assert "run" in wanted
    for kind in kinds:
        assert {name: list(inspect.signature(getattr(kind, name)).parameters) for name in wanted} == wanted
