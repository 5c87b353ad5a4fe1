"""Word and character error rate: edits that turn the decoded texts into the targets, per word or character of those.

The decoder gives one text for each sample, and the targets are texts.
"""

from __future__ import annotations

from collections.abc import Sequence

from isobit.pipeline.errors import InputError
from isobit.pipeline.proof.metrics import metric


class ErrorRate:
    """Edits, and what they are counted against.

    Attributes:
        edits: fewest insertions, deletions and replacements.
        length: words or characters of the targets.
    """

    def __init__(self) -> None:
        self.edits = self.length = 0

    def parts(self, text: str) -> Sequence[str]:
        """What is counted of a text."""
        raise NotImplementedError

    def update(self, outputs: Sequence[str], target: Sequence[str]) -> None:
        """Count one batch of texts; raises InputError where something is no text."""
        for given, wanted in zip(outputs, target, strict=True):
            for text, field, what in ((given, "options.decoder", "the decoder gives"),
                                      (wanted, "evaluation", "the target is")):
                if not isinstance(text, str):
                    raise InputError(f"an error rate compares texts, and {what} {type(text).__name__}", field=field,
                                     allowed="a text for each sample")
            found = self.parts(wanted)
            self.edits += edit_distance(self.parts(given), found)
            self.length += len(found)

    def answer(self, outputs: Sequence[str]) -> Sequence[str]:
        """Texts are what they are."""
        return outputs

    def compute(self) -> float | None:
        """In percent, above 100 where more is wrong than there is; None where the targets are empty."""
        return round(100 * self.edits / self.length, 4) if self.length else None


@metric("word_error_rate", "word error rate", unit="%", higher_is_better=False, decoded=True, answers="texts")
class WordErrorRate(ErrorRate):
    """Words are what white space separates."""

    def parts(self, text: str) -> Sequence[str]:
        """Its words."""
        return text.split()


@metric("character_error_rate", "character error rate", unit="%", higher_is_better=False, decoded=True, answers="texts")
class CharacterErrorRate(ErrorRate):
    """Every character counts, white space too."""

    def parts(self, text: str) -> Sequence[str]:
        """Its characters."""
        return text


def edit_distance(given: Sequence[str], wanted: Sequence[str]) -> int:
    """Fewest insertions, deletions and replacements between two sequences (Levenshtein)."""
    row = list(range(len(wanted) + 1))
    for place, one in enumerate(given, 1):
        above, row[0] = row[0], place
        for column, other in enumerate(wanted, 1):
            above, row[column] = row[column], min(above + (one != other), row[column] + 1, row[column - 1] + 1)
    return row[-1]
