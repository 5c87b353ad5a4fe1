"""A lock keeps others away while its holder lives, in threads and processes, and no longer."""

import os
import signal
import threading

import pytest

from isobit.pipeline.artifact import folder_lock
from isobit.pipeline.artifact.folder_lock import hold
from isobit.pipeline.errors import InputError
from tests.examples.processes import running

HOLDER = """
import sys, time
from pathlib import Path
from isobit.pipeline.artifact.folder_lock import hold
with hold(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds tmp_path/out."""
    with running(HOLDER, tmp_path / "out", "held") as process:
        yield process


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_living_process_is_named_and_a_killed_one_is_no_obstacle(holder, tmp_path):
    with pytest.raises(InputError, match=f"another run is writing there: process {holder.pid}"), hold(tmp_path / "out"):
        pytest.fail("the block must not run")
    with hold(tmp_path / "other") as held:
        assert held
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert names(tmp_path) == [".out.lock"]
    with hold(tmp_path / "out") as held:
        assert held and (tmp_path / ".out.lock").read_text() == str(os.getpid())
    assert names(tmp_path) == []


def test_two_threads_of_one_process_exclude_each_other(tmp_path):
    told = []

    def other():
        try:
            with hold(tmp_path / "out"):
                told.append("held")
        except InputError as error:
            told.append(error.what)

    with hold(tmp_path / "out"):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert told == ["another run is writing there: this process, in another thread"]
    other()
    assert told[1:] == ["held"]


def test_a_link_is_the_folder_that_it_leads_to(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "out")
    with hold(tmp_path / "out"), pytest.raises(InputError, match="another run"), hold(tmp_path / "link"):
        pytest.fail("the block must not run")


def test_parents_that_were_made_go_again_unless_something_is_in_them(tmp_path):
    with hold(tmp_path / "a" / "b" / "out"):
        assert names(tmp_path / "a" / "b") == [".out.lock"]
    assert names(tmp_path) == []
    with hold(tmp_path / "a" / "b" / "out", tmp_path / "a" / "c" / "out"):
        (tmp_path / "a" / "b" / "out").mkdir()
    assert names(tmp_path / "a") == ["b"] and names(tmp_path / "a" / "b") == ["out"]


def test_all_are_let_go_where_one_cannot_be_held(tmp_path):
    with hold(tmp_path / "two"), pytest.raises(InputError, match="another run"), hold(tmp_path / "one",
                                                                                      tmp_path / "two"):
        pytest.fail("the block must not run")
    assert names(tmp_path) == []


def test_a_file_that_its_holder_removes_is_asked_for_again(tmp_path, monkeypatch):
    """The holder ends between our opening of the file and our locking of it."""
    real, seen = folder_lock.fcntl.flock, []

    def flock(descriptor, operation):
        if not seen:
            (tmp_path / ".out.lock").unlink()
        seen.append(descriptor)
        real(descriptor, operation)

    monkeypatch.setattr(folder_lock.fcntl, "flock", flock)
    with hold(tmp_path / "out") as held:
        assert held and len(seen) == 2 and names(tmp_path) == [".out.lock"]


def test_without_locks_nobody_is_kept_away_and_that_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_lock, "fcntl", None)
    with hold(tmp_path / "out") as first, hold(tmp_path / "out") as second:
        assert not first and not second
    assert names(tmp_path) == []


def test_places_that_cannot_be_written_to_are_input_errors(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / ".taken.lock").mkdir()
    for folder in (tmp_path / "file" / "out", tmp_path / "taken"):
        with pytest.raises(InputError, match="cannot be made"), hold(folder):
            pytest.fail("the block must not run")
