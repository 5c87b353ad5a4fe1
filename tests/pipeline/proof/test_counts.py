"""Values are counted one by one, whatever their shape; what is missing differs everywhere."""

import json

import numpy as np
import pytest

from isobit.pipeline.proof.counts import FLOAT_ROUNDING, BoundaryCount, CodeCount, Directed, OutputCount, Reach

CODES = np.arange(8, dtype=np.uint8).reshape(2, 4)
VALUES = np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4)


def test_codes_are_counted_in_steps():
    count = CodeCount()
    assert count.add(CODES, CODES) == 0 and count.add(CODES, CODES[:, ::-1]) == 8 and count.add(CODES, None) == 8
    assert count == CodeCount(24, 16, 3)


def test_a_code_after_a_float_operator_keeps_to_its_bounds():
    count = BoundaryCount()
    count.add_bounded(CODES, CODES + 1, CODES, CODES + 1)
    count.add_bounded(CODES, CODES + 1, CODES, CODES)
    count.add_bounded(CODES, CODES + 2, CODES, CODES + 2)
    assert (count.compared, count.differing, count.unexplained, count.unsteady) == (24, 24, 8, 8)
    count.add_bounded(CODES, CODES + 2, CODES, CODES + 2, jumps=True)
    assert (count.unexplained, count.unsteady) == (8, 8)


def test_an_output_is_equal_to_the_bit():
    count = OutputCount()
    count.add(VALUES, VALUES, False)
    count.add(VALUES, np.nextafter(VALUES, np.float32(2)), False)
    count.add(VALUES[0, :1], None, False)
    assert count == OutputCount(17, 9) and count.to_json() == {"compared": 17, "differing": 9, "float_output": None}


@pytest.mark.parametrize(("got", "error"), [(VALUES * np.float32(1.5), 0.5), (VALUES + np.float32(np.inf), None)])
def test_an_output_in_float_has_an_error_relative_to_each_sample_s_largest(got, error):
    count = OutputCount()
    count.add(VALUES, got, True)
    told = count.to_json()["float_output"]
    assert told == {"compared": 8, "largest_error": error, "allowed": FLOAT_ROUNDING}
    json.dumps(told, allow_nan=False)


def test_what_lies_between_its_bounds_is_no_error():
    count, room = OutputCount(), np.float32(0.25)
    count.add(VALUES, VALUES + room, True, (VALUES - room, VALUES + room))
    assert count.to_json()["float_output"]["largest_error"] == 0.0 and count.differing == VALUES.size
    count.add(VALUES, VALUES + 2 * room, True, (VALUES - room, VALUES + room))
    assert count.in_float.largest_error > 0.1


@pytest.mark.parametrize(("end", "error"), [(np.inf, 0.0), (-np.inf, None), (1e38, None), (np.nan, None)])
def test_the_same_infinity_is_the_same_answer(end, error):
    wanted, got = VALUES.copy(), VALUES.copy()
    wanted[0, 1], got[0, 1] = np.inf, end
    count = OutputCount()
    count.add(wanted, got, True)
    assert count.to_json()["float_output"]["largest_error"] == error


def test_a_tensor_is_equal_parts_or_is_open_and_says_no_more_than_it_knows():
    equal = Reach("mean_q", "itself")
    open_ = Reach("linear", "nothing", why="its sums leave in float", bound=9, limit=99)
    parts = Reach("relu_q", "sums", 1000, 3, 1, digest="d" * 64, bound=500, limit=99)
    assert [one.verdict for one in (equal, parts, open_)] == ["equal", "parts", "open"]
    assert equal.to_json() == {"verdict": "equal", "over": "itself"}
    assert parts.to_json() == {"verdict": "parts", "over": "sums", "inputs": 1000, "parting": 3, "max_lsb": 1,
                               "digest": "d" * 64, "bound": 500}
    assert open_.to_json() == {"verdict": "open", "over": "nothing", "why": "its sums leave in float", "bound": 9}


def test_chosen_codes_are_told_in_one_line_with_what_they_did_not_show():
    count = CodeCount(1234, 0, 0)
    held = Directed(3, True, count, shown={"a_q": 0.49, "b_q": 0.5})
    assert held.hidden == ["a_q"] and held.rules[0].passed
    assert held.text == ("1,234 codes of 3 chosen samples, each layer by itself: none differs; 1 of 2 tensors showed "
                         "less than 50% of their codes")
    wrong = Directed(3, False, count, 2, "b_q", {"b_q": 1.0})
    assert wrong.text == "1,234 codes of 3 chosen samples, the network as a whole: 2 differ, first in b_q"
    assert not wrong.rules[0].passed and not Directed(3, True).rules[0].passed
    none = Directed(reason="there are none")
    assert none.text == "none: there are none" and none.rules == []
    assert held.to_json()["shown"] == {"a_q": 0.49, "b_q": 0.5} and wrong.to_json()["first"] == "b_q"
