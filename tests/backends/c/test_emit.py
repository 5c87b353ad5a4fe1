"""The files: strict compilers accept them, they need no library but for memory, and their bytes are the same."""

import json
import re
import shutil
import subprocess

import pytest

from isobit.backends.c.emit import KERNEL_ORDER, KERNELS, TEMPLATES, emit_program, identifier, read_description, render
from tests.backends.c.compiled import STRICT, needs_arm, needs_gcc, write
from tests.examples import programs

# What a compiler may call on its own: copies, and on processors without such instructions float and 64-bit arithmetic.
ALLOWED_SYMBOLS = re.compile(r"mem(cpy|set|move)|__aeabi_\w+|_GLOBAL_OFFSET_TABLE_")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(programs.every_step(3), tmp_path_factory.mktemp("net"))


def compiled(folder, command, *options):
    done = subprocess.run([*command, *STRICT, *options, "-c", "model.c", "-o", "model.o"], cwd=folder,
                          capture_output=True, text=True)
    return done.stderr


@needs_gcc
@pytest.mark.parametrize("level", ["-O0", "-O2", "-O3", "-Os"])
def test_gcc_has_nothing_to_complain_about(folder, level):
    assert compiled(folder, ["gcc", level]) == ""


@needs_arm
@pytest.mark.parametrize("level", ["-O0", "-O2"])
@pytest.mark.parametrize("core", ["m0", "m4", "m7", "m33", "m55 -mfloat-abi=hard", "m55+nomve"])
def test_neither_has_the_compiler_of_a_microcontroller(folder, core, level):
    assert compiled(folder, ["arm-none-eabi-gcc", *f"-mcpu=cortex-{core} -mthumb {level}".split()]) == ""


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++ (Debian: apt install g++)")
def test_the_header_can_be_included_from_cpp(folder):
    (folder / "user.cc").write_text('#include "model.h"\nvoid (*run)(const uint8_t *, float *) = net_run;\n')
    done = subprocess.run(["g++", "-Wall", "-Wextra", "-Werror", "-c", "user.cc", "-o", "user.o"], cwd=folder,
                          capture_output=True, text=True)
    assert done.stderr == ""


@needs_arm
def test_there_is_no_heap_and_no_library_but_for_memory(folder):
    assert compiled(folder, ["arm-none-eabi-gcc", "-mcpu=cortex-m4", "-mthumb", "-O2"]) == ""
    told = subprocess.run(["arm-none-eabi-nm", "model.o"], cwd=folder, capture_output=True, text=True, check=True)
    symbols = [line.split()[-2:] for line in told.stdout.splitlines()]
    assert {name for kind, name in symbols if kind == "T"} == {"net_run", "net_quantize"}
    assert all(ALLOWED_SYMBOLS.fullmatch(name) for kind, name in symbols if kind == "U")
    # The arena is the only variable; everything else is constant and stays in flash.
    assert [name for kind, name in symbols if kind in "bBdDC"] == ["arena"]


@needs_arm
@pytest.mark.parametrize(("core", "arena"), [("m0", "arena_plain"), ("m3", "arena_plain"), ("m4", "arena"),
                                             ("m33+nodsp", "arena_plain"), ("m55 -mfloat-abi=hard", "arena"),
                                             ("m55+nomve", "arena")])
