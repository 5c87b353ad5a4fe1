"""The command line that an artifact keeps is the one that was given, without folders of a machine and what is of one
run.
"""

from __future__ import annotations

import shlex

import pytest
from typer.main import get_command

from isobit.cli.app import app
from isobit.cli.artifacts.repeat import MAY_NAME_FILES, OF_ONE_RUN, last_part

BUILD = get_command(app)
OVERRIDES = "overrides=[{where: '/features/0/Conv', float: true}]"


def kept(*given):
    return BUILD.make_context("isobit", list(given)).obj


@pytest.mark.parametrize(("given", "words"), [
    (["nets/a.pth", "--recipe", "mine/q.yaml", "--arch", "nets/a.py:make"],
     ("a.pth", "--arch", "a.py:make", "--recipe", "q.yaml")),
    (["a.pth", "--out", "artifacts/a", "--overwrite", "--json", "--seed", "3"], ("a.pth", "--seed", "3")),
    (["a.pth", "--out=artifacts/a", "--calib-data=data/calib/", "--mean=0.5", "--allow-float"],
     ("a.pth", "--allow-float", "--calib-data", "calib", "--mean", "0.5")),
    (["a.pth", "--set", "method.steps=30", "--mean", "-0.5", "0.5", "--set", "a=1"],
     ("a.pth", "--mean", "-0.5,0.5", "--set", "method.steps=30", "--set", "a=1")),
    (["a.pth", "--metric", "m/of.py:mine", "--decoder", "/d/of.py:boxes", "--eval-data", "/d/of.py:samples"],
     ("a.pth", "--decoder", "of.py:boxes", "--eval-data", "of.py:samples", "--metric", "of.py:mine")),
    (["--seed", "3", "--", "-nets/-a.pth"], ("./-a.pth", "--seed", "3")),
])
def test_what_is_kept(given, words):
    assert kept(*given) == words


@pytest.mark.parametrize("words", [
    ("--set", OVERRIDES), ("--cut", "/model/22/Sigmoid_output_0"), ("--output", "/head/out"),
    ("--arch-args", "model_name=hf-hub:who/net"), ("--input-shape", "/in/x=1x3x8x8"), ("--weights", "ema/model"),
])
def test_names_with_slashes_are_no_paths(words):
    assert kept("a.pth", *words) == ("a.pth", *words)


def test_one_build_asked_for_in_two_ways_gives_the_same_words():
    one = kept("a.pth", "--seed", "3", f"--set={OVERRIDES}", "--mean", "0.5", "0.5")
    assert one == kept("--mean=0.5,0.5", "--set", OVERRIDES, "--seed=3", "--", "b/a.pth")
    assert kept(*one) == one and kept(*shlex.split(shlex.join(one))) == one


def test_what_is_left_out_or_cut_are_options_that_there_are():
    assert {option for one in BUILD.params for option in one.opts} >= OF_ONE_RUN | MAY_NAME_FILES
    assert [last_part(text) for text in ("a/b.py:make", "a.pth", "..", "/")] == ["b.py:make", "a.pth", "..", "/"]
