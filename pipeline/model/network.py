"""From the name of a network to the network: torchvision's and our own by name, the user's by file or package.

A name and arguments may also come from a model file, which nobody has to trust: then only names without a colon (code
comes after one) count, arguments are plain values that the factory's signature knows, and what is built may take no
more memory than the file's weights explain.
"""

from __future__ import annotations

import contextlib
import inspect
import itertools
import sys
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torchvision
from torch import Tensor, nn
from torch.nn.modules.module import register_module_module_registration_hook
from torch.utils._python_dispatch import TorchDispatchMode

from isobit.pipeline.errors import InputError, nearest_spelling
from isobit.pipeline.model.architectures import ARCHITECTURES
from isobit.pipeline.model.user_code import (
    arch_argument,
    cause_shown,
    factory_in_file,
    factory_in_package,
    importable,
    no_downloads,
)

ARCH_FORMS = (
    f"a torchvision name (resnet18), {', '.join(ARCHITECTURES)}, package.module:factory (timm:create_model with "
    "`arch_args`), or path/to/file.py:factory"
)
MAX_VALUES = 1000  # plain values in all arguments together
MAX_DEPTH = 4
ROOM = 1 << 30  # bytes that a network may take beside a few times its weights
MODULES_A_TENSOR = 20
_PLAIN = (bool, int, float, str, type(None))
# Torchvision's own arguments of a factory: where weights are from, and how their download is shown.
_DOWNLOAD = ("weights", "weights_backbone", "progress")
# Torchvision's networks of one tensor, by the module that has them; its detectors take lists of pictures.
_KINDS = (torchvision.models, torchvision.models.segmentation, torchvision.models.video)


def build_arch(arch: str, kwargs: Mapping[str, Any]) -> nn.Module:
    """A new module, made by calling what `arch` names with `kwargs`; raises InputError with the cause."""
    factory, folder, name = _factory(arch)
    with importable(folder), cause_shown(arch_argument(arch), f"'{name}' raised an error"), no_downloads(arch):
        module = factory(**kwargs)
    if not isinstance(module, nn.Module):
        raise InputError(
            f"'{name}' returns a {type(module).__name__}, not a torch.nn.Module", where=arch_argument(arch),
            field="arch",
        )
    return module


def names_code(arch: str) -> bool:
    """Whether `arch` leads to a Python file or package instead of a network by name."""
    return ":" in arch


def arch_file(arch: str | None) -> Path | None:
    """The Python file of `file.py:factory` or `file.py`; None for another arch."""
    source = (arch or "").rpartition(":")[0] or (arch or "")
    return Path(source) if source.endswith(".py") else None


def _factory(arch: str) -> tuple[Callable[..., Any], Path, str]:
    """What builds `arch`, the folder of its neighbours, and its name for errors."""
    source, _, name = arch.rpartition(":")
    if (file := arch_file(arch)) is not None:
        name = name if source else ""
        return factory_in_file(file, name), file.resolve().parent, name
    if source:
        return factory_in_package(source, name), Path.cwd(), name
    return ARCHITECTURES.get(arch) or _torchvision_factory(arch), Path.cwd(), arch


def _torchvision_names() -> list[str]:
    return [name for kind in _KINDS for name in torchvision.models.list_models(module=kind)]


def _torchvision_factory(name: str) -> Callable[..., Any]:
    known = _torchvision_names()
    if name not in known:
        detector = name in torchvision.models.list_models(module=torchvision.models.detection)
        raise InputError(
            f"torchvision has no network '{name}' that takes one tensor", where=arch_argument(name), field="arch",
            allowed=ARCH_FORMS,
            hint="Its backbone and heads without the decoding of boxes, as file.py:factory, are such a network."
            if detector else nearest_spelling(name.lower(), [*known, *ARCHITECTURES]),
        )
    builder = torchvision.models.get_model_builder(name)
    parameters = inspect.signature(builder).parameters
    # Weights are loaded, so none is fetched, and how they are initialised does not matter; some ask to be told.
    told: dict[str, Any] = {"weights_backbone": None} if "weights_backbone" in parameters else {}
    if "init_weights" in _parameters(builder):
        told["init_weights"] = False
    return lambda **kwargs: builder(**{**kwargs, **told, "weights": None})


# --- arguments that published weights need ---


