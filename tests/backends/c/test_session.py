"""The compiled files against the oracle: every kind of step and convolution, every number of bits, every machine."""

import json
import re
import shlex
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest

from isobit.backends.c.emit import DESCRIPTION
from isobit.backends.c.session import BATCH, LEVELS, CSession
from isobit.backends.fixed_point.program import Conv, Dequantize, Lookup, Move, Program
from isobit.pipeline.errors import ParityError, TargetError
from isobit.pipeline.proof.parity import LOGITS
from tests.backends.c.compiled import HAS_EMULATOR, assert_exact, images_of, needs_emulator, needs_gcc, write
from tests.backends.fixed_point import oracle
from tests.examples import programs

pytestmark = needs_gcc

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
    if HAS_EMULATOR:
        assert_exact(finished(program), tmp_path / "cortex-m4", profile="cortex-m4")


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_every_kind_of_step(bits, tmp_path):
    assert_exact(programs.every_step(bits, seed=bits), tmp_path)


@pytest.mark.parametrize(("network", "bits"), [("resnet20", 8), ("resnet20", 4), ("ds_cnn", 8), ("ds_cnn", 2)])
def test_networks_of_microcontrollers(network, bits, tmp_path):
    assert_exact(getattr(programs, network)(bits), tmp_path)


@needs_emulator
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolution_in_pairs_on_a_cortex_m4(name, tmp_path):
    options = {"filters": 15, **CONVOLUTIONS[name]}
    assert_exact(finished(oracle.make_conv((9, 7, 10), **options)), tmp_path, profile="cortex-m4")


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


@needs_emulator
@pytest.mark.parametrize("level", LEVELS)
def test_every_kind_of_step_on_a_cortex_m4(level, tmp_path):
    assert_exact(programs.every_step(3), tmp_path, level, "cortex-m4")


@needs_emulator
@pytest.mark.parametrize(("network", "bits"), [("resnet20", 8), ("resnet20", 2), ("ds_cnn", 4)])
def test_networks_on_a_cortex_m4(network, bits, tmp_path):
    assert_exact(getattr(programs, network)(bits), tmp_path, profile="cortex-m4")


def test_nothing_undefined_happens_and_nothing_is_read_outside(tmp_path, monkeypatch):
    sanitized = "gcc -fsanitize=address,undefined -fno-sanitize-recover=all -g"
    probe = tmp_path / "probe.c"
    probe.write_text("int main(void) { return 0; }\n")
    if subprocess.run([*shlex.split(sanitized), "probe.c"], cwd=tmp_path, capture_output=True).returncode:
        pytest.skip("this gcc has no sanitizers (Debian: apt install libasan8 libubsan1)")
    monkeypatch.setenv("CC", sanitized)
    for bits in (3, 8):
        assert_exact(programs.every_step(bits, seed=9), tmp_path / str(bits), "Os")


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
