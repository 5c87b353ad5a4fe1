"""Samples in arrays: of an `.npy` or `.npz`, of one input or of several by name, or in memory.

An `.npz` of one input has it as `x`, one of several inputs has an array for each by its name; the targets are `y`, or
several as `y.<name>`. Labels are a `y` of integers [N]; any other `y` is handed to a metric as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import Tensor

from isobit.pipeline.errors import InputError
from isobit.pipeline.memory import check_memory
from isobit.pipeline.samples.network_inputs import Inputs, grouped
from isobit.pipeline.samples.numpy_files import (
    Header,
    array_names,
    header_in,
    map_npy,
    open_archive,
    read_header,
    read_members,
    regular_file,
    told,
)

Targets = Tensor | list[Any]  # [N, ...], or one thing of any kind for each of N samples
X, Y, OF = "x", "y", "y."  # names in an archive: the one input, the targets, and what several targets' names begin with
INTEGERS = (np.int32, np.int64, np.bool_)  # that a network may read; others are pixels that were not scaled
KINDS = "float32, scaled and normalised as the model was trained; int32, int64 or bool for a network that takes them"


def targets_at(targets: Targets | None, places: Sequence[int]) -> Targets | None:
    """The targets of some samples, in the order of `places`; None where there are none."""
    if isinstance(targets, list):
        return [targets[place] for place in places]
    return None if targets is None else targets[list(places)]


@dataclass(frozen=True)
class WantedInputs:
    """The names of a model's inputs, as far as they are known before it is captured.

    Args:
        names: in the order of the model's; empty where nothing is known.
        needed: how many of them, from the first on, the model cannot do without.
        any_others: it takes any number after them, whatever they are called (`*inputs`).
    """

    names: tuple[str, ...] = ()
    needed: int = 1
    any_others: bool = False

    def among(self, held: Sequence[str]) -> tuple[str, ...]:
        """Which of the arrays that are there are the model's inputs, in the model's order; any others in the data's.

        Raises:
            InputError: one that the model needs is not among them.
        """
        if self.any_others:
            inputs = [name for name in held if name != Y and not name.startswith(OF)]
            return (*(name for name in self.names if name in inputs),
                    *(name for name in inputs if name not in self.names)) or (X,)
        if len(self.names) < 2 or (self.needed == 1 and X in held and X not in self.names):
            own = self.names[:1] if self.names and X not in held and self.names[0] in held else (X,)
            return own
        last = max((place for place, name in enumerate(self.names, start=1) if name in held), default=0)
        wanted = self.names[: max(self.needed, last)]
        lacking = [name for name in wanted if name not in held]
        if lacking:
            raise InputError(
                f"the data has no array '{lacking[0]}', which is an input of the model; it holds "
                f"{', '.join(list(held)[:8]) or 'nothing'}", allowed=", ".join(wanted),
            )
        return wanted


@dataclass(frozen=True)
class Arrays:
    """Samples of arrays; what an `.npy` holds stays on disk.

    Args:
        inputs: by name, [N, ...] each, in the order of the model's inputs once that is known (`ordered`).
        targets: of each sample; None where there are none.
        where: for messages.
    """

    inputs: Mapping[str, np.ndarray] = field(repr=False)
    targets: Targets | None = field(default=None, repr=False)
    where: str = ""

    @classmethod
    def opened(cls, path: Path, wanted: WantedInputs | None = None) -> Arrays:
        """The samples of an `.npy` or an `.npz`; raises InputError where a header or the labels cannot be used."""
        where = str(path)
        with told(where):
            read = _opened_npy if path.suffix.lower() == ".npy" else _opened_npz
            inputs, targets = read(path, wanted or WantedInputs())
        samples = cls(inputs, targets, where)
        bytes_of_one = sum(4 * math.prod(shape) for shape in samples.shapes)
        check_memory(bytes_of_one, "one sample", where, "Samples of this size cannot be calibrated with here.")
        return samples

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.inputs) if len(self.inputs) > 1 else ()

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        return tuple(tuple(array.shape[1:]) for array in self.inputs.values())

    @property
    def shape(self) -> tuple[int, ...]:
        return self.shapes[0]

    @property
    def preparation(self) -> None:
        return None

    @property
    def labels(self) -> Tensor | None:
        return self.targets if are_labels(self.targets) else None

    @property
    def pixel_range(self) -> tuple[float, float]:
        return self._extremes

    @cached_property
    def _extremes(self) -> tuple[float, float]:
        first = next(iter(self.inputs.values()))
        return float(first.min()), float(first.max())

    def ordered(self, names: Sequence[str]) -> Arrays:
        """The same samples with the inputs in the order of `names`; one alone serves whatever it is called.

        Raises:
            InputError: an input has no array.
        """
        if len(self.inputs) == len(names) == 1:
            return self
        lacking = [name for name in names if name not in self.inputs]
        if lacking:
            raise InputError(
                f"the model takes the inputs {', '.join(names)}, and the data has no '{lacking[0]}'; it holds "
                f"{', '.join(self.inputs)}", where=self.where, allowed="an array for each input, by its name",
            )
        return replace(self, inputs={name: self.inputs[name] for name in names})

    def checked(self, indices: Sequence[int]) -> Arrays:
        """Themselves, after a look at the values; what was not drawn is not read, as an array may fill a disk."""
        for name, array in self.inputs.items():
            for index in indices if np.issubdtype(array.dtype, np.floating) else ():
                if not np.isfinite(as_read(array[index])).all():
                    raise InputError(f"{name} has NaN or infinite values, first in sample {index}", where=self.where)
        return self

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    def read(self, index: int) -> Inputs:
        return grouped([torch.from_numpy(as_read(array[index])) for array in self.inputs.values()])

    def pixels(self, index: int) -> Tensor:
        return torch.from_numpy(as_read(next(iter(self.inputs.values()))[index]))

    def without_labels(self) -> Arrays:
        return replace(self, targets=None)

    def content(self, index: int) -> tuple[bytes, bytes]:
        target = b"" if self.targets is None else _bytes_of(self.targets[index])
        arrays = {name: as_read(array[index]) for name, array in self.inputs.items()}
        if len(arrays) == 1 and (only := next(iter(arrays.values()))).dtype == np.float32:
            return target, only.tobytes()
        return target, b"".join(name.encode() + b"\0" + _bytes_of(array) for name, array in arrays.items())


def are_labels(targets: Targets | None) -> TypeGuard[Tensor]:
    """Whether targets are one class, counted from 0, for each sample."""
    return isinstance(targets, Tensor) and targets.dtype == torch.int64 and targets.dim() == 1


def header_shapes(path: Path, wanted: WantedInputs) -> list[tuple[tuple[int, ...], np.dtype]]:
    """(shape of one sample, type) of each input in an `.npy` or `.npz`, from headers alone.

    Raises:
        InputError: they cannot be used.
    """
    return [(header.shape[1:], read_type(header.dtype)) for header in _input_headers(path, wanted)]


def header_count(path: Path, wanted: WantedInputs) -> int:
    """How many samples an `.npy` or `.npz` holds, from a header alone; raises InputError where it cannot be used."""
    return _input_headers(path, wanted)[0].shape[0]


def _input_headers(path: Path, wanted: WantedInputs) -> list[Header]:
    with told(str(path)), regular_file(path) as file:
        if path.suffix.lower() == ".npy":
            return [_samples_header(X)(read_header(file))]
        with open_archive(file) as archive:
            names = wanted.among(array_names(archive))
            return [_samples_header(name)(header_in(archive, name)) for name in names]


def _opened_npy(path: Path, wanted: WantedInputs) -> tuple[dict[str, np.ndarray], None]:
    with regular_file(path) as file:
        return {X: map_npy(file, _samples_header(X)(read_header(file)))}, None


def _opened_npz(path: Path, wanted: WantedInputs) -> tuple[dict[str, np.ndarray], Targets | None]:
    with regular_file(path) as file, open_archive(file) as archive:
        held = array_names(archive)
        names = wanted.among(held)
        aims = [name for name in held if (name == Y or name.startswith(OF)) and name not in names]
        checks = {name: _samples_header(name) for name in names} | {name: _target_header(name) for name in aims}
        found = read_members(file, archive, checks, str(path))
    inputs = {name: found[name] for name in names}
    count = check_counts({name: len(array) for name, array in inputs.items()}, {n: len(found[n]) for n in aims})
    return inputs, targets_of({name: found[name] for name in aims}, count)


def check_counts(inputs: Mapping[str, int], targets: Mapping[str, int]) -> int:
    """N, which all arrays must have; raises InputError where they have not."""
    (first, count), *_ = inputs.items()
    for name, other in inputs.items():
        if other != count:
            raise InputError(f"{name} has {other} samples, and {first} has {count}")
    for name, other in targets.items():
        if other != count:
            raise InputError(f"{name} has {other} labels for {count} samples in {first}")
    return count


def targets_of(arrays: Mapping[str, np.ndarray], count: int) -> Targets | None:
    """Targets as a metric reads them: one array as a tensor, several as one dictionary of tensors a sample.

    Raises:
        InputError: a `y` of one integer a sample has one that is no class.
    """
    if set(arrays) == {Y}:
        return _checked_labels(arrays[Y])
    named = {name.removeprefix(OF): array for name, array in arrays.items() if name != Y}
    if not named:
        return None
    return [{name: torch.from_numpy(np.array(array[i])) for name, array in named.items()} for i in range(count)]


def read_type(dtype: np.dtype) -> np.dtype:
    """The type in which a network reads such values: every float as float32."""
    return np.dtype(np.float32) if np.issubdtype(dtype, np.floating) else dtype.newbyteorder("=")


def as_read(sample: np.ndarray) -> np.ndarray:
    """A copy that owns its memory, in `read_type`; values too large for float32 become infinite and are refused."""
    with np.errstate(over="ignore"):
        return np.array(sample, dtype=read_type(sample.dtype), order="C")


def _bytes_of(value: Any) -> bytes:
    """What identifies a value in the hash of the samples: a label as 8 bytes, an array with its type and shape."""
    if isinstance(value, Tensor):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray | np.generic):
        array = np.asarray(value)
        if array.ndim == 0 and array.dtype == np.int64:
            return int(array).to_bytes(8, "little", signed=int(array) < 0)
        return f"{array.dtype}{array.shape}".encode() + np.ascontiguousarray(array).tobytes()
    if isinstance(value, Mapping):
        return b"".join(f"{key}=".encode() + _bytes_of(value[key]) for key in sorted(value, key=str))
    if isinstance(value, list | tuple):
        return b"".join(b"," + _bytes_of(part) for part in value)
    return repr(value).encode()


# --- headers ---


def _samples_header(name: str) -> Callable[[Header], Header]:
    """Judges the header of an input, all before a value is read."""

    def check(header: Header) -> Header:
        check_samples(name, header.shape, header.dtype)
        return header

    return check


def check_samples(name: str, shape: Sequence[int], dtype: np.dtype) -> None:
    """Raises InputError where an array cannot be the samples of an input."""
    if len(shape) < 2:
        raise InputError(f"{name} has {len(shape)} dimensions: {list(shape)[:8]}", allowed="[samples, ...]")
    if 0 in shape:
        raise InputError(f"{name} is empty: {list(shape)}")
    if not np.issubdtype(dtype, np.floating) and dtype.newbyteorder("=") not in INTEGERS:
        raise InputError(f"{name} holds {dtype}", allowed=KINDS)


def _target_header(name: str) -> Callable[[Header], Header]:
    """Judges the header of a target."""

    def check(header: Header) -> Header:
        if not header.shape:
            raise InputError(f"{name} has the shape []", allowed="[samples, ...]")
        if not np.issubdtype(header.dtype, np.number) and header.dtype != np.bool_:
            raise InputError(f"{name} holds {header.dtype}", allowed="numbers")
        return header

    return check


def _checked_labels(y: np.ndarray) -> Tensor:
    """Integers [N] as int64, checked to be classes; other numbers as they are, floats as float32."""
    if y.ndim != 1 or not np.issubdtype(y.dtype, np.integer):
        values = y.astype(np.float32) if np.issubdtype(y.dtype, np.floating) else y.astype(y.dtype.newbyteorder("="))
        return torch.from_numpy(values.astype(np.int64) if np.issubdtype(y.dtype, np.integer) else values)
    if y.min() < 0:
        raise InputError(f"y has the negative label {y.min()}", allowed="integers from 0")
    if y.max() > np.iinfo(np.int64).max:
        raise InputError(f"y has the label {y.max()}", allowed="integers below 2**63")
    return torch.from_numpy(y.astype(np.int64))
