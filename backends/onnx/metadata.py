"""What a program should know of a model, in the place that ONNX has for it: `metadata_props` of the file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def add_metadata(path: Path, facts: Mapping[str, str]) -> None:
    """Write texts by name into the model at `path`, which stays as it is otherwise: names that are there are replaced.

    A session gives them by `get_modelmeta().custom_metadata_map`.
    """
    import onnx

    model = onnx.load(path, load_external_data=False)
    known = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(model, known | dict(facts))
    path.write_bytes(model.SerializeToString(deterministic=True))
