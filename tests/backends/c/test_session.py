"""The compiled files against the oracle: every kind of step and convolution, every number of bits, every machine."""

import json
import re
import shlex
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from isobit.backends.c.emit import DESCRIPTION
from isobit.backends.c.session import BATCH, LEVELS, CSession
from isobit.backends.fixed_point.program import Conv, Dequantize, Lookup, Move, Program
from isobit.backends.fixed_point.rescale import Rescale, Term
from isobit.pipeline.errors import ParityError, TargetError
from isobit.pipeline.proof.parity import LOGITS
from tests.backends.c.compiled import HAS_EMULATOR, assert_exact, images_of, needs_emulator, needs_gcc, write
from tests.backends.fixed_point import oracle
from tests.examples import programs

pytestmark = needs_gcc
EMULATED = ("cortex-m4", "cortex-m55")

CONVOLUTIONS = {
    "dense": {},
    "zero_points": {"zero_points": (13, 77)},
    "stride": {"stride": (2, 1), "zero_points": (200, 0)},
    "dilation": {"dilation": (2, 3), "padding": (2, 3, 2, 3), "zero_points": (5, 6)},
    "groups": {"groups": 5, "zero_points": (5, 6)},
    "two_channels_a_group": {"groups": 5, "filters": 10, "bits": 4, "signed": False},
    "uneven_padding": {"padding": (4, 0, 1, 3), "kernel": (2, 4), "zero_points": (3, 4)},
    "window_beyond_the_map": {"padding": (6, 6, 6, 6), "kernel": (3, 3), "zero_points": (3, 4)},
    "pointwise": {"kernel": (1, 1), "padding": (0, 0, 0, 0), "bits": 3},
    "4_bits": {"bits": 4, "zero_points": (9, 1)},
    "3_bits": {"bits": 3, "signed": False, "zero_points": (9, 1)},
    "2_bits": {"bits": 2, "signed": False, "zero_points": (9, 1)},
    "narrow_grid": {"low": 20, "high": 35},
    "logits": {"logits": True, "zero_points": (9, 0)},
    "logits_of_4_bits": {"logits": True, "bits": 4, "zero_points": (9, 0)},
}


def finished(program):
    """With logits, which a program must have."""
    last = program.steps[-1].output
    if last is None:
        return program
    step = Dequantize("logits", "", (last,), None)
    return Program(program.buffers, (*program.steps, step), program.buffers[last].nchw)


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolution(name, tmp_path):
    options = {"filters": 15, **CONVOLUTIONS[name]}
    assert_exact(finished(oracle.make_conv((9, 7, 10), **options)), tmp_path)


@pytest.mark.parametrize("bits", [8, 3])
@pytest.mark.parametrize("channels", [1, 4, 7])
def test_depthwise_convolution(channels, bits, tmp_path):
    program = oracle.make_conv((9, 7, channels), channels, groups=channels, stride=(1, 2), dilation=(2, 1),
                               bits=bits, signed=bits == 8, zero_points=(13, 77))
    assert_exact(finished(program), tmp_path / "generic")
    for profile in EMULATED if HAS_EMULATOR else ():
        assert_exact(finished(program), tmp_path / profile, profile=profile)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_every_kind_of_step(bits, tmp_path):
    assert_exact(programs.every_step(bits, seed=bits), tmp_path)


@pytest.mark.parametrize(("network", "bits"), [("resnet20", 8), ("resnet20", 4), ("ds_cnn", 8), ("ds_cnn", 2)])
def test_networks_of_microcontrollers(network, bits, tmp_path):
    assert_exact(getattr(programs, network)(bits), tmp_path)


@needs_emulator
@pytest.mark.parametrize(("name", "profile"), [
    *((name, "cortex-m4") for name in CONVOLUTIONS),
    *((name, "cortex-m55") for name in ("3_bits", "groups", "logits", "logits_of_4_bits")),
])
def test_convolution_on_an_emulated_processor(name, profile, tmp_path):
    options = {"filters": 15, **CONVOLUTIONS[name]}
    assert_exact(finished(oracle.make_conv((9, 7, 10), **options)), tmp_path, profile=profile)


WHOLE_WORDS = {
    "cut": {},
    "outside_is_not_0": {"zero_points": (13, 7)},
    "of_4_bits": {"bits": 4, "signed": False},
    "groups": {"groups": 2, "bits": 3},
    "dilation": {"dilation": (2, 1), "padding": (2, 1, 2, 1)},
    "columns": {"dilation": (1, 2), "padding": (1, 2, 1, 2), "stride": (2, 1)},
    "flat": {"kernel": (1, 1), "padding": (0, 0, 0, 0), "filters": 6},
    "narrow": {"low": 20, "high": 35, "stride": (1, 2), "bits": 2},
    "depthwise": {"groups": 8, "zero_points": (13, 7), "filters": 8},
    "depthwise_of_3_bits": {"groups": 8, "bits": 3, "filters": 8},
}


