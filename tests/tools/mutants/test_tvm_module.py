"""Damage of TVM artifacts: the read-back sees all of it, others without it some."""

import numpy as np
import pytest

from isobit.backends.base import BACKENDS, NOT_READ
from isobit.backends.tvm.device.device_runner import DEVICE, MODEL
from isobit.backends.tvm.readback.executable import read_file
from tests.backends.tvm.conftest import needs
from tests.examples.onnx_cases import frozen
from tools.mutants.mutate import DIRECTED, PARITY, READ, REFUSED, RULE, SURVIVED, UNLOADED, Frozen, judged
from tools.mutants.tvm_module import TvmDamage

BACKEND = BACKENDS.get("tvm")


@pytest.fixture(scope="module")
def network():
    needs("native")
    reference, images = frozen("relu", 8, 8, target=BACKEND.target("native"))
    return Frozen(reference, images[:2])


@pytest.fixture(scope="module")
def variants(network, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tvm")
    BACKEND.emit(network.reference, folder)
    return folder, list(TvmDamage().variants(network.reference, folder))


def test_a_variant_is_one_change_of_one_file_which_keeps_its_length(variants):
    folder, found = variants
    assert {each.kind for each in found} == {
        "another number", "another register", "arguments swapped", "constants swapped", "device.json",
        "elements swapped", "int32 element", "int8 element", "kernels swapped"}
    whole = (folder / MODEL).read_bytes()
    for each in found[::10]:
        ((file, content),) = each.files().items()
        if file == MODEL:
            assert len(content) == len(whole)
            places = [place for place, (a, b) in enumerate(zip(whole, content, strict=True)) if a != b]
            assert each.kind in ("constants swapped", "kernels swapped") or not places or places[-1] - places[0] < 16
        else:
            assert file == DEVICE


def test_what_is_loaded_are_the_values_of_what_functions_are_given(variants):
    folder, found = variants
    damage, expected = TvmDamage(), TvmDamage().loaded(folder)

    def loaded(chosen):
        ((file, content),) = chosen.files().items()
        whole = (folder / file).read_bytes()
        (folder / file).write_bytes(content)
        seen = damage.loaded(folder)
        (folder / file).write_bytes(whole)
        return seen

    for kind in ("int8 element", "int32 element", "elements swapped", "device.json"):
        assert loaded(next(each for each in found if each.kind == kind)) != expected
    assert damage.loaded(folder) == expected


def test_an_element_is_changed_where_it_lies(variants):
    folder, found = variants
    chosen = next(each for each in found if each.kind == "int8 element" and ": +1: " in each.name)
    number, element = int(chosen.name.split()[1].strip(",")), int(chosen.name.split("element ")[1].split(":")[0])
    before = read_file(folder / MODEL).constants[number].reshape(-1)
    (changed,) = chosen.files().values()
    path = folder / "changed.so"
    path.write_bytes(changed)
    after = read_file(path).constants[number].reshape(-1)
    assert np.nonzero(before != after)[0].tolist() == [element] and after[element] == np.int8(before[element] + 1)


def a_few(variants):
    """Weights, what sessions read of the description, and arguments of what users call."""
    found = list(variants)
    yield from [each for each in found if each.kind == "int8 element"][::5]
    yield from [each for each in found if each.kind == "device.json"][::2]
    yield from [each for each in found if each.kind == "arguments swapped" and each.name.startswith("main, ")][::12]


def more(variants):
    """The same, and what else is damaged of functions."""
    found = list(variants)
    yield from a_few(found)
    for kind in ("another number", "another register", "kernels swapped"):
        yield from [each for each in found if each.kind == kind][::9]


def test_the_read_back_sees_each_mutant(network):
    tally = judged(network, BACKEND, TvmDamage(), more)
    assert tally.read and tally.total == tally.of(READ) > 30 and not tally.told
    assert {kind for kind, _ in tally.verdicts} == {"another number", "another register", "arguments swapped",
                                                    "device.json", "int8 element", "kernels swapped"}


class Unread:
    """The backend without its reader."""

    def __getattr__(self, name):
        return getattr(BACKEND, name)

    def read_back(self, reference, folder, preprocessing):
        return NOT_READ


def test_without_the_reader_judges_see_some_and_others_survive_by_name(network):
    tally = judged(network, Unread(), TvmDamage(), a_few)
    assert not tally.read and tally.of(READ) == tally.of(REFUSED) == tally.of(RULE) == 0
    assert tally.verdicts["int8 element", DIRECTED] > 2
    of_description = [tally.verdicts["device.json", verdict] for verdict in (UNLOADED, DIRECTED, PARITY)]
    assert sum(of_description) > 5 and not tally.verdicts["device.json", SURVIVED]
    assert tally.verdicts["arguments swapped", UNLOADED] + tally.verdicts["arguments swapped", DIRECTED] > 2
    assert len(tally.told) == tally.of(SURVIVED)
    weights = [each for each in tally.told if "int8 element" in each]
    assert all("for 0: not read back" in each for each in weights)  # zeros where a vector is longer than the layer
