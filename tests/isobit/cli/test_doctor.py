"""What this machine has: versions, processor, tools, and for each target what is missing with what installs it."""

import json

from typer.testing import CliRunner

from isobit.backends.base import BACKENDS
from isobit.calib.methods import METHODS
from isobit.cli import app, doctor
from isobit.pipeline.errors import TargetError
from tests.examples import plugins


def run(*arguments):
    return CliRunner().invoke(app, ["doctor", *arguments])


def test_it_says_what_is_there_and_what_is_missing(monkeypatch):
    def check(profile):
        raise TargetError(f"{profile} wants a compiler", hint="apt install gcc")

    monkeypatch.setattr(BACKENDS.get("c"), "check", check, raising=False)
    monkeypatch.setattr(doctor.shutil, "which", lambda name: f"/usr/bin/{name}" if name == "gcc" else None)
    monkeypatch.setattr(doctor, "read_cpuinfo", lambda: "flags : avx2 avx_vnni\nmodel name : Some CPU\n")
    found = json.loads(run("--json").stdout)
    assert found["versions"]["isobit"] == doctor.__version__ and found["versions"]["torch"]
    assert found["processor"] == "Some CPU"
    assert found["features"] == {"AVX2": True, "VNNI": True, "dotprod": False, "i8mm": False}
    assert found["tools"]["C compiler"] == "gcc" and found["tools"]["C++ compiler"] is None
    told = run()
    assert told.exit_code == 0, told.stderr
    for text in ("isobit", "Some CPU", "AVX2, VNNI", "generic wants a compiler", "apt install gcc", "not found"):
        assert text in told.stdout
    assert len([line for line in told.stdout.splitlines() if line.startswith("reference")]) == 1


def test_it_names_plug_ins_that_cannot_be_used(monkeypatch, tmp_path):
    plugins.install(monkeypatch, tmp_path, "isobit.methods", "ends", "raise SystemExit(3)\n", METHODS)
    text = "the method 'ends' of throw-away 1.2 does not import: SystemExit: 3"
    assert json.loads(run("--json").stdout)["plugins"] == [text]
    assert text in run().stdout


def test_it_says_what_installs_an_extra_that_is_missing(monkeypatch):
    known = doctor.package_versions

    def without_detection(*names):
        return {name: None if name == "faster-coco-eval" else version for name, version in known(*names).items()}

    monkeypatch.setattr(doctor, "package_versions", without_detection)
    line = next(line for line in run().stdout.splitlines() if line.startswith("faster-coco-eval"))
    assert "not installed" in line and "pip install 'isobit[detection]'" in line
    assert json.loads(run("--json").stdout)["versions"]["pillow"]