@needs_emulator
@pytest.mark.parametrize("name", WHOLE_WORDS)
def test_windows_of_whole_words_on_a_cortex_m4(name, tmp_path):
    options = {"filters": 10, **WHOLE_WORDS[name]}
    assert_exact(finished(oracle.make_conv((6, 7, 8), **options)), tmp_path, "Os", "cortex-m4")


@needs_emulator
@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("shape", [(5, 5, 16), (4, 6, 5)])
def test_codes_of_4_bits_share_words_with_a_second_channel_on_a_cortex_m4(shape, bits, tmp_path):
    """Codes are 15 almost everywhere and weights the largest or the least: sums reach their bounds."""
    net = programs.Builder(shape, bits=8, zero_points=False, seed=bits)
    first = net.conv(0, shape[2], (1, 1), padding=(0, 0, 0, 0))
    second = net.conv(first, 10, bits=bits)
    net.conv(second, 7, (2, 3), bits=bits, residual=None)
    program = net.build(len(net.buffers) - 1)
    steps = [replace(step, high=15, low=14 * (number == 0)) if isinstance(step, Conv) else step
             for number, step in enumerate(program.steps)]
    for step in steps[1:3]:
        step.weights.codes[:] = np.where(step.weights.codes < 0, -(1 << (bits - 1)), (1 << (bits - 1)) - 1)
        step.weights.codes[:2] = (1 << (bits - 1)) - 1
    assert_exact(replace(program, steps=tuple(steps)), tmp_path, profile="cortex-m4")


TO_255, TO_127, TO_15 = 255, 127, 15


def bounded(net, source, largest, zero_point=0):
    """Codes of a tensor up to the largest, as a tensor with a zero point of its own."""
    found = net.add_buffer(net.shape(source), zero_point)
    net.steps.append(Lookup("act", "act", (source,), found, (np.arange(256) % (largest + 1)).astype(np.uint8),
                            high=largest))
    return found


def every_count(depthwise, zero_points):
    """Layers of 1 to 40 channels, so of 1 to 40 weights a row, of all bits, that read large and small codes."""
    net = programs.Builder((3, 5, 40), signed=False, zero_points=zero_points, seed=int(depthwise))
    sources = [bounded(net, 0, largest) for largest in (TO_255, TO_127, TO_15)] if not zero_points else [0] * 3
    for channels in range(1, 41):
        bits, source = 2 + channels % 7, net.move(sources[channels % 3], (3, 5, channels), range(channels))
        if depthwise:
            y = net.conv(source, channels, stride=(1, 1 + channels % 2), groups=channels, bits=bits,
                         residual=source if channels % 2 == 0 else None)
        else:
            y = net.conv(source, 1 + channels % 6, (1, 1), padding=(0, 0, 0, 0), bits=bits)
    return net.build(y)


@needs_emulator
@pytest.mark.parametrize("zero_points", [False, True])
@pytest.mark.parametrize("depthwise", [False, True])
def test_every_count_of_channels_in_vectors(depthwise, zero_points, tmp_path):
    assert_exact(every_count(depthwise, zero_points), tmp_path, profile="cortex-m55")


