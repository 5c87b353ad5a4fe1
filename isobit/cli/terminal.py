"""What a person sees: a progress bar on a terminal, one plain line an event elsewhere; results on stdout, the rest on
stderr.

No control character reaches a file or a pipe, and text that comes from a model (names, paths) is printed as it is,
never read as markup.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from isobit.cli.summary import allocation_lines, float_lines, outputs_text, placement_counts
from isobit.cli.tables import MARKED, Row, show_table
from isobit.fields import in_options
from isobit.pipeline.graph.placement import PlacementRow
from isobit.pipeline.proof.verdicts import Headline
from isobit.pipeline.recipe.allocation import Allocation
from isobit.pipeline.stages import EpochLog, Quantized, UnitLog

WIDE = 10_000  # columns of a log: lines are cut by who reads them
ESTIMATE_AFTER = 3.0  # seconds of steps before the time of all steps is estimated
LONG = 120.0  # seconds; a longer calibration deserves the advice to take fewer steps
ADVISED_STEPS = 1000
VERDICT_STYLES = {"ok": "bold green", "unknown": "bold", "warning": f"bold {MARKED}", "failed": "bold red"}
PLAIN_EVERY = 10.0  # seconds between progress lines of the comparison where there is no bar


class _Console(Console):
    """Says nothing more where its reader is gone (`| head`): what the run is worth does not depend on who listens."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        _drop(self.file)


