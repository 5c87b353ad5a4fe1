"""What is to be told about images that no camera took."""

from types import SimpleNamespace

import torch

from isobit.shipping.shipment import Synthetic


def findings(**given):
    return SimpleNamespace(**{"images": None, "notes": [], "epochs": [], **given})


def test_images_of_a_source_come_before_those_of_a_method_and_both_tell_their_epochs():
    calibrated = SimpleNamespace(findings=findings(images=torch.ones(2), notes=["b"], epochs=["network"]))
    made = SimpleNamespace(images=torch.zeros(3), findings=findings(notes=["a"], epochs=["images"]))
    both = Synthetic.of(made, calibrated)
    assert len(both.images) == 3 and both.notes == ["a", "b"]
    assert both.trainings == {"images": ["images"], "network": ["network"]}
    method = Synthetic.of(None, calibrated)
    assert len(method.images) == 2 and method.notes == ["b"] and method.trainings == {"network": ["network"]}
    assert Synthetic.of(None, SimpleNamespace(findings=findings())) == Synthetic(None, [], {})
