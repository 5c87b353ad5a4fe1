"""From the file that a user has to a module that runs: every common way of saving a torch model, read without trust.

Weights are read with `weights_only=True`; nothing in a file may run code unless `trust_pickle` says so. What is
accepted: a state_dict or `.safetensors` (with `arch`), a dict `{arch, kwargs, state_dict}`, a training checkpoint that
holds a state_dict under a usual key, keys prefixed by DataParallel, torch.compile or Lightning, a `.pt2` of
`torch.export.save`, and each of them compressed by gzip.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import pickle
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from isobit.pipeline.artifact.manifest import sha256_file
from isobit.pipeline.errors import InputError, first_line, nearest_spelling
from isobit.pipeline.model.architectures import COUNTER, torchvision_keys, without_wrappers
from isobit.pipeline.model.archive import byte_limit, check_archive, corrupt, read_members
from isobit.pipeline.model.checkpoint import Content, read_content
from isobit.pipeline.model.exported_file import is_exported, load_exported, needs_trust
from isobit.pipeline.model.formats.compressed import plain_name, uncompressed
from isobit.pipeline.model.formats.fixed_batch import with_free_batch
from isobit.pipeline.model.formats.safetensors_file import is_safetensors, read_safetensors
from isobit.pipeline.model.formats.torchscript import is_torchscript, read_torchscript
from isobit.pipeline.model.network import (
    ARCH_FORMS,
    arch_file,
    bounded_build,
    build_arch,
    check_arguments,
    names_code,
    published_arguments,
)
from isobit.pipeline.model.onnx.door import is_onnx, load_onnx
from isobit.pipeline.model.onnx.proof import OnnxOrigin
from isobit.pipeline.model.pickle_check import check_pickles
from isobit.pipeline.model.user_code import arch_argument, cause_shown, importable, module_of_file, standing_for_main

SHOWN = 3  # mismatching keys of each kind that a message lists

# Plain data that training scripts put beside the weights.
_SAFE_GLOBALS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [argparse.Namespace]
_REFUSED = re.compile(
    r"(?:[Uu]nsupported (?:global: )?GLOBAL|unrecognized function|unsupported class) (?:<\w+ ')?([\w.]+)"
)


@dataclass(frozen=True)
class LoadedModel:
    """What a model file holds: exactly one of `module` (in eval mode) and `exported` is there.

    `name` is the file's stem, `sha256` the hash of its bytes, `arch` what the module was built by; `notes` say what
    was chosen where the file leaves a choice; `origin` is the .onnx file that the module was read from.
    """

    module: nn.Module | None
    exported: torch.export.ExportedProgram | None
    name: str
    sha256: str
    arch: str | None
    notes: tuple[str, ...] = ()
    origin: OnnxOrigin | None = None

    @property
    def network(self) -> nn.Module | torch.export.ExportedProgram:
        """The one of the two that is there; raises ValueError where neither is."""
        network = self.exported if self.exported is not None else self.module
        if network is None:
            raise ValueError(f"{self.name} holds neither a module nor an exported program")
        return network


def load_model(
    path: str | Path, arch: str | None = None, trust_pickle: bool = False, weights: str | None = None,
    arch_args: Mapping[str, Any] | None = None, *, input_shapes: Sequence[str] = (), simplify: bool = True,
    outputs: Sequence[str] = (),
) -> LoadedModel:
    """Reads a model file.

    Args:
        path: the file.
        arch: how to build the module for a state_dict; wins over an `arch` in the file. See `ARCH_FORMS`.
        trust_pickle: run the code that a pickled module or a TorchScript archive brings.
        weights: which of several sets of weights to take (`model_ema`); None for the usual one.
        arch_args: arguments for what `arch` names, plain values; they win over `kwargs` in the file.
        input_shapes: of an .onnx, sizes of inputs, the batch first: `name=1x3x240x320`, or `1x3x240x320` of a single
            input.
        simplify: run onnxsim on an .onnx first.
        outputs: of an .onnx, the outputs to keep, or values of the file at which the network is to end; none for all.

    Raises:
        InputError: the file, the arch or their fit is wrong; the message names the first differing keys.
    """
    path = Path(path)
    _check_file(path)
    if is_onnx(path):
        unused = {"arch": arch, "weights": weights, "arch_args": arch_args}
        return _load_onnx(path, unused, input_shapes, simplify, outputs)
    if input_shapes:
        raise InputError("the shape of an input is given for a file that is no .onnx", field="input_shape",
                         where=str(path), hint="Give `input_size`.")
    name, sha256 = plain_name(path), sha256_file(path)
    with uncompressed(path) as file:
        if file != path:
            _check_file(file)
        if is_exported(file):
            exported = load_exported(file, trust_pickle)
            _check_values(exported.state_dict, file)
            return LoadedModel(None, with_free_batch(exported), name, sha256, None)
        content = read_content(_read_weights(file, arch, trust_pickle), file, weights)
        module, built_by, notes = _to_module(content, arch, dict(arch_args or {}), file)
        _check_values(module.state_dict(), file)
    return LoadedModel(module.float().eval(), None, name, sha256, built_by, (*content.notes, *notes))


def as_loaded(network: LoadedModel | nn.Module) -> LoadedModel:
    """What stands for a module that was read from no file; a loaded one as it is.

    Raises:
        InputError: parameters of the module are not finite.
    """
    if isinstance(network, LoadedModel):
        return network
    name = type(network).__name__
    _check_values(dict(network.named_parameters()), f"the module {name}")
    return LoadedModel(network, None, name, "", None)


def _load_onnx(
    path: Path, unused: Mapping[str, Any], input_shapes: Sequence[str], simplify: bool, outputs: Sequence[str]
) -> LoadedModel:
    for field, given in unused.items():
        if given:
            raise InputError(
                f"`{field}` is given, and an .onnx file holds its own network and weights", where=str(path),
                field=field, hint=f"Leave `{field}` out.",
            )
    network, origin, notes = load_onnx(path, input_shapes, simplify, outputs)
    return LoadedModel(network, None, path.stem, sha256_file(path), None, notes, origin)


def _check_file(path: Path) -> None:
    """The file is there, has content, and is whole where it is an archive."""
    where = str(path)
    if path.is_dir():
        raise InputError("the model is a folder, not a file", where=where)
    if not path.is_file():
        near = nearest_spelling(path.name, [p.name for p in path.parent.glob("*")]) if path.parent.is_dir() else ""
        raise InputError("the model file does not exist", where=where, hint=near)
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as error:
        raise InputError(f"the model file cannot be read: {error.strerror}", where=where) from error
    if not start:
        raise InputError("the model file is empty", where=where)
    if start.startswith(b"version https://git-lfs"):
        raise InputError("the file is a Git LFS pointer, not the model", where=where, hint="Run `git lfs pull`.")
    if start.startswith(b"PK") or read_members(path):
        check_archive(path)


# --- torch.save files ---


def _read_weights(path: Path, arch: str | None, trust_pickle: bool) -> Any:
    if is_torchscript(path):
        return read_torchscript(path, trust_pickle)
    if is_safetensors(path):
        return read_safetensors(path)
    if not trust_pickle:
        check_pickles(path)
    try:
        with torch.serialization.safe_globals(_SAFE_GLOBALS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # on bytes that are no checkpoint the unpickler may raise anything
        unsafe = _unsafe_global(error)
        if unsafe is None:
            raise corrupt(path, first_line(error)) from error
        if not trust_pickle:
            raise needs_trust(path, unsafe) from error
    return _unpickle(path, arch)


def _unpickle(path: Path, arch: str | None) -> Any:
    """The content of a file that is trusted; what its script kept in `__main__` is looked for in `arch`."""
    folder = file.resolve().parent if (file := arch_file(arch)) is not None else Path.cwd()
    script = _script(arch)
    try:
        with importable(folder), standing_for_main(script) if script is not None else contextlib.nullcontext():
            return torch.load(path, map_location="cpu", weights_only=False)
    except InputError:
        raise
    except Exception as error:
        main = "__main__" in str(error)
        raise InputError(
            f"the pickle cannot be loaded: {first_line(error)}",
            where=str(path),
            hint="Its classes stood in the script that was run: give it as `arch=path/to/script.py:factory`."
            if main and script is None else
            "Its classes must be importable from the folder of the file in `arch`, or from the current folder; "
            "better, save a state_dict.",
        ) from error


def _script(arch: str | None) -> ModuleType | None:
    """The user's module that `arch` names, whatever it builds the network by."""
    if arch is None or not (names_code(arch) or arch_file(arch)):
        return None
    if (file := arch_file(arch)) is not None:
        return module_of_file(file)
    package = arch.rpartition(":")[0]
    with importable(Path.cwd()), cause_shown(arch_argument(arch), f"'{package}' does not import"):
        return importlib.import_module(package)


