"""Instructions of networks: counted of artifacts, written as numbers, shown in a document."""

import json

import pytest

from isobit.backends.c.toolchain import check_machine
from tests.backends.c.compiled import needs_emulator, write
from tests.examples.programs import Builder
from tools.documents import read_json
from tools.instructions import instructions

COUNTS = {
    "O2": {"plain": 42_631_508, "dsp": 20_414_949, "dsp, m55": 20_000_000, "helium": 5_000_000},
    "Os": {"plain": 48_694_539, "dsp": 20_823_697, "dsp, m55": 20_000_000, "helium": 6_000_000},
}
CONTENT = instructions.numbers([{"network": "resnet8_mlperf_tiny", "recipe": "mse_w4a4", **COUNTS}], "a command", "gcc")


def test_the_table_shows_millions_and_ratios_beside_the_record():
    assert instructions.tables(CONTENT)["c"].splitlines()[2:] == [
        "|ResNet-8, `mse_w4a4`|42.6|20.4|0.48 (0.43)|19.9|20.0|5.0|0.25 (0.30)|"]


@needs_emulator
def test_a_folder_is_counted_at_each_level_for_every_kind_of_instructions(tmp_path, capsys):
    net = Builder((6, 6, 4))
    folder = write(net.build(net.conv(0, 8)), tmp_path / "net", "cortex-m4")
    assert instructions.main(["--folder", str(folder), "--steps"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["folder"] == "net"
    for level in instructions.LEVELS:
        assert 0 < found[level]["dsp"] < found[level]["plain"]
        assert 0 < found[level]["helium"] < found[level]["dsp, m55"] < found[level]["plain, m55"]
        assert list(found[level]["dsp by tensor"]) == ["t0", "t1", "the end of a run"]


def test_without_the_emulator_it_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Exception, match="qemu-system-arm"):
        check_machine("cortex-m4")
    net = Builder((6, 6, 4))
    assert instructions.main(["--folder", str(write(net.build(net.conv(0, 8)), tmp_path / "net"))]) == 2
    assert "apt install" in capsys.readouterr().err


def test_the_document_is_written_from_the_numbers(tmp_path, monkeypatch):
    (tmp_path / "c.md").write_text("Words.\n\n<!-- instructions:c -->\n<!-- /instructions:c -->\n")
    monkeypatch.setattr(instructions, "DOCS", tmp_path)
    monkeypatch.setattr(instructions, "NUMBERS", tmp_path / "instructions.json")
    monkeypatch.setattr(instructions, "yardsticks", lambda steps: CONTENT["counts"])
    monkeypatch.setattr(instructions, "compiler_of", lambda machine: [machine])
    monkeypatch.setattr(instructions, "compiler_version", lambda command: "gcc")
    assert instructions.main(["--write-docs"]) == 0
    assert read_json(tmp_path / "instructions.json")["counts"] == CONTENT["counts"]
    assert "|42.6|20.4|" in (tmp_path / "c.md").read_text()
