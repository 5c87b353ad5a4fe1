"""Agreement counts positions; the artifact is not compared with itself."""

import numpy as np

from isobit.pipeline.proof.metrics import Outputs
from isobit.pipeline.proof.metrics.agreement import Agreement


def test_positions_are_counted_over_batches():
    agreement = Agreement(("float", "artifact"))
    assert agreement.values == {"float": None}
    chosen = np.arange(8).reshape(2, 4)
    agreement.add(Outputs("maps", {}, {"float": chosen, "artifact": chosen}, None))
    agreement.add(Outputs("maps", {}, {"float": chosen, "artifact": np.where(chosen < 4, chosen, 0)}, None))
    assert agreement.values == {"float": 75.0} and agreement.shares["float"].seen == 16
