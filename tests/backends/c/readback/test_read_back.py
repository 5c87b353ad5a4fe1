"""Files against their reference: none that is right is refused, and whatever is wrong is told by layer and field."""

import re

import numpy as np
import pytest
import torch
from torch import nn

from isobit import passes
from isobit.backends.base import BACKENDS
from isobit.backends.c.emit import emit_program
from isobit.backends.c.readback import read_back as module
from isobit.backends.c.readback.read_back import read_back
from isobit.backends.c.target import TARGETS
from tests.backends.c.floats.test_writers import frozen as frozen_detector
from tests.examples import ports
from tests.examples.ends import ENDS, FLOAT_ENDS, frozen_end
from tests.examples.onnx_cases import frozen
from tests.examples.programs import Builder, ds_cnn, every_step, resnet20

BACKEND = BACKENDS.get("c")
GENERIC = TARGETS["generic"]


def written(program, folder):
    emit_program(program, folder, "net", "generic")
    return folder


def read(program, folder):
    return read_back(program, folder, "net", "generic")


def is_whole(found):
    assert (found.reason, found.differences, found.unread) == ("", (), ()) and min(found.operators, found.constants) > 0


def edited(folder, old, new, file="model.c", count=1):
    text = (folder / file).read_text()
    assert old in text
    (folder / file).write_text(text.replace(old, new, count))


@pytest.mark.parametrize(("name", "bits"), [
    ("depthwise", (8, 4)), ("depthwise", (3, 8)), ("add_itself", (8, 4)), ("mul", (3, 8)), ("squeeze_excite", (2, 4)),
    ("silu", (8, 8)), ("avg_pool_inside", (8, 4)), ("cat_signed", (3, 8)), ("pad_circular", (8, 4)),
    ("shuffle", (3, 8)),
    ("upsample", (8, 4)), ("prelu", (8, 8)), ("mean_over_channels", (3, 8)), ("sub", (8, 8)), ("tokens", (3, 8)),
])
def test_every_operator_is_read_back_whole(name, bits, tmp_path):
    reference, _ = frozen(name, *bits, target=GENERIC)
    BACKEND.emit(reference, tmp_path)
    is_whole(BACKEND.read_back(reference, tmp_path, None))


@pytest.mark.parametrize("name", ENDS)
def test_every_end_is_read_back(name, tmp_path):
    reference = frozen_end(name, GENERIC)[0]
    BACKEND.emit(reference, tmp_path)
    is_whole(BACKEND.read_back(reference, tmp_path, None))


@pytest.mark.parametrize("name", [*FLOAT_ENDS, "detector"])
def test_of_operators_in_float_the_edges_are_read(name, tmp_path):
    reference = frozen_detector()[2] if name == "detector" else frozen_end(name, GENERIC)[0]
    BACKEND.emit(reference, tmp_path)
    found = BACKEND.read_back(reference, tmp_path, None)
    assert found.differences == () and "cat" in found.unread


@pytest.mark.parametrize(("make", "bits"), [(every_step, 3), (every_step, 8), (resnet20, 3), (ds_cnn, 8)])
def test_whole_networks_are_read_back(make, bits, tmp_path):
    program = make(bits)
    is_whole(read(program, written(program, tmp_path)))


@pytest.fixture
def small(tmp_path):
    net = Builder((6, 6, 4))
    first = net.conv(0, 8, (3, 3), padding=(1, 1, 1, 1), bits=4)
    second = net.conv(first, 8, (3, 3), padding=(1, 1, 1, 1), residual=first)
    third = net.conv(net.global_average(second), 5, (1, 1), padding=(0, 0, 0, 0), logits=True)
    program = net.build(third)
    return program, written(program, tmp_path)


