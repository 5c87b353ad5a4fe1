"""A bar on a terminal, plain lines elsewhere; text from outside steers nothing."""

import inspect
import io
import json
import re

import pytest
from rich.console import Console
from rich.text import Text

from isobit.backends.onnx.target import TARGETS
from isobit.backends.placement import placement_table
from isobit.cli.tables import MARKED
from isobit.cli.terminal import VERDICT_STYLES, Terminal, _Console, kept_units, open_console, placement_cells, printable
from isobit.pipeline.proof.verdicts import Headline
from isobit.pipeline.recipe.allocation import Allocation, Point
from isobit.pipeline.recipe.budget import BitBudget
from isobit.pipeline.stages import EpochLog, UnitLog
from isobit.pipeline.watcher import Watcher
from tests.examples.tiny import quantized_net

TARGET = TARGETS["generic"]
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f]")


class Clock:
    """Seconds that pass when told."""

    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def plain():
    return Terminal(open_console(io.StringIO()), open_console(io.StringIO()), Clock())


def live(width):
    consoles = [Console(file=io.StringIO(), force_terminal=True, width=width, markup=False, highlight=False)
                for _ in range(2)]
    return Terminal(*consoles, Clock())


def said(terminal):
    return terminal.events.file.getvalue()


def log(name, kept=False):
    return UnitLog(name, 100, 0.5, 0.2, 0.25, 0.0, 0.1, 3.0, kept)


def calibrate(terminal):
    """Two units of 100 steps, the second one kept as it was."""
    terminal.stage("calibrate")
    terminal.units(2, 100)
    for name, kept in (("stem", False), ("head[red]", True)):
        for _ in range(4):
            terminal._clock.now += 1
            terminal.step(25)
        terminal.done(log(name, kept))


def test_whoever_reads_that_a_unit_is_done_may_stop_the_run(plain, monkeypatch):
    def interrupted(text, style=""):
        if "1/2" in text:
            raise KeyboardInterrupt

    monkeypatch.setattr(plain, "_event", interrupted)
    with pytest.raises(KeyboardInterrupt):
        calibrate(plain)
    assert plain.kept == (1, 2)


def test_every_call_of_the_protocol_is_answered():
    for name, member in inspect.getmembers(Watcher, inspect.isfunction):
        if not name.startswith("_"):
            assert inspect.signature(getattr(Terminal, name)) == inspect.signature(member)


def test_a_pipe_gets_one_plain_line_an_event(plain):
    calibrate(plain)
    plain.proving(50, 100)
    plain.proving(100, 100)
    lines = said(plain).splitlines()
    assert [line[8:].strip() for line in lines] == [
        "calibrate",
        "2 units of 100 steps; loss with nearest rounding -> learned:",
        "1/2  stem: loss 0.5 -> 0.25, 3.0 s",
        "2/2  head[red]: loss 0.5 -> 0.25, 3.0 s; kept nearest rounding",
        "compared 100 of 100 samples",
    ]
    assert not CONTROL.search(said(plain))


def test_slow_comparisons_say_now_and_then_how_far_they_are(plain):
    plain.stage("prove")
    for done in range(1, 31):
        plain._clock.now += 1
        plain.proving(done, 100)
    assert said(plain).count("compared") == 3


def test_a_long_calibration_is_estimated_once_with_a_way_out(plain):
    plain.units(10, 20_000)
    for _ in range(20):
        plain._clock.now += 1
        plain.step(100)
    estimates = [line for line in said(plain).splitlines() if "about" in line]
    assert len(estimates) == 1
    assert "about 33 min to go for 10 units of 20,000 steps" in estimates[0]
    assert "--set method.steps=1000" in estimates[0]


def test_what_trains_after_the_units_has_its_own_estimate_and_forgets_no_unit(plain):
    calibrate(plain)
    plain.training(1, 400)
    for _ in range(20):
        plain._clock.now += 60
        plain.step(1)
    assert "  1 epoch of 400 steps:" in said(plain)
    (estimate,) = [line for line in said(plain).splitlines() if "to go for 1 epoch of 400 steps" in line]
    assert "method.steps" not in estimate and plain.kept == (2, 2)


def test_resumed_units_do_not_enter_the_estimate(plain):
    plain.units(10, 20_000)
    plain._clock.now += 1
    plain.done(log("kept"))
    for _ in range(3):
        plain._clock.now += 1
        plain.step(100)
    assert "about 30 min to go" in said(plain)


def test_a_second_pass_counts_its_units_and_its_steps_from_none(plain):
    plain.units(1, 100)
    plain.step(100)
    plain.done(log("first"))
    plain.units(10, 20_000)
    for _ in range(3):
        plain._clock.now += 1
        plain.step(100)
    plain.done(log("second"))
    assert "about 33 min to go" in said(plain) and "1/10  second" in said(plain)


def test_the_estimate_counts_the_steps_of_all_units_so_far(plain):
    plain.units(1000, 100)
    for _ in range(3):
        plain._clock.now += 1
        plain.step(100)
        plain.done(log("short"))
    assert "about 17 min to go" in said(plain)


def test_units_after_a_training_are_called_units_again(plain):
    """Images are made by training a generator; the units that follow have their own names."""
    plain.unit_names = ["stem", "head"]
    plain.training(1, 10)
    assert plain._label() == "epoch 1/1 "
    plain.epoch(EpochLog(1, 10, {"loss": 0.5}, 2.0))
    plain.units(2, 100)
    assert plain._label() == "unit 1/2 stem"
    plain.units(1, 100)  # a method's own units
    assert plain._label() == "unit 1/1 "


