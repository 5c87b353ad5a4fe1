"""Golden numbers: a whole file or none, exact codes, bounds after float operators, logits to the bit or to a bound."""

import numpy as np
import pytest

from isobit.backends.device.golden import boundaries, compare_golden, logit_differences, near_codes, read_golden

NAMES = ["first", "gelu", "last"]


def golden(**more):
    codes = np.arange(24, dtype=np.uint8).reshape(4, 6)
    return {
        "input": np.zeros((4, 2), np.float32), "logits": np.ones((4, 3), np.float32), "code:first": codes,
        **near_codes("gelu", codes + 9, codes + 9, codes + 9), "code:last": codes + 1, **more,
    }


def computed(wanted):
    prefixes = ("code:", "near:")
    found = {key.partition(":")[2]: value.copy() for key, value in wanted.items() if key.startswith(prefixes)}
    return {**found, "logits": wanted["logits"].copy()}


def test_equal_codes_and_logits_are_no_problem(capsys):
    wanted = golden()
    assert compare_golden(wanted, computed(wanted)) == []
    assert capsys.readouterr().out == "samples: 4, codes compared: 72\n"


def test_a_code_and_a_bit_of_a_logit_are_found():
    wanted = golden()
    got = computed(wanted)
    got["last"][2, 3] += 5
    got["logits"][1, 1] = np.nextafter(np.float32(1), np.float32(2))
    assert compare_golden(wanted, got) == ["last: 1 of 24 codes differ, by up to 5", "logits: 1 of 12 values differ"]


def test_after_a_float_operator_a_code_lies_where_rounding_explains_it_and_all_else_is_compared(capsys):
    codes = np.full((4, 6), 9, np.uint8)
    low, high = codes - np.eye(4, 6, dtype=np.uint8), codes + np.eye(4, 6, 1, dtype=np.uint8)
    wanted = golden(**near_codes("gelu", codes, low, high))
    got = computed(wanted)
    got["gelu"][1, 1] -= 1
    got["gelu"][1, 2] += 1
    assert compare_golden(wanted, got) == []
    assert "2 codes, each explained and followed" in capsys.readouterr().out
    got["last"][1] += 7
    assert compare_golden(wanted, got) == ["last: 6 of 24 codes differ, by up to 7"]
    got = computed(wanted)
    for place, steps in {(0, 0): 1, (0, 1): 2, (2, 2): -2, (3, 0): -1}.items():
        got["gelu"][place] = 9 + steps
    assert compare_golden(wanted, got) == ["gelu: 4 of 24 codes differ, by up to 2"]


def test_the_room_around_a_code_is_counted_from_what_the_arithmetic_says():
    got = np.array([[5, 5, 5]], np.uint8)
    found = near_codes("gelu", got, np.array([[4, 4, 5]], np.uint8), np.array([[5, 9, 9]], np.uint8))
    assert found["below:gelu"].tolist() == [[1, 1, 0]] and found["above:gelu"].tolist() == [[0, 4, 4]]
    assert found["near:gelu"] is got and boundaries(found) == ["gelu"]


@pytest.mark.parametrize("name", ["first", "gelu", "logits"])
@pytest.mark.parametrize("change", [lambda a: None, lambda a: a[:3], lambda a: a[:, :2], lambda a: a.astype(np.int32)])
def test_what_is_missing_or_of_another_shape_is_a_problem(name, change):
    wanted = golden()
    got = computed(wanted)
    got[name] = change(got[name])
    assert compare_golden(wanted, {key: value for key, value in got.items() if value is not None}) == [
        f"{name}: missing, or of another shape"
    ]


def test_float_logits_are_held_to_the_error_that_is_allowed():
    wanted, got = np.array([[1.0, -2.0]], np.float32), np.array([[1.001, -2.0]], np.float32)
    assert logit_differences(got, wanted, np.float32(1e-3)) == []
    assert logit_differences(got, wanted, np.float32(1e-4)) == ["logits: 1 of 2 values differ"]
    assert logit_differences(np.full_like(got, np.nan), wanted, np.float32(1)) == ["logits: 2 of 2 values differ"]
    ends = np.array([[np.inf, 1, -np.inf]], np.float32)
    assert logit_differences(ends * np.float32(1.0005), ends, np.float32(1e-3)) == []
    assert logit_differences(-ends, ends, np.float32(1e-3)) == ["logits: 3 of 3 values differ"]


@pytest.mark.parametrize("more", [{}, {"float_output": np.float32(1e-5)}])
def test_a_whole_file_is_read(tmp_path, more):
    np.savez(tmp_path / "golden.npz", **golden(**more))
    assert list(read_golden(tmp_path, NAMES)) == list(golden(**more))


def without(*keys):
    return {key: value for key, value in golden().items() if key not in keys}


@pytest.mark.parametrize(
    ("arrays", "names"),
    [
        (golden(), ["first", "gelu"]),
        (golden(), [*NAMES, "more"]),
        (golden(), []),
        (without("code:last"), NAMES),
        (without("logits"), NAMES),
        (without("below:gelu"), NAMES),
        (without("near:gelu"), NAMES),
        ({"input": golden()["input"], "logits": golden()["logits"]}, []),
        (golden(other=np.zeros(4, np.uint8)), NAMES),
        (golden(**{"code:gelu": golden()["near:gelu"]}), NAMES),
        (golden(**{"code:last": golden()["code:last"][:3]}), NAMES),
        (golden(logits=golden()["logits"].astype(np.float64)), NAMES),
        (golden(**{"code:last": golden()["code:last"].astype(np.int64)}), NAMES),
        ({key: value[:0] for key, value in golden().items()}, NAMES),
    ],
)
def test_a_file_that_is_not_whole_is_refused(tmp_path, arrays, names):
    np.savez(tmp_path / "golden.npz", **arrays)
    with pytest.raises(ValueError, match="golden.npz"):
        read_golden(tmp_path, names)


def test_a_tensor_that_is_there_twice_is_refused(tmp_path):
    import zipfile

    np.savez(tmp_path / "golden.npz", **golden())
    with zipfile.ZipFile(tmp_path / "golden.npz", "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("logits.npy", archive.read("logits.npy"))
    with pytest.raises(ValueError, match="logits"):
        read_golden(tmp_path, NAMES)
