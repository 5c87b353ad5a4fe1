"""`.safetensors`: tensors by name and nothing else, so that reading one runs no code."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from isobit.pipeline.errors import first_line
from isobit.pipeline.model.archive import corrupt

_LENGTH = 8  # bytes, little-endian, of the size of the header


def is_safetensors(path: Path) -> bool:
    """Whether the file begins as the format does, whatever it is called."""
    with path.open("rb") as file:
        start = file.read(_LENGTH + 1)
    size = int.from_bytes(start[:_LENGTH], "little")
    return len(start) > _LENGTH and start[_LENGTH:] == b"{" and size <= path.stat().st_size - _LENGTH


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of the file; raises InputError where it is damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path, device="cpu")
    except (SafetensorError, ValueError, KeyError, OSError) as error:
        raise corrupt(path, first_line(error)) from error