def _drop(stream: Any) -> None:
    """Lead what is still to be written to nowhere, so that flushing it at the end of the process is no error."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def open_console(stream: TextIO | None) -> Console:
    """A console that prints text as it is, coloured on a terminal only; on a stream that is closed it says nothing."""
    if stream is None:
        return _Console(quiet=True, file=io.StringIO())
    live = stream.isatty()
    return _Console(file=stream, markup=False, highlight=False, emoji=False, width=None if live else WIDE)


class Terminal:
    """Implements `pipeline.watcher.Watcher`.

    Args:
        results: for the final screen.
        events: for everything else.
        clock: seconds, monotonic.
    """

    def __init__(self, results: Console, events: Console, clock: Any = time.monotonic) -> None:
        self.results, self.events, self._clock = results, events, clock
        self.began = clock()
        self.current = "start"
        self.checkpoints: Path | None = None  # where finished units are kept, told when a run stops
        self.unit_names: list[str] = []
        self._part = "unit"
        self.units_total = self.units_done = 0
        self.kept = (0, 0)  # units that checkpoints hold, and how many there are
        self._steps = self._seen = self._trained = 0
        self._estimated = False
        self._fixed_label = ""
        self._first_step = self._last_line = self.began
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    # -- the protocol --------------------------------------------------------------------------------------------

    def stage(self, name: str) -> None:
        self.close()
        self.current = name
        self._event(name)

    def planned(self, quantized: Quantized, placement: Sequence[PlacementRow]) -> None:
        self.unit_names = [unit.name for unit in quantized.units]
        self._event(f"  {placement_counts(placement)}; {len(quantized.units)} units to calibrate")
        for line in float_lines(placement):
            self._event(f"  float: {line}", MARKED)
        if quantized.cut is not None:
            self._event(f"  cut: {quantized.cut.text}")

    def expected(self, text: str) -> None:
        self._event(f"  {text}")

    def units(self, total: int, steps: int) -> None:
        self._start("unit", total, steps, "; loss with nearest rounding -> learned")

    def step(self, count: int) -> None:
        self._seen += count
        self._trained += count
        self._advance(self.units_done * self._steps + self._seen)
        elapsed = self._clock() - self._first_step
        if not self._estimated and elapsed >= ESTIMATE_AFTER:
            self._estimate(elapsed)

    def done(self, log: UnitLog) -> None:
        kept = "; kept nearest rounding" if log.kept_nearest else ""
        loss = f"loss {log.loss_nearest:.3g} -> {log.loss_hard:.3g}"
        self.kept = (self.units_done + 1, self.units_total)  # before the line: who reads it may stop the run
        self._finished(f"{log.title}: {loss}, {_duration(log.seconds)}{kept}")

    def training(self, epochs: int, steps: int) -> None:
        self._start("epoch", epochs, steps, "")

    def epoch(self, log: EpochLog) -> None:
        values = ", ".join(f"{name} {value:.3g}" for name, value in log.measured.items())
        self._finished(f"{values}; {_duration(log.seconds)}")

    def allocating(self, done: int, total: int) -> None:
        if self._progress is None:
            self._bar(total, "measuring sensitivities")
        self._advance(done)
        if done >= total:
            self.close()

    def allocated(self, allocation: Allocation) -> None:
        for line in allocation_lines(allocation):
            self._event(f"  {line}")

    def tried(self, text: str) -> None:
        self.close()
        self._event(f"  {text}")

    def proving(self, done: int, total: int) -> None:
        if self._progress is None:
            self._bar(total)
        self._advance(done)
        now = self._clock()
        if not self._is_live and (done >= total or now - self._last_line >= PLAIN_EVERY):
            self._event(f"  compared {done:,} of {total:,} samples")
        if done >= total:
            self.close()

    # -- other things to say -------------------------------------------------------------------------------------

    def close(self) -> None:
        """Take the progress bar away; may be called at any time."""
        if self._progress is not None:
            self._progress.stop()
        self._progress = self._task = None

    def note(self, text: str) -> None:
        """Something to know that is no fault."""
        self._event(f"note: {text}")

    def failure(self, text: str) -> None:
        """An error: first line marked, the others below it."""
        self.close()
        first, *others = shown(text).split("\n")
        self._write(self.events, f"error: {first}", "bold red")
        for line in others:
            self._write(self.events, line)

    def traceback(self, text: str) -> None:
        """For `--debug`."""
        self._write(self.events, printable(text.rstrip()))

    def show_build(self, verdicts: Sequence[Headline], lines: Sequence[str], notes: Sequence[str]) -> None:
        """The final screen."""
        self.close()
        for verdict in verdicts:
            self._write(self.results, shown(verdict.line), VERDICT_STYLES[verdict.status])
            for detail in verdict.details:
                self._wrapped("  ! ", detail)
        for line in lines:
            self._write(self.results, shown(line))
        for note in notes:
            self._wrapped("  note        ", note)

    def show_plan(
        self, quantized: Quantized, placement: Sequence[PlacementRow], notes: Sequence[str], source: str, expected: str
    ) -> None:
        """The dry run's screen: where every layer will run, at how many bits, and how long calibration will take; the
        reasons below the table.
        """
        captured, target = quantized.captured, quantized.target
        self._write(self.results, f"{quantized.recipe.name} on {target.name} ({target.profile}): "
                                  f"{placement_counts(placement)}; bit policy {quantized.recipe.policy}", "bold")
        self._write(self.results, shown(
            f"input {list(captured.input_shape)} (from {source}), {outputs_text(captured)}"
        ))
        rows, footnotes = placement_cells(quantized, placement)
        show_table(self.results, [
            Row(tuple(cells), row.runs == "float") for cells, row in zip(rows, placement, strict=True)
        ], COLUMNS)
        for text, number in footnotes.items():
            self._wrapped(f"  [{number}] ", text)
        for note in notes:
            self._wrapped("  note: ", note)
        self._wrapped("  ", expected)
        self._write(self.results, "dry run: nothing was written")

    def show_tables(
        self, heading: Sequence[str], tables: Sequence[tuple[Sequence[str], Sequence[Row]]], notes: Sequence[str]
    ) -> None:
        """Tables (columns, rows) below their heading, with the notes after them."""
        self.close()
        for line in heading:
            self._wrapped("", line)
        for columns, rows in tables:
            self._write(self.results, "")
            show_table(self.results, [Row(tuple(map(shown, row.cells)), row.marked) for row in rows], columns)
        for note in notes:
            self._wrapped("  note: ", note)

    def show_lines(self, lines: Sequence[str]) -> None:
        """Lines on stdout, as they are."""
        for line in lines:
            self._write(self.results, shown(line))

    def show_json(self, summary: dict[str, Any]) -> None:
        """One JSON object on stdout."""
        self.close()
        try:
            self.results.file.write(json.dumps(summary, indent=1, default=str) + "\n")
            self.results.file.flush()
        except BrokenPipeError:
            _drop(self.results.file)

    # -- inside --------------------------------------------------------------------------------------------------

    @property
    def seconds(self) -> float:
        """Since the start."""
        return self._clock() - self.began

    @property
    def _is_live(self) -> bool:
        return self.events.is_terminal and not self.events.is_dumb_terminal

    def _event(self, text: str, style: str = "") -> None:
        self._last_line = self._clock()
        self._write(self.events, f"{_stamp(self.seconds)}  {shown(text)}", style)

    def _write(self, console: Console, text: str, style: str = "") -> None:
        console.print(Text(text, style=style), soft_wrap=True)

    def _wrapped(self, label: str, text: str) -> None:
        """A sentence, folded at words to the width of a terminal below its label."""
        width = max(40, self.results.width)
        self._write(self.results, textwrap.fill(shown(text), width, initial_indent=label,
                                                subsequent_indent=" " * len(label), break_long_words=False))

    def _start(self, part: str, total: int, steps: int, about: str) -> None:
        """So many units or epochs begin; a build may have several such runs, of either kind."""
        self._part, self.units_total, self._steps = part, total, steps
        self.units_done = self._seen = self._trained = 0
        self._first_step, self._estimated = self._clock(), False
        self._event(f"  {self._parts} of {steps:,} steps{about}:")
        self._bar(total * steps)

    @property
    def _parts(self) -> str:
        return f"{self.units_total} {self._part}{'' if self.units_total == 1 else 's'}"

    def _finished(self, text: str) -> None:
        """One of them is over."""
        self.units_done += 1
        self._seen = 0
        if not self._trained:
            self._first_step = self._clock()  # what comes from checkpoints takes no time worth counting
        self._advance(self.units_done * self._steps)
        place = f"{self.units_done}/{self.units_total}"
        self._event(f"  {place:>7}  {text}")

    def _bar(self, total: int, label: str = "") -> None:
        self._fixed_label = label
        if not self._is_live:
            self._progress = None
            return
        self._progress = Progress(
            TextColumn("{task.description}", markup=False), BarColumn(bar_width=None), TaskProgressColumn(),
            TimeRemainingColumn(compact=True), console=self.events, transient=True, expand=True,
        )
        self._task = self._progress.add_task(self._label(), total=total)
        self._progress.start()

    def _advance(self, completed: int) -> None:
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=completed, description=self._label())

    def _label(self) -> str:
        if self._fixed_label:
            return self._fixed_label
        if self.units_done >= self.units_total:
            return "comparing codes"
        names = self.unit_names if self._part == "unit" and len(self.unit_names) == self.units_total else []
        name = names[self.units_done] if names else ""  # a method may have units of its own
        return f"{self._part} {self.units_done + 1}/{self.units_total} {name[-20:]}"

    def _estimate(self, elapsed: float) -> None:
        self._estimated = True
        left = (self.units_total - self.units_done) * self._steps - self._seen
        seconds = elapsed / self._trained * left
        long = self._part == "unit" and self._steps > ADVISED_STEPS
        advice = f"; for a quicker try: --set method.steps={ADVISED_STEPS}" if long else ""
        if seconds > LONG:
            self._event(f"  about {_duration(seconds)} to go for {self._parts} of {self._steps:,} steps{advice}")


def placement_cells(quantized: Quantized, placement: Sequence[PlacementRow]) -> tuple[list[list[str]], dict[str, int]]:
    """(cells of one row a region in the order of `COLUMNS`, the notes on the numbers in the last column)."""
    unit_of = {name: unit.name for unit in quantized.units for name in unit.nodes}
    footnotes: dict[str, int] = {}
    rows = []
    for row in placement:
        note = f"[{footnotes.setdefault(row.note, len(footnotes) + 1)}]" if row.note else ""
        output = "" if row.output is None else f"{row.output} {row.grid}".replace("asymmetric", "asym")
        layer = "input" if row.op == "quantize" else row.module or row.name
        runs = _RUNS.get(row.runs, row.runs)
        cells = (layer, row.op, runs, row.weight or "", output, unit_of.get(row.name, ""), note)
        rows.append([shown(cell) for cell in cells])
    return rows, footnotes


COLUMNS = ("layer", "operator", "runs in", "weight", "output", "unit", "note")
_RUNS = {"integer": "integers", "layout": "moves codes"}


def shown(text: str) -> str:
    """A text of the library for a person at a terminal: options for arguments, control characters written out."""
    return printable(in_options(text))


def printable(text: str) -> str:
    """The text with control characters written out: a name inside a model file must not steer the terminal."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


def _stamp(seconds: float) -> str:
    return f"{int(seconds) // 60:3d}:{int(seconds) % 60:02d}"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes / 60:.1f} h"


def kept_units(done: int, total: int, folder: Path) -> str:
    """What to do after an interruption."""
    return f"{done} of {total} units are kept in {folder}: the same command with --resume goes on there"
