"""The grid's runner on tiny networks: real processes, records that are not made twice, the page that they fill."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tools.small_grid import record, small_data
from tools.reproduce import reproduce
from tools.reproduce.cell import record_path
from tools.reproduce.plan import Group, Line

pytestmark = pytest.mark.onnxruntime
SMALL = ("images.count=32", "images.batch_size=16")
GOOD = Line("ds_cnn", "qdrop_w4a4", ("method.steps=2", *SMALL), seeds=(1, 2))
BAD = Line("ds_cnn", "qdrop_w4a4", ("method.no_such_option=1", *SMALL), seeds=(1,))
PLAN = (Group("one", (GOOD, BAD)), Group("best", view="best"))
PAGE = "Mine.\n" + "".join(
    f"<!-- reproduce:{name} -->\n<!-- /reproduce:{name} -->\nWords about {name}.\n"
    for name in ("environment", "one", "best")
)


@pytest.fixture
def call(tmp_path):
    """Runs the command line on the plan above, with folders of its own."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "results.md").write_text(PAGE)
    data = small_data(tmp_path / "data")

    def run(*arguments, plan=PLAN):
        folders = ["--data", str(data), "--out", str(tmp_path / "out"), "--docs", str(tmp_path / "docs")]
        return reproduce.main([*folders, *arguments], plan)

    return run


def test_a_grid_goes_on_past_a_failing_cell_is_not_run_twice_and_fills_the_page(call, tmp_path, capsys):
    assert call("--jobs", "2") == 1
    printed = capsys.readouterr().out
    assert "3 of 3 cells to run" in printed and printed.count("calibrated in") == 2 and printed.count("FAILED") == 1
    page = (tmp_path / "docs" / "results.md").read_text()
    assert page.startswith("Mine.\n") and "Words about best." in page and "no_such_option" in page
    assert "`qdrop_w4a4`" in page and reproduce.code_sha256()[:12] in page
    (line, bad) = json.loads((tmp_path / "docs" / "results.json").read_text())["groups"]["one"]["lines"]
    assert line["measured"] == line["seeds"] == 2 and bad["state"] == "failed"

    good = [record_path(tmp_path / "out", cell) for cell in GOOD.cells]
    written = [path.stat().st_mtime_ns for path in good]
    assert call() == 1
    assert "1 of 3 cells to run" in capsys.readouterr().out  # the failed one only
    assert [path.stat().st_mtime_ns for path in good] == written

    call("--list")
    listed = capsys.readouterr().out
    assert "0 todo, 1 failed, 0 stale, 2 done" in listed and f"done   {GOOD.cells[0].id}" in listed


def write(tmp_path, cell, **changes):
    path = record_path(tmp_path / "out", cell)
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({**record(cell, 50.0), **changes}))


def test_what_a_record_depends_on_makes_it_outdated_or_stale(call, tmp_path, capsys):
    first, second = GOOD.cells
    key = reproduce.cell_key(first, tmp_path / "data", reproduce.PROOF)
    write(tmp_path, first, key=key, code=reproduce.code_sha256())
    write(tmp_path, second, key="of other data", code=reproduce.code_sha256())
    call("--list", "--only", "*qdrop_w4a4+method.steps*")
    assert "1 todo, 0 failed, 0 stale, 1 done" in capsys.readouterr().out
    call("--list", "--only", first.id, "--proof", "7")
    assert "1 todo" in capsys.readouterr().out
    write(tmp_path, first, key=key, code="of other code")
    call("--list", "--only", first.id)
    assert "1 stale" in capsys.readouterr().out
    states = [reproduce.State(first, key, "stale")]
    options = reproduce.parse(["--out", str(tmp_path / "out")], PLAN)
    assert reproduce.run(states, options) == 0  # nothing to do without --stale
    assert "0 of 1 cells to run" in capsys.readouterr().out