def _unsafe_global(error: Exception) -> str | None:
    """The class or function that the weights-only unpickler refused, or None where it failed for another reason."""
    found = _REFUSED.search(str(error))
    return f"'{found.group(1)}'" if found and isinstance(error, pickle.UnpicklingError) else None


# --- from content to module ---


def _to_module(
    content: Content, arch: str | None, arch_args: dict[str, Any], path: Path
) -> tuple[nn.Module, str | None, Sequence[str]]:
    """The module that the content describes, with its weights; the arch that built it, and how if that was chosen."""
    found = content.weights
    if isinstance(found, nn.Module):
        return found, None, ()
    _check_plain(found, path)
    if arch is None and content.arch is not None and (names_code(content.arch) or arch_file(content.arch)):
        raise InputError(
            f"the file names code to run as its network: '{content.arch[:200]}'", where=str(path),
            allowed="in a file: the name of a torchvision network or of one of ours",
            hint="If you trust it, say so yourself: give it as `arch`.", field="arch",
        )
    arch = arch or content.arch
    if arch is None:
        raise InputError(
            f"the file holds {len(found)} tensors and does not say which network they belong to",
            where=str(path),
            field="arch", allowed=f"`arch` with {ARCH_FORMS}",
            hint="For example `arch=resnet18`, or save {'arch': ..., 'kwargs': {...}, 'state_dict': ...}.",
        )
    given = check_arguments(arch, arch_args)
    return _fill(arch, {**check_arguments(arch, content.kwargs, str(path)), **given}, given, found, path)


