"""The processor's name, with and without Linux's description of it."""

import platform

from tools.processor import cpu_name


def test_the_name_of_the_model_or_of_the_architecture(tmp_path):
    described = tmp_path / "cpuinfo"
    described.write_text("processor : 0\nmodel name\t: Some CPU @ 2 GHz\nmodel name\t: Other\n")
    assert cpu_name(described) == "Some CPU @ 2 GHz"
    described.write_text("processor : 0\nFeatures : asimd\n")
    assert cpu_name(described) == platform.machine()
    assert cpu_name(tmp_path / "none") in (platform.processor(), platform.machine())
