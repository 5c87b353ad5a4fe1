"""The processor's name is the one that artifacts print."""

from isobit.backends.device.processor import description, read_cpuinfo
from tools import processor as module
from tools.processor import cpu_name


def test_the_name_that_artifacts_print():
    assert cpu_name() and description(read_cpuinfo()).startswith(cpu_name())


def test_the_name_of_the_model(monkeypatch):
    monkeypatch.setattr(module, "read_cpuinfo", lambda: "model name\t: Some CPU @ 2 GHz\nmodel name : B\n")
    assert cpu_name() == "Some CPU @ 2 GHz"
