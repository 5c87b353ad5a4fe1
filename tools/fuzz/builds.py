"""A small build as a process, for whoever stops it or takes something away from it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import select
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 300.0
TIMES = "timings.json"  # the only file of an artifact that differs between equal builds
SETTINGS = ("images.count=24", "images.batch_size=8")
STEPS = 30


class SmallDigits(nn.Module):
    """Two convolutions with a residual sum and a head, on [N, 1, 8, 8]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.middle = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, 10]."""
        first = torch.relu(self.stem(x))
        return self.head(torch.relu(first + self.middle(first)).mean((2, 3)))


@dataclass(frozen=True)
class Ended:
    """A build that came to its end, or was stopped; `spoken_s` are its seconds after its first word."""

    code: int
    screen: str
    seconds: float
    spoken_s: float = 0.0

    @property
    def traceback(self) -> bool:
        """Whether the screen shows one: for defects, never for what a user or a machine does."""
        return "Traceback" in self.screen or "internal error" in self.screen


class Bench:
    """A folder with a model and samples, in which builds are started.

    Args:
        folder: empty.
        recipe, target: of the builds.
        steps: of the method; many make calibration the longest part.
    """

    def __init__(
        self, folder: Path, recipe: str = "qdrop_w4a4", target: str = "onnx", steps: int = STEPS
    ) -> None:
        self.folder, self.recipe, self.target, self.steps = folder, recipe, target, steps
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            batch = ({0: torch.export.Dim("batch")},)
            program = torch.export.export(SmallDigits().eval(), (torch.zeros(2, 1, 8, 8),), dynamic_shapes=batch)
        torch.export.save(program, folder / "model.pt2")
        for name, seed in (("calib", 1), ("eval", 2)):
            draw = np.random.default_rng(seed)
            labels = draw.integers(0, 10, 24)
            np.savez(folder / f"{name}.npz", x=draw.random((24, 1, 8, 8), dtype=np.float32), y=labels)

    def command(self, out: str, *more: str) -> list[str]:
        """The words of a build into `out`."""
        settings = (*SETTINGS, f"method.steps={self.steps}")
        sets = [word for setting in settings for word in ("--set", setting)]
        return [sys.executable, str(ROOT / "compile.py"), str(self.folder / "model.pt2"), "--recipe", self.recipe,
                "--target", self.target, *sets, "--calib-data", str(self.folder / "calib.npz"),
                "--eval-data", str(self.folder / "eval.npz"), "--out", out, *more]

    def start(self, words: Sequence[str], **environment: str) -> subprocess.Popen[str]:
        """A process of its own group, in the folder."""
        return subprocess.Popen(
            words, cwd=self.folder, env=self.environment(environment), text=True, encoding="utf-8", errors="replace",
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True,
        )

    def environment(self, changed: Mapping[str, str]) -> dict[str, str]:
        """This process's with what is changed; one thread unless that is."""
        return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **changed}

    def run(self, words: Sequence[str], **environment: str) -> Ended:
        """A process to its end."""
        started = time.perf_counter()
        process = self.start(words, **environment)
        wait_for_word(process)
        spoke = time.perf_counter()
        try:
            screen, _ = process.communicate(timeout=LIMIT_S)
        except subprocess.TimeoutExpired:
            stop(process)
            screen = f"no end in {LIMIT_S:g} s"
        over = time.perf_counter()
        return Ended(process.returncode, screen, over - started, over - spoke)

    def build(self, out: str, *more: str, **environment: str) -> Ended:
        """A build to its end."""
        return self.run(self.command(out, *more), **environment)

    def left(self) -> list[str]:
        """Names in the folder that are not the bench's own."""
        own = {"model.pt2", "calib.npz", "eval.npz"}
        return sorted(path.name for path in self.folder.iterdir() if path.name not in own)


def wait_for_word(process: subprocess.Popen[str]) -> None:
    """Until a process has written something, or ended; nothing is read."""
    select.select([process.stdout], [], [], LIMIT_S)


def stop(process: subprocess.Popen[str]) -> None:
    """Kill a process and those that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, 9)
    process.communicate()


def digest(folder: Path) -> str:
    """Hash of names and bytes of every file of an artifact but the times."""
    whole = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != TIMES:
            name, content = str(path.relative_to(folder)).encode(), path.read_bytes()
            for part in (name, content):
                whole.update(len(part).to_bytes(8, "little") + part)
    return whole.hexdigest()