def published_arguments(arch: str) -> list[dict[str, Any]]:
    """Arguments with which torchvision builds `arch` for weights of its own, where they are not its defaults.

    Its factories change arguments when weights are asked for (`transform_input`, `image_size`) and drop heads
    afterwards, so switches stand in both positions, those of the publication first. A segmentation network has a
    second head in all that are published. Empty for other networks.
    """
    if arch not in _torchvision_names():
        return []
    builder = torchvision.models.get_model_builder(arch)
    if "weights_backbone" in inspect.signature(builder).parameters:
        return [{"aux_loss": True}] if "aux_loss" in inspect.signature(builder).parameters else []
    plain = _constructor_arguments(builder, None)
    found: list[dict[str, Any]] = []
    for weights in torchvision.models.get_model_weights(arch):
        arguments = _constructor_arguments(builder, weights)
        changed = {
            key: value for key, value in arguments.items()
            if key not in ("num_classes", "init_weights") and isinstance(value, _PLAIN)
            and (key not in plain or plain[key] != value)
        }
        switches = [key for key, value in changed.items() if isinstance(value, bool)]
        turned = [{**changed, key: not changed[key]} for key in switches]
        found += [each for each in (changed, *turned) if each and each not in found]
    return found


class _Recorded(Exception):
    """Ends a factory where it would make the network."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        super().__init__()
        self.arguments = arguments


def _constructor_arguments(builder: Callable[..., Any], weights: Any) -> dict[str, Any]:
    """Keyword arguments that a torchvision factory gives to the class of its network; nothing is built or loaded."""
    function = inspect.unwrap(builder)
    network = typing.get_type_hints(function).get("return")
    namespace = vars(sys.modules[function.__module__])
    if not isinstance(network, type) or namespace.get(network.__name__) is not network:
        return {}

    def record(*positional: Any, **named: Any) -> None:
        raise _Recorded(named)

    namespace[network.__name__] = record
    try:
        with no_downloads(builder.__name__):
            builder(weights=weights)
    except _Recorded as recorded:
        return recorded.arguments
    except Exception:  # a factory of another make: its defaults are taken as they are
        return {}
    finally:
        namespace[network.__name__] = network
    return {}


# --- arguments ---


def check_arguments(arch: str, kwargs: Any, file: str | None = None) -> dict[str, Any]:
    """Arguments for `arch`, which must be plain values that its signature knows.

    Args:
        file: that brings them as its `kwargs`; None for the user's own `arch_args`.

    Raises:
        InputError: naming the argument.
    """
    if kwargs is None:
        return {}
    source, where, field = ("the file's `kwargs`", file, "") if file is not None else ("`arch_args`", "", "arch_args")
    if not isinstance(kwargs, dict) or not all(isinstance(key, str) for key in kwargs):
        raise InputError(
            f"{source} are a {type(kwargs).__name__}", where=where, field=field, allowed="a dict of arguments by name"
        )
    if _count(list(kwargs.values())) > MAX_VALUES:
        raise InputError(
            f"{source} hold something else than plain values", where=where, field=field,
            allowed=f"numbers, texts, True, False, None, and lists and dicts of them, {MAX_VALUES:,} in all",
        )
    known = _known_arguments(arch)
    for name, value in kwargs.items():
        if known is None:
            continue
        if name not in known:
            raise InputError(
                f"'{arch}' has no argument '{name}', which {source} give", where=where, field=field,
                allowed=", ".join(known), hint=nearest_spelling(name, known),
            )
        if not _fits(value, known[name]):
            raise InputError(
                f"{source} give {name}={str(value)[:80]!s} ({type(value).__name__})", where=where, field=field,
                allowed=f"{name}: {_hint_text(known[name])}",
            )
    return dict(kwargs)


def _count(values: Sequence[Any], depth: int = 0) -> int:
    """How many plain values there are; too many where one is of another kind."""
    total = len(values)
    for value in values:
        if type(value) in (list, tuple, dict) and depth < MAX_DEPTH and total <= MAX_VALUES:
            keys = list(value) if isinstance(value, dict) else []
            total += _count([*keys, *(value.values() if isinstance(value, dict) else value)], depth + 1)
        elif type(value) not in _PLAIN:
            return MAX_VALUES + 1
    return total


def _known_arguments(arch: str) -> dict[str, Any] | None:
    """Names and annotations of what the factory takes; None where it takes any name."""
    if names_code(arch):
        factory = _factory(arch)[0]
        try:
            signature = inspect.signature(factory)
        except (TypeError, ValueError):
            return None
        if any(each.kind is each.VAR_KEYWORD for each in signature.parameters.values()):
            return None
        return _parameters(factory)
    if arch in ARCHITECTURES:
        return _parameters(ARCHITECTURES[arch])
    _torchvision_factory(arch)
    return _parameters(torchvision.models.get_model_builder(arch))


def _parameters(factory: Callable[..., Any]) -> dict[str, Any]:
    """Parameters with their annotations: the factory's own, and of what it hands its `**kwargs` to.

    That is the class that it returns, and the helpers beside it in its file, as torchvision's factories are written.
    """
    function = inspect.unwrap(factory)
    hints = _hints(function)
    called = [function]
    signature = inspect.signature(function)
    if any(each.kind is each.VAR_KEYWORD for each in signature.parameters.values()):
        namespace = getattr(function, "__globals__", {})
        called += [
            helper for name in function.__code__.co_names
            if name.startswith("_") and isinstance(helper := namespace.get(name), types.FunctionType)
            and helper.__module__ == function.__module__
        ]
        if isinstance(hints.get("return"), type):
            called.append(hints["return"].__init__)
    elif isinstance(factory, type):
        called, hints = [factory.__init__], {}
    found: dict[str, Any] = {}
    for each in called:
        hints = _hints(each)
        for name, parameter in inspect.signature(each).parameters.items():
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                found.setdefault(name, hints.get(name, Any))
    return {name: hint for name, hint in found.items() if name not in ("self", *_DOWNLOAD)}


def _hints(function: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function)
    except Exception:  # annotations that cannot be resolved say nothing
        return {}


def _fits(value: Any, hint: Any) -> bool:
    """Whether a plain value is of the kind that an annotation asks for; one that says nothing takes all."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, each) for each in inner)
    if origin is typing.Literal:
        return value in inner
    if hint is None or hint is type(None):
        return value is None
    kind = origin or hint
    if kind is Any:
        return True
    if kind is float:
        return type(value) in (int, float) and abs(value) < float("inf")  # not NaN either
    if kind in (bool, int, str):
        return type(value) is kind
    if isinstance(kind, type) and issubclass(kind, Sequence):
        return isinstance(value, list | tuple) and all(_fits(each, inner[0]) for each in value if inner)
    if isinstance(kind, type) and issubclass(kind, Mapping):
        return isinstance(value, dict)
    # Callables and classes are no plain values; a TypeVar says nothing.
    return not (kind is Callable or isinstance(kind, type))


