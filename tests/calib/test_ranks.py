"""Processes that calibrate together: what two find is what one finds, and what every one of them finds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from isobit.calib.ranks import ALONE, Ranks, joined
from isobit.pipeline.errors import InputError
from tests.examples.together import CASES, numbers, torchrun

ALIKE = ("qdrop", "signs", "brecq", "pdquant")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes under torchrun wrote, see `tests.examples.together`."""
    folder = tmp_path_factory.mktemp("together")
    done = torchrun("tests.examples.together", str(folder))
    assert done.returncode == 0, done.stderr
    return folder


def read(folder: Path, name: str, rank: int) -> dict[str, Any]:
    return torch.load(folder / f"{name}-{rank}.pt", weights_only=False)


def test_one_process_shares_nothing() -> None:
    draws = np.arange(12).reshape(2, 6)
    assert ALONE.leads and ALONE.share(draws).tolist() == draws.tolist() and ALONE.part(5) == 5
    assert list(ALONE.deal(3)) == [0, 1, 2] and list(ALONE.dealt(3, str)) == ["0", "1", "2"]
    values = torch.tensor([1.0, 2.0])
    ALONE.average(values)
    assert values.tolist() == [1.0, 2.0] and ALONE.first(lambda: 7) == 7 and ALONE.collect(7) == [7]
    assert ALONE.notes == [] and ALONE.named("cuda") == "cuda"
    ALONE.go_on_alone()
    ALONE.follow(lambda: pytest.fail("nobody asks"), lambda state: pytest.fail("nobody takes"))


def test_shares_make_the_whole() -> None:
    draws, ranks = np.arange(24).reshape(2, 12), [Ranks(rank, 3) for rank in range(3)]
    shares = [each.share(draws) for each in ranks]
    assert sorted(np.concatenate(shares, axis=1)[1]) == list(range(12, 24)) and {s.shape for s in shares} == {(2, 4)}
    first = [share[0, : each.part(6)] for each, share in zip(ranks, shares, strict=True)]
    assert sorted(np.concatenate(first)) == list(range(6)) and Ranks(2, 3).part(1) == 1
    assert sorted(place for each in ranks for place in each.deal(5)) == list(range(5))


def test_nobody_joins_where_torchrun_did_not_start_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")  # as other launchers set it for purposes of their own
    with joined("cpu") as (ranks, device):
        assert ranks is ALONE and device == "cpu"


@pytest.mark.parametrize(("device", "told"), [("cuda:1", "one GPU, cuda:1, for 2 processes"), ("cuda", "no GPU of")])
def test_gpus_that_do_not_suffice_are_refused(device: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("WORLD_SIZE", "2"), ("LOCAL_WORLD_SIZE", "2"), ("LOCAL_RANK", "1"), ("RANK", "1"),
                        ("TORCHELASTIC_RUN_ID", "test")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(InputError, match=told), joined(device):
        pass


@pytest.mark.slow
def test_what_passes_between_two(found: Path) -> None:
    for rank in (0, 1):
        words = read(found, "words", rank)
        assert words["first"] == 10 and words["collected"] == [0, 1] and words["device"] == "cpu"
        assert words["dealt"] == [(0, 0), (1, 1), (2, 0), (3, 1), (4, 0)] and words["named"] == "2 x cpu"
        assert float(words["mean"]) == 0.5 and words["matrix"].tolist() == [[1.5, 1.5], [1.5, 1.5]]
        assert words.get("served", False) is (rank == 1)


@pytest.mark.parametrize("case", ALIKE)
def test_two_find_what_one_finds(case: str, found: Path) -> None:
    """Up to the order of sums: a code may differ whose variable ended next to the border."""
    one, two = numbers(case), read(found, case, 0)
    assert [log[0] for log in two["logs"]] == [log[0] for log in one["logs"]]
    for left, right in zip(one["logs"], two["logs"], strict=True):
        assert right[1:] == pytest.approx(left[1:], rel=1e-4)
    codes = [name for name in one["state"] if name.endswith("codes")]
    differing = sum(int((one["state"][name] != two["state"][name]).sum()) for name in codes)
    assert codes and differing <= 2
    scales = [name for name in one["state"] if name.endswith(".scale")]
    assert all(torch.allclose(one["state"][name], two["state"][name], rtol=1e-4) for name in scales)


@pytest.mark.parametrize("case", CASES)
def test_every_rank_finds_the_same(case: str, found: Path) -> None:
    left, right = (read(found, case, rank) for rank in (0, 1))
    assert left["logs"] == right["logs"] and left["state"].keys() == right["state"].keys()
    assert all(torch.equal(left["state"][name], right["state"][name]) for name in left["state"])
    assert any("2 processes" in note for note in left["notes"])


def test_masks_are_those_of_the_seed(found: Path) -> None:
    """The same again with as many processes; not those of one."""
    left, right, one = read(found, "masks", 0), read(found, "again", 0), numbers("masks")
    assert left["logs"] == right["logs"] and left["logs"] != one["logs"]
    assert all(torch.equal(left["state"][name], right["state"][name]) for name in left["state"])
    # The losses are of one kind: each rank's masks are as good as the other's.
    assert sum(log[3] for log in left["logs"]) == pytest.approx(sum(log[3] for log in one["logs"]), rel=0.25)


def test_all_go_on_with_what_the_first_kept(found: Path) -> None:
    left, right = read(found, "resumed", 0), read(found, "qdrop", 0)
    assert left["logs"] == right["logs"] and all(read(found, "resumed", rank)["trained"] == 0 for rank in (0, 1))
    assert all(torch.equal(left["state"][name], right["state"][name]) for name in left["state"])
    files = [path for path in (found / "kept").rglob("*") if path.is_file()]
    assert files and not [path for path in files if path.suffix not in (".safetensors", ".json")]
