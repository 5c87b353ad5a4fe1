"""Networks that end in float operators, as C: codes are the arithmetic's, and so are the outputs but for rounding."""

import numpy as np
import torch
from torch import nn

from isobit import passes
from isobit.backends.c.floats.writers import value_size, values_between
from isobit.backends.fixed_point.lower import lower
from isobit.calib.calibrate import calibrate
from tests.backends.c.compiled import needs_gcc
from tests.examples import ports


class Detector(nn.Module):
    """Scores by a softmax, boxes decoded from their offsets, two scales joined."""

    def __init__(self):
        super().__init__()
        self.body = nn.Conv2d(3, 8, 3, padding=1)
        self.scores, self.boxes = nn.Conv2d(8, 3, 1), nn.Conv2d(8, 4, 1)
        self.register_buffer("priors", torch.rand(1, 40, 2))

    def forward(self, x):
        x = torch.relu(self.body(x))
        maps = (x, nn.functional.max_pool2d(x, 2))
        scores, boxes = (torch.cat([head(each).flatten(2).transpose(1, 2) for each in maps], 1)
                         for head in (self.scores, self.boxes))
        centres = self.priors + boxes[..., :2] * 0.1
        sizes = torch.exp(boxes[..., 2:] * 0.2)
        return scores.softmax(-1), torch.cat([centres - sizes / 2, centres + sizes / 2], -1)


def frozen():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, x = Detector().eval(), torch.randn(8, 3, 4, 8)
    return model, x, passes.legalize(calibrate(ports.place(model, x, "detector", "c", "nearest_w8a8"), x))[0]


@needs_gcc
def test_codes_are_exact_and_values_near(tmp_path):
    model, x, reference = frozen()
    report = ports.prove(reference, x, "c", tmp_path).report
    assert all((level.codes.differing, level.unexplained) == (0, 0) < (level.codes.compared, 1)
               for level in report.levels)
    backend = ports.BACKENDS.get("c")
    got, same_codes = backend.open(tmp_path, "O2").run(x), backend.arithmetic(reference).run(x)
    with torch.no_grad():
        exact = model(x)
    for name, whole in zip(("output_0", "output_1"), exact, strict=True):
        np.testing.assert_allclose(got[name], same_codes[name], rtol=1e-5, atol=1e-5)
        assert np.abs(got[name] - whole.numpy()).max() < 0.05 * float(whole.max() - whole.min())


def test_values_live_from_where_they_are_written_to_where_they_are_read_last():
    program = lower(frozen()[2])
    lives = values_between(program)
    assert set(lives) == set(range(len(program.floats))) and all(first < last for first, last in lives.values())
    assert value_size(program, 0) > 1
