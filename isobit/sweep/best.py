"""Which recipe is best for every model and target, by the rules of a study: `best.yaml`."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from isobit.sweep.results import Group, Row, groups
from isobit.sweep.rules import Rule

MOST_ACCURATE = Rule(maximize="accuracy")


def answers(rules: Sequence[Rule], rows: Sequence[Row]) -> list[dict[str, Any]]:
    """For every rule, model, target and profile the recipe that fits best, or none; of whole groups of seeds alone."""
    found: list[dict[str, Any]] = []
    whole = groups(rows)
    places = dict.fromkeys((group.model, group.target, group.profile) for group in whole)
    for rule in rules:
        for model, target, profile in places:
            here = [g for g in whole if (g.model, g.target, g.profile) == (model, target, profile)]
            found.append({"rule": rule.text, "model": model, "target": target, "profile": profile, **_best(rule, here)})
    return found


def _best(rule: Rule, here: Sequence[Group]) -> Mapping[str, Any]:
    known = [group for group in here if group.whole and _cost(rule, group) is not None]
    fitting = [group for group in known if rule.allows(group.values, group.float_accuracy)]
    said = {"tried": len(known), "unfinished": len(here) - len(known)}
    if not fitting:
        return {"recipe": None, "why": "no recipe keeps the bounds" if known else "nothing was measured", **said}
    chosen = min(fitting, key=lambda group: (_cost(rule, group) or 0.0, _cost(MOST_ACCURATE, group) or 0.0))
    return {
        "recipe": chosen.recipe, "set": list(chosen.edits), **_numbers(chosen),
        "artifact": nearest_to_mean(chosen.rows).artifact, "seed": nearest_to_mean(chosen.rows).seed, **said,
    }


def _cost(rule: Rule, group: Group) -> float | None:
    return rule.cost(group.values, group.head.higher_is_better)


def _numbers(group: Group) -> dict[str, Any]:
    said = {"accuracy": group.accuracy, "deviation": group.deviation, "float": group.float_accuracy,
            "size": group.bytes, "latency_ms": group.latency, "seeds": len(group.rows)}
    return {key: round(value, 4) if isinstance(value, float) else value for key, value in said.items()
            if value is not None}


def nearest_to_mean(rows: Sequence[Row]) -> Row:
    """The cell to ship of several seeds: not the luckiest one, which the evaluation set chose."""
    known = [row for row in rows if row.value is not None]
    if not known:
        return rows[0]
    mean = statistics.fmean(row.value or 0.0 for row in known)
    return min(known, key=lambda row: abs((row.value or 0.0) - mean))


def best_yaml(rules: Sequence[Rule], rows: Sequence[Row]) -> str:
    """`best.yaml`."""
    return yaml.safe_dump(answers(rules, rows), sort_keys=False, allow_unicode=True, width=120)
