"""Sources that need classes: CaPTQ's selected images, and one image of each class.

"Calibration Data Selection for Visual Services based on PTQ" (CaPTQ) gives two of them.

What is public, and what is made of it here:

* The READMEs claim two things: images with a *smoother pixel distribution* lose less in rounding and reconstruction,
  and *random sampling without replacement* needs fewer of them. The paper's text was not at hand.
* `captq-random` is what the public code does, the only selection in it: one image of every class, uniformly at random,
  and the rest of the budget without replacement from all images that remain (1,024 images for 1,000 classes: 24 more).
  The code sets no seed; here the recipe's is used.
* `captq-smooth` is **our construction** from the claim: the public code computes no statistic of an image. Images are
  ranked inside each class by a declared statistic of their pixels, after the deterministic resize and crop and before
  normalisation, and taken class by class in turns, the smoothest first, until the budget is spent.

CaPTQ promises detection and its code has none. Of pictures with boxes, its two sources take a picture as one of every
class that it shows; a picture without boxes is of none. `captq-random` goes through the classes as they are numbered
and draws a picture for each that no picture before shows, so that every class with boxes is covered. `captq-smooth`
gives each class its turns as before, and a picture that another class took is passed over; what is left of the budget
after the turns is drawn from the pictures without boxes, as `captq-random` draws it.

CaPTQ's reconstruction is QDrop's, so both sources combine with any method. A gain is to be judged against several seeds
of `captq-random` with the same bits: the paper compares its 8-bit stem output with QDrop's low-bit one.
`captq-smooth` decodes every image of the pool once, one at a time; of all ImageNet that is hours, so give it a part.

`one-per-class` is FDDA's data (Zhong et al., Fine-grained Data Distribution Alignment for Post-Training Quantization,
ECCV 2022, arXiv 2109.04186): one image of each class at random, and no other. It trains with one label for an image, so
boxes do not serve it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from types import MappingProxyType
from typing import Literal, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from isobit.calib.parameters import Parameters
from isobit.calib.sources import source
from isobit.pipeline.errors import InputError
from isobit.pipeline.samples.data import Batches

CUTOFF = 0.25  # cycles a pixel, half of what a grid of pixels can hold along an axis
BINS = 256

T = TypeVar("T")


class RandomParameters(Parameters):
    """None: `count` and the seed say it all."""


class SmoothParameters(Parameters):
    """How smooth an image is, the lower the smoother; which one the authors mean is not known.

    Args:
        statistic: `total-variation`, the mean absolute difference of neighbours; `laplacian`, the variance of the
            4-neighbour Laplacian; `spectrum`, the share of the energy (without the mean) at more than 0.25 cycles a
            pixel; `entropy`, that of the histogram, because "pixel distribution" may mean values and not neighbours.
    """

    statistic: Literal["total-variation", "laplacian", "spectrum", "entropy"] = "total-variation"


@source("captq-random", RandomParameters, needs={"classes"})
def captq_random(pool: Batches, parameters: RandomParameters, count: int, seed: int) -> Batches:
    """One image of each class at random, the rest of the budget from all that remain; in random order.

    Raises:
        InputError: the images asked for do not cover the classes.
    """
    generator = torch.Generator().manual_seed(seed)
    chosen: list[int] = []
    seen: set[int] = set()
    shown = pool.classes_shown or []
    for label, places in _places_by_class(pool).items():
        if label not in seen:
            chosen.append(places[int(torch.randint(len(places), (1,), generator=generator))])
            seen.update(shown[chosen[-1]])
    _check_covered(len(chosen), len(seen), count)
    remaining = sorted(set(range(len(pool))) - set(chosen))
    chosen += _shuffle(remaining, generator)[: count - len(chosen)]
    return pool.select(_shuffle(chosen, generator))


@source("one-per-class", RandomParameters, needs={"labels"}, counts=False)
def one_per_class(pool: Batches, parameters: RandomParameters, count: int, seed: int) -> Batches:
    """One image of each class at random, in random order; `count` is 0, because the data says how many classes."""
    generator = torch.Generator().manual_seed(seed)
    classes = _places_by_class(pool)
    chosen = [places[int(torch.randint(len(places), (1,), generator=generator))] for places in classes.values()]
    return pool.select(_shuffle(chosen, generator))


@source("captq-smooth", SmoothParameters, needs={"classes"})
def captq_smooth(pool: Batches, parameters: SmoothParameters, count: int, seed: int) -> Batches:
    """The smoothest images of each class, class by class in turns; in random order.

    The seed gives the order of the images, and which classes are first when the last turn does not reach all. Of images
    that are equally smooth the first file is taken.

    Raises:
        InputError: fewer images asked for than there are classes.
    """
    generator = torch.Generator().manual_seed(seed)
    classes, measure = _places_by_class(pool), STATISTICS[parameters.statistic]
    _check_covered(len(classes), len(classes), count)

    @cache
    def smoothness(place: int) -> tuple[float, int]:
        return measure(pool.pixels(place).double(), *pool.samples.pixel_range), place

    ranked = [sorted(places, key=smoothness) for places in classes.values()]
    turns = range(max(len(places) for places in ranked))
    order = [iter(places) for places in _shuffle(ranked, generator)]
    taken: dict[int, None] = {}  # in the order of the turns
    for _ in turns:
        for places in order:
            if (place := next((place for place in places if place not in taken), None)) is not None:
                taken[place] = None
    if len(taken) < min(count, len(pool)):  # pictures that show no class
        taken.update(dict.fromkeys(_shuffle([each for each in range(len(pool)) if each not in taken], generator)))
    return pool.select(_shuffle(list(taken)[:count], generator))


def _places_by_class(pool: Batches) -> dict[int, list[int]]:
    """Places of the images of each class that has any, classes and places rising."""
    shown = pool.classes_shown or []
    classes: dict[int, list[int]] = {label: [] for label in sorted({label for of in shown for label in of})}
    for place, labels in enumerate(shown):
        for label in labels:
            classes[label].append(place)
    return classes


def _check_covered(images: int, classes: int, count: int) -> None:
    """Raises InputError where the recipe asks for fewer than the `images` that cover the classes."""
    if count < images:
        raise InputError(
            f"{count} images cannot cover the {classes} classes that are there", where="images.count",
            allowed=f"at least {images}", field="recipe.images.count",
            hint=f"`recipe.images.count={images}`, or `recipe.images.source=files`",
        )


def _shuffle(items: list[T], generator: torch.Generator) -> list[T]:
    return [items[index] for index in torch.randperm(len(items), generator=generator).tolist()]


# --- how smooth an image is: float64 [C, H, W] and the range of the data -> a number, the lower the smoother ---


def total_variation(pixels: Tensor, low: float, high: float) -> float:
    """Mean absolute difference of neighbours, along rows and columns together."""
    differences = torch.cat([pixels.diff(dim=1).flatten(), pixels.diff(dim=2).flatten()])
    return float(differences.abs().mean()) if len(differences) else 0.0


def laplacian(pixels: Tensor, low: float, high: float) -> float:
    """Variance of the sum of the four neighbours less four times the pixel; the edge is repeated outwards."""
    padded = F.pad(pixels[None], (1, 1, 1, 1), mode="replicate")[0]
    neighbours = padded[:, 2:, 1:-1] + padded[:, :-2, 1:-1] + padded[:, 1:-1, 2:] + padded[:, 1:-1, :-2]
    return float((neighbours - 4 * pixels).var(correction=0))


def spectrum(pixels: Tensor, low: float, high: float) -> float:
    """Share of the energy above `CUTOFF` cycles a pixel (radius), the mean of each channel left out; 0 without any."""
    energy = torch.fft.fft2(pixels - pixels.mean(dim=(1, 2), keepdim=True)).abs().square()
    rows, columns = (torch.fft.fftfreq(size, dtype=torch.float64) for size in pixels.shape[1:])
    total = float(energy.sum())
    return float(energy[:, torch.hypot(rows[:, None], columns) > CUTOFF].sum()) / total if total else 0.0


def entropy(pixels: Tensor, low: float, high: float) -> float:
    """Mean over channels of the entropy, in bits, of the histogram of values in `BINS` equal bins of the range."""
    bins = ((pixels - low) * (BINS / ((high - low) or 1.0))).long().clamp(0, BINS - 1)
    return sum(_entropy(torch.bincount(channel.flatten(), minlength=BINS)) for channel in bins) / len(bins)


def _entropy(counts: Tensor) -> float:
    share = counts[counts > 0].double() / counts.sum()
    return float(-(share * share.log2()).sum())


STATISTICS: Mapping[str, Callable[[Tensor, float, float], float]] = MappingProxyType({
    "total-variation": total_variation, "laplacian": laplacian, "spectrum": spectrum, "entropy": entropy,
})
