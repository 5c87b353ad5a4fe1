"""Nothing reaches the terminal, and everything is as it was afterwards."""

from __future__ import annotations

import logging
import sys
import warnings

from isobit.pipeline.quiet import quiet


def test_prints_warnings_and_logs_are_swallowed_and_come_again_afterwards(capsys):
    with quiet():
        print("a graph")
        print("an error", file=sys.stderr)
        warnings.warn("a warning", stacklevel=1)
        logging.getLogger("torch").error("a log")
        assert not logging.getLogger("torch").isEnabledFor(logging.ERROR)
    assert capsys.readouterr() == ("", "")
    assert logging.getLogger("torch").isEnabledFor(logging.ERROR)
