"""Both files taken apart."""

import re

import pytest

from isobit.backends.c.emit import emit_program
from isobit.backends.c.readback.scanner import NotUnderstood
from isobit.backends.c.readback.source import read_source
from tests.examples.programs import every_step


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    emit_program(every_step(), folder, "net", "generic")
    return tuple((folder / name).read_text() for name in ("model.c", "model.h"))


def test_nothing_of_the_text_is_left_out(texts):
    found = read_source(*texts, "net")
    constants = len(re.findall(r"^static const ", texts[0][texts[0].index("/* --- constants"):], re.MULTILINE))
    assert len(found.arrays) + len(found.structures) == constants > 40
    assert found.packed and found.arena and [each.name for each in found.inputs] == ["codes"]
    assert found.calls[0].function == "ISOBIT_TRACE" and found.macros["NET_INPUT_BYTES"].isdigit()
    assert texts[0].splitlines()[found.calls[1].line - 1].strip().startswith(found.calls[1].function)


@pytest.mark.parametrize(("old", "new"), [
    ('#include "model.h"', '#include "other.h"'), ("    uint8_t *const a = arena.bytes;", ""),
    ("static const struct", "static struct"), ("float *logits)\n{", "float *logits)\n{ return;"),
    ("\nvoid net_quantize", "\nint more;\nvoid net_quantize"),
    ("static const int32_t bias_0", "static const int32_t a"),
    ("static const int32_t bias_0", "static const int32_t codes"),
    ("static const int32_t bias_0[", "static const int32_t more[1] = {1,};\nstatic const int32_t more["),
    ("ISOBIT_TRACE(0, codes", "ISOBIT_TRACE(0, )codes"),
])
def test_all_else_is_an_error(texts, old, new):
    assert old in texts[0]
    with pytest.raises(NotUnderstood, match=r"model\.c|arguments"):
        read_source(texts[0].replace(old, new, 1), texts[1], "net")


def test_the_header_has_nothing_more_and_no_macro_twice(texts):
    twice = texts[1].replace("#define NET_LOGITS", "#define NET_LOGITS 1\n#define NET_LOGITS")
    for new in (texts[1] + "int more;\n", twice):
        with pytest.raises(NotUnderstood, match=r"model\.h"):
            read_source(texts[0], new, "net")
