"""What two processes under torchrun do in the tests of `calib.ranks`: they calibrate a tiny network together.

    torchrun --nproc-per-node 2 -m tests.examples.together FOLDER

writes what every rank found, for each of `CASES`, as `FOLDER/<case>-<rank>.pt`.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from isobit.calib.calibrate import calibrate
from isobit.calib.ranks import ALONE, Ranks, Served, joined
from isobit.pipeline.recipe.schema import Recipe
from tests.examples.processes import ROOT
from tests.examples.units import Notes, net, recipe

# Without random masks, which would differ, but for the last one.
CASES: dict[str, tuple[str, ...]] = {
    "qdrop": ("qdrop_w4a4", "method.keep_prob=1.0"),
    "signs": ("qdrop_w4a4", "method.keep_prob=1.0", "method.rounding=signsgd"),
    "brecq": ("brecq_w4a4",),
    "pdquant": ("pdquant_w4a4", "method.keep_prob=1.0", "method.prediction_images=4", "method.correction_batch=10"),
    "masks": ("qdrop_w4a4",),
    "again": ("qdrop_w4a4",),
}


def recipe_of(case: str) -> Recipe:
    """The recipe of a case."""
    name, *sets = CASES[case]
    return recipe(name, *sets, steps=30)


def numbers(case: str, ranks: Ranks = ALONE, **options: Any) -> dict[str, Any]:
    """Losses of every unit, and all codes and scales."""
    quantized, images = net(recipe_of(case))
    watcher = Notes()
    found = calibrate(quantized, images, ranks=ranks, progress=watcher, **options)
    state = {name: value.clone() for name, value in found.graph.state_dict().items()}
    logs = [(log.name, log.loss_nearest, log.loss_soft, log.loss_hard) for log in found.log]
    return {"state": state, "logs": logs, "notes": found.findings.notes, "trained": watcher.trained}


def torchrun(module: str, *arguments: str, count: int = 2) -> subprocess.CompletedProcess[str]:
    """Run a module in so many processes under torchrun, on the CPU."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    return subprocess.run(
        [*command, "-m", module, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=600, check=False,
    )


def main(folder: Path) -> None:
    """Everything that the tests look at."""
    with joined("cpu") as (ranks, device):
        words = {
            "device": device, "first": ranks.first(lambda: ranks.rank + 10), "collected": ranks.collect(ranks.rank),
            "dealt": list(ranks.dealt(5, lambda place: (place, ranks.rank))), "named": ranks.named("cpu"),
        }
        mean, matrix = torch.tensor(float(ranks.rank)), torch.full((2, 2), 3.0 * ranks.rank)
        ranks.average(mean, torch.empty(0), matrix)
        words |= {"mean": mean, "matrix": matrix}
        for case in CASES:
            torch.save(numbers(case, ranks, checkpoints=folder / "kept"), folder / f"{case}-{ranks.rank}.pt")
        resumed = numbers("qdrop", ranks, checkpoints=folder / "kept", resume=True)
        torch.save(resumed, folder / f"resumed-{ranks.rank}.pt")
        try:
            ranks.go_on_alone()
        except Served:
            words["served"] = True
        torch.save(words, folder / f"words-{ranks.rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
