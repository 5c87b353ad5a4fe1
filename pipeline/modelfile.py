"""From the file that a user has to a module that runs: every common way of saving a torch model, read without trust.

Weights are read with `weights_only=True`; nothing in a file may run code unless `--trust-pickle` says so. What is
accepted: a state_dict (with `--arch`), a dict `{arch, kwargs, state_dict}`, a training checkpoint that holds a
state_dict under a usual key, keys prefixed by DataParallel or torch.compile, and a `.pt2` of `torch.export.save`.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import logging
import os
import pickle
import re
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from pipeline.architectures import ARCHITECTURES, torchvision_keys
from pipeline.artifact import sha256_file
from pipeline.errors import InputError, nearest_spelling

STATE_DICT_KEYS = ("state_dict", "model_state_dict", "model")
WRAPPER_PREFIXES = ("module.", "_orig_mod.")
ARCH_FORMS = (
    f"a torchvision name (resnet18), {', '.join(ARCHITECTURES)}, package.module:factory, or path/to/file.py:factory"
)
SHOWN = 3  # mismatching keys of each kind that a message lists

_SAFE_GLOBALS = [argparse.Namespace]  # plain data that training scripts put beside the weights
_REFUSED = re.compile(
    r"(?:[Uu]nsupported (?:global: )?GLOBAL|unrecognized function|unsupported class) (?:<\w+ ')?([\w.]+)"
)
_CODE_IN_PT2 = re.compile(r"^[^/]+/data/(aotinductor/|constants/(?!tensor_|[^/]*config\.json$))")


@dataclass(frozen=True)
class LoadedModel:
    """What a model file holds: exactly one of `module` (in eval mode) and `exported` is there.

    `name` is the file's stem, `sha256` the hash of its bytes, `arch` what the module was built by.
    """

    module: nn.Module | None
    exported: torch.export.ExportedProgram | None
    name: str
    sha256: str
    arch: str | None


def load_model(path: str | Path, arch: str | None = None, trust_pickle: bool = False) -> LoadedModel:
    """Reads a model file.

    Args:
        path: the file.
        arch: how to build the module for a state_dict; wins over an `arch` in the file. See `ARCH_FORMS`.
        trust_pickle: run the code that a pickled module brings.

    Raises:
        InputError: the file, the arch or their fit is wrong; the message names the first differing keys.
    """
    path = Path(path)
    _check_file(path)
    if _is_pt2(path):
        exported = _load_exported(path, trust_pickle)
        _check_finite(exported.state_dict, path)
        return LoadedModel(None, exported, path.stem, sha256_file(path), None)
    content = _read_weights(path, trust_pickle)
    module, built_by = _to_module(content, arch, path)
    _check_finite(module.state_dict(), path)
    return LoadedModel(module.float().eval(), None, path.stem, sha256_file(path), built_by)


def _check_file(path: Path) -> None:
    """The file is there, has content, and every member of a zip archive has the checksum that it was saved with."""
    where = str(path)
    if path.is_dir():
        raise InputError("the model is a folder, not a file", where=where)
    if not path.is_file():
        near = nearest_spelling(path.name, [p.name for p in path.parent.glob("*")]) if path.parent.is_dir() else ""
        raise InputError("the model file does not exist", where=where, hint=near)
    try:
        with path.open("rb") as file:
            start = file.read(64)
        if not start:
            raise InputError("the model file is empty", where=where)
        if start.startswith(b"version https://git-lfs"):
            raise InputError("the file is a Git LFS pointer, not the model", where=where, hint="Run `git lfs pull`.")
        # torch.load does not look at the checksums: a flipped bit in a weight would pass unseen.
        damaged = _damaged_member(path) if start.startswith(b"PK") else None
    except OSError as error:
        raise InputError(f"the model file cannot be read: {error.strerror}", where=where) from error
    if damaged:
        raise _corrupt(path, damaged)


def _damaged_member(path: Path) -> str | None:
    """Why a zip archive is damaged, or None."""
    try:
        with zipfile.ZipFile(path) as archive:
            member = archive.testzip()
        return f"the checksum of '{member}' does not fit" if member else None
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        return str(error)


def _corrupt(path: Path, reason: str) -> InputError:
    return InputError(
        f"the model file is truncated, corrupt or not a torch file ({reason})",
        where=str(path),
        allowed="a file written by torch.save or torch.export.save",
        hint="Save or copy it again.",
    )


def _first_line(error: BaseException) -> str:
    """Type and first line of an exception, for a message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


