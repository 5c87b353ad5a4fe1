"""Which function a kernel must be: their names end in numbers, in the order in which they are first called."""

from __future__ import annotations

import re
from collections.abc import Hashable

from isobit.backends.tvm.readback.wanted import FLOAT, Kernel

_NAME = re.compile(r"(\w+)_(0|[1-9]\d*)")


class Numbering:
    """Follows the calls of all functions in their order.

    A kernel that is called for the first time bears the next number, and the name of its kind. One that was called
    before, for another step, must be for the same geometry: machine code knows no other. The same step calls the same
    kernel in every function.
    """

    def __init__(self) -> None:
        self._forms: dict[str, Hashable] = {}
        self._names: dict[Kernel, str] = {}
        self._counts = {True: 0, False: 0}  # of functions in float, and of kernels

    def wanted(self, found: str, kernel: Kernel, shapes: Hashable) -> str:
        """The name that must stand where `found` stands.

        Args:
            shapes: of the constants that it is given, which machine code knows, too.
        """
        known = self._names.get(kernel)
        if known is None:
            form, in_float = (kernel.form, shapes), kernel.name == FLOAT
            again = _NAME.fullmatch(found) is not None and self._forms.get(found) == form
            known = found if again else f"{kernel.name}_{self._counts[in_float]}"
            self._names[kernel] = known
            if not again:
                self._forms[known] = form
                self._counts[in_float] += 1
        return known
