"""How far a sweep scales: what one cell costs whom, measured here, and a simulation of many cells on many machines.

    python tools/sweep/scale.py [--cells 100000] [--machines 1000] [--slots 4] [--minutes 10]

Measured: the driver's own time a cell, by the real loop with an engine that builds nothing, and the files that starting
the process of a cell opens. Simulated: machines with slots ask one driver for cells, whose length is log-normal around
`--minutes`; the driver hands out one after another, and one metadata server answers what every start asks of the file
system. Machines fail at the rate of `--failures` a year and come back after an hour; what ran there is lost.
"""

from __future__ import annotations

import argparse
import heapq
import math
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

from isobit.sweep.cells import Cell
from isobit.sweep.drive import Driver
from isobit.sweep.engines import Ended
from isobit.sweep.folder import Runs
from isobit.sweep.process import Task
from isobit.sweep.results import Index
from tools.documents import command_text, markdown
from tools.processor import cpu_name
from tools.publish import publish

DOCUMENT = ROOT / "docs" / "sweep.md"
SPREAD = 0.5  # of the logarithm of a cell's length
TRIED = 2000  # cells that the driver is timed on
YEAR = 365 * 24 * 3600.0
OWN = 60  # operations that are the cell's own: model, data, lease, log, artifact; assumed
AWAY = 3600.0  # seconds that a machine which failed is away
COUNT = """
import sys
count = 0
def hook(event, _):
    global count
    count += event in ("open", "os.listdir", "os.scandir")
sys.addaudithook(hook)
import isobit.cli
print(count)
"""


class Instant:
    """An engine whose cells are done at once: only the driver costs anything."""

    def __init__(self, runs: Runs) -> None:
        self._runs, self._over = runs, []

    def slots(self) -> int:
        return 1000

    def start(self, task: Task) -> None:
        folder = self._runs.artifact(task.cell)
        folder.mkdir()
        (folder / "manifest.json").write_text("{}")
        self._over.append(Ended(task.cell, 0))

    def ended(self, seconds: float) -> Sequence[Ended]:
        over, self._over = self._over, []
        return over

    def close(self) -> None:
        self._over.clear()


class Silent:
    """A watcher that listens to nothing."""

    def changed(self, cell: Cell, word: str, why: str = "") -> None: ...

    def tick(self) -> None: ...


@dataclass(frozen=True)
class Costs:
    """Seconds of the driver a cell: to hand it out and settle it, to look at one that is done, to write its index line;
    and the files that a start opens.
    """

    hand_out: float
    look: float
    index: float
    opened: int


def measure(count: int = TRIED) -> Costs:
    """On this machine's file system."""
    cells = [Cell("net", "minmax_w8a8", (), "onnx", "generic", seed, f"{seed:064x}"[::-1], ()) for seed in range(count)]
    with tempfile.TemporaryDirectory() as folder:
        runs, times = Runs(Path(folder)), []
        runs.make()
        for _ in range(2):  # the second finds all of them done
            began = time.perf_counter()
            Driver(cells, runs, Instant(runs), Silent(), lambda cell: Task(cell.name, folder, (), "")).drive()
            times.append((time.perf_counter() - began) / count)
        began = time.perf_counter()
        Index(cells, runs).write()
        index = (time.perf_counter() - began) / count
    said = subprocess.run([sys.executable, "-c", COUNT], capture_output=True, text=True, check=True, cwd=ROOT)
    return Costs(times[0], times[1], index, int(said.stdout))


@dataclass(frozen=True)
class Outcome:
    """What a simulation gives: hours until the last cell, shares of that time, builds that failing machines lost."""

    hours: float
    machines_busy: float
    driver_busy: float
    server_busy: float
    lost: int


