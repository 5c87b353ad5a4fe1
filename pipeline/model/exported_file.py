"""`.pt2` files of `torch.export.save`, read without trust.

Torch's loader runs code that the file brings, in many places. So the file is taken apart here: the description is
checked field by field (`exported_schema`), the weights against their sizes, and torch gets a new archive that holds the
checked copies and nothing else. Extra files, sample inputs and compiled code stay behind.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import math
import os
import pickle
import re
import sys
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from isobit.pipeline.errors import InputError, first_line
from isobit.pipeline.model.archive import byte_limit, check_archive, corrupt, read_members
from isobit.pipeline.model.exported_grammar import Unsafe
from isobit.pipeline.model.exported_schema import checked_payloads, checked_program

LARGEST_INPUT = 1 << 28  # values of one sample: a picture of 9,000 by 9,000 in colour
MAX_DESCRIPTION = 64 << 20  # bytes of JSON; a network of 1,000 operators has about one million
_MODEL = "models/model.json"
_OLD_MODEL = "serialized_exported_program.json"  # the layout of torch.export.save before torch 2.8
_OLD_TENSORS = ("serialized_state_dict", "serialized_constants")
_OLD_EXAMPLE = "serialized_example_inputs.pt"
_SAMPLE = "data/sample_inputs/model.pt"
_CODE = re.compile(r"^[^/]+/data/(aotinductor/|constants/(?!tensor_|[^/]*config\.json$|model\.pt$))")
# Kind of payload: its folder, its table, and how its files are called; `model.pt` in the folder is the older form.
_PAYLOADS = {
    "weights": ("data/weights/", "data/weights/model_weights_config.json", re.compile(r"weight_\d{1,9}", re.ASCII)),
    "constants": (
        "data/constants/", "data/constants/model_constants_config.json", re.compile(r"tensor_\d{1,9}", re.ASCII),
    ),
}  # fmt: skip
_STRIDED = 7  # torch/_export/serde/schema.py: Layout.Strided


def is_exported(path: Path) -> bool:
    """Whether the file is one of `torch.export.save`, whatever it is called."""
    marks = ("archive_format", _OLD_MODEL)
    return path.suffix.lower() == ".pt2" or any(name.split("/")[-1] in marks for name in read_members(path))


def load_exported(path: Path, trust: bool) -> torch.export.ExportedProgram:
    """Reads a `.pt2` file.

    Args:
        trust: give it to torch as it is, whatever code it runs.

    Raises:
        InputError: the file is damaged, or holds what could run code; names the member and the field.
    """
    try:
        with _quiet():
            if trust:
                return torch.export.load(path)
            with _weights_only():
                return _loaded(_safe_copy(path))
    except InputError:
        raise
    except Exception as error:  # an archive of another program may raise anything
        raise corrupt(path, first_line(error)) from error


def needs_trust(path: Path, what: str, allowed: str = "") -> InputError:
    """The error for a file whose reading could run code."""
    return InputError(
        f"the file holds more than weights: loading {what} can run any code that its author put there",
        where=str(path),
        allowed=allowed or "a state_dict, or a dict {arch, kwargs, state_dict}",
        hint="Save `model.state_dict()` and give `arch`; or, if you trust the author, add `trust_pickle=True`.",
        field="trust_pickle",
    )


def _loaded(archive: bytes) -> torch.export.ExportedProgram:
    program = torch.export.load(io.BytesIO(archive))
    inputs = program.graph_signature.user_inputs
    # Torch compares names and kinds, not that every one of them is there.
    values = {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}
    if not inputs or any(isinstance(name, str) and name not in values for name in inputs):
        raise ValueError("the signature names inputs that the graph does not have")
    for name in inputs:
        sizes = [size for size in getattr(values.get(name), "shape", ()) if isinstance(size, int)]
        if math.prod(sizes) > LARGEST_INPUT:
            raise ValueError(f"the input '{name}' has {math.prod(sizes):,} values a sample")
    return program


def _safe_copy(path: Path) -> bytes:
    """A new archive with the checked content of the one at `path`."""
    members = read_members(path)
    if not members:
        raise corrupt(path, "not a zip archive")
    check_archive(path)
    code = next((name for name in members if _CODE.match(name)), None)
    if code is not None:
        raise needs_trust(path, f"the archive member '{code}'", "weights and tensors")
    with zipfile.ZipFile(path) as archive:
        if _OLD_MODEL in members:
            content = {name: archive.read(name) for name in members if "/" not in name}
            return _zipped(_old_layout(path, content), folder="")
        root = next(iter(members)).split("/")[0] + "/"
        content = {name.removeprefix(root): archive.read(name) for name in members if name.startswith(root)}
    return _zipped(_layout(path, content), folder="model/")


def _zipped(members: Mapping[str, bytes], folder: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members.items():
            archive.writestr(folder + name, data)
    return file.getvalue()


def _layout(path: Path, content: Mapping[str, bytes]) -> dict[str, bytes]:
    if [name for name in content if name.startswith("models/")] != [_MODEL]:
        raise corrupt(path, f"it has not one program, {_MODEL}")
    if content.get("byteorder", sys.byteorder.encode()).strip() != sys.byteorder.encode():
        raise corrupt(path, f"its numbers are not {sys.byteorder}-endian, as those of this machine are")
    kept = {name: content[name] for name in ("archive_format", "archive_version", ".data/version") if name in content}
    kept["byteorder"] = sys.byteorder.encode()
    for folder, table, file in _PAYLOADS.values():
        if f"{folder}model.pt" in content:
            kept[f"{folder}model.pt"] = _tensors(path, f"{folder}model.pt", content[f"{folder}model.pt"])
        elif table in content:
            kept |= _payloads(path, content, folder, table, file)
        else:
            raise corrupt(path, f"it has no member {table}")
    kept[_MODEL] = _description(path, _MODEL, content[_MODEL])
    _check_plain(path, _SAMPLE, content.get(_SAMPLE, b""))
    kept[_SAMPLE] = b""
    return kept


def _old_layout(path: Path, content: Mapping[str, bytes]) -> dict[str, bytes]:
    _check_plain(path, _OLD_EXAMPLE, content.get(_OLD_EXAMPLE, b""))
    kept = {"version": content.get("version", b""), _OLD_EXAMPLE: b""}
    for stem in _OLD_TENSORS:
        name = next((f"{stem}.{suffix}" for suffix in ("pt", "json") if f"{stem}.{suffix}" in content), None)
        if name is None:
            raise corrupt(path, f"it has no member {stem}.pt")
        kept[name] = _tensors(path, name, content[name])
    kept[_OLD_MODEL] = _description(path, _OLD_MODEL, content[_OLD_MODEL])
    return kept


# --- members ---


def _parsed(path: Path, member: str, data: bytes) -> Any:
    if len(data) > MAX_DESCRIPTION:
        raise corrupt(path, f"{member} holds {len(data):,} bytes, more than {MAX_DESCRIPTION:,}")
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise corrupt(path, f"{member} is not JSON: {type(error).__name__}") from error


def _description(path: Path, member: str, data: bytes) -> bytes:
    try:
        return json.dumps(checked_program(_parsed(path, member, data))).encode()
    except Unsafe as error:
        raise _unsafe(path, member, error) from error


def _unsafe(path: Path, member: str, error: Unsafe) -> InputError:
    return InputError(
        f"the exported program could run code when it is loaded: its field {error.field or 'root'} is {error.found}",
        where=f"{path}, {member}",
        allowed=error.allowed,
        hint="Save `model.state_dict()` and give `arch`; or, if you trust the author, add `trust_pickle=True`.",
        field="trust_pickle",
    )


def _payloads(
    path: Path, content: Mapping[str, bytes], folder: str, table: str, file: re.Pattern[str]
) -> dict[str, bytes]:
    """The table of one kind of payloads and the files that it names, each large enough for what the table says."""
    try:
        entries = checked_payloads(_parsed(path, table, content[table]), file)
    except Unsafe as error:
        raise _unsafe(path, table, error) from error
    claimed, found = 0, sum(map(len, content.values()))
    for name, entry in entries.items():
        member = folder + entry["path_name"]
        if member not in content:
            raise corrupt(path, f"it has no member {member}")
        claimed += _size_of(path, name, entry["tensor_meta"], len(content[member]))
        if claimed > byte_limit(found):
            raise corrupt(path, f"{table} speaks of {claimed:,} bytes of tensors, the file holds {found:,}")
    files = {folder + entry["path_name"] for entry in entries.values()}
    return {table: json.dumps({"config": entries}).encode(), **{name: content[name] for name in files}}


def _size_of(path: Path, name: str, meta: Mapping[str, Any], held: int) -> int:
    """Bytes of the tensor that `meta` describes; a corrupt file where its payload of `held` bytes does not reach."""
    sizes = [size.get("as_int", -1) for size in (*meta["sizes"], *meta["strides"], meta["storage_offset"])]
    rank = len(meta["sizes"])
    dtype = _dtype(meta["dtype"])
    if min(sizes) < 0 or len(meta["strides"]) != rank or meta["layout"] != _STRIDED or dtype is None:
        raise corrupt(path, f"the tensor '{name}' has no shape, type or layout that a file can hold")
    shape, strides, offset = sizes[:rank], sizes[rank:-1], sizes[-1]
    count = 1
    for size in shape:
        count *= size
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True)) + 1 if count else 0
    if last * dtype.itemsize > held or held % dtype.itemsize:
        raise corrupt(path, f"the tensor '{name}' reaches beyond its {held:,} bytes")
    return count * dtype.itemsize


def _dtype(number: int) -> torch.dtype | None:
    from torch._export.serde import serialize  # torch names the types of this format nowhere else

    return serialize._SERIALIZE_TO_TORCH_DTYPE.get(number)


def _tensors(path: Path, member: str, data: bytes) -> bytes:
    """The member of an older layout, which torch.save wrote, made sure to hold tensors by name."""
    content = _check_plain(path, member, data)
    if data and not (
        isinstance(content, Mapping)
        and all(isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in content.items())
    ):
        raise needs_trust(path, f"the archive member '{member}'", "tensors by name")
    return data


def _check_plain(path: Path, member: str, data: bytes) -> Any:
    """What torch.save wrote into a member, if that is plain data; nothing for an empty one."""
    if not data:
        return None
    check_archive(path, data)
    try:
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise needs_trust(path, f"the archive member '{member}'", "tensors") from error


# --- torch's switches ---


@contextlib.contextmanager
def _weights_only() -> Iterator[None]:
    """`torch.export.load` falls back to full unpickling by itself; this variable is torch's own way to forbid it."""
    variable = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(variable)
    os.environ[variable] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[variable]
        else:
            os.environ[variable] = before


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Torch logs a traceback before it raises; our error says the same in one line."""
    log = logging.getLogger("torch.export")
    before = log.level
    log.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch 2.11 reads weights into buffers that it may not write to
            yield
    finally:
        log.setLevel(before)
