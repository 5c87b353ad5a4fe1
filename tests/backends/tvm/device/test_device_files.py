"""What lies beside the module: facts in JSON and C++, and the loader, compiled and run here and under the emulator."""

import json
import re
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest

from isobit.backends.tvm.device import device_files
from isobit.backends.tvm.device.device_files import build_loader, describe, header, multiply_accumulates
from isobit.backends.tvm.device.device_runner import read_results
from isobit.backends.tvm.device.toolchain import emulation
from isobit.backends.tvm.profiles import PROFILES
from tests.backends.tvm import toy
from tests.examples.tvm_networks import resnet

pytestmark = pytest.mark.tvm


def load(folder, command, function, content, model="model.so", threads=()):
    """Run an artifact's loader; the finished process and what it wrote."""
    written = folder / "output.bin"
    (folder / "input.bin").write_bytes(content)
    done = subprocess.run(
        [*command, "./loader", function, model, "input.bin", "output.bin", *threads],
        cwd=folder, capture_output=True, text=True,
    )
    return done, written.read_bytes() if written.is_file() else b""


def test_the_files_are_those_that_the_device_needs(artifacts):
    folder = artifacts("native")
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert names == {
        "model.so", "device.json", "device.h", "run.py", "loader.cc", "loader", "golden.npz", "manifest.json",
        "lib/libtvm_runtime.so", "lib/libtvm_ffi.so", "lib/LICENSE", "lib/NOTICE", "lib/NOTICE.tvm-ffi",
        "lib/LICENSE.libbacktrace",
    }
    assert (folder / "loader").stat().st_size < 150_000


def test_facts_are_said_in_full(artifacts):
    facts = json.loads((artifacts("native") / "device.json").read_text())
    assert facts["profile"] in PROFILES and facts["cpu_features"] == list(PROFILES[facts["profile"]].features)
    assert facts["trace"] == [
        {"name": "input_q", "nhwc": [8, 8, 3], "shape": [3, 8, 8]},
        {"name": "layer_q", "nhwc": [8, 8, 16], "shape": [16, 8, 8]},
    ]
    assert facts["input"] == {"dtype": "float32", "shape": [3, 8, 8]} and facts["logits"] == [4]
    assert facts["codes"]["nhwc"] == [8, 8, 3] and facts["codes"]["zero_point"] == toy.ZERO


def test_the_header_says_the_same_to_the_loader(monkeypatch):
    monkeypatch.setattr(device_files.metadata, "version", lambda name: "1.2.3")
    facts = describe(PROFILES["aarch64-dotprod"], toy.PROGRAM, (0, 1), {"toy": 1})
    lines = header(facts).splitlines()
    assert 'constexpr const char* kFeatures[] = {"asimddp", "asimd"};  // of the profile aarch64-dotprod' in lines
    assert any('{"aarch64-dotprod", "asimddp asimd"}, {"aarch64", "asimd"}};' in line for line in lines)
    assert 'const std::vector<Input> kInputs = {{"float32", {1, 3, 8, 8}}};' in lines
    assert 'const std::vector<Input> kCodes = {{"uint8", {1, 8, 8, 3}}};' in lines


def test_products_are_counted_from_the_weights():
    program = resnet(blocks=3)
    assert 40e6 < multiply_accumulates(program) < 42e6
    last = program.steps[-1]
    assert multiply_accumulates(replace(program, steps=(last,))) == last.weights.codes.size == 640


def test_the_loader_is_the_same_from_every_folder(native, tmp_path):
    first = (native / "loader").read_bytes()
    other = shutil.copytree(native, tmp_path / "another" / "place")
    profile = PROFILES[json.loads((native / "device.json").read_text())["profile"]]
    assert build_loader(other, profile).read_bytes() == first
    assert str(tmp_path).encode() not in first and b"site-packages" not in first


@pytest.mark.parametrize("name", ["native", "aarch64"])
def test_module_and_libraries_load_where_the_document_says_that_they_do(artifacts, name):
    """docs/tvm.md: glibc 2.27; the loader needs that of the machine that compiles it."""
    folder = artifacts(name)
    for file in ("model.so", "lib/libtvm_runtime.so", "lib/libtvm_ffi.so"):
        listing = subprocess.run(["readelf", "-V", folder / file], capture_output=True, text=True, check=True).stdout
        versions = [tuple(map(int, version.split("."))) for version in re.findall(r"GLIBC_([\d.]+)", listing)]
        assert max(versions, default=(0, 0)) <= (2, 27) and (versions or file == "model.so"), file