def test_plain_c_takes_no_memory_for_what_other_kernels_need(tmp_path, core, arena):
    description = read_description(write(programs.resnet20(8), tmp_path))
    assert compiled(tmp_path, ["arm-none-eabi-gcc", *f"-mcpu=cortex-{core} -mthumb -O2".split()]) == ""
    told = subprocess.run(["arm-none-eabi-size", "model.o"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert int(told.stdout.splitlines()[1].split()[2]) == description[arena]


@needs_arm
def test_the_arena_goes_where_it_is_wanted(folder):
    section = '-DISOBIT_ARENA=__attribute__((section(".bss.ccm")))'
    assert compiled(folder, ["arm-none-eabi-gcc", "-mcpu=cortex-m4", "-mthumb", section]) == ""
    told = subprocess.run(["arm-none-eabi-objdump", "-t", "model.o"], cwd=folder, capture_output=True, text=True,
                          check=True)
    assert any(".bss.ccm" in line and line.endswith(" arena") for line in told.stdout.splitlines())


def test_only_logits_and_inputs_are_float():
    floating = {path.stem for path in KERNELS.iterdir() if re.search(r"\b(float|double)\b", path.read_text())}
    leaving = {"conv_logits", "dequantize", "dequantize_indexed", "dequantize_part", "dequantize_integers"}
    assert floating == {*leaving, "quantize", "encode", "values", "softmax"}
    assert {path.stem for path in KERNELS.iterdir()} == set(KERNEL_ORDER)


def test_only_what_is_called_is_there(tmp_path):
    write(programs.ds_cnn(8), tmp_path)
    text = (tmp_path / "model.c").read_text()
    assert "static void depthwise(" in text and "static void average_pool(" in text
    unused = ("product", "concat_part", "move", "dequantize", "lookup")
    assert not any(f"static void {name}(" in text for name in unused)
    assert "#define PACKED_WEIGHTS 0" in text


def test_the_header_says_what_it_takes(tmp_path):
    program = programs.resnet20(8)
    description = read_description(write(program, tmp_path))
    header = (tmp_path / "model.h").read_text()
    for name, value in {"ARENA_BYTES": 33920, "CONSTANT_BYTES": description["constants"], "INPUT_BYTES": 3072,
                        "LOGITS": 10, "CHANNELS": 3, "HEIGHT": 32, "WIDTH": 32}.items():
        assert f"#define NET_{name} {value}\n" in header
    assert (description["arena"], description["arena_plain"]) == (33920, 32768)
    assert "#else\n#define NET_ARENA_BYTES 32768\n#endif" in header and "32768 where plain C is compiled" in header
    # 20 layers of 272,474 weights less the batch norms, each layer's bias and multiplier, the shortcuts' channels.
    weights = sum(step.weights.codes.size for step in program.steps if hasattr(step, "weights"))
    assert weights < description["constants"] < weights * 1.04


def test_the_description_says_what_lies_where(folder):
    program = programs.every_step(3)
    description = json.loads((folder / "model.json").read_text())
    assert [tensor["name"] for tensor in description["tensors"]] == [buffer.name for buffer in program.buffers]
    assert sorted(description["order"]) == list(range(len(program.buffers)))
    assert sum(description["kernels"].values()) == len(program.steps)
    assert description["computing"] == len(program.steps) - description["kernels"]["Move"]


def test_files_are_the_same_each_time(folder, tmp_path):
    write(programs.every_step(3), tmp_path)
    for name in ("model.c", "model.h", "model.json"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_names_of_layers_cannot_end_a_comment(tmp_path):
    from dataclasses import replace

    program = programs.ds_cnn(8)
    steps = (replace(program.steps[0], module="a*/int b;/*"), *program.steps[1:])
    emit_program(replace(program, steps=steps), tmp_path, "net", "generic")
    assert "a* /int b;/ *" in (tmp_path / "model.c").read_text()


@pytest.mark.parametrize(("name", "expected"), [
    ("resnet20_cifar10", "resnet20_cifar10"), ("My Net-v2.1", "my_net_v2_1"), ("3d", "model_3d"), ("", "model"),
    ("_x", "x"), ("réseau", "r_seau"),
])
def test_names_become_identifiers(name, expected):
    assert identifier(name) == expected


def test_templates_refuse_what_they_do_not_know():
    import jinja2

    assert {path.name for path in TEMPLATES.iterdir()} == {"model.c.j2", "model.h.j2", "session.c.j2"}
    with pytest.raises(jinja2.UndefinedError):
        render("session.c", {"name": "net"})
