"""An artifact with one thing changed, and what a target must know for that."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from isobit.pipeline.stages import Reference


@dataclass(frozen=True)
class Variant:
    """Files of an artifact, one thing in them changed.

    Args:
        kind: of damage, for the table.
        name: what is changed where.
        files: makes the contents of the files that differ, by their path in the artifact's folder.
        rule: of the reader by which the change says nothing; empty for damage.
    """

    kind: str
    name: str
    files: Callable[[], Mapping[str, bytes]]
    rule: str = ""


class Damage(Protocol):
    """How the files of a target are damaged.

    Attributes:
        own_process: a session of damaged files may end its process.
    """

    own_process: bool

    def variants(self, reference: Reference, folder: Path) -> Iterator[Variant]:
        """All that are known for the finished artifact in `folder`, which is left as it is."""
        ...

    def loaded(self, folder: Path) -> object:
        """What the runtime makes of the files once it has loaded them; equal values are the same network."""
        ...
