"""The target's data: integers everywhere, packed weights said, the same rules for every profile."""

from isobit.backends.c.target import TARGETS
from isobit.backends.c.toolchain import MACHINES


def test_profiles_differ_in_their_name_only():
    assert tuple(TARGETS) == tuple(MACHINES) == ("generic", "cortex-m4", "cortex-m55")
    generic = TARGETS["generic"]
    assert all((target.name, target.profile, target.ops) == ("c", profile, generic.ops)
               for profile, target in TARGETS.items())
    assert all(rule.inputs != "float" for rule in generic.ops.values())


def test_low_activation_bits_are_told_to_save_no_ram():
    notes = TARGETS["generic"].notes_for(4, 4)
    assert len(notes) == 1 and "W4A8" in notes[0]
    assert TARGETS["generic"].notes_for(4, 8) == []