def _fill(
    arch: str, kwargs: dict[str, Any], given: dict[str, Any], weights: Mapping[str, Tensor], path: Path
) -> tuple[nn.Module, str, Sequence[str]]:
    """Builds the module and loads the weights, all of them or none; `given` are those of `kwargs` that a user said."""
    differences: list[str] = []
    for extra in _ways_to_build(arch, kwargs, weights):
        # Sizes from the file: no more memory than its weights explain.
        with bounded_build(weights) if extra or kwargs != given else contextlib.nullcontext():
            try:
                module = build_arch(arch, {**extra, **kwargs})
            except InputError:
                if extra:  # not a way to build this network
                    continue
                raise
        fitting, notes = _under_names_of(module, arch, weights)
        found = _differences(module, fitting)
        if not found:
            _load(module, fitting)
            chosen = {key: value for key, value in extra.items() if key not in (*kwargs, "num_classes")}
            return module, arch, (*notes, *_build_notes(chosen))
        differences = found if not extra else differences
    raise InputError(
        f"the weights do not fit the network '{arch}': " + "; ".join(differences),
        where=str(path), field="arch", hint=_BUFFERS if differences and all(BUFFERS in one for one in differences) else
        "Give the `arch` that the weights were trained with, and its arguments as `arch_args`.",
    )


BUFFERS = "buffer(s) of the network"
_BUFFERS = ("The weights are all there. Register the buffers with persistent=False where the network computes them "
            "itself, or save the file again with the network as it is now.")


