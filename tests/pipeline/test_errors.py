"""Errors: the text says what, where, what is allowed and what to do; each type carries its published exit code."""

from __future__ import annotations

import pytest

from isobit.pipeline import errors


def test_text_names_the_stage_and_each_given_fact_on_its_own_line():
    error = errors.TargetError(
        "weights need zero point 0", where="layer3.0.conv2 (resnet.py:58)", allowed="symmetric: true", hint="edit it"
    )
    assert str(error).splitlines() == [
        "annotate: weights need zero point 0",
        "  where:   layer3.0.conv2 (resnet.py:58)",
        "  allowed: symmetric: true",
        "  do:      edit it",
    ]
    assert (error.what, error.where, error.allowed, error.hint) == (
        "weights need zero point 0", "layer3.0.conv2 (resnet.py:58)", "symmetric: true", "edit it",
    )  # fmt: skip


def test_facts_that_are_not_given_leave_no_empty_lines():
    assert str(errors.InputError("no such file")) == "input: no such file"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InputError, 2),
        (errors.CaptureError, 2),
        (errors.RecipeError, 2),
        (errors.TargetError, 2),
        (errors.CalibrationError, 2),
        (errors.ParityError, 1),
    ],
)
def test_exit_codes_are_the_published_ones(error, code):
    assert int(error("x").exit_code) == code
    assert issubclass(error, errors.CompileError)


def test_nearest_spelling_offers_only_what_is_close():
    assert errors.nearest_spelling("qdrop_w4a", ["qdrop_w4a4", "minmax_w8a8"]) == "Did you mean 'qdrop_w4a4'?"
    assert errors.nearest_spelling("zzz", ["qdrop_w4a4", "minmax_w8a8"]) == ""


def test_what_a_file_says_stays_on_one_line_and_is_cut():
    error = errors.InputError("no network 'x\nPARITY PASSED'", where="y" * 5000)
    assert error.what == "no network 'x PARITY PASSED'" and len(error.where) < 2100
