"""From what happened to what the shell sees: every exception becomes a message and an exit code, here and only here."""

from __future__ import annotations

import signal
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer

from isobit.cli.summary import error_json
from isobit.cli.terminal import Terminal, kept_units
from isobit.pipeline.artifact.output import is_disk_full
from isobit.pipeline.errors import CompileError, ExitCode, InputError, first_line


class InternalError(CompileError):
    """A defect of this program, wrapped so that it is shown like any other error."""

    stage = "internal error"
    exit_code = ExitCode.INTERNAL


class Interrupted(CompileError):
    """Ctrl-C, or a batch system that asks the process to end."""

    stage = "interrupted"
    exit_code = ExitCode.INTERRUPTED


@contextmanager
def exit_codes(terminal: Terminal, *, as_json: bool, debug: bool) -> Iterator[None]:
    """Run the block; what it raises is printed on stderr (and as JSON on stdout) and becomes the exit code.

    Args:
        debug: print tracebacks.
    """
    try:
        with _termination_as_interrupt():
            yield
    except typer.Exit:
        raise
    except (Exception, KeyboardInterrupt, SystemExit) as error:
        terminal.close()
        if debug:
            terminal.traceback("".join(traceback.format_exception(error)))
        told = error if isinstance(error, CompileError) else _wrapped(error, terminal, debug)
        terminal.failure(str(told))
        if terminal.kept[0] and terminal.checkpoints is not None:
            terminal.note(kept_units(*terminal.kept, terminal.checkpoints))
        if as_json:
            terminal.show_json(error_json(told))
        raise typer.Exit(int(told.exit_code)) from error
    finally:
        terminal.close()


@contextmanager
def _termination_as_interrupt() -> Iterator[None]:
    """SIGTERM and SIGHUP unwind like Ctrl-C, so that temporary folders go; only the main thread may set handlers.

    What whoever started the process wants ignored (nohup) stays ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers if signal.getsignal(number) != signal.SIG_IGN}
    try:
        for number in before:
            signal.signal(number, stop)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _wrapped(error: BaseException, terminal: Terminal, debug: bool) -> CompileError:
    if isinstance(error, KeyboardInterrupt):
        return Interrupted(f"stopped in '{terminal.current}'; nothing was written to the output folder")
    if isinstance(error, SystemExit):
        return InputError(
            f"the network's code ended the program (exit {error.code})", where=f"in '{terminal.current}'",
            hint="Code that must not run when a file is imported belongs below if __name__ == \"__main__\".",
        )
    if isinstance(error, MemoryError):
        return InputError(
            "there is not enough memory", where=f"in '{terminal.current}'",
            hint="Take fewer or smaller samples, or a machine with more.",
        )
    if isinstance(error, RuntimeError) and str(error).startswith("Symlink loop"):  # pathlib before Python 3.13
        return InputError("a path leads in a circle", where=first_line(error), hint="Remove the link.")
    if is_disk_full(error):
        return InputError("the disk is full", where=str(error.filename or ""), hint="Make room.")
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return InternalError(
        first_line(error), where=f"{Path(frame.filename).name}:{frame.lineno}, in '{terminal.current}'",
        hint="this is a defect of Isobit, please report it" if debug else
        "this is a defect of Isobit, please report it; --debug shows the traceback",
    )
