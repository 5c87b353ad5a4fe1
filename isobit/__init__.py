"""Isobit compiles a trained network into an integer artifact and proves that it computes what was calibrated.

    from isobit import compile_model, load_model, load_recipe, open_data

    build = compile_model(
        load_model("model.pth", arch="resnet18"), load_recipe("qdrop_w4a4"), "onnx",
        calibration=open_data("calib.npz", batch_size=32, purpose="calib"), evaluation=None, out="artifacts/net",
    )

Everything is imported when it is first used: importing the package itself costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from isobit.analyze import Analysis, analyze_model
    from isobit.build import compile_model, plan
    from isobit.calib.calibrate import calibrate
    from isobit.passes import legalize, quantize
    from isobit.pipeline.capture.capture import capture
    from isobit.pipeline.errors import CompileError
    from isobit.pipeline.model.modelfile import LoadedModel, load_model
    from isobit.pipeline.recipe.file import load_recipe
    from isobit.pipeline.recipe.schema import Recipe
    from isobit.pipeline.samples.data import Batches, open_data
    from isobit.pipeline.samples.inputs import InputShape
    from isobit.pipeline.stages import Calibrated, Captured, Quantized, Reference
    from isobit.pipeline.watcher import Watcher
    from isobit.result import Build, GateFailed, Options

# The folders at the top of a checkout that are packages of this one.
ROOMS = ("pipeline", "passes", "calib", "backends")
_HERE = Path(__file__).resolve().parent
# In a checkout the rooms lie beside this folder: `isobit.pipeline`, `isobit.passes` and so on are found there.
if not (_HERE / "pipeline").is_dir():
    __path__.append(str(_HERE.parent))

__version__ = "0.1.0"
__all__ = [
    "Analysis", "Batches", "Build", "Calibrated", "Captured", "CompileError", "GateFailed", "InputShape",
    "LoadedModel", "Options", "Quantized", "Recipe", "Reference", "Watcher", "analyze_model", "calibrate", "capture",
    "compile_model", "legalize", "load_model", "load_recipe", "open_data", "plan", "quantize",
]
_HOMES = {
    "isobit.calib.calibrate": ("calibrate",),
    "isobit.analyze": ("Analysis", "analyze_model"),
    "isobit.build": ("compile_model", "plan"),
    "isobit.result": ("Build", "GateFailed", "Options"),
    "isobit.passes": ("legalize", "quantize"),
    "isobit.pipeline.capture.capture": ("capture",),
    "isobit.pipeline.samples.data": ("Batches", "open_data"),
    "isobit.pipeline.errors": ("CompileError",),
    "isobit.pipeline.samples.inputs": ("InputShape",),
    "isobit.pipeline.model.modelfile": ("LoadedModel", "load_model"),
    "isobit.pipeline.recipe.file": ("load_recipe",),
    "isobit.pipeline.recipe.schema": ("Recipe",),
    "isobit.pipeline.stages": ("Calibrated", "Captured", "Quantized", "Reference"),
    "isobit.pipeline.watcher": ("Watcher",),
}


def __getattr__(name: str) -> Any:
    """The public names, imported when they are first asked for."""
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module 'isobit' has no attribute '{name}'")


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)
