"""The command `isobit sweep`, from study to page, with real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from isobit.cli import app
from isobit.sweep.folder import Runs
from isobit.sweep.lease import holder
from tests.examples.sweeps import SMALL, given, study, wait_for
from tests.isobit.commands import ENVIRONMENT, contents

RULE = {"accuracy": ">= float - 100", "minimize": "size"}


def sweep(*arguments):
    return CliRunner().invoke(app, ["sweep", *map(str, arguments)])


def rows(out: Path):
    return [json.loads(line) for line in (out / "index.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_one_broken_model_fails_its_cells_alone_and_a_second_call_tries_them_again(tmp_path):
    path = study(tmp_path, models=[given(tmp_path), {"file": "none.pth", "calib_data": "data.npz"}], seeds=[1, 2],
                 best=[RULE])
    out = tmp_path / "runs"
    listed = sweep(path, "--out", out, "--list")
    assert listed.exit_code == 0 and "4 todo" in listed.stdout and not out.exists()
    first = sweep(path, "--out", out, "--jobs", 2)
    assert first.exit_code == 1 and "2 of 4 cells are done, 2 failed" in first.stdout, first.stdout + first.stderr
    assert "\x1b" not in first.stderr and "about" in first.stderr
    found = rows(out)
    assert [row["status"] for row in found] == ["done", "done", "failed", "failed"]
    assert "none.pth" in found[2]["error"] and found[0]["differing"] == 0 and found[0]["bytes"] > 0
    (best, none) = yaml.safe_load((out / "best.yaml").read_text())
    assert best["recipe"] == "minmax_w8a8" and best["seeds"] == 2 and none["recipe"] is None
    assert (out / best["artifact"] / "manifest.json").is_file() and "minmax_w8a8" in (out / "sweep.html").read_text()
    runs, done = Runs(out), Path(found[0]["artifact"]).name
    second = sweep(path, "--out", out)
    assert second.exit_code == 1 and [row["status"] for row in rows(out)] == [row["status"] for row in found]
    assert [line["event"] for line in runs.attempts(done)] == ["started", "built"]
    assert [line["event"] for line in runs.attempts(Path(found[2]["artifact"]).name)] == ["started", "failed"] * 2


@pytest.mark.slow
def test_the_artifact_is_the_one_of_the_command(tmp_path, monkeypatch):
    path, out = study(tmp_path), tmp_path / "runs"
    assert sweep(path, "--out", out).exit_code == 0
    (row,) = rows(out)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    words = ["model.pth", "--arch", "net.py:Residual", "--calib-data", "data.npz", "--eval-data", "data.npz",
             "--recipe", "minmax_w8a8", *(part for text in SMALL for part in ("--set", text)), "--target", "reference",
             "--out", "by-hand"]
    subprocess.run([sys.executable, "-m", "isobit", *words], env=ENVIRONMENT | {"OMP_NUM_THREADS": "1"}, check=True,
                   capture_output=True)
    assert contents(tmp_path / "by-hand") == contents(out / row["artifact"])


@pytest.mark.slow
def test_a_killed_driver_and_a_killed_build_lose_nothing(tmp_path):
    path, out = study(tmp_path, models=[given(tmp_path, gate=tmp_path)]), tmp_path / "runs"
    driver = start(path, out)
    try:
        wait_for((tmp_path / "started").exists, driver)
        (work,) = (out / "work").iterdir()
        _, build = holder(work)
        driver.kill()
        driver.wait()
        other = start(path, out)  # while the first one's build still runs
        wait_for(lambda: "elsewhere" in (tmp_path / f"{other.pid}.log").read_text(), other)
        (tmp_path / "started").unlink()
        os.kill(build, signal.SIGKILL)
        wait_for((tmp_path / "started").exists, other)
        (tmp_path / "go").touch()
        assert other.wait() == 0
    finally:
        (tmp_path / "go").touch()
    runs = Runs(out)
    assert [line["event"] for line in runs.attempts(work.name)] == ["started", "started", "built"]
    assert [row["status"] for row in rows(out)] == ["done"]


def start(path, out):
    """A driver whose messages go to `<pid>.log` beside the study."""
    log = (path.parent / "log").open("w")
    with log:
        driver = subprocess.Popen([sys.executable, "-m", "isobit", "sweep", str(path), "--out", str(out)],
                                  env=ENVIRONMENT, stderr=log, stdout=subprocess.DEVNULL)
    (path.parent / "log").rename(path.parent / f"{driver.pid}.log")
    return driver


@pytest.mark.parametrize(("arguments", "text"), [
    (["none.yaml"], "does not exist"), (["--engine", "slrum"], "engine"), (["--log", "wandb"], "mlflow"),
    (["--jobs", "0"], "jobs"),
])
def test_what_cannot_be_is_refused_with_exit_code_2(tmp_path, monkeypatch, arguments, text):
    monkeypatch.chdir(tmp_path)
    path = study(tmp_path)
    found = sweep(*([] if arguments[0].endswith(".yaml") else [path]), *arguments)
    assert found.exit_code == 2 and text in found.stderr and "Traceback" not in found.stderr, found.stderr


@pytest.mark.parametrize(("options", "text"), [
    ({"parity_samples": 0}, "parity"), ({"input_size": "large"}, "size"), ({"mean": "a,b"}, "numbers"),
    ({"arch_args": "width"}, "key=value"), ({"channels": "rbg"}, "channels"), ({"max_drop": "much"}, "max-drop"),
])
def test_options_that_no_build_takes_name_the_model(tmp_path, options, text):
    found = sweep(study(tmp_path, models=[{**given(tmp_path), **options}]), "--out", tmp_path / "runs")
    assert found.exit_code == 2 and "models.0" in found.stderr and text in found.stderr, found.stderr
    assert not (tmp_path / "runs").exists()