@pytest.mark.parametrize("function", ["main", "codes"])
def test_the_loader_gives_the_logits_of_images_and_of_codes(native, function):
    x = toy.images(3)
    expected = toy.expected(x)
    given = x if function == "main" else np.ascontiguousarray(expected["input_q"].transpose(0, 2, 3, 1))
    done, written = load(native, (), function, given.tobytes())
    assert done.returncode == 0 and done.stdout.startswith("samples: 3, latency: ")
    assert done.stdout.endswith("(median, 1 thread, batch 1)\n")
    assert written == expected["logits"].tobytes()


@pytest.mark.parametrize("threads", ["1", "2", "7"])
def test_the_loader_gives_the_same_on_any_number_of_threads(native, threads):
    x = toy.images(3)
    done, written = load(native, (), "main", x.tobytes(), threads=[threads])
    assert done.returncode == 0 and not done.stderr and f" {threads} thread" in done.stdout
    assert written == toy.expected(x)["logits"].tobytes()


@pytest.mark.parametrize("threads", ["0", "257", "many"])
def test_the_loader_says_how_many_threads_there_may_be(native, threads):
    done, _ = load(native, (), "main", bytes(768), threads=[threads])
    assert done.returncode == 1 and "[THREADS, 1 to 256]" in done.stderr


@pytest.mark.parametrize(
    ("function", "content", "model", "says"),
    [
        ("other", b"", "model.so", "usage: ./loader main|codes|trace MODEL INPUT OUTPUT"),
        ("main", b"", "model.so", "input.bin: 0 bytes are no whole number of samples of 768 bytes"),
        ("main", bytes(769), "model.so", "input.bin: 769 bytes are no whole number of samples of 768 bytes"),
        ("main", bytes(768), "none.so", "none.so"),
    ],
)
def test_the_loader_says_what_is_wrong(native, function, content, model, says):
    done, _ = load(native, (), function, content, model)
    assert done.returncode == 1 and says in done.stderr


def test_the_loader_refuses_a_processor_without_a_feature(native):
    path = native / "device.h"
    path.write_text(path.read_text().replace('kFeatures[] = {"', 'kFeatures[] = {"never_built", "'))
    facts = json.loads((native / "device.json").read_text())
    build_loader(native, PROFILES[facts["profile"]])
    done, _ = load(native, (), "main", bytes(768))
    assert (done.returncode, done.stderr.strip()) == (
        1, "this module needs never_built, which this processor does not have: build with --device-profile "
        + facts["profile"],
    )


def test_every_arm_module_gives_every_code_on_the_model_of_its_processor(arm, tmp_path):
    folder = shutil.copytree(arm, tmp_path / "artifact")
    facts = json.loads((folder / "device.json").read_text())
    x = toy.images(8)
    done, written = load(folder, emulation(PROFILES[facts["profile"]]), "trace", x.tobytes())
    assert done.returncode == 0, done.stderr
    got, expected = read_results(written, facts), toy.expected(x)
    assert list(got) == list(expected)
    assert all(np.array_equal(got[name], expected[name]) for name in expected)


def test_a_dot_product_module_on_an_old_core_is_a_message_and_no_illegal_instruction(artifacts, tmp_path):
    folder = shutil.copytree(artifacts("aarch64-dotprod"), tmp_path / "artifact")
    dump = subprocess.run(["aarch64-linux-gnu-objdump", "-d", "model.so"], cwd=folder, capture_output=True, text=True)
    assert "udot" in dump.stdout  # or the rest would prove nothing
    old = emulation(PROFILES["aarch64"])
    done, _ = load(folder, old, "main", toy.images(1).tobytes())
    assert (done.returncode, done.stderr.strip()) == (
        1, "this module needs asimddp, which this processor does not have: build with --device-profile aarch64"
    )
    path = folder / "device.h"
    path.write_text(path.read_text().replace('kFeatures[] = {"asimddp", "asimd"}', 'kFeatures[] = {"asimd"}'))
    build_loader(folder, PROFILES["aarch64-dotprod"])
    done, _ = load(folder, old, "main", toy.images(1).tobytes())
    assert done.returncode not in (0, 1)  # what the check is there for
