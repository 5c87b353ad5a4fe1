"""The kernels' text, what each needs, and their structures."""

import pytest

from isobit.backends.c.readback import kernels
from isobit.backends.c.readback.scanner import NotUnderstood, Scanner


def test_what_a_kernel_needs_is_read_off_its_text():
    assert kernels.needed("conv") == {"common", "window", "weights", "dot", "pairs", "lanes", "conv"}
    assert kernels.needed("encode") == {"common", "quantize", "encode"}
    assert kernels.kernel_of("concat_part") == "concat" and kernels.kernel_of("memcpy") is None


def test_members_are_read_off_the_structures():
    members = kernels.structures()["walk"]
    assert [(each.name, each.count) for each in members] == [
        ("out", 3), ("out_steps", 3), ("in", 3), ("in_steps", 3)]
    pointer = kernels.structures()["term"][0]
    assert (pointer.name, pointer.pointer, pointer.kind) == ("multiplier", True, "int32_t")


def test_what_is_not_named_is_zero_and_what_is_unknown_an_error():
    assert kernels.members_of("term", ["m", "1"]) == {"multiplier": "m", "step": 1, "lift": 0}
    assert kernels.members_of("resample_scale", {})["rescale"] == dict.fromkeys(("offset", "shift", "low", "high"), 0)
    for given in ({"other": "1"}, ["m", "1", "2", "3"], "x", ["m", f"{1 << 31}"], ["m", ["1"]]):
        with pytest.raises(NotUnderstood):
            kernels.members_of("term", given)


def text_of(*names):
    return "\n\n".join(kernels.texts()[name] for name in names) + "\n"


def test_kernels_stand_byte_by_byte_after_what_they_use():
    scanner = Scanner(text_of("common", "window", "max_pool") + "\nstatic const", "model.c")
    assert kernels.taken(scanner) == ("common", "window", "max_pool") and scanner.look("static const")
    with pytest.raises(NotUnderstood, match="window"):
        kernels.taken(Scanner(text_of("common", "max_pool", "window"), "model.c"))
    with pytest.raises(NotUnderstood, match="another than common"):
        kernels.taken(Scanner(text_of("common", "common"), "model.c"))
    changed = text_of("common", "lookup").replace("y[i] = table[x[i]]", "y[i] = table[x[i] ]")
    assert kernels.taken(Scanner(changed, "model.c")) == ("common",)
