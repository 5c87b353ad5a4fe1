"""What a run depends on, by name: the key of its checkpoints, and why those of another run are of no use to it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

FACTS = "facts.json"
KIND, RECIPE = "kind", "recipe"  # what is kept (`calibration`, `images`), and the settings as YAML
SHOWN = 3
# How a difference is told, in this order; consequences of others only where they stand alone.
_SPOKEN = {
    "model": "another model file", "data": "other calibration data", "target": "target {before}, now {now}",
    "device": "device {before}, now {now}", "engine": "another version of the engine",
}
_CONSEQUENCES = {"weights": "other weights", "units": "other units"}


def read_facts(folder: Path) -> dict[str, str] | None:
    """What `UnitCheckpoints` wrote beside its files; None where there is nothing that can be read."""
    try:
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    is_plain = isinstance(facts, dict) and all(isinstance(value, str) for value in facts.values())
    return facts if is_plain else None


def why_not_resumed(facts: Mapping[str, str], others: Sequence[Mapping[str, str] | None]) -> str:
    """One sentence: which run the checkpoints that are there belong to, and what differs.

    Args:
        facts: of this run.
        others: of the runs whose checkpoints are there; None for one that says nothing about itself.
    """
    known = [other for other in others if other is not None]
    if not others:
        return "nothing was resumed: there are no checkpoints of an earlier run"
    if not known:
        return "nothing was resumed: the checkpoints do not say which run they are of"
    nearest = min(known, key=lambda other: len(differences(other, facts)))
    found = differences(nearest, facts)
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    name = _settings(nearest).get("name", "another run")
    return f"nothing was resumed: the checkpoints are of {name} ({'; '.join(found[:SHOWN])}{more})"


def differences(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """What differs between two runs, in words: `method.steps 500, now 300`."""
    found = list(_setting_differences(_settings(before), _settings(now)))
    for table in (_SPOKEN, _CONSEQUENCES):
        if table is _CONSEQUENCES and found:
            break
        found += [text.format(before=before.get(name, "none"), now=now.get(name, "none"))
                  for name, text in table.items() if before.get(name) != now.get(name)]
    return found or ["another version"]


def _settings(facts: Mapping[str, str]) -> dict[str, Any]:
    """The recipe's values by key path."""
    try:
        content = yaml.safe_load(facts.get(RECIPE, ""))
    except (yaml.YAMLError, RecursionError):
        return {}
    return dict(_flat(content)) if isinstance(content, dict) else {}


def _flat(content: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _setting_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    for key in dict.fromkeys((*before, *now)):
        if before.get(key) != now.get(key) and key != "name":
            old, new = (str(values.get(key, "unset"))[:40] for values in (before, now))
            yield f"{key} {old}, now {new}"
