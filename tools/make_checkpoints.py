"""Trains the demo's model on scikit-learn's handwritten digits: a real checkpoint and real data within seconds.

Writes `digits.pth` (the dict that a training script would save: `arch`, `kwargs`, `state_dict`), `calib.npz` (256 of
the training images) and `val.npz` (450 images that training never saw). The checkpoint names its class by a path
relative to the root of the repository, where `make demo` runs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

from tools.digits_model import DigitsNet

ARCH = "tools/digits_model.py:DigitsNet"
WIDTH = 16
HELD_OUT = 450
CALIBRATION = 256
BATCH = 32
PEAK_LEARNING_RATE = 0.01


@dataclass(frozen=True)
class Digits:
    """The split data set: x float32 [N, 1, 8, 8] in [0, 1], y int64 [N]."""

    x_train: Tensor
    y_train: Tensor
    x_val: Tensor
    y_val: Tensor


def load(seed: int) -> Digits:
    """scikit-learn's 1,797 digits (they come with the package), split with every class in proportion."""
    digits = load_digits()
    x = (digits.images[:, None] / 16.0).astype(np.float32)
    y = digits.target.astype(np.int64)
    parts = train_test_split(x, y, test_size=HELD_OUT, stratify=y, random_state=seed)
    x_train, x_val, y_train, y_val = (torch.from_numpy(part) for part in parts)
    return Digits(x_train, y_train, x_val, y_val)


def train(digits: Digits, *, epochs: int, seed: int) -> DigitsNet:
    """Cross-entropy, AdamW, one-cycle learning rate; returns the model in eval mode. The caller's RNG is untouched."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = DigitsNet(width=WIDTH)
        optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.01)
        steps_per_epoch = len(digits.x_train) // BATCH
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, PEAK_LEARNING_RATE, epochs=epochs, steps_per_epoch=steps_per_epoch
        )
        for _ in range(epochs):
            order = torch.randperm(len(digits.x_train))
            for batch in order[: steps_per_epoch * BATCH].split(BATCH):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(digits.x_train[batch]), digits.y_train[batch]).backward()
                optimizer.step()
                schedule.step()
    return model.eval()


@torch.no_grad()
def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Top-1 in percent."""
    return 100.0 * (model(x).argmax(1) == y).float().mean().item()


def make_checkpoints(out: Path, *, epochs: int = 25, seed: int = 0) -> float:
    """Trains, writes the three files into `out` and returns the top-1 on the held-out digits in percent."""
    digits = load(seed)
    model = train(digits, epochs=epochs, seed=seed)
    out.mkdir(parents=True, exist_ok=True)
    torch.save({"arch": ARCH, "kwargs": {"width": WIDTH}, "state_dict": model.state_dict()}, out / "digits.pth")
    np.savez(out / "calib.npz", x=digits.x_train[:CALIBRATION].numpy(), y=digits.y_train[:CALIBRATION].numpy())
    np.savez(out / "val.npz", x=digits.x_val.numpy(), y=digits.y_val.numpy())
    return accuracy(model, digits.x_val, digits.y_val)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("build/demo"))
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    top1 = make_checkpoints(options.out, epochs=options.epochs, seed=options.seed)
    print(f"{options.out / 'digits.pth'}: {top1:.2f} % of {HELD_OUT} held-out digits (float)")


if __name__ == "__main__":
    main()
