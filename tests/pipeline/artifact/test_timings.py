"""Timings: every stage has its seconds, and whoever watches is told as if nobody measured."""

import json

from isobit.pipeline.artifact.manifest import TIMINGS
from isobit.pipeline.artifact.timings import TimedStages, write_timings
from isobit.pipeline.stages import EpochLog, UnitLog
from isobit.pipeline.watcher import Quiet


class Seen(Quiet):
    def __init__(self):
        self.told = []

    def stage(self, name):
        self.told.append(name)

    def step(self, count):
        self.told.append(count)


def test_stages_are_measured_and_passed_on():
    seen, now, cpu = Seen(), iter([0.0, 1.0, 3.0, 3.5, 10.0]), iter([0.0, 0.5, 2.5, 3.0, 16.0])
    timed = TimedStages(seen, lambda: next(now), lambda: next(cpu))
    timed.stage("capture")
    timed.step(4)
    timed.stage("calibrate")
    timed.stage("capture")
    timed.end()
    assert seen.told == ["capture", 4, "calibrate", "capture"]
    assert timed.seconds == {"capture": 2.0 + 6.5, "calibrate": 0.5}
    assert timed.cpu_seconds == {"capture": 2.0 + 13.0, "calibrate": 0.5}


def test_the_file_holds_what_was_expected_and_what_was_measured(tmp_path):
    unit = UnitLog("layer1", 10, 1.0, 0.5, 0.5, 0.0, 0.0, 1.23456)
    write_timings(tmp_path, {"cpu_seconds": 4.0}, {"calibrate": 2.0}, [unit], {"network": [EpochLog(1, 5, {}, 0.5)]},
                  cpu_stages={"calibrate": 3.98765}, machine={"cores": 2})
    assert json.loads((tmp_path / TIMINGS).read_text()) == {
        "machine": {"cores": 2}, "expected": {"cpu_seconds": 4.0}, "stages": {"calibrate": 2.0},
        "cpu_stages": {"calibrate": 3.988}, "units": {"layer1": 1.235}, "epochs": {"network": [0.5]},
    }