@pytest.mark.parametrize(("pattern", "new", "field"), [
    (r"(static const int32_t bias_1\[\d+\] = \{\n    )-?\d+", r"\g<1>12345", "layer.bias"),
    (r"(\.zero_point = )\d+", r"\g<1>77", "zero_point"),
    (r"(multiplier_0\[\d+\] = \{\n    )\d+", r"\g<1>5", "sum_multiplier"),
    (r"(struct global_average global_average_2 = \{\n    \.in = \{)6, 6", r"\g<1>4, 9", "global average.in"),
    (r"ISOBIT_TRACE\(2, (.*)\);", r"ISOBIT_TRACE(1, \1);", "tensor"),
    (r"    ISOBIT_TRACE\(1, .*\n", "", "layer.x"),
    (r"ISOBIT_ARENA static float.*|(NET_ARENA_BYTES\];)", r"\1 uint8_t more;", "the files"),
    (r"return a", "return b", "the files"),
])
def test_what_is_wrong_is_told_by_its_field(small, pattern, new, field):
    program, folder = small
    text = (folder / "model.c").read_text()
    text = text if re.search(pattern, text) else text.replace("for (", "for  (", 1)
    (folder / "model.c").write_text(re.sub(pattern, new, text, count=1))
    found = read(program, folder)
    assert found.differences and any(field in each.field for each in found.differences), found.text


@pytest.mark.parametrize(("old", "new"), [
    (r"defined\(__ARM_FEATURE_DSP\)", "defined(__ARM_FEATURE_FMA)"), (r" \|\| defined\(__ARM_FEATURE_MVE\)", ""),
    (r"#else\n#define NET_ARENA_BYTES \d+\n", ""), (r"#else\n#define NET_ARENA", "#else\n#define NET_OTHER"),
    (r"#if .*\n(#define NET_ARENA_BYTES \d+\n)#else\n.*\n#endif\n", r"\1"),
])
def test_an_arena_that_is_too_small_for_some_processor_is_told(small, old, new):
    program, folder = small
    header = (folder / "model.h").read_text()
    text = re.sub(old, new, header)
    assert text != header
    (folder / "model.h").write_text(text)
    assert read(program, folder).differences


def test_names_layers_and_both_values_are_told(small):
    program, folder = small
    text = (folder / "model.c").read_text()
    number = int(re.search(r"bias_0\[\d+\] = \{\n    (-?\d+)", text)[1])
    edited(folder, f"    {number},", f"    {number + 1},")
    (difference,) = read(program, folder).differences
    bias = int(program.steps[0].bias[0])
    assert (difference.layer, difference.field) == (program.steps[0].module, "tensor 1 layer.bias")
    assert difference.found.startswith(str(bias + 1)) and difference.expected == str(bias)


def test_a_tensor_that_is_written_over_before_its_last_reader_is_told(small):
    program, folder = small
    first = re.search(r"conv\(&conv_0, codes, 0, a \+ (\d+),", (folder / "model.c").read_text())[1]
    edited(folder, f"conv(&conv_0, codes, 0, a + {first},", f"conv(&conv_0, codes, 0, a + {int(first) + 4},")
    assert any("tensor 1" in each.field for each in read(program, folder).differences)


@pytest.mark.parametrize(("file", "old", "new"), [
    ("model.h", "#define NET_LOGITS 5", "#define NET_LOGITS 6"), ("model.h", "const uint8_t *codes", "uint8_t *codes"),
    ("model.h", "#define NET_CHANNELS 4", "#define NET_CHANNELS 5"),
    ("model.json", '"profile": "generic"', '"profile": "cortex-m4"'),
    ("model.json", '"quantized": true', '"quantized": 0'),
    ("model.c", "#define PACKED_WEIGHTS 1", "#define PACKED_WEIGHTS 0"),
    ("model.c", "#ifndef ISOBIT_TRACE", "#ifndef ISOBIT_TRACED"),
    ("model.c", "codes[pixel * NET_CHANNELS + c]", "codes[pixel * NET_CHANNELS]"),
])
def test_what_the_other_texts_state_is_compared(small, file, old, new):
    program, folder = small
    edited(folder, old, new, file)
    assert read(program, folder).differences


