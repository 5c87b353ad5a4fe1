"""Processes that calibrate one network together: each has a device of its own and takes its share of every step.

`torchrun --nproc-per-node 4 -m isobit build ...` starts four of them, and torch numbers them: their ranks. All read the
same model and images and go through the same code. In every step of a unit they draw the same images, each trains on
its share, and gradients are averaged before anything moves, so that variables stay equal on all of them. Random masks
are drawn by each for its own images, from the seed plus the rank: other numbers of processes give other masks. The
first rank keeps checkpoints, speaks, and alone goes on when the network is calibrated.

Everything asks a `Ranks` and none asks how many there are: `ALONE`, one process, does nothing at every question.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from isobit.pipeline.errors import InputError

# The first rank may make images or allocate bits for hours; where a process dies, torchrun ends the others.
PATIENCE = datetime.timedelta(days=30)
BACKENDS = {"cpu": "cpu:gloo", "cuda": "cpu:gloo,cuda:nccl"}
T = TypeVar("T")


class Served(Exception):
    """This process is not the first one, and has nothing left to do; no error."""


class Ranks:
    """One process, alone; the base of several.

    Args:
        rank: of this process, from 0.
        world: how many there are.
    """

    def __init__(self, rank: int = 0, world: int = 1) -> None:
        self.rank, self.world = rank, world

    @property
    def leads(self) -> bool:
        """Whether this is the first process, which writes and speaks."""
        return self.rank == 0

    def named(self, device: str) -> str:
        """What calibrates, for checkpoints: `cuda`, or `4 x cuda`, whose masks are others."""
        return device

    @property
    def notes(self) -> list[str]:
        """What a report says about them."""
        return []

    def share(self, draws: np.ndarray) -> np.ndarray:
        """This rank's images [steps, size / world] of those of every step [steps, size]."""
        return draws[:, self.rank :: self.world]

    def part(self, count: int) -> int:
        """How many of a step's first `count` images this rank has, but one at least."""
        return max(1, len(range(self.rank, count, self.world)))

    def deal(self, count: int) -> range:
        """Which of `count` pieces of work that know nothing of each other this rank does."""
        return range(self.rank, count, self.world)

    def dealt(self, count: int, make: Callable[[int], T]) -> Iterator[T]:
        """`make(0)` to `make(count - 1)` in order, each made by one rank and given to all; tensors on the CPU."""
        for begin in range(0, count, self.world):
            place = begin + self.rank
            found = self.collect(make(place) if place < count else None)
            yield from (each for each in found if each is not None)

    def average(self, *tensors: Tensor) -> None:
        """Make every tensor the mean over all ranks, in place; nothing in it waits for the device."""

    def first(self, make: Callable[[], T]) -> T:
        """What `make` gives on the first rank, tensors on the CPU; it is called there only."""
        return make()

    def follow(self, state: Callable[[], T], take: Callable[[T], None]) -> None:
        """Have all other ranks `take` the `state` of the first."""

    def collect(self, own: T) -> list[T]:
        """What every rank calls this with, by rank; tensors on the CPU."""
        return [own]

    def led(self, held: AbstractContextManager[None]) -> AbstractContextManager[None]:
        """What the first rank holds for all while a block runs, the folder that is written; nothing on others."""
        return held

    def go_on_alone(self) -> None:
        """All is done that several can do: the first rank goes on; raises `Served` on every other."""


ALONE = Ranks()


class TorchRanks(Ranks):
    """The processes of torch's default group; objects pass through the CPU, tensors between the devices."""

    def __init__(self) -> None:
        super().__init__(dist.get_rank(), dist.get_world_size())

    def named(self, device: str) -> str:
        """With their number."""
        return f"{self.world} x {device}"

    @property
    def notes(self) -> list[str]:
        """How many they were."""
        return [f"calibrated by {self.world} processes together; another number of them draws other random masks"]

    def average(self, *tensors: Tensor) -> None:
        """Sum over all ranks in one message, which gives every rank the same to the last bit, and divide."""
        together = torch.cat([tensor.reshape(-1) for tensor in tensors])
        dist.all_reduce(together)
        parts = together.div_(self.world).split([tensor.numel() for tensor in tensors])
        for tensor, mean in zip(tensors, parts, strict=True):
            tensor.copy_(mean.view_as(tensor))

    def first(self, make: Callable[[], T]) -> T:
        """Make it on the first rank and send it to the others."""
        box = [make() if self.leads else None]
        dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        (found,) = box
        return found  # type: ignore[return-value]  # the first rank has put it in

    def follow(self, state: Callable[[], T], take: Callable[[T], None]) -> None:
        """Send the first rank's state to the others, which take it."""
        found = self.first(state)
        if not self.leads:
            take(found)

    def collect(self, own: T) -> list[T]:
        """Send everybody's to everybody."""
        found: list[T | None] = [None] * self.world
        dist.all_gather_object(found, own)
        return found  # type: ignore[return-value]  # every rank has put its own in

    def led(self, held: AbstractContextManager[None]) -> AbstractContextManager[None]:
        """Enter it on the first rank."""
        return held if self.leads else nullcontext()

    def go_on_alone(self) -> None:
        """Close the group on all ranks at once: none waits later for one that has left."""
        dist.barrier()
        dist.destroy_process_group()
        if not self.leads:
            raise Served(f"rank {self.rank} of {self.world} has calibrated with the others")


@contextmanager
def joined(device: str) -> Iterator[tuple[Ranks, str]]:
    """This process's ranks, and its device; `ALONE` and `device` where torchrun did not start it.

    Args:
        device: `cpu` or `cuda`: then every process of a machine takes the GPU of its number.

    Raises:
        InputError: one GPU is named for several processes, or there are more processes than GPUs.
    """
    world = int(os.environ.get("WORLD_SIZE", "1")) if dist.is_torchelastic_launched() else 1
    if world == 1:
        yield ALONE, device
        return
    own = _own_device(device)
    dist.init_process_group(BACKENDS[own.type], timeout=PATIENCE)
    try:
        yield TorchRanks(), str(own)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _own_device(device: str) -> torch.device:
    """The device of this process among those of its machine, made the current one."""
    named = torch.device(device)
    if named.type != "cuda":
        return named
    place, there = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if named.index is not None:
        raise InputError(
            f"one GPU, {device}, for {os.environ['LOCAL_WORLD_SIZE']} processes", where="torchrun", allowed="cuda",
            hint="every process takes the GPU of its number; CUDA_VISIBLE_DEVICES says which there are",
            field="options.device",
        )
    if place >= there:
        raise InputError(
            f"process {place} of this machine has no GPU of its own: there are {there}", where="torchrun",
            allowed=f"--nproc-per-node {there}", field="options.device",
        )
    own = torch.device("cuda", place)
    torch.cuda.set_device(own)
    return own