# --- torch.export files ---


def _members(path: Path) -> list[str]:
    if not zipfile.is_zipfile(path):
        return []
    with zipfile.ZipFile(path) as archive:
        return archive.namelist()


def _is_pt2(path: Path) -> bool:
    # The last two: the layout of torch.export.save before torch 2.8.
    marks = ("archive_format", "serialized_exported_program.json")
    return path.suffix.lower() == ".pt2" or any(name.split("/")[-1] in marks for name in _members(path))


def _load_exported(path: Path, trust_pickle: bool) -> torch.export.ExportedProgram:
    code = [name for name in _members(path) if _CODE_IN_PT2.match(name)]
    if code and not trust_pickle:
        raise _needs_trust(path, f"the archive member '{code[0]}'")
    try:
        with contextlib.nullcontext() if trust_pickle else _weights_only(), _quiet_export_log():
            return torch.export.load(path)
    except pickle.UnpicklingError as error:
        raise _needs_trust(path, _unsafe_global(error) or "a pickled object") from error
    except Exception as error:  # an archive of another program may raise anything
        raise _corrupt(path, _first_line(error)) from error


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
def _quiet_export_log() -> Iterator[None]:
    """Torch logs a traceback before it raises; our error says the same in one line."""
    log = logging.getLogger("torch.export")
    before = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(before)


# --- torch.save files ---


