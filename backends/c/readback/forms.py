"""Operators as both descriptions word them: fields by name, numbers of kernels brought to one form."""

from __future__ import annotations

from typing import Any

import numpy as np

from isobit.backends.readback.description import Float32, Term, Terms


class Forms:
    """Makes the operators; whoever describes gives plain numbers.

    Args:
        terms: shared by both descriptions.
    """

    def __init__(self, terms: Terms) -> None:
        self.terms = terms

    def factor(self, multiplier: Any, lift: int) -> dict[str, Any]:
        """A term of a sum: its multiplier by channel, and its lift."""
        return {"multiplier": self.terms.constant(multiplier, np.int32), "lift": int(lift)}

    def rescale(self, offset: int, shift: int, low: int, high: int) -> dict[str, Any]:
        """How a sum becomes a code; `shift` is the whole."""
        return {"offset": int(offset), "shift": int(shift), "low": int(low), "high": int(high)}

    def layer(self, fields: dict[str, Any], weights: np.ndarray, bias: Any) -> dict[str, Any]:
        """Fields of a convolution, its weights [K, rows, columns, channels of a group] and its bias beside them."""
        return {**fields, "weights": self.terms.constant(weights, np.int8), "bias": self.terms.constant(bias, np.int32)}

    def window(self, kernel: Any, stride: Any, top_left: Any, dilation: Any) -> dict[str, Any]:
        """Geometry: (rows, columns) each."""
        names = {"kernel": kernel, "stride": stride, "padding": top_left, "dilation": dilation}
        return {name: tuple(map(int, value)) for name, value in names.items()}

    def scaled(self, prefix: str, fields: dict[str, Any]) -> dict[str, Any]:
        """The same fields, their names begun by a prefix."""
        return {f"{prefix}_{name}": value for name, value in fields.items()}

    def moved(self, x: Term, index: Any, fill: int) -> Term:
        """Codes by their places in the input, -1 for `fill`."""
        index = np.asarray(index, np.int32).reshape(-1)
        return self.terms.operator("move", x=x, index=self.terms.constant(index), fill=int(fill)
                                   if (index < 0).any() else None)

    def decoded(self, x: Term, zero_point: int, scale: float) -> Term:
        """Values of codes."""
        return self.terms.operator("decode", x=x, zero_point=int(zero_point), scale=Float32.of(scale))

    def leaves(self, x: Term, elements: Any, places: Any) -> Term:
        """Elements of a term as logits."""
        return self.terms.operator("logits", x=x, elements=self.terms.constant(elements, np.int32),
                                   places=self.terms.constant(places, np.int32))

    def table(self, x: Term, table: np.ndarray) -> Term:
        """A function of a code."""
        return self.terms.operator("table", x=x, table=self.terms.constant(table, np.uint8))