def _ways_to_build(arch: str, kwargs: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Iterator[dict[str, Any]]:
    """Arguments to try beside the file's own, the most likely first."""
    published = [] if names_code(arch) else published_arguments(arch)
    yield from published
    yield {}
    if names_code(arch) or "num_classes" in kwargs:
        return
    # A torchvision network fine-tuned on other classes: the last tensor of its state_dict tells how many.
    classes = list(weights.values())[-1].shape[:1]
    if classes and classes[0]:
        yield from ({**each, "num_classes": classes[0]} for each in (*published, {}))


def _build_notes(chosen: Mapping[str, Any]) -> Sequence[str]:
    if not chosen:
        return ()
    arguments = ", ".join(f"{key}={value}" for key, value in chosen.items())
    return (f"built with {arguments}, as torchvision's published weights need; `kwargs` in the file say otherwise",)


def _load(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    # They fit, so they are of the layout that the module has, whatever version their file says or leaves out.
    fitting = module.state_dict()
    fitting.clear()
    fitting.update(weights)
    module.load_state_dict(fitting, strict=False)


def _under_names_of(
    module: nn.Module, arch: str, weights: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], Sequence[str]]:
    """The weights by the names that `module` has for them, where theirs are usual other ones; notes on the choice."""
    fitting, notes = without_wrappers(weights, list(module.state_dict()))
    return (fitting if names_code(arch) else torchvision_keys(fitting)), notes


def _differences(module: nn.Module, weights: Mapping[str, Tensor]) -> list[str]:
    """What keeps `weights` from fitting, one sentence for each kind; empty where they fit."""
    own = module.state_dict()
    missing = [key for key in own if key not in weights and not key.endswith(COUNTER)]
    unexpected = [key for key in weights if key not in own]
    shapes = [
        f"{key} (file {list(weights[key].shape)}, network {list(own[key].shape)})"
        for key in own
        if key in weights and weights[key].shape != own[key].shape
    ]
    # torch would drop the imaginary part, or take a weight that was cast to integers, without a word.
    types = [
        f"{key} (file {weights[key].dtype}, network {own[key].dtype})"
        for key in own
        if key in weights and own[key].is_floating_point() and not weights[key].is_floating_point()
    ]
    buffers = {name for name, _ in module.named_buffers()}
    only_buffers = buffers.issuperset(missing)
    kinds = (
        (f"{BUFFERS} missing in the file" if only_buffers else "missing in the file", missing),
        ("unknown to the network", unexpected), ("of another shape", shapes),
        ("of another kind of number", types),
    )
    return [f"{len(keys)} {kind}: {_some(keys)}" for kind, keys in kinds if keys]


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:SHOWN]) + (", ..." if len(keys) > SHOWN else "")


def _check_plain(weights: Mapping[str, Tensor], path: Path) -> None:
    """The tensors of a file are ordinary ones, and together no larger than a file of its size can mean."""
    claimed = 0
    for name, tensor in weights.items():
        ordinary = tensor.layout is torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
        if not ordinary or tensor.is_nested:
            kind = "quantized" if tensor.is_quantized else f"{tensor.layout} on {tensor.device}"
            raise InputError(
                f"the tensor '{name}' is {kind}", where=str(path), allowed="dense tensors of numbers, not quantized"
            )
        claimed += tensor.numel() * tensor.element_size()
    size = path.stat().st_size
    if claimed > byte_limit(size):
        raise corrupt(path, f"its tensors speak of {claimed:,} bytes, the file holds {size:,}")


def _check_values(weights: Mapping[str, Any], place: Path | str) -> None:
    for name, tensor in weights.items():
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            continue
        finite = tensor.isfinite() if tensor.element_size() > 1 else tensor.float().isfinite()
        if not finite.all():
            count = int((~finite).sum())
            raise InputError(
                f"the tensor '{name}' has {count} of {tensor.numel()} values that are NaN or infinite",
                where=str(place),
                hint="The training diverged or the file is damaged; take an earlier checkpoint.",
            )