def _hint_text(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) and not typing.get_origin(hint) else str(hint).replace("typing.", "")


# --- no more than the weights explain ---


@contextlib.contextmanager
def bounded_build(weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Stops the building of a network that takes far more memory or modules than `weights` do; raises InputError."""
    held = sum(tensor.numel() * tensor.element_size() for tensor in weights.values())
    counter = itertools.count(1)
    limit = MODULES_A_TENSOR * (len(weights) + 50)

    def count(module: nn.Module, name: str, child: nn.Module | None) -> None:
        if next(counter) > limit:
            raise _too_large(f"more than {limit:,} modules for {len(weights):,} tensors of weights")

    handle = register_module_module_registration_hook(count)
    try:
        with _Allocations(8 * held + ROOM):
            yield
    finally:
        handle.remove()


class _Allocations(TorchDispatchMode):
    """Counts the bytes of every tensor that is made from sizes."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit, self.taken = limit, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        # Memory that was asked for and not yet written is not yet taken, so that afterwards is early enough.
        if isinstance(result, Tensor) and not any(isinstance(each, Tensor) for each in args):
            self.taken += result.numel() * result.element_size()
        elif isinstance(result, Tensor) and result.numel() * result.element_size() > self.limit:
            self.taken = self.limit + 1
        if self.taken > self.limit:
            raise _too_large(f"more than {self.limit >> 20:,} MiB")
        return result


def _too_large(what: str) -> InputError:
    return InputError(
        f"the network that the file describes takes {what}", where="`kwargs` or the number of classes in the file",
        allowed="sizes that the weights in the file have", field="arch",
    )
