"""The throughput of this machine: a step is timed and counted, and said beside what is assumed."""

import torch

from isobit.calib.cost import TRAINED, Cost
from tests.examples.tiny import model_and_images
from tools.reproduce import measure_throughput


def test_a_step_is_timed_and_counted(monkeypatch):
    monkeypatch.setattr(measure_throughput, "ROUNDS", 2)
    model, images = model_and_images(samples=4)
    model.requires_grad_(True)
    threads = torch.get_num_threads()
    wall, cpu = measure_throughput.step_seconds(model, images, threads=1)
    assert wall > 0 and cpu > 0 and torch.get_num_threads() == threads
    work = measure_throughput.step_cost(model, images.shape[1:])
    stem = 3 * 9 * 8 * 8  # multiplications of one output channel of a 3 x 3 convolution of three channels
    assert work.macs > measure_throughput.BATCH * TRAINED * stem


def test_a_line_says_what_was_measured_and_what_is_assumed():
    text = measure_throughput.row(Cost(77e9, 0.0), 1, 2.0, 1.5)
    assert text == ("1 thread(s): 2000 ms a step (1500 ms of CPU time), 38 GMAC/s; a step of calibration is assumed to "
                    "take 1000 ms")
