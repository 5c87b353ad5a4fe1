"""An artifact of a tiny network, as a build leaves it."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from isobit.build import Options, compile_model
from isobit.pipeline.model.modelfile import LoadedModel
from isobit.pipeline.recipe.file import load_recipe
from isobit.pipeline.samples.data import open_data
from tests.examples import tiny


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """Its folder, which no test may change."""
    folder = tmp_path_factory.mktemp("bench")
    model, images = tiny.model_and_images(samples=8)
    np.save(folder / "images.npy", images.numpy())
    recipe = load_recipe("minmax_w8a8", ["images.count=8", "images.batch_size=8"])
    data = open_data(folder / "images.npy", batch_size=8, purpose="calib", count=8, seed=0)
    out = folder / "artifact"
    compile_model(LoadedModel(model, None, "tiny", "", None), recipe, "onnx", data, None, out, Options())
    return out


@pytest.fixture
def artifact(built, tmp_path):
    """A copy that a test may change."""
    return shutil.copytree(built, tmp_path / "artifact")
