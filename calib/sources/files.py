"""The plain source: a uniform draw without replacement from everything that is there, as the papers do.

The first images of a shuffled loader: the seed gives one order of all files, and its beginning is taken, so that a
smaller `count` draws a part of what a larger one draws.
"""

from __future__ import annotations

from isobit.calib.parameters import Parameters
from isobit.calib.sources import source
from isobit.pipeline.samples.data import Batches, shuffled


class FilesParameters(Parameters):
    """None: `count` and the seed say it all."""


@source("files", FilesParameters, needs=set())
def files(pool: Batches, parameters: FilesParameters, count: int, seed: int) -> Batches:
    """The first `count` of all images in a random order."""
    return pool.select(shuffled(len(pool), count, seed))