@pytest.mark.parametrize("width", [80, 30])
def test_a_terminal_gets_a_bar_that_fits_and_is_taken_away(width):
    terminal = live(width)
    calibrate(terminal)
    terminal.close()
    text = said(terminal)
    assert "unit 1/2" in text and "\x1b[" in text
    assert text.rstrip().endswith("\x1b[2K") or "stem" in text
    frames = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).split("\r")
    assert max(len(line) for frame in frames for line in frame.split("\n") if "unit 1" in line) <= width


def test_errors_keep_their_lines_and_control_characters_are_written_out(plain):
    plain.failure("input: no \x1b[31mred\x1b[0m\n  where:   a[b]")
    assert said(plain) == "error: input: no \\x1b[31mred\\x1b[0m\n  where:   a[b]\n"
    assert printable("plain [x]\n\u00e9") == "plain [x]\n\u00e9"


def test_notes_are_folded_to_a_terminal_and_results_are_not_markup():
    terminal = live(60)
    terminal.show_build([Headline("PARITY", "ok", "all")], ["  artifact    [bold]/a"], ["many words " * 10])
    lines = re.sub(r"\x1b\[[0-9;]*m", "", terminal.results.file.getvalue()).splitlines()
    assert lines[:2] == ["PARITY PASSED: all", "  artifact    [bold]/a"]
    assert max(map(len, lines)) <= 60 and lines[3].startswith(" " * 14 + "many")


def test_a_warning_stands_on_top_with_its_causes():
    terminal = live(60)
    verdicts = [Headline("PARITY", "ok", "all"), Headline("ACCURACY", "warning", "lost", ("black images " * 8,))]
    terminal.show_build(verdicts, ["  artifact    a"], [])
    shown = terminal.results.file.getvalue()
    lines = re.sub(r"\x1b\[[0-9;]*m", "", shown).splitlines()
    assert lines[:2] == ["PARITY PASSED: all", "ACCURACY WARNING: lost"] and "\x1b[1;35mACCURACY" in shown
    assert lines[2].startswith("  ! black") and lines[3].startswith("    ") and max(map(len, lines)) <= 60


@pytest.mark.parametrize("terminal", [Terminal(open_console(io.StringIO()), open_console(io.StringIO())), live(80)])
def test_the_plan_is_one_row_a_region_with_numbered_notes(terminal):
    quantized, _ = quantized_net(TARGET, "qdrop_w4a4")
    placement = placement_table(quantized.graph, quantized.target)
    terminal.planned(quantized, placement)
    terminal.show_plan(quantized, placement, ["mind the gap"], "--input-size", "expected: about 2 min")
    text = re.sub(r"\x1b\[[0-9;]*m", "", terminal.results.file.getvalue())
    assert re.search(r"qdrop_w4a4 on onnx \(generic\): .*; bit policy qdrop\n", text)
    assert "input [3, 8, 8] (from --input-size), 5 classes" in text
    rows = [line.split() for line in text.splitlines()]
    assert ["stem", "conv2d+relu", "integers", "8", "4", "unsigned", "stem"] in [row[:7] for row in rows]
    assert "\n  expected: about 2 min\n" in text
    assert "note: mind the gap" in text and max(map(len, text.splitlines())) <= 120


def test_the_same_note_has_one_number():
    quantized, _ = quantized_net(TARGET, "qdrop_w4a4")
    rows, footnotes = placement_cells(quantized, placement_table(quantized.graph, quantized.target))
    used = [row[-1] for row in rows if row[-1]]
    assert sorted(set(used)) == sorted(f"[{number}]" for number in footnotes.values())
    assert list(footnotes.values()) == list(range(1, len(footnotes) + 1))


def test_json_goes_to_the_results_alone(plain):
    plain.show_json({"a": 1})
    assert json.loads(plain.results.file.getvalue()) == {"a": 1} and not said(plain)


def test_what_was_kept_names_the_folder_and_the_option(tmp_path):
    assert kept_units(3, 9, tmp_path).startswith(f"3 of 9 units are kept in {tmp_path}: the same command with --resume")


def allocate(terminal):
    terminal.stage("allocate bits")
    for done in range(1, 5):
        terminal.allocating(done, 4)
    terminal.allocated(Allocation(
        BitBudget(average=3), {"stem[0]": 100}, {"stem[0]": 3}, {"stem[0]": {2: 0.1, 3: 0.01}}, (Point(38, 0.01),),
        Point(38, 0.01), {}, 8,
    ))


def test_chosen_bits_are_told_in_two_lines(plain):
    allocate(plain)
    assert [line[8:].strip() for line in said(plain).splitlines()] == [
        "allocate bits", "3.00 bits on average over 1 layers, 38 bytes; omega 0.01 nats", "3 bits: stem[0]",
    ]


def test_measuring_has_a_bar_of_its_own_on_a_terminal_and_leaves_it_to_the_next_stage():
    terminal = live(100)
    allocate(terminal)
    assert "measuring sensitivities" in said(terminal) and "100%" in said(terminal)
    before = len(said(terminal))
    calibrate(terminal)
    assert "measuring" not in said(terminal)[before:] and "unit 1/2" in said(terminal)[before:]


def test_no_colour_is_hard_to_read_on_a_light_background_and_none_is_used_where_nobody_wants_one(monkeypatch):
    styles = " ".join([*VERDICT_STYLES.values(), MARKED])
    assert not any(word in styles for word in ("yellow", "cyan", "white"))
    monkeypatch.setenv("NO_COLOR", "1")
    console = _Console(file=io.StringIO(), force_terminal=True, width=60)
    console.print(Text("text", style=VERDICT_STYLES["failed"]))
    assert "31" not in console.file.getvalue()
