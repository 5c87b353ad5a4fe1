"""Edits counted by hand, per word or character of the targets."""

import pytest

from isobit.pipeline.errors import InputError
from isobit.pipeline.proof.metrics.error_rates import CharacterErrorRate, WordErrorRate, edit_distance


@pytest.mark.parametrize(
    ("given", "wanted", "edits"),
    [("", "", 0), ("", "abc", 3), ("abc", "", 3), ("kitten", "sitting", 3), ("flaw", "lawn", 2), ("abc", "abc", 0)],
)
def test_fewest_insertions_deletions_and_replacements(given, wanted, edits):
    assert edit_distance(given, wanted) == edit_distance(wanted, given) == edits


@pytest.mark.parametrize(("rate", "percent"), [(WordErrorRate, 100 * 2 / 5), (CharacterErrorRate, 100 * 6 / 18)])
def test_edits_and_lengths_add_up_over_batches(rate, percent):
    # "red" for "rat" is one word and two characters, " fox" is one word and four.
    given, wanted = ["the red", "a quick"], ["the rat", "a quick fox"]
    whole, split = rate(), rate()
    whole.update(given, wanted)
    for one, other in zip(given, wanted, strict=True):
        split.update([one], [other])
    assert whole.compute() == split.compute() == pytest.approx(percent, abs=1e-4)


def test_more_can_be_wrong_than_there_is_and_empty_targets_say_nothing():
    rate = WordErrorRate()
    rate.update(["a b c"], ["x"])
    assert rate.compute() == 300.0
    empty = WordErrorRate()
    empty.update(["a"], [""])
    assert empty.compute() is None


@pytest.mark.parametrize(("given", "wanted", "words", "field"), [
    ([3], ["a"], "the decoder gives int", "options.decoder"), (["a"], [b"a"], "the target is bytes", "evaluation"),
])
def test_what_is_no_text_is_refused(given, wanted, words, field):
    with pytest.raises(InputError, match=words) as error:
        WordErrorRate().update(given, wanted)
    assert error.value.field == field and error.value.allowed == "a text for each sample"
