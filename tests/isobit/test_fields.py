"""Arguments become options, and nothing else in backticks does; every option of the table is one of the command."""

import pytest
from typer.main import get_command

from isobit.cli.app import OTHERS, app
from isobit.cli.summary import error_json
from isobit.fields import OPTIONS, in_options
from isobit.pipeline.errors import InputError


@pytest.mark.parametrize(("library", "terminal"), [
    ("Give another `out`, or `options.overwrite=True` to replace it.",
     "Give another --out, or --overwrite to replace it."),
    ("`recipe.images.count=256` or `target=reference`", "--set images.count=256 or --target reference"),
    ("`overrides=weights.bits={average: 3}`", "--set weights.bits={average: 3}"),
    ("where `recipe.method.steps` stands", "where method.steps stands"),
    ("Save `model.state_dict()` with `kwargs`; run `git lfs pull`.",
     "Save `model.state_dict()` with `kwargs`; run `git lfs pull`."),
])
def test_texts_in_the_words_of_the_command_line(library, terminal):
    assert in_options(library) == terminal


def test_every_option_of_the_table_exists():
    commands = (get_command(app), get_command(OTHERS["analyze"]))
    known = {option for command in commands for parameter in command.params for option in parameter.opts}
    assert set(OPTIONS.values()) <= known


def test_an_error_names_its_field_for_both():
    error = InputError("an accuracy gate needs labels", field="options.max_drop", hint="Give `evaluation` with labels.")
    assert error.where == "`options.max_drop`" and "--" not in str(error)
    told = error_json(error)["error"]
    assert told["field"] == "options.max_drop" and told["where"] == "--max-drop"
    assert told["do"] == "Give --eval-data with labels."
