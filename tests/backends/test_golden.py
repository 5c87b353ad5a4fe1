"""Golden numbers: exact codes, one step behind float operators, logits to the bit or to a bound."""

import numpy as np

from backends.golden import compare_golden, logit_differences, quantized_names, read_golden


def golden(**more):
    codes = np.arange(24, dtype=np.uint8).reshape(4, 6)
    return {
        "input": np.zeros((4, 2), np.float32), "logits": np.ones((4, 3), np.float32), "code:first": codes,
        **more, "code:last": codes + 1,
    }


def computed(wanted):
    return {key.removeprefix("code:").removeprefix("near:"): value.copy() for key, value in wanted.items()}


def test_equal_codes_and_logits_are_no_problem(capsys):
    wanted = golden()
    assert compare_golden(wanted, computed(wanted)) == []
    assert capsys.readouterr().out == "samples: 4, codes compared: 48\n"


def test_a_code_and_a_bit_of_a_logit_are_found():
    wanted = golden()
    got = computed(wanted)
    got["last"][2, 3] += 5
    got["logits"][1, 1] = np.nextafter(np.float32(1), np.float32(2))
    assert compare_golden(wanted, got) == ["last: 1 of 24 codes differ, by up to 5", "logits: 1 of 12 values differ"]


def test_behind_a_float_operator_one_step_ends_the_comparison_of_that_sample_only(capsys):
    near = np.full((4, 6), 9, np.uint8)
    wanted = golden(**{"near:gelu": near})
    got = computed(wanted)
    got["gelu"][1, 0] += 1
    got["last"][1] += 7
    assert compare_golden(wanted, got) == []
    assert "3 samples could be compared behind them" in capsys.readouterr().out
    got["gelu"][2, 0] += 2
    assert compare_golden(wanted, got) == ["gelu: 1 of 24 codes differ, by up to 2"]


def test_float_logits_are_held_to_the_error_that_is_allowed():
    wanted, got = np.array([[1.0, -2.0]], np.float32), np.array([[1.001, -2.0]], np.float32)
    assert logit_differences(got, wanted, np.float32(1e-3)) == []
    assert logit_differences(got, wanted, np.float32(1e-4)) == ["logits: 1 of 2 values differ"]
    assert logit_differences(np.full_like(got, np.nan), wanted, np.float32(1)) == ["logits: 2 of 2 values differ"]


def test_names_come_in_the_order_of_the_file(tmp_path):
    np.savez(tmp_path / "golden.npz", **golden(**{"near:gelu": np.zeros(4)}))
    assert quantized_names(read_golden(tmp_path)) == ["first", "gelu", "last"]