def test_a_table_that_the_input_hides_is_told(small):
    """The kernel would read the input, not the table."""
    program, folder = small
    text = (folder / "model.c").read_text()
    (folder / "model.c").write_text(re.sub(r"\bbias_0\b", "codes", text))
    assert "another name than codes" in read(program, folder).text


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory):
    torch.manual_seed(0)
    folder, x = tmp_path_factory.mktemp("segmenter"), torch.randn(8, 3, 8, 8)
    placed = ports.place(ports.Segmenter().eval(), x, "net", "c")
    reference = passes.legalize(ports.calibrate(placed, x))[0]
    BACKEND.emit(reference, folder)
    return reference, folder, (folder / "model.h").read_text()


def test_every_macro_is_compared_and_none_is_more_than_it_says(segmenter):
    reference, folder, header = segmenter
    is_whole(BACKEND.read_back(reference, folder, None))
    macros = re.findall(r"#define (NET_\w+) (\S+)", header)
    assert {name.removeprefix("NET_") for name, _ in macros} >= {
        "CHANNELS", "HEIGHT", "WIDTH", "INPUT_BYTES", "LOGITS", "OUT_OFFSET", "OUT_COUNT", "AUX_OFFSET", "AUX_COUNT",
        "ARENA_BYTES", "CONSTANT_BYTES", "INPUT_SCALE", "INPUT_ZERO_POINT"}
    for name, value in macros:
        other = str(int(value) + 1) if value.isdigit() else "0x1p-4f"
        for wrong in (other, f"{value} /* a */ + 1 /* b */", f"{value} + 1", "", f"{value}\n#define NET_MORE 1"):
            text = re.sub(rf"(#define {name}) {re.escape(value)}", lambda m, w=wrong: f"{m[1]} {w}", header)
            assert text != header
            (folder / "model.h").write_text(text)
            assert BACKEND.read_back(reference, folder, None).differences, text
    (folder / "model.h").write_text(header)


def test_comments_spaces_and_the_names_of_constants_say_nothing(small):
    program, folder = small
    text = (folder / "model.c").read_text()
    text = re.sub(r"\bbias_0\b", "other", text).replace("/* --- constants", "/* else")
    text = text.replace(";\n    conv", ";\n\n conv")
    (folder / "model.c").write_text(text)
    is_whole(read(program, folder))


def test_a_file_that_is_missing_or_no_text_is_a_difference(small):
    program, folder = small
    (folder / "model.c").write_bytes(b"\xff\xfe")
    assert "the files" in read(program, folder).text
    (folder / "model.h").unlink()
    assert "model.h" in read(program, folder).text or "the files" in read(program, folder).text


def test_what_has_no_description_is_said_and_refuses_nothing(small, monkeypatch):
    def undescribed(*_):
        raise module.Undescribed("a step of its own")

    monkeypatch.setattr(module, "Wanted", undescribed)
    assert "a step of its own" in read(*small).reason and not read(*small).rules
    assert np.size(read(*small).differences) == 0


class BothReadTheInput(nn.Module):
    """A residual sum of two layers that read the network's input."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x):
        return torch.relu(self.one(x) + self.two(x)).mean((2, 3))


class Chooses(nn.Module):
    """The number of the largest value of a linear layer."""

    def __init__(self):
        super().__init__()
        self.one = nn.Linear(8, 5)

    def forward(self, x):
        return self.one(x).argmax(1)


@pytest.mark.parametrize(("network", "shape"), [(BothReadTheInput, (3, 6, 6)), (Chooses, (8,))])
def test_operands_that_are_the_input_and_axes_of_one_element_are_read_back(network, shape, tmp_path):
    torch.manual_seed(0)
    x, backend = torch.randn(8, *shape), BACKENDS.get("c")
    reference = passes.legalize(ports.calibrate(ports.place(network().eval(), x, "net", "c"), x))[0]
    backend.emit(reference, tmp_path)
    read = backend.read_back(reference, tmp_path, None)
    assert read.constants and not read.differences and not read.reason, read.text
