"""Sixty cells on every engine, while drivers and workers are killed: the same artifacts, each built once.

    python tools/sweep/check.py --out build/sweep [--engines local,ray] [--kills 20] [--cells 60]

Five small networks x four recipes x three targets, on each engine into a folder of its own. The kills are shared out
between the engines; each is SIGKILL for a driver, the process of a cell, or the Ray worker that started it, drawn at
random, when so many cells are done that the kills lie evenly. A driver that was killed is started again. What was
finished stays: the same command goes on. At the end manifests' hashes are compared and builds are counted.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

import numpy as np
import torch
import yaml

from isobit.sweep.folder import Runs
from isobit.sweep.lease import holder, host, is_held

NETWORKS = '''
"""Five small networks of 3x12x12 pictures and five classes."""
import torch
from torch import nn


def _end(channels):
    return nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 5)


def plain():
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU(), *_end(16))


def pooled():
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 12, 3), nn.ReLU(),
                         *_end(12))


def depthwise():
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU6(), nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.ReLU6(),
                         nn.Conv2d(8, 16, 1), nn.ReLU6(), *_end(16))


def dense():
    return nn.Sequential(nn.Flatten(), nn.Linear(432, 24), nn.ReLU(), nn.Linear(24, 12), nn.ReLU(), nn.Linear(12, 5))


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.one, self.two = nn.Conv2d(3, 8, 3, 2), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.end = nn.Sequential(*_end(8))

    def forward(self, x):
        x = torch.relu(self.stem(x))
        return self.end(torch.relu(x + self.two(torch.relu(self.one(x)))))


residual = Residual
'''
NAMES = ("plain", "pooled", "depthwise", "dense", "residual")
SMALL = ["images.count=16", "images.batch_size=8"]
LEARN = [*SMALL, "method.steps=20"]
RECIPES = [{"name": "minmax_w8a8", "set": SMALL}, {"name": "mse_w4a8", "set": SMALL},
           {"name": "nearest_w4a4", "set": SMALL}, {"name": "qdrop_w4a4", "set": LEARN}]
TARGETS = ["reference", "onnx", "c"]
LOOK = 0.1  # seconds
MOST_FAILED = 5  # drivers that end with failed cells


@dataclass
class Trial:
    """One engine's sweep of the study, with what was killed of it.

    Args:
        kills: still to come; each when `done` of all cells have passed its share.
    """

    engine: str
    study: Path
    out: Path
    cells: int
    kills: int
    chance: random.Random
    drivers: list[subprocess.Popen[bytes]] = field(default_factory=list)
    killed: Counter[str] = field(default_factory=Counter)
    calls: int = 0
    seconds: float = 0.0

    def run(self) -> None:
        """Until a driver says that every cell is done, or several that cells fail."""
        began, total, failed = time.monotonic(), self.kills, 0
        try:
            while True:
                for _ in range(self._drivers() - len(self.drivers)):
                    self.drivers.append(self._start())
                over = [driver for driver in self.drivers if driver.poll() is not None]
                self.drivers = [driver for driver in self.drivers if driver not in over]
                failed += sum(driver.returncode > 0 for driver in over)
                if failed == MOST_FAILED or any(driver.returncode == 0 for driver in over):
                    break
                due = (total - self.kills + 0.5) * self.cells / max(1, total)
                if self.kills and self._done() >= min(due, self.cells - 2):
                    self._kill()
                time.sleep(LOOK)
        finally:
            for driver in self.drivers:
                driver.wait()
            self.seconds = time.monotonic() - began

    def _drivers(self) -> int:
        return 2 if self.engine == "local" else 1  # a cluster of its own each: one is enough for two processors

    def _start(self) -> subprocess.Popen[bytes]:
        self.calls += 1
        command = [sys.executable, "-m", "isobit", "sweep", str(self.study), "--engine", self.engine, "--out",
                   str(self.out), "--jobs", "1" if self.engine == "local" else "2"]
        with (self.out.parent / f"{self.engine}-{self.calls}.log").open("wb") as log:
            return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=log, stdout=log)

    def _done(self) -> int:
        with suppress(FileNotFoundError):
            return sum(1 for _ in (self.out / "cells").glob("*/manifest.json"))
        return 0

    def _kill(self) -> None:
        """One of what runs, if anything does."""
        builds = list(running(self.out))
        victims = [("driver", driver.pid) for driver in self.drivers] + [("cell", pid) for pid in builds]
        if self.engine == "ray":
            victims += [("worker", parent) for pid in builds if (parent := worker_of(pid)) is not None]
        kind, pid = self.chance.choice(victims)
        if not builds:
            return
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            self.kills -= 1
            self.killed[kind] += 1
            print(f"  {self.engine}: killed a {kind} with {self._done()} of {self.cells} cells done", flush=True)


def running(out: Path) -> Iterator[int]:
    """Processes of cells that are being built here."""
    with suppress(FileNotFoundError):
        for work in sorted((out / "work").iterdir()):
            found = holder(work)
            if found is not None and found[0] == host() and is_held(work):
                yield found[1]


def worker_of(pid: int) -> int | None:
    """The Ray worker that started it; None where its parent is another by now."""
    with suppress(OSError, IndexError):
        said = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2]
        parent = int(said.split()[1])
        return parent if Path(f"/proc/{parent}/cmdline").read_bytes().startswith(b"ray::") else None
    return None


def write_study(folder: Path, cells: int) -> Path:
    """The networks, their data and a study of them; cut to so many cells by leaving out networks."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "networks.py").write_text(NETWORKS, encoding="utf-8")
    space: dict[str, type] = {}
    exec(compile(NETWORKS, "networks.py", "exec"), space)
    torch.manual_seed(0)
    images = torch.randn(48, 3, 12, 12)
    names = NAMES[: max(1, cells // (len(RECIPES) * len(TARGETS)))]
    for name in names:
        network = space[name]().eval()
        with torch.no_grad():
            labels = network(images).argmax(1).numpy()
        if not (folder / f"{name}.pth").exists():
            torch.save(network.state_dict(), folder / f"{name}.pth")
            np.savez(folder / f"{name}.npz", x=images.numpy(), y=labels)
    models = [{"file": f"{name}.pth", "arch": f"networks.py:{name}", "calib_data": f"{name}.npz",
               "eval_data": f"{name}.npz"} for name in names]
    content = {"models": models, "recipes": RECIPES, "targets": TARGETS, "resources": {"memory": 1},
               "best": [{"accuracy": ">= float - 5", "minimize": "size"}]}
    (folder / "study.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(content))), encoding="utf-8")
    return folder / "study.yaml"


def findings(out: Path) -> tuple[dict[str, str], list[str], Counter[str]]:
    """(hash of every cell's artifact by key, what is wrong, events of all cells together)."""
    runs, hashes, wrong, events = Runs(out), {}, [], Counter()
    for line in (out / "index.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        name = Path(row["artifact"]).name
        said = [attempt["event"] for attempt in runs.attempts(name)]
        events.update(said)
        hashes[row["key"]] = row["sha256"]
        if row["status"] != "done":
            wrong.append(f"{name} is {row['status']}: {row['error']}")
        elif "built" in said[:-1]:  # one that was killed after its artifact stood has not said so
            wrong.append(f"{name} was built again: {said}")
    return hashes, wrong, events


def compare(found: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Keys whose artifacts differ between engines, or that one engine has not."""
    first, *others = found.values()
    return [f"{key[:12]} differs" for other in others for key in first.keys() | other.keys()
            if first.get(key) != other.get(key)]


def main(arguments: Sequence[str] | None = None) -> int:
    """0 where nothing was lost, built twice or differs."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--engines", type=lambda text: text.split(","), default=["local", "ray"])
    parser.add_argument("--kills", type=int, default=20, help="of all engines together")
    parser.add_argument("--cells", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0, help="of the kills")
    options = parser.parse_args(arguments)
    out, wrong, found = options.out.resolve(), [], {}
    study, chance = write_study(out, options.cells), random.Random(options.seed)
    cells = len(NAMES[: max(1, options.cells // 12)]) * len(RECIPES) * len(TARGETS)
    for place, engine in enumerate(options.engines):
        kills = options.kills // len(options.engines) + (place < options.kills % len(options.engines))
        trial = Trial(engine, study, out / engine, cells, kills, chance)
        trial.run()
        found[engine], bad, events = findings(out / engine)
        wrong += [*bad, *([f"{engine}: {trial.kills} kills found nothing to kill"] if trial.kills else [])]
        print(f"{engine}: {len(found[engine])} cells in {trial.seconds:.0f} s, {trial.calls} drivers started; killed: "
              f"{dict(trial.killed) or 'nothing'}; builds begun {events['started']}, finished {events['built']}",
              flush=True)
    wrong += compare(found)
    good = f"the same {cells} artifacts from {' and '.join(found)}; nothing lost, nothing built twice"
    print("\n".join(wrong) or good)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
