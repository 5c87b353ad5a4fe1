"""LSTM, GRU and RNN, each as one torch operator over the whole sequence."""

from __future__ import annotations

import torch
from torch import Tensor

from isobit.pipeline.model.onnx.call import Call, Result, operator
from isobit.pipeline.model.onnx.graph import Node

_PARAMETERS = {1: "weight_ih", 2: "weight_hh", 3: "bias"}
# Where torch's gates stand among those of ONNX: input, forget, cell, output in i, o, f, c;
# reset, update, new in z, r, h.
_GATES = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,)}
_DEFAULTS = {"LSTM": ["sigmoid", "tanh", "tanh"], "GRU": ["sigmoid", "tanh"], "RNN": ["tanh"]}


def _prepare(node: Node, constants: dict[int, Tensor]) -> dict[int, Tensor]:
    """Gates in torch's order; W [D, gates*H, in], R [D, gates*H, H], B [D, 2*gates*H]."""
    order = _GATES[node.op]
    hidden = int(node.attributes.get("hidden_size", 0))
    for position in (1, 2, 3):
        if position in constants and hidden:
            rows = constants[position]
            blocks = rows.reshape(rows.shape[0], -1, len(order), hidden, *rows.shape[2:])
            constants[position] = blocks[:, :, list(order)].reshape(rows.shape).contiguous()
    return constants


@operator("LSTM", "GRU", "RNN", parameters=_PARAMETERS, prepare=_prepare)
def recurrent(call: Call) -> Result:
    """Y [seq, D, N, H] and the last states, from X [seq, N, in]."""
    _check(call)
    kind, direction = call.node.op, call.get("direction", "forward")
    x, directions = call.tensor(0), 2 if direction == "bidirectional" else 1
    x = x.flip(0) if direction == "reverse" else x
    hidden = call.get("hidden_size")
    states = [_state(call, position, x, directions, hidden) for position in ((5, 6) if kind == "LSTM" else (5,))]
    weights = _weights(call, directions, hidden)
    settings = (call.has(3), 1, 0.0, False, directions == 2, False)
    if kind == "LSTM":
        y, *last = torch.lstm(x, states, weights, *settings)
    else:
        functions = {"GRU": torch.gru, "tanh": torch.rnn_tanh, "relu": torch.rnn_relu}
        chosen = "GRU" if kind == "GRU" else _activations(call)[0]
        y, *last = functions[chosen](x, states[0], weights, *settings)
    y = y.reshape(*y.shape[:2], directions, hidden).transpose(1, 2)
    return (y.flip(0) if direction == "reverse" else y, *last)


def _check(call: Call) -> None:
    kind = call.node.op
    call.only(layout=0, clip=None, input_forget=0)
    if call.has(4):
        raise call.refused("sequences have lengths of their own", "sequences of one length")
    if kind == "LSTM" and call.has(7):
        raise call.refused("it has peepholes", "an LSTM without them")
    if kind == "GRU" and not call.get("linear_before_reset", 0):
        raise call.refused("linear_before_reset is 0", "linear_before_reset=1, as PyTorch and Keras export it")
    directions = 2 if call.get("direction", "forward") == "bidirectional" else 1
    wanted = _DEFAULTS[kind] * directions
    relu = kind == "RNN" and set(_activations(call)) == {"relu"}
    if _activations(call) != wanted and not relu:
        raise call.refused(f"activations are {call.get('activations')}", ", ".join(wanted))
    if 1 not in call.constants or 2 not in call.constants:
        raise call.refused("its weights are computed", "constant weights")


def _activations(call: Call) -> list[str]:
    directions = 2 if call.get("direction", "forward") == "bidirectional" else 1
    return [name.lower() for name in call.get("activations") or _DEFAULTS[call.node.op] * directions]


def _state(call: Call, position: int, x: Tensor, directions: int, hidden: int) -> Tensor:
    """Zeros, or the file's own [D, N, H]; one for each sample where it holds one."""
    if not call.has(position):
        return torch.zeros(directions, x.shape[1], hidden, dtype=x.dtype)
    state = call.tensor(position)
    return state[:, :1].expand(-1, x.shape[1], -1) if position in call.constants else state


def _weights(call: Call, directions: int, hidden: int) -> list[Tensor]:
    """For each direction: weights of the input and of the state, and their biases."""
    half = len(_GATES[call.node.op]) * hidden
    weights: list[Tensor] = []
    for direction in range(directions):
        weights += [call.tensor(1)[direction], call.tensor(2)[direction]]
        if call.has(3):
            bias = call.tensor(3)[direction]
            weights += [bias[:half], bias[half:]]
    return weights
