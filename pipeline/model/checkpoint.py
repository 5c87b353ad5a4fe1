"""What a file of torch.save holds: which of its entries are weights, and which of them are meant.

Training scripts keep more than one set: the weights and their running average (EMA), beside optimizer and epoch. One is
taken, by the usual names; a note says which, and `weights` takes another.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from isobit.pipeline.errors import InputError, nearest_spelling

STATE_DICT_KEYS = ("state_dict", "model_state_dict", "model")
DEPTH = 3  # {'ema': {'model': {'module': {...}}}}
SHOWN = 12  # keys that a message lists
WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)


@dataclass(frozen=True)
class Content:
    """What of a file is the network.

    Args:
        weights: a state_dict, or the module itself.
        arch: what the file says builds the module; None where it does not.
        kwargs: what the file says to build it with, not checked.
        notes: what a user should know about the choice.
    """

    weights: Mapping[str, Tensor] | nn.Module
    arch: str | None
    kwargs: Any
    notes: tuple[str, ...] = ()


def read_content(content: Any, path: Path, key: str | None = None) -> Content:
    """Finds the weights in what torch.load returned.

    Args:
        path: the file, which errors name.
        key: which set to take, `model_ema` or `model_ema.module`, or what the names of the wanted tensors begin with;
            None for the usual one.

    Raises:
        InputError: there are none, or not the one asked for, or several of which none has a usual name.
    """
    if _is_weights(content):
        return Content(_unwrapped(content) if key is None else _below(content, key, path), None, {})
    sets = dict(_sets(content)) if isinstance(content, Mapping) else {}
    if not sets and isinstance(content, Mapping) and (tensors := _tensors(content)):
        others = _listed([name for name in content if name not in tensors])
        return Content(tensors if key is None else _below(tensors, key, path), None, {}, (
            f"beside the weights the file holds {others}: left",
        ))
    if not sets:
        raise _no_weights(content, path)
    if key is not None and not any(_names(name, key) for name in sets):
        for name, weights in sets.items():  # {'state_dict': {'student.conv.weight': ...}}
            inner = key.removeprefix(f"{name}.")
            if isinstance(weights, Mapping) and any(each.startswith(f"{inner}.") for each in weights):
                return Content(_below(weights, inner, path), None, {})
    chosen = _usual(sets, path) if key is None else _asked_for(sets, key, path)
    others = [name for name in sets if name != chosen]
    notes = ()
    if key is None and others:
        names = ", ".join(f"'{name}'" for name in sets)
        notes = (f"the file holds weights under {names}: '{chosen}' was taken; "
                 f"`weights={_preferred(others)}` takes the other",)  # fmt: skip
    arch = content.get("arch")
    return Content(_unwrapped(sets[chosen]), arch if isinstance(arch, str) else None, content.get("kwargs"), notes)


def is_state_dict(content: Any) -> bool:
    """Whether `content` is tensors by name, and at least one."""
    return (
        isinstance(content, Mapping)
        and len(content) > 0
        and all(isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items())
    )


def _tensors(content: Mapping[Any, Any]) -> dict[str, Tensor]:
    """The tensors of a dict that holds weights by name and something else beside them."""
    return {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}


def _below(weights: Any, key: str, path: Path) -> dict[str, Tensor]:
    """Those of a state_dict whose names begin with `key` and a dot, without it: one network of several."""
    prefix = f"{key}."
    names = list(weights) if isinstance(weights, Mapping) else []
    found = {name.removeprefix(prefix): weights[name] for name in names if name.startswith(prefix)}
    if not found:
        tops = list(dict.fromkeys(name.partition(".")[0] for name in names))
        raise InputError(
            f"the file holds one set of weights, none called '{key}'", where=f"{path}, `weights`", field="weights",
            allowed=f"what names of its tensors begin with: {_listed(tops)}" if tops else "",
            hint=nearest_spelling(key, tops) or "Leave `weights` away.",
        )
    return found


def _listed(keys: Sequence[Any]) -> str:
    """Keys for a message."""
    names = [key[:60] if isinstance(key, str) else type(key).__name__ for key in keys[:SHOWN]]
    return ", ".join(names) + (", ..." if len(keys) > SHOWN else "")


def _is_weights(content: Any) -> bool:
    return isinstance(content, nn.Module) or is_state_dict(content)


def _unwrapped(weights: Any) -> Any:
    while isinstance(weights, WRAPPERS):
        weights = weights.module
    return weights


def _sets(content: Mapping[Any, Any], above: str = "", depth: int = DEPTH) -> Iterator[tuple[str, Any]]:
    """Every set of weights in nested dicts, by the keys that lead to it, joined by dots."""
    for key, value in content.items():
        if not isinstance(key, str):
            continue
        if _is_weights(value):
            yield above + key, value
        elif isinstance(value, Mapping) and depth > 1:
            yield from _sets(value, f"{above}{key}.", depth - 1)


def _usual(sets: Mapping[str, Any], path: Path) -> str:
    for key in STATE_DICT_KEYS:
        found = next((name for name in sets if name == key or name.startswith(f"{key}.")), None)
        if found is not None:
            return found
    raw = [name for name in sets if not _is_average(name)]
    for names in (raw, list(sets)):
        if len(names) == 1:
            return names[0]
    raise InputError(
        f"the file holds {len(sets)} sets of weights, and none has a usual name", where=str(path),
        field="weights",
        allowed=f"`weights` with one of {', '.join(list(sets)[:8])}",
        hint=f"For example `weights={next(iter(sets))}`",
    )


def _is_average(name: str) -> bool:
    """Whether a name says that the weights are a running average of others."""
    parts = name.lower().replace(".", "_").split("_")
    return any(part in ("ema", "swa", "avg", "averaged", "shadow", "teacher") for part in parts)


def _preferred(names: list[str]) -> str:
    """The one of several names that a user most likely wants instead: the average."""
    return next(filter(_is_average, names), names[0])


def _names(name: str, key: str) -> bool:
    """Whether `key` is the path of a set or leads to it."""
    return name == key or name.startswith(f"{key}.")


def _asked_for(sets: Mapping[str, Any], key: str, path: Path) -> str:
    found = [name for name in sets if name == key] or [name for name in sets if _names(name, key)]
    if len(found) != 1:
        raise InputError(
            f"the file has no weights under '{key}'" if not found else f"the file has several weights under '{key}'",
            where=f"{path}, `weights`", field="weights", allowed=", ".join(found or sets),
            hint=nearest_spelling(key, sets),
        )
    return found[0]


def _no_weights(content: Any, path: Path) -> InputError:
    kind = f"a {type(content).__name__}"
    hint = ""
    if isinstance(content, Mapping):
        kind = f"a dict with the keys {_listed(list(content))}" if content else "an empty dict"
        hint = "Save the tensors by name that it holds: torch.save(file[...], 'weights.pth')." if content else ""
    return InputError(
        f"the file holds {kind}, and no weights were found in it",
        where=str(path),
        allowed=f"a state_dict, or a dict that has one under {', '.join(STATE_DICT_KEYS)} or any other key",
        hint=hint,
    )
