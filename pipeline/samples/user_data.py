"""Samples from a user's own code: `file.py:function` gives them one by one or in batches, as training scripts do.

The function takes no arguments and returns an iterable: a list, a generator, a torch `Dataset` or `DataLoader`. An item
is what the network reads, or (that, target). What the network reads is one tensor or array, a tuple of them in the
order of the model's inputs, or a dictionary by their names (with the target under `y`). Random numbers are seeded
before the function is called, so that a shuffling loader gives the same samples every time.
"""

from __future__ import annotations

import contextlib
import random
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from isobit.pipeline.errors import InputError
from isobit.pipeline.memory import check_memory
from isobit.pipeline.model.user_code import cause_shown, function_in_file
from isobit.pipeline.samples.arrays import (
    Arrays,
    Targets,
    WantedInputs,
    Y,
    are_labels,
    check_samples,
    read_type,
)
from isobit.pipeline.samples.numpy_files import told

MOST = 10_000  # samples that are read of an iterable that does not say how many it has
_FUNCTION = re.compile(r".+\.py:[^:/\\]*")
_NOTHING = object()


def names_a_function(data: str | Path) -> bool:
    """Whether data is given as `path/to/file.py:function`."""
    return _FUNCTION.fullmatch(str(data)) is not None


def read_user_data(
    data: str | Path, argument: str, wanted: WantedInputs, rank: int | None, most: int | None = None
) -> tuple[Arrays, list[str]]:
    """(the samples that a function gives, what a user should know about them); they are kept in memory.

    Args:
        data: `path/to/file.py:function`.
        argument: what it was given for: `calibration` or `evaluation`.
        wanted: names of the model's inputs.
        rank: dimensions of the model's first input, the batch's included; None where it is not known.
        most: samples that are read; None for all, and `MOST` where the iterable has no length.

    Raises:
        InputError: the user's code fails, with its file and line, or gives what cannot be samples.
    """
    where = f"`{argument}={data}`"
    function = function_in_file(str(data), argument)
    with _seeded(), cause_shown(where, "what the function gives cannot be read"):
        with cause_shown(where, "the function fails"):
            given = function()
            items = _items(given, where, argument)
        endless = most is None and not hasattr(given, "__len__")
        reader = _Reader(where, argument, wanted, rank, MOST if endless else most, _counts_samples(given))
        while not reader.full:
            with cause_shown(where, "the function fails"):
                item = next(items, _NOTHING)
            if item is _NOTHING:
                break
            reader.take(item)
        samples = reader.arrays()
    notes = [f"the first {MOST:,} samples of {where} are taken: it does not say how many it has"] if (
        endless and reader.full) else []
    return samples, notes


def _items(given: Any, where: str, argument: str) -> Iterator[Any]:
    if isinstance(given, Dataset) and not isinstance(given, IterableDataset):  # some never raise IndexError
        return (given[index] for index in range(len(given)))  # pyright: ignore[reportArgumentType] - as torch has it
    if isinstance(given, str | bytes | Mapping) or not isinstance(given, Iterable):
        raise InputError(
            f"the function returns {type(given).__name__}", where=where, field=argument,
            allowed="a list, generator, Dataset or DataLoader of inputs or (inputs, target)",
        )
    return iter(given)


def _counts_samples(given: Any) -> bool | None:
    """Whether an item is a batch, where the kind of the iterable tells."""
    if isinstance(given, DataLoader):
        return given.batch_sampler is not None
    if isinstance(given, Dataset) and not isinstance(given, IterableDataset):
        return False
    return False if isinstance(given, Tensor | np.ndarray) else None


@contextlib.contextmanager
def _seeded() -> Iterator[None]:
    """Every common source of random numbers at its beginning, and as it was afterwards."""
    kept = random.getstate(), np.random.get_state()  # noqa: NPY002 (users' loaders draw from it)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002
        try:
            yield
        finally:
            random.setstate(kept[0])
            np.random.set_state(kept[1])  # noqa: NPY002