def test_a_process_that_dies_without_a_word_is_a_failed_cell(call, tmp_path, capsys, monkeypatch):
    def die(state, options):
        log = record_path(options.out, state.cell).with_suffix(".log")
        log.parent.mkdir(exist_ok=True)
        log.write_text("out of memory\n")
        return subprocess.Popen([sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"])

    monkeypatch.setattr(reproduce, "start", die)
    write(tmp_path, GOOD.cells[0])  # of an earlier run: it must not pass for the outcome of this one
    assert call("--only", GOOD.cells[0].id) == 1
    assert "the process ended with code -9: out of memory" in capsys.readouterr().out
    assert json.loads(record_path(tmp_path / "out", GOOD.cells[0]).read_text())["error"]


def test_a_part_of_the_plan_leaves_the_page_alone(call, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(reproduce, "run", lambda states, options: 0)
    for part in (["--groups", "one"], ["--only", "*/1"], ["--limit", "1"]):
        assert call(*part) == 0
        assert "a part of the plan was run" in capsys.readouterr().out
        assert (tmp_path / "docs" / "results.md").read_text() == PAGE
    for cell in (*GOOD.cells, *BAD.cells):
        write(tmp_path, cell, **({"error": "bad"} if cell in BAD.cells else {}))
    assert call() == 0
    assert (tmp_path / "docs" / "results.md").read_text() != PAGE


def test_rendering_twice_gives_the_same_page_and_keeps_every_word(call, tmp_path):
    for cell in GOOD.cells:
        write(tmp_path, cell)
    assert call("--render", "--groups", "one") == 0
    page = (tmp_path / "docs" / "results.md").read_text()
    assert "50.00 ±0.00" in page
    numbers = (tmp_path / "docs" / "results.json").read_text()
    (tmp_path / "docs" / "results.md").write_text(page.replace("Words about one.", "Other words, by hand."))
    assert call("--render", "--groups", "one") == 0
    assert (tmp_path / "docs" / "results.md").read_text() == page.replace("Words about one.", "Other words, by hand.")
    assert (tmp_path / "docs" / "results.json").read_text() == numbers


def test_a_table_is_not_taken_away_by_a_part_of_its_cells(call, tmp_path, capsys):
    """Records of earlier tables may be gone: they are rewritten where they are whole, or by name."""
    for cell in GOOD.cells:
        write(tmp_path, cell, accuracy={"float": 90.0, "artifact": 33.0})
    assert call("--render", "--groups", "one") == 0
    page = tmp_path / "docs" / "results.md"
    old = page.read_text()
    assert "33.00" in old
    capsys.readouterr()
    write(tmp_path, GOOD.cells[0])
    assert call("--render") == 0 and call("--render", "--groups", "best") == 0
    assert page.read_text() == old and "left as they are: one" in capsys.readouterr().out
    for cell in (*GOOD.cells, *BAD.cells):
        write(tmp_path, cell, **({"error": "bad"} if cell in BAD.cells else {}))
    assert call("--render") == 0
    assert "33.00" not in page.read_text() and "left as they are" not in capsys.readouterr().out


def test_at_most_so_many_cells_at_a_time(tmp_path, monkeypatch):
    alive, most = set(), []

    class Process:
        def __init__(self):
            self.polls = 0
            alive.add(self)
            most.append(len(alive))

        def poll(self):
            self.polls += 1
            if self.polls < 3:
                return None
            alive.discard(self)
            return 0

    monkeypatch.setattr(reproduce, "start", lambda state, options: Process())
    monkeypatch.setattr(reproduce, "outcome", lambda state, process, options: record(state.cell, 1.0))
    monkeypatch.setattr(reproduce, "POLL_SECONDS", 0)
    line = Line("ds_cnn", "qdrop_w4a4", seeds=tuple(range(7)))
    states = [reproduce.State(cell, "", "todo") for cell in line.cells]
    assert reproduce.run(states, reproduce.parse(["--jobs", "3"], PLAN)) == 0
    assert len(most) == 7 and max(most) == 3


def test_an_ended_run_ends_its_processes_and_leaves_no_record(tmp_path):
    data, out = small_data(tmp_path / "data"), tmp_path / "out"
    program = (
        "import sys; sys.path[:0] = ['.']\n"
        "import signal; from tools.reproduce import reproduce; from tools.reproduce.plan import Group, Line\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n"
        "class Told:\n"  # the loop sleeps when the process is noted as running
        "    def sleep(seconds):\n"
        "        print('noted', flush=True); time.sleep(seconds)\n"
        "import time; reproduce.time = Told\n"
        "line = Line('ds_cnn', 'qdrop_w4a4', ('method.steps=100000', 'images.count=32'), seeds=(1,))\n"
        f"reproduce.main(['--data', {str(data)!r}, '--out', {str(out)!r}], (Group('one', (line,)),))\n"
    )
    runner = subprocess.Popen(
        [sys.executable, "-c", program], cwd=Path(__file__).parents[3], stdout=subprocess.PIPE, text=True)
    children = Path(f"/proc/{runner.pid}/task/{runner.pid}/children")
    if not children.is_file():
        runner.kill()
        pytest.skip("this kernel does not list the children of a process")
    while "noted" not in (line := runner.stdout.readline()):
        assert line, "it ended"
    child = children.read_text().strip()
    runner.send_signal(signal.SIGTERM)
    runner.communicate(timeout=60)
    assert runner.returncode == 143
    with pytest.raises(ProcessLookupError):
        os.kill(int(child), 0)
    assert not list(out.glob("*.json"))


def test_wrong_options_are_refused_in_words(call, tmp_path, capsys):
    assert call("--only", "nothing*") == 2
    assert "no cell of the plan matches" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        call("--groups", "three")
    assert "no such group: three" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        call("--jobs", "0")
    (tmp_path / "docs" / "results.md").unlink()
    assert call("--render") == 2
    assert "the document is not there" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [([], "tf"), (["--stale"], "tfs"), (["--limit", "1"], "t"), (["--stale", "--limit", "2"], "tf")],
)
def test_what_is_run_again(arguments, expected, monkeypatch):
    started = []
    class Finished:
        def poll(self):
            return 0

    def start(state, options):
        started.append(state.key)
        return Finished()

    monkeypatch.setattr(reproduce, "start", start)
    monkeypatch.setattr(reproduce, "outcome", lambda state, process, options: record(state.cell, 1.0))
    words = {"t": "todo", "d": "done", "f": "failed", "s": "stale"}
    states = [reproduce.State(cell, key, word) for cell, (key, word) in
              zip(Line("ds_cnn", "qdrop_w4a4", seeds=(1, 2, 3, 4)).cells, words.items(), strict=True)]
    reproduce.run(states, reproduce.parse(arguments, PLAN))
    assert "".join(started) == expected
