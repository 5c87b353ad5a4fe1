"""Reading /proc/cpuinfo of machines that are not at hand, and the sentence that stands before a SIGILL."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from isobit.backends.device import processor as module
from isobit.backends.device.processor import (
    best_profile,
    description,
    features,
    processor,
    read_cpuinfo,
    this_machine,
    why_not,
)
from isobit.backends.tvm.profiles import PROFILES, profiles_of

ROOT = Path(__file__).parents[3]
HASWELL = """processor\t: 0
vendor_id\t: GenuineIntel
model name\t: Intel(R) Core(TM) i7-4770 CPU @ 3.40GHz
flags\t\t: fpu sse2 ssse3 sse4_1 sse4_2 popcnt movbe fma f16c avx avx2 bmi1 bmi2 abm
vmx flags\t: vnmi avx512_vnni

processor\t: 1
model name\t: Intel(R) Core(TM) i7-4770 CPU @ 3.40GHz
flags\t\t: fpu sse2 ssse3 sse4_1 sse4_2 popcnt movbe fma f16c avx avx2 bmi1 bmi2 abm
"""
CORTEX_A53 = """processor\t: 0
BogoMIPS\t: 38.40
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: 0xd03
"""
# One chip, two kinds of cores; only what both have may be used.
BIG_LITTLE = CORTEX_A53 + """
processor\t: 1
Features\t: fp asimd evtstrm aes asimddp i8mm
CPU implementer\t: 0x41
CPU part\t: 0xd41