def simulate(
    cells: int, machines: int, slots: int, seconds: float, hand_out: float, operations: float, rate: float,
    failures: float, seed: int = 0,
) -> Outcome:
    """One driver, one metadata server, `machines` x `slots` places.

    Args:
        seconds: median length of a cell.
        hand_out: seconds of the driver a cell.
        operations: of metadata that a start asks for; `rate` is how many the server answers a second.
        failures: of a machine a year.
    """
    chance = random.Random(seed)
    places = [(0.0, place) for place in range(machines * slots)]
    heapq.heapify(places)
    left, driver, server, worked, lost, last = cells, 0.0, 0.0, 0.0, 0, 0.0
    while left:
        free, place = heapq.heappop(places)
        driver = max(driver, free) + hand_out
        server = max(server, driver) + operations / rate
        length = seconds * chance.lognormvariate(0.0, SPREAD)
        fails = chance.expovariate(failures / YEAR) if failures else float("inf")
        if fails < length:
            lost += 1
            heapq.heappush(places, (server + fails + AWAY, place))
            continue
        left -= 1
        worked += length
        last = max(last, server + length)
        heapq.heappush(places, (server + length, place))
    handed = (cells + lost) * hand_out
    return Outcome(last / 3600, worked / (last * machines * slots), handed / last,
                   (cells + lost) * operations / rate / last, lost)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what was measured, and simulations with imports from a shared file system and from each machine's own."""
    options = parse(arguments)
    costs = measure()
    found = {
        place: simulate(options.cells, options.machines, options.slots, 60 * options.minutes, costs.hand_out,
                        operations, options.rate, options.failures)
        for place, operations in (("on the shared file system", costs.opened + OWN), ("on each machine", OWN))
    }
    command = command_text("tools/sweep/scale.py", arguments if arguments is not None else sys.argv[1:])
    content = numbers(costs, found, options, command)
    text = tables(content)["plan"]
    print(text)
    if options.write_docs:
        publish(DOCUMENT, content, {"plan": text}, "scale", numbers=DOCUMENT.with_name("scale.json"))
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """What is simulated."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cells", type=int, default=100_000)
    parser.add_argument("--machines", type=int, default=1000)
    parser.add_argument("--slots", type=int, default=4, help="cells at a time on a machine")
    parser.add_argument("--minutes", type=float, default=10.0, help="median of a cell")
    parser.add_argument("--rate", type=float, default=5000.0, help="metadata operations of the server a second")
    parser.add_argument("--failures", type=float, default=12.0, help="of a machine a year")
    parser.add_argument("--write-docs", action="store_true", help="write docs/scale.json and the plan of sweep.md")
    return parser.parse_args(arguments)


def numbers(
    costs: Costs, found: Mapping[str, Outcome], options: argparse.Namespace, command: str
) -> dict[str, Any]:
    """What docs/scale.json holds."""
    assumed = {name: getattr(options, name) for name in ("cells", "machines", "slots", "minutes", "rate", "failures")}
    return {
        "about": "Costs of a sweep's driver by tools/sweep/scale.py, and what was simulated from them.",
        "command": command, "cpu": cpu_name(), "assumed": assumed, "costs": asdict(costs),
        "simulated": {place: asdict(outcome) for place, outcome in found.items()},
    }


def tables(content: Mapping[str, Any]) -> dict[str, str]:
    """The plan of docs/sweep.md: assumptions, the driver's costs, a row for each place that Python lies at."""
    assumed, costs = content["assumed"], content["costs"]
    cells, places = assumed["cells"], assumed["machines"] * assumed["slots"]
    mean = assumed["minutes"] * math.exp(SPREAD ** 2 / 2)
    said = (
        f"Assumed: {cells:,} cells of {mean:.1f} minutes on average, {assumed['machines']:,} machines with "
        f"{assumed['slots']} cells at a time, {assumed['rate']:,.0f} metadata operations a second, "
        f"{assumed['failures']:.0f} failures of a machine a year: {cells * mean / 60 / places:.1f} hours at best. "
        f"Measured ({content['cpu']}): the driver takes {1000 * costs['hand_out']:.1f} ms to hand out a cell, "
        f"{1000 * costs['look']:.2f} ms to look at a done one, {1000 * costs['index']:.1f} ms of the index; a start "
        f"opens {costs['opened']:,} files."
    )
    rows = [
        (place, f"{one['hours']:.1f}", f"{100 * one['machines_busy']:.0f} %", f"{100 * one['driver_busy']:.1f} %",
         f"{100 * one['server_busy']:.0f} %", str(one["lost"])) for place, one in content["simulated"].items()
    ]
    columns = ("Python lies", "hours", "machines busy", "driver busy", "file server busy", "builds lost")
    return {"plan": f"{said}\n\n{markdown(columns, rows)}"}


if __name__ == "__main__":
    sys.exit(main())