@dataclass
class _Reader:
    """Takes items until it has enough of them.

    Args:
        where, argument, wanted, rank, most: see `read_user_data`.
        batched: whether an item is a batch; None until the first one tells.
    """

    where: str
    argument: str
    wanted: WantedInputs
    rank: int | None
    most: int | None
    batched: bool | None
    names: tuple[str, ...] = ()
    columns: list[list[np.ndarray]] = field(default_factory=list)
    targets: list[Any] = field(default_factory=list)
    count: int = 0
    held: int = 0

    @property
    def full(self) -> bool:
        return self.most is not None and self.count >= self.most

    def take(self, item: Any) -> None:
        """Keep the samples of one item."""
        inputs, target = self._split(item)
        arrays = {name: self._array(name, value) for name, value in inputs.items()}
        if not self.names:
            self.names, self.columns = tuple(arrays), [[] for _ in arrays]
        if tuple(arrays) != self.names:
            raise self._wrong(f"one item has the inputs {', '.join(arrays)}, an earlier one {', '.join(self.names)}")
        if self.batched is None:
            self.batched = self._is_batch(next(iter(arrays.values())), target)
        arrays = arrays if self.batched else {name: array[None] for name, array in arrays.items()}
        sizes = {array.shape[:1] for array in arrays.values()}
        if len(sizes) > 1 or sizes == {()} or sizes == {(0,)}:
            shapes = ", ".join(str(list(array.shape)) for array in arrays.values())
            raise self._wrong(f"the inputs of one item have the shapes {shapes}, which is no batch")
        self._keep(arrays, target, next(iter(sizes))[0])

    def _keep(self, arrays: Mapping[str, np.ndarray], target: Any, size: int) -> None:
        room = size if self.most is None else min(size, self.most - self.count)
        for column, array in zip(self.columns, arrays.values(), strict=True):
            if column and column[0].shape[1:] != array.shape[1:]:
                raise self._wrong(
                    f"samples have different shapes: {list(array.shape[1:])} and {list(column[0].shape[1:])}"
                )
            column.append(np.array(array[:room], dtype=read_type(array.dtype)))
        self.count += room
        self.held += sum(array[:room].nbytes for array in arrays.values())
        check_memory(self.held, f"{self.count:,} samples at once", self.where, "Let the function give fewer.")
        of = [target] if not self.batched or target is _NOTHING else self._parts(target, size)
        self.targets += of[:room] if target is not _NOTHING else []

    def arrays(self) -> Arrays:
        """Everything that was taken."""
        if not self.count:
            raise self._wrong("the function gives no samples")
        if self.targets and len(self.targets) != self.count:
            raise self._wrong(f"{len(self.targets)} of {self.count} samples have a target")
        inputs = {name: np.concatenate(column) for name, column in zip(self.names, self.columns, strict=True)}
        with told(self.where):
            for name, array in inputs.items():
                check_samples(name, array.shape, array.dtype)
        return Arrays(inputs, self._joined(), self.where)

    def _split(self, item: Any) -> tuple[dict[str, Any], Any]:
        """(what the network reads by name, the target or nothing) of one item."""
        names = self.wanted.names
        if isinstance(item, Mapping):
            return self._named(item), item.get(Y, _NOTHING) if Y not in names else _NOTHING
        if not isinstance(item, tuple | list):
            return {self._name(0): item}, _NOTHING
        parts = list(item)
        if len(parts) == 2 and isinstance(parts[0], tuple | list | Mapping):
            return self._split_inputs(parts[0]), parts[1]
        count = len(names) if len(names) > 1 and len(parts) >= self.wanted.needed > 1 else 1
        inputs, rest = parts[:count], parts[count:]
        if not inputs or len(rest) > 1:
            raise self._wrong(
                f"an item is a tuple of {len(parts)}, and the model takes {max(1, len(names))} input(s)")
        return self._split_inputs(inputs), rest[0] if rest else _NOTHING

    def _split_inputs(self, inputs: Any) -> dict[str, Any]:
        if isinstance(inputs, Mapping):
            return self._named(inputs)
        return {self._name(place): value for place, value in enumerate(inputs)}

    def _named(self, item: Mapping[Any, Any]) -> dict[str, Any]:
        held = [str(name) for name in item if name != Y or Y in self.wanted.names]
        if len(held) == 1 and len(self.wanted.names) < 2:
            return {held[0]: item[held[0]]}
        if not self.wanted.names and not self.wanted.any_others:
            raise self._wrong("an item is a dictionary, and the names of the model's inputs are not known")
        one = len(self.wanted.names) == 1 and not self.wanted.any_others
        names = self.wanted.names if one else self.wanted.among(held)
        if names[0] not in item:
            raise self._wrong(f"an item is a dictionary of {', '.join(held[:8])}", f"the model's input '{names[0]}'")
        return {name: item[name] for name in names}

    def _name(self, place: int) -> str:
        names = self.wanted.names
        return names[place] if place < len(names) else f"input_{place}"

    def _array(self, name: str, value: Any) -> np.ndarray:
        array = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
        if not np.issubdtype(array.dtype, np.number) and array.dtype != np.bool_:
            raise self._wrong(f"the input '{name}' is {type(value).__name__} of {array.dtype}", "tensors or arrays")
        return array

    def _is_batch(self, first: np.ndarray, target: Any) -> bool:
        """Whether the first dimension counts samples."""
        if self.rank is not None:
            if first.ndim not in (self.rank, self.rank - 1):
                raise self._wrong(
                    f"an item has the shape {list(first.shape)}", f"{self.rank} dimensions, the first counts samples, "
                    f"or {self.rank - 1} of one sample")
            return first.ndim == self.rank
        if first.ndim < 2:
            return False
        if target is not _NOTHING and isinstance(target, Tensor | np.ndarray | np.generic | int | float):
            shape = np.shape(target)
            if shape[:1] in ((), first.shape[:1]):
                return bool(shape)
        raise self._wrong(
            f"whether an item of the shape {list(first.shape)} is one sample or a batch is not known",
            "a DataLoader of batches, a Dataset of samples, or `input_size`")

    def _parts(self, target: Any, size: int) -> list[Any]:
        """The targets of a batch, one by one."""
        if isinstance(target, Mapping):
            columns = {name: self._parts(value, size) for name, value in target.items()}
            return [{name: column[place] for name, column in columns.items()} for place in range(size)]
        if not isinstance(target, Tensor | np.ndarray | list | tuple) or len(target) != size:
            raise self._wrong(f"a batch of {size} samples has {_amount(target)}", "one target for each sample")
        return list(target)

    def _joined(self) -> Targets | None:
        """Targets as one tensor where all are numbers of one shape, else as they came."""
        if not self.targets:
            return None
        if not all(isinstance(target, Tensor | np.ndarray | np.generic | int | float) for target in self.targets):
            return self.targets
        arrays = [t.detach().cpu().numpy() if isinstance(t, Tensor) else np.asarray(t) for t in self.targets]
        if len({array.shape for array in arrays}) > 1:
            return self.targets
        values = np.stack(arrays)
        if np.issubdtype(values.dtype, np.integer):
            values = values.astype(np.int64)
        elif np.issubdtype(values.dtype, np.floating):
            values = values.astype(np.float32)
        joined = torch.from_numpy(values)
        if are_labels(joined) and int(joined.min()) < 0:
            raise self._wrong(f"a target is the negative label {int(joined.min())}", "integers from 0")
        return joined

    def _wrong(self, what: str, allowed: str = "") -> InputError:
        return InputError(what, where=self.where, field=self.argument,
                          allowed=allowed or "items that are inputs or (inputs, target)")


def _amount(target: Any) -> str:
    return f"{len(target)} targets" if isinstance(target, Sequence | Tensor | np.ndarray) else "one target"