Model\t\t: Some Board 4
"""


def test_flags_of_x86_are_read_and_those_of_its_hypervisor_are_not():
    found = features(HASWELL)
    assert {"avx2", "fma", "abm"} <= found and "avx512_vnni" not in found and "vnmi" not in found


def test_only_what_every_core_has_counts():
    assert "asimd" in features(BIG_LITTLE) and not {"asimddp", "i8mm"} & features(BIG_LITTLE)


def test_processor_is_named_where_a_name_is_given_and_numbered_elsewhere():
    assert processor(HASWELL) == "Intel(R) Core(TM) i7-4770 CPU @ 3.40GHz"
    assert processor(CORTEX_A53) == "CPU implementer 0x41, part 0xd03"
    assert processor(BIG_LITTLE) == "Some Board 4"
    assert processor("") != ""
    assert description(HASWELL) == "Intel(R) Core(TM) i7-4770 CPU @ 3.40GHz (avx2)"
    assert description(CORTEX_A53) == "CPU implementer 0x41, part 0xd03 (asimd)"
    assert description("") == processor("")


def test_missing_feature_is_a_sentence_that_says_what_to_build():
    required = PROFILES["x86-64-vnni"].features
    assert why_not("x86_64", required, profiles_of("x86_64"), "x86_64", HASWELL) == (
        "this module needs avx512_vnni, avx512f, avx512bw, avx512cd, avx512dq, avx512vl; this processor "
        "(Intel(R) Core(TM) i7-4770 CPU @ 3.40GHz) has avx2, not avx512_vnni: build with --device-profile x86-64-v3"
    )
    required = PROFILES["aarch64-dotprod"].features
    assert why_not("aarch64", required, profiles_of("aarch64"), "aarch64", CORTEX_A53) == (
        "this module needs asimddp; this processor (CPU implementer 0x41, part 0xd03) has asimd, not asimddp: "
        "build with --device-profile aarch64"
    )


def test_processor_that_fits_no_profile_is_told_so():
    message = why_not("x86_64", ("avx2",), profiles_of("x86_64"), "x86_64", "model name : Old\nflags : sse2\n")
    assert message == "this module needs avx2; this processor (Old) has not avx2: no device profile fits it"


def test_module_of_another_machine_is_refused_whatever_the_features():
    assert why_not("aarch64", (), {}, "x86_64", HASWELL) == "this module is for aarch64; this machine is x86_64"


@pytest.mark.parametrize(
    ("machine", "cpuinfo", "name"),
    [
        ("x86_64", HASWELL, "x86-64-v3"),
        ("x86_64", HASWELL.replace("avx2 ", "avx2 avx_vnni "), "x86-64-avxvnni"),
        ("x86_64", HASWELL.replace("avx2 ", "avx2 avx_vnni avx512_vnni avx512f avx512bw avx512cd avx512dq avx512vl "),
         "x86-64-vnni"),
        ("x86_64", HASWELL.replace("avx2 ", "avx2 avx512_vnni avx512f avx512bw avx512cd avx512dq avx512vl "),
         "x86-64-vnni"),
        ("aarch64", CORTEX_A53, "aarch64"),
        ("aarch64", CORTEX_A53.replace("cpuid", "asimddp"), "aarch64-dotprod"),
        ("aarch64", CORTEX_A53.replace("cpuid", "asimddp i8mm"), "aarch64-i8mm"),
        ("aarch64", "", None),
    ],
)
def test_best_profile_of_a_processor_runs_on_it(machine, cpuinfo, name):
    entries = profiles_of(machine)
    assert best_profile(entries, features(cpuinfo)) == name
    if name is not None:
        assert why_not(machine, entries[name], entries, machine, cpuinfo) == ""


def test_this_machine_has_a_name_and_a_missing_file_has_no_features(tmp_path):
    assert this_machine() and read_cpuinfo(str(tmp_path / "none")) == "" and features("") == frozenset()


@pytest.mark.parametrize("host", [HASWELL, ""])
def test_arm_programs_under_an_emulator_ask_the_kernel_instead_of_the_hosts_file(tmp_path, monkeypatch, host):
    (tmp_path / "cpuinfo").write_text(host)
    monkeypatch.setattr(module, "this_machine", lambda: "aarch64")
    monkeypatch.setattr(module, "auxiliary_features", lambda: ["asimd", "asimddp"])
    assert features(read_cpuinfo(str(tmp_path / "cpuinfo"))) == {"asimd", "asimddp"}
    (tmp_path / "cpuinfo").write_text(CORTEX_A53)
    assert read_cpuinfo(str(tmp_path / "cpuinfo")) == CORTEX_A53


def test_the_auxiliary_vector_can_be_read_here():
    if not sys.platform.startswith("linux"):
        pytest.skip("only Linux has it")
    assert set(module.auxiliary_features()) <= set(module.AUXILIARY)


def test_the_syntax_is_that_of_python_3_8():
    with open(module.__file__) as file:
        ast.parse(file.read(), feature_version=(3, 8))


def test_a_feature_that_the_processor_denies_is_struck_from_the_hosts_file(tmp_path, monkeypatch):
    (tmp_path / "cpuinfo").write_text(HASWELL)
    monkeypatch.setattr(module, "this_machine", lambda: "x86_64")
    monkeypatch.setattr(module, "denied_features", lambda: frozenset({"avx2", "bmi1"}))
    text = read_cpuinfo(str(tmp_path / "cpuinfo"))
    assert features(HASWELL) - features(text) == {"avx2", "bmi1"} and "avx512_vnni" in text  # of its hypervisor


def test_the_processor_denies_nothing_that_this_machine_says_it_has():
    assert not module.denied_features() & features(module.Path(module.CPUINFO).read_text())


@pytest.mark.skipif(this_machine() != "x86_64" or not shutil.which("qemu-x86_64"), reason="needs qemu-x86_64")
def test_an_emulator_of_another_generation_is_seen_after_the_hosts_file():
    if module._cpuid() is None:
        pytest.skip("needs glibc 2.33 or newer")
    code = "from isobit.backends.device.processor import features, read_cpuinfo; print(*features(read_cpuinfo()))"
    python = [str(Path(sys.executable).resolve()), "-S", "-c", code]
    done = subprocess.run(["qemu-x86_64", "-cpu", "Haswell", *python], capture_output=True, text=True, cwd=ROOT)
    found = set(done.stdout.split())
    assert done.returncode == 0 and "avx2" in found and not found & {"avx512_vnni", "avx_vnni", "avx512f"}
