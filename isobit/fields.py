"""From what the library calls an argument to the option that sets it: the one table, and texts told in its words.

The library names arguments and fields in backticks, as a Python caller writes them: `options.max_drop`,
`target=reference`, `recipe.images.count=0`. Here they become `--max-drop`, `--target reference` and
`--set images.count=0`; anything else in backticks stays as it is.
"""

from __future__ import annotations

import re

OPTIONS = {
    "analysis": "--out",
    "arch": "--arch",
    "arch_args": "--arch-args",
    "bits": "--bits",
    "calibration": "--calib-data",
    "decoder": "--decoder",
    "evaluation": "--eval-data",
    "channels": "--channels",
    "classes": "--classes",
    "input_shape": "--input-shape",
    "input_size": "--input-size",
    "mean": "--mean",
    "minimize": "--minimize",
    "options.allow_float": "--allow-float",
    "options.cut": "--cut",
    "options.decoder": "--decoder",
    "options.device": "--device",
    "options.max_drop": "--max-drop",
    "options.memory": "--memory",
    "options.metrics": "--metric",
    "options.overwrite": "--overwrite",
    "options.parity_samples": "--parity-samples",
    "options.profile": "--device-profile",
    "options.resume": "--resume",
    "outputs": "--output",
    "out": "--out",
    "pictures": "--images",
    "pixel_range": "--pixel-range",
    "resize": "--resize",
    "overrides": "--set",
    "recipe": "--recipe",
    "calibrations": "--calibrations",
    "samples": "--samples",
    "save": "--save",
    "std": "--std",
    "target": "--target",
    "trust_pickle": "--trust-pickle",
    "weights": "--weights",
}
RECIPE = "recipe."  # what follows is a key of the recipe, which --set changes
_NAMED = re.compile(r"`([a-z_]+(?:\.[a-z_0-9]+)*)(?:=([^`]*))?`")


def in_options(text: str) -> str:
    """A text of the library as a user of the command line reads it."""
    return _NAMED.sub(_option, text)


def _option(named: re.Match[str]) -> str:
    field, value = named.groups()
    if field.startswith(RECIPE):
        key = field.removeprefix(RECIPE)
        return key if value is None else f"--set {key}={value}"
    if field not in OPTIONS:
        return named.group()
    return OPTIONS[field] if value in (None, "True") else f"{OPTIONS[field]} {value}"