@needs_emulator
@pytest.mark.parametrize("zero_points", [False, True])
def test_every_window_in_vectors(zero_points, tmp_path):
    """Windows with whole vectors, less, more and gaps, cut at each side, of codes that are and are not below 128."""
    net = programs.Builder((7, 9, 32), signed=False, zero_points=zero_points)
    for place, (kernel, stride, padding, dilation, groups) in enumerate([
        ((3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1), ((3, 3), (2, 2), (1, 1, 0, 1), (1, 1), 2),
        ((5, 2), (1, 2), (4, 0, 1, 3), (1, 1), 1), ((3, 3), (1, 1), (2, 4, 2, 4), (2, 3), 1),
        ((1, 1), (1, 1), (0, 0, 0, 0), (1, 1), 4), ((1, 1), (2, 1), (1, 1, 1, 1), (1, 1), 1),
        ((3, 1), (1, 1), (6, 0, 6, 0), (1, 1), 2), ((1, 5), (1, 1), (0, 5, 0, 5), (1, 1), 1),
        ((3, 3), (1, 2), (1, 1, 1, 1), (1, 1), 32), ((2, 3), (1, 1), (4, 4, 4, 4), (1, 2), 32),
    ]):
        for channels, largest, zero_point in ((32, TO_255, 7), (32, TO_127, 200), (32, TO_15, 3), (12, TO_15, 0)):
            source, parts = bounded(net, 0, largest, zero_point if zero_points else 0), groups
            if channels < 32:
                source, parts = net.move(source, (7, 9, channels), range(channels)), min(groups, channels)
            y = net.conv(source, 32 if parts == 32 else 12, kernel, stride=stride, padding=padding, dilation=dilation,
                         groups=parts, bits=2 + (place + channels + largest) % 7)
    assert_exact(net.build(y), tmp_path, "Os", "cortex-m55")


@needs_emulator
def test_sums_in_vectors_reach_their_bounds(tmp_path):
    """All codes are the largest, all weights of a channel the least or the largest, on either side of each limit."""
    net = programs.Builder((3, 4, 40), zero_points=False)
    for largest in (TO_255, 128, TO_127, 28, 29, TO_15):  # 28 * 9 * 128 fits 16 bits, 29 * 9 * 128 does not
        source = net.add_buffer(net.shape(0), 0)
        net.steps.append(Lookup("act", "act", (0,), source, np.full(256, largest, np.uint8), high=largest))
        for bits in (8, 4, 2):
            y = [net.conv(source, 40, groups=40, bits=bits), net.conv(source, 6, bits=bits)][-1]
    program = net.build(y)
    for step in program.steps:
        if isinstance(step, Conv):
            least = np.arange(len(step.weights.codes)) % 2 == 0
            ends = np.where(least, -(1 << (step.weights.bits - 1)), (1 << (step.weights.bits - 1)) - 1)
            step.weights.codes[:] = ends.reshape(-1, 1, 1, 1)
    assert_exact(program, tmp_path, profile="cortex-m55")


@needs_emulator
def test_lower_words_carry_over_in_vectors(tmp_path):
    """The least shift, whose offset has a lower word, with and without a residual."""
    net = programs.Builder((3, 5, 9), bits=2, zero_points=False)
    source = bounded(net, 0, 3)
    for groups, residual in ((1, None), (1, 0), (9, None), (9, 0)):
        y = net.conv(source, 9, groups=groups, residual=residual)
    program = net.build(y)
    multipliers = np.random.default_rng(0).integers(1 << 25, 1 << 27, 9).astype(np.int32)
    terms = (Term(0, multipliers), Term(1, np.array([(1 << 29) + 12345], np.int32)))
    steps = [replace(step, rescale=Rescale(terms[:len(step.inputs)], 32, (90 << 32) + (1 << 31)))
             if isinstance(step, Conv) else step for step in program.steps]
    assert_exact(replace(program, steps=tuple(steps)), tmp_path, profile="cortex-m55", samples=16)


@needs_emulator
@pytest.mark.parametrize("profile", EMULATED)
@pytest.mark.parametrize("level", LEVELS)
def test_every_kind_of_step_on_an_emulated_processor(level, profile, tmp_path):
    assert_exact(programs.every_step(3), tmp_path, level, profile)


@needs_emulator
@pytest.mark.parametrize("profile", EMULATED)
@pytest.mark.parametrize(("network", "bits"), [("resnet20", 8), ("resnet20", 2), ("ds_cnn", 4)])
def test_networks_on_an_emulated_processor(network, bits, profile, tmp_path):
    assert_exact(getattr(programs, network)(bits), tmp_path, profile=profile)


@pytest.fixture
def sanitizers(tmp_path, monkeypatch):
    """Makes the sanitizers part of this machine's compiler, and options that are given."""
    def use(*options):
        command = "gcc -fsanitize=address,undefined -fno-sanitize-recover=all -g"
        (tmp_path / "probe.c").write_text("int main(void) { return 0; }\n")
        if subprocess.run([*shlex.split(command), "probe.c"], cwd=tmp_path, capture_output=True).returncode:
            pytest.skip("this gcc has no sanitizers (Debian: apt install libasan8 libubsan1)")
        monkeypatch.setenv("CC", shlex.join([*shlex.split(command), *options]))
    return use


def test_nothing_undefined_happens_and_nothing_is_read_outside(sanitizers, tmp_path):
    sanitizers()
    for bits in (3, 8):
        assert_exact(programs.every_step(bits, seed=9), tmp_path / str(bits), "Os")


def test_nothing_undefined_happens_in_vectors_and_nothing_is_read_outside(sanitizers, tmp_path):
    sanitizers("-D__ARM_FEATURE_MVE=1", f"-I{Path(__file__).with_name('helium')}", "-Wno-psabi")
    assert_exact(programs.every_step(4, seed=9), tmp_path / "steps", "Os")
    assert_exact(every_count(False, False), tmp_path / "counts", "Os")


@pytest.mark.skipif(shutil.which("clang") is None, reason="needs clang (Debian: apt install clang)")
def test_another_compiler_gives_the_same_codes(tmp_path, monkeypatch):
    monkeypatch.setenv("CC", "clang")
    assert_exact(programs.every_step(4), tmp_path)


def test_inputs_are_rounded_half_to_even_and_clipped(tmp_path):
    buffers = (oracle.make_buffer("x", (1, 9, 1), 100), oracle.make_buffer("y", (1, 9, 1), 100))
    steps = (Lookup("y", "", (0,), 1, np.arange(256, dtype=np.uint8)), Dequantize("logits", "", (1,), None))
    program = Program(buffers, steps, (1, 1, 9))
    steps_of_scale = np.array([0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 1e30, -np.inf, np.nan], np.float32)
    x = steps_of_scale * np.float32(program.input.scale)
    # 0.05 is no power of two: what counts is what the division gives.
    exact = np.rint(x[:6] / np.float32(program.input.scale)) + 100
    got = CSession(write(program, tmp_path), "O2").run(x.reshape(1, 1, 1, 9))
    assert got["x"].reshape(-1).tolist() == [*exact.astype(int).tolist(), 255, 0, 0]


def test_more_samples_than_fit_one_file_keep_their_order(tmp_path):
    program = programs.every_step(4)
    session = CSession(write(program, tmp_path), "O2")
    codes = oracle.random_codes(program, 0, BATCH + 3)
    images = images_of(program, codes)
    together = session.run(images)
    assert len(together[LOGITS]) == BATCH + 3
    assert np.array_equal(together["t0"], codes.transpose(0, 3, 1, 2))
    alone = session.run(images[BATCH:])
    assert all(np.array_equal(together[name][BATCH:], alone[name]) for name in alone)


def test_logits_that_only_the_traced_functions_give_are_an_error(tmp_path):
    program = programs.every_step(8)
    folder = write(program, tmp_path)
    text = (folder / "model.c").read_text()
    last = re.search(r"dequantize\(\(struct shape\).*, (a \+ \d+), logits\);", text)
    # The session renames the functions that it traces.
    fault = f"\n#ifdef net_run\n    *({last.group(1)}) ^= 1;\n#endif\n    "
    (folder / "model.c").write_text(text.replace(last.group(), fault + last.group()))
    with pytest.raises(ParityError, match="reading the tensors out changes the logits"):
        CSession(folder, "O2").run(images_of(program, oracle.random_codes(program, 0)))


def test_a_program_that_crashes_is_an_error(tmp_path):
    folder = write(programs.every_step(8), tmp_path)
    text = (folder / "model.c").read_text()
    (folder / "model.c").write_text(text.replace("    uint8_t *const a = arena.bytes;", "    uint8_t *const a = 0;"))
    with pytest.raises(ParityError, match="ends with exit status"):
        CSession(folder, "Os").run(np.zeros((1, 3, 11, 9), np.float32))


def test_files_that_do_not_compile_are_an_error_with_the_complaint(tmp_path):
    folder = write(programs.every_step(8), tmp_path)
    (folder / "model.c").write_text((folder / "model.c").read_text().replace("static void conv(", "static vojd conv("))
    with pytest.raises(TargetError, match="vojd"):
        CSession(folder, "O2")


@needs_emulator
def test_a_network_that_outgrows_the_emulated_board_is_an_error(tmp_path):
    folder = write(programs.every_step(8), tmp_path, "cortex-m4")
    description = json.loads((folder / DESCRIPTION).read_text())
    assert description["profile"] == "cortex-m4"
    text = (folder / "model.c").read_text()
    big = "const uint8_t big[20000000] = {1};\n/* --- constants"
    (folder / "model.c").write_text(text.replace("/* --- constants", big))
    with pytest.raises(TargetError, match="overflowed"):
        CSession(folder, "O2")


def test_logits_of_several_tensors(tmp_path):
    made = oracle.make_parts()
    sizes = [int(np.prod(buffer.shape)) for buffer in made.buffers]
    whole, starts = oracle.make_buffer("x", (1, 1, sum(sizes)), 3), np.cumsum([0, *sizes])
    moves = [
        Move(buffer.name, "", (0,), 1 + number, (1, 1), (0, 0), np.zeros(0, np.int32),
             np.arange(starts[number], starts[number + 1], dtype=np.int32))
        for number, buffer in enumerate(made.buffers)
    ]
    step = replace(made.steps[0], inputs=(1, 2, 3))
    assert_exact(Program((whole, *made.buffers), (*moves, step), made.logits), tmp_path)
