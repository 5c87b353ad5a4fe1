"""Every way to end has its exit code, its words and nothing else."""

import errno
import io
import json
import os
import signal

import pytest
import typer

from isobit.cli.exits import exit_codes
from isobit.cli.terminal import Terminal, open_console
from isobit.pipeline.errors import InputError, ParityError


def ended(error, *, as_json=False, debug=False, units=0, tmp_path=None):
    """(exit code, stderr, stdout) of a block that raises `error`."""
    terminal = Terminal(open_console(io.StringIO()), open_console(io.StringIO()))
    terminal.kept, terminal.checkpoints = (units, 9), tmp_path
    with pytest.raises(typer.Exit) as stop, exit_codes(terminal, as_json=as_json, debug=debug):
        terminal.current = "calibrate"
        raise error
    return stop.value.exit_code, terminal.events.file.getvalue(), terminal.results.file.getvalue()


def test_a_block_that_ends_well_says_nothing():
    terminal = Terminal(open_console(io.StringIO()), open_console(io.StringIO()))
    with exit_codes(terminal, as_json=True, debug=True):
        pass
    assert not terminal.events.file.getvalue() + terminal.results.file.getvalue()


def test_errors_on_purpose_keep_their_code_and_words():
    code, stderr, stdout = ended(InputError("no model", where="x.pth", hint="look"))
    assert (code, stdout) == (2, "") and stderr == "error: input: no model\n  where:   x.pth\n  do:      look\n"
    assert ended(ParityError("differs"))[0] == 1


def test_a_defect_is_3_with_its_place_and_without_traceback():
    code, stderr, _ = ended(KeyError("gone"))
    assert code == 3 and "internal error: KeyError: 'gone'" in stderr and "test_exits.py:" in stderr
    assert "--debug shows the traceback" in stderr and "Traceback" not in stderr
    assert "Traceback" in ended(KeyError("gone"), debug=True)[1]


def test_an_interruption_is_130_and_says_how_to_go_on(tmp_path):
    code, stderr, _ = ended(KeyboardInterrupt(), units=3, tmp_path=tmp_path)
    assert code == 130 and "stopped in 'calibrate'" in stderr and "3 of 9 units are kept" in stderr
    assert "--resume" not in ended(KeyboardInterrupt())[1]


@pytest.mark.parametrize(("error", "text"), [
    (RuntimeError("Symlink loop from 'x'"), "leads in a circle"),
    (SystemExit(0), "code ended the program (exit 0)"), (MemoryError(), "not enough memory"),
    (OSError(errno.ENOSPC, "No space left", "x"), "the disk is full"),
])
def test_what_is_no_defect_is_an_input_error(error, text):
    code, stderr, _ = ended(error)
    assert code == 2 and text in stderr and "internal" not in stderr


def test_a_signal_that_is_to_be_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        terminal = Terminal(open_console(io.StringIO()), open_console(io.StringIO()))
        with exit_codes(terminal, as_json=False, debug=False):
            os.kill(os.getpid(), signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_errors_are_json_where_asked_for():
    stdout = ended(InputError("no model", allowed="a file"), as_json=True)[2]
    summary = json.loads(stdout)
    assert summary["exit_code"] == 2 and summary["error"]["what"] == "no model"
    assert summary["error"]["allowed"] == "a file" and not summary["passed"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_termination_unwinds_like_an_interruption_and_the_handler_is_put_back(number):
    inherited = signal.signal(number, signal.SIG_DFL)  # a suite in the background may inherit one that is ignored
    before = signal.getsignal(number)
    terminal = Terminal(open_console(io.StringIO()), open_console(io.StringIO()))
    with pytest.raises(typer.Exit) as stop, exit_codes(terminal, as_json=False, debug=False):
        os.kill(os.getpid(), number)
        signal.pause()
    assert stop.value.exit_code == 130 and signal.getsignal(number) is before
    signal.signal(number, inherited)


def test_an_exit_passes_through():
    terminal = Terminal(open_console(io.StringIO()), open_console(io.StringIO()))
    with pytest.raises(typer.Exit) as stop, exit_codes(terminal, as_json=False, debug=False):
        raise typer.Exit(1)
    assert stop.value.exit_code == 1 and not terminal.events.file.getvalue()