def _read_weights(path: Path, trust_pickle: bool) -> Any:
    if any(name.split("/")[1:2] == ["constants.pkl"] for name in _members(path)):
        raise InputError(
            "the file is a TorchScript archive",
            where=str(path),
            allowed="a state_dict or a torch.export .pt2 file",
            hint="Save `model.state_dict()` of the module that was scripted, and give --arch.",
        )
    try:
        with torch.serialization.safe_globals(_SAFE_GLOBALS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # on bytes that are no checkpoint the unpickler may raise anything
        unsafe = _unsafe_global(error)
        if unsafe is None:
            raise _corrupt(path, _first_line(error)) from error
        if not trust_pickle:
            raise _needs_trust(path, unsafe) from error
    return _unpickle(path)


def _unpickle(path: Path) -> Any:
    try:
        with _importable(Path.cwd()):
            return torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:
        raise InputError(
            f"the pickle cannot be loaded: {_first_line(error)}",
            where=str(path),
            hint="Its classes must be importable from the current folder; better, save a state_dict.",
        ) from error


def _unsafe_global(error: Exception) -> str | None:
    """The class or function that the weights-only unpickler refused, or None where it failed for another reason."""
    found = _REFUSED.search(str(error))
    return f"'{found.group(1)}'" if found and isinstance(error, pickle.UnpicklingError) else None


def _needs_trust(path: Path, what: str) -> InputError:
    return InputError(
        f"the file holds more than weights: loading {what} can run any code that its author put there",
        where=str(path),
        allowed="a state_dict, or a dict {arch, kwargs, state_dict}",
        hint="Save `model.state_dict()` and give --arch; or, if you trust the author, add --trust-pickle.",
    )


# --- from content to module ---


def _to_module(content: Any, arch: str | None, path: Path) -> tuple[nn.Module, str | None]:
    """The module that the content describes, with its weights, and the arch that built it."""
    if isinstance(content, Mapping) and not _is_state_dict(content):
        key = next((key for key in STATE_DICT_KEYS if key in content), None)
        arch = arch or (content["arch"] if isinstance(content.get("arch"), str) else None)
        kwargs = content.get("kwargs")
        found = content[key] if key else content
    else:
        kwargs, found = None, content
    if isinstance(found, nn.Module):
        return found, None
    if not _is_state_dict(found):
        raise _no_weights(content, path)
    if arch is None:
        raise InputError(
            f"the file holds {len(found)} tensors and does not say which network they belong to",
            where=str(path),
            allowed=f"--arch with {ARCH_FORMS}",
            hint="For example --arch resnet18, or save {'arch': ..., 'kwargs': {...}, 'state_dict': ...}.",
        )
    return _fill(arch, kwargs if isinstance(kwargs, dict) else {}, found, path), arch


def _is_state_dict(content: Any) -> bool:
    return (
        isinstance(content, Mapping)
        and len(content) > 0
        and all(isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items())
    )


def _no_weights(content: Any, path: Path) -> InputError:
    kind = f"a {type(content).__name__}"
    if isinstance(content, Mapping):
        kind = f"a dict with the keys {', '.join(map(str, list(content)[:8]))}" if content else "an empty dict"
    return InputError(
        f"the file holds {kind}, and no weights were found in it",
        where=str(path),
        allowed=f"a state_dict, or a dict that has one under {', '.join(STATE_DICT_KEYS)}",
    )


def _fill(arch: str, kwargs: dict[str, Any], weights: Mapping[str, Tensor], path: Path) -> nn.Module:
    """Builds the module and loads the weights, all of them or none."""
    module = build_arch(arch, kwargs)
    weights = _without_wrappers(weights, module)
    weights = weights if ":" in arch else torchvision_keys(weights)
    differences = _differences(module, weights)
    if differences and ":" not in arch and "num_classes" not in kwargs:
        # A torchvision network fine-tuned on other classes: the last tensor of its state_dict tells how many.
        classes = list(weights.values())[-1].shape[:1]
        if classes and classes[0]:
            with contextlib.suppress(InputError):
                other = build_arch(arch, {**kwargs, "num_classes": classes[0]})
                if not _differences(other, weights):
                    module, differences = other, []
    if differences:
        raise InputError(
            f"the weights do not fit the network '{arch}': " + "; ".join(differences),
            where=str(path),
            hint="Give the --arch that the weights were trained with; arguments go into the file as `kwargs`.",
        )
    # They fit, so they are of the layout that the module has, whatever version their file says or leaves out.
    fitting = OrderedDict(weights)
    fitting._metadata = module.state_dict()._metadata
    module.load_state_dict(fitting, strict=False)
    return module


def _without_wrappers(weights: Mapping[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """Removes prefixes that DataParallel and torch.compile put before every key, unless the module has them too."""
    own = list(module.state_dict())
    keys = list(weights)
    stripped = True
    while stripped:
        stripped = False
        for prefix in WRAPPER_PREFIXES:
            if all(key.startswith(prefix) for key in keys) and not all(key.startswith(prefix) for key in own):
                keys = [key.removeprefix(prefix) for key in keys]
                stripped = True
    return dict(zip(keys, weights.values(), strict=True))


def _differences(module: nn.Module, weights: Mapping[str, Tensor]) -> list[str]:
    """What keeps `weights` from fitting, one sentence for each kind; empty where they fit."""
    own = module.state_dict()
    # Batch-norm counters came with torch 0.4.1 and are not used in inference.
    missing = [key for key in own if key not in weights and not key.endswith(".num_batches_tracked")]
    unexpected = [key for key in weights if key not in own]
    shapes = [
        f"{key} (file {list(weights[key].shape)}, network {list(own[key].shape)})"
        for key in own
        if key in weights and weights[key].shape != own[key].shape
    ]
    kinds = (("missing in the file", missing), ("unknown to the network", unexpected), ("of another shape", shapes))
    return [f"{len(keys)} {kind}: {_some(keys)}" for kind, keys in kinds if keys]


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:SHOWN]) + (", ..." if len(keys) > SHOWN else "")


def _check_finite(weights: Mapping[str, Tensor], path: Path) -> None:
    for name, tensor in weights.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            count = int((~tensor.isfinite()).sum())
            raise InputError(
                f"the tensor '{name}' has {count} of {tensor.numel()} values that are NaN or infinite",
                where=str(path),
                hint="The training diverged or the file is damaged; take an earlier checkpoint.",
            )


# --- arch ---


def build_arch(arch: str, kwargs: Mapping[str, Any]) -> nn.Module:
    """A new module, made by calling what `arch` names with `kwargs`; raises InputError with the cause."""
    source, _, factory_name = arch.rpartition(":")
    if not source:
        factory, folder = ARCHITECTURES.get(arch) or _torchvision_factory(arch), Path.cwd()
    elif source.endswith(".py"):
        factory, folder = _factory_in_file(Path(source), factory_name), Path(source).resolve().parent
    else:
        factory, folder = _factory_in_package(source, factory_name), Path.cwd()
    with _importable(folder), _cause_shown(arch, f"'{factory_name or arch}' raised an error"):
        module = factory(**kwargs)
    if not isinstance(module, nn.Module):
        raise InputError(
            f"'{factory_name}' returns a {type(module).__name__}, not a torch.nn.Module", where=_arch(arch)
        )
    return module


def _arch(arch: str) -> str:
    return f"--arch {arch}"


def _torchvision_factory(name: str) -> Callable[..., Any]:
    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise InputError(
            f"torchvision has no classification model '{name}'",
            where=_arch(name),
            allowed=ARCH_FORMS,
            hint=nearest_spelling(name.lower(), [*known, *ARCHITECTURES]),
        )
    builder = torchvision.models.get_model_builder(name)
    # Networks with auxiliary heads are trained with them; these two ask to be told how weights are initialised.
    extra = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    return lambda **kwargs: builder(weights=None, **{**extra, **kwargs})


def _factory_in_file(path: Path, name: str) -> Callable[..., Any]:
    where = _arch(f"{path}:{name}")
    if not path.is_file():
        raise InputError(f"there is no file '{path}'", where=where, hint=f"Paths start at {Path.cwd()}.")
    # Registered, because dataclasses and pickled classes look their module up; prefixed, to hide nothing.
    spec = importlib.util.spec_from_file_location(f"_arch_{path.stem}", path.resolve())
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    with _importable(path.resolve().parent), _cause_shown(f"{path}:{name}", f"'{path}' does not import"):
        spec.loader.exec_module(module)
    return _attribute(module, name, where)


def _factory_in_package(source: str, name: str) -> Callable[..., Any]:
    arch = f"{source}:{name}"
    with _importable(Path.cwd()), _cause_shown(arch, f"'{source}' does not import"):
        module = importlib.import_module(source)
    return _attribute(module, name, _arch(arch))


def _attribute(module: Any, name: str, where: str) -> Callable[..., Any]:
    factory = getattr(module, name, None)
    if not callable(factory):
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        what = f"'{name}' is not callable" if hasattr(module, name) else f"there is no '{name}' in it"
        raise InputError(what, where=where, hint=nearest_spelling(name, known))
    return factory


@contextlib.contextmanager
def _cause_shown(arch: str, what: str) -> Iterator[None]:
    """Turns whatever the user's code raises, `sys.exit` included, into an InputError that shows the line."""
    try:
        yield
    except (Exception, SystemExit) as error:
        frame = error.__traceback__
        while frame.tb_next is not None:
            frame = frame.tb_next
        place = f"{frame.tb_frame.f_code.co_filename}:{frame.tb_lineno}"
        raise InputError(f"{what}: {_first_line(error)}", where=f"{_arch(arch)} ({place})") from error


@contextlib.contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Lets the user's code import its neighbours; behind everything else, so that it hides no installed package."""
    before = list(sys.path)
    sys.path.append(str(folder))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path[:] = before
