"""Damage of C artifacts: each is told by the reader, or changes nothing."""

import pytest

from isobit.backends.base import BACKENDS
from isobit.backends.c.target import TARGETS
from tests.backends.c.compiled import needs_gcc
from tests.examples.onnx_cases import frozen
from tools.mutants.c_source import CDamage, changed
from tools.mutants.mutate import READ, RULE, Frozen, judged

BACKEND = BACKENDS.get("c")


@needs_gcc
def test_every_mutant_is_read_or_changes_nothing_by_a_rule():
    reference, images = frozen("squeeze_excite", 3, 4, target=TARGETS["generic"])
    tally = judged(Frozen(reference, images[:2]), BACKEND, CDamage(), lambda all: list(all)[::9])
    assert not tally.told and tally.of(READ) + tally.of(RULE) == tally.total
    assert tally.of(READ) > 80 and tally.of(RULE) > 0


@pytest.fixture(scope="module")
def variants(tmp_path_factory):
    folder = tmp_path_factory.mktemp("c")
    reference, _ = frozen("relu", 3, 4, target=TARGETS["generic"])
    BACKEND.emit(reference, folder)
    return folder, list(CDamage().variants(reference, folder))


def test_a_variant_is_one_change_of_one_file_which_is_left_as_it_is(variants):
    folder, found = variants
    kinds = {each.kind for each in found}
    assert kinds > {"weights", "bias", "multiplier", "offset", "call dropped", "calls swapped", "kernel", "macro"}
    for each in found[::20]:
        ((file, content),) = each.files().items()
        assert content != (folder / file).read_bytes()


@needs_gcc
def test_the_compiler_sees_numbers_and_no_names_or_places_of_scratch(variants):
    folder, found = variants
    damage, whole = CDamage(), (folder / "model.c").read_bytes()
    expected = damage.loaded(folder)

    def loaded(kind, word=""):
        chosen = next(each for each in found if each.kind == kind and word in each.name)
        (folder / "model.c").write_bytes(chosen.files()["model.c"])
        seen = damage.loaded(folder)
        (folder / "model.c").write_bytes(whole)
        return seen

    assert loaded("space") == loaded("offset", ", 2 ") == expected != loaded("bias")


def test_numbers_change_by_a_unit_and_by_a_hundredth():
    assert list(changed("1000")) == ["1001", "999", "1010"] and list(changed("0")) == ["1", "-1"]
    first, second = (float.fromhex(each[:-1]) for each in changed("0x1.0p+0f"))
    assert first == 1 + 2**-23 and 1.009 < second < 1.011
