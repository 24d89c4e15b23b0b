"""Compares what the service wrote with what an undisturbed one would have written: each effect once, in order, with its value."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isclose
from typing import Literal, NamedTuple

_SCORE_ERROR = 1e-3
_MOST_PROBLEMS = 20


class Effect(NamedTuple):
    """What one message causes: a score, an entry of an event, or a dead letter."""

    kind: Literal["score", "event", "letter"]
    camera_id: str
    """Empty for a letter."""
    partition: int
    offset: int
    detail: str = ""
    """Of an event: its id, and start, update or end."""

    def __str__(self) -> str:
        return " ".join(filter(None, (self.kind, self.detail, f"of {self.camera_id}@{self.partition}:{self.offset}")))


Effects = Sequence[tuple[Effect, float | None]]
"""In the order in which they were written, each with its score if it is one."""


@dataclass(frozen=True, slots=True)
class Tally:
    """What is wrong with the effects of the messages up to a cutoff."""

    events: int = 0
    """How many events there must have been."""
    lost: int = 0
    """Effects that are missing, and messages that Kafka acknowledged and does not have."""
    doubled: int = 0
    """Effects too many."""
    wrong: int = 0
    """Effects that no message has, that are out of order, or have another score than without a fault."""
    problems: tuple[str, ...] = ()
    """Each in words."""

    def since(self, before: "Tally") -> "Tally":
        """What has come on top."""
        known = set(before.problems)
        return Tally(
            self.events - before.events,
            self.lost - before.lost,
            self.doubled - before.doubled,
            self.wrong - before.wrong,
            tuple(problem for problem in self.problems if problem not in known),
        )


def compare(
    expected: Effects, found: Effects, cutoff: Mapping[int, int], missing_messages: Iterable[tuple[int, int]] = ()
) -> Tally:
    """``cutoff``: partition -> the last offset whose effects must be there; what lies beyond is not looked at.

    Dead letters may come more than once, as the service says. ``missing_messages``: partition and offset of those that Kafka
    acknowledged and does not have.
    """
    expected, found = _up_to(cutoff, expected), _up_to(cutoff, found)
    scores, counts = dict(expected), Counter(effect for effect, _ in found)
    lost = [f"lost: {effect}" for effect in scores if effect not in counts]
    lost += [f"lost: message @{partition}:{offset}" for partition, offset in missing_messages]
    extra = {effect: counts[effect] - 1 for effect in scores if counts[effect] > 1 and effect.kind != "letter"}
    doubled = [f"doubled: {effect} came {count + 1} times" for effect, count in extra.items()]
    wrong = [f"wrong: {effect} without a cause" for effect in counts if effect not in scores]
    wrong += [f"wrong: {effect} is {score}" for effect, score in found if effect in scores and not _same(score, scores[effect])]
    wrong += _out_of_order(found)
    return Tally(_starts(expected), len(lost), sum(extra.values()), len(wrong), (*lost, *doubled, *wrong))


def first_problems(problems: Sequence[str]) -> list[str]:
    """As many as a person reads."""
    return list(problems[:_MOST_PROBLEMS])


def _up_to(cutoff: Mapping[int, int], effects: Effects) -> Effects:
    return [(effect, score) for effect, score in effects if effect.offset <= cutoff.get(effect.partition, -1)]


def _same(score: float | None, expected: float | None) -> bool:
    if score is None or expected is None:
        return score is expected
    return isclose(score, expected, rel_tol=_SCORE_ERROR, abs_tol=_SCORE_ERROR)


def _out_of_order(found: Effects) -> list[str]:
    """Effects that were first written after one of a later frame of their camera."""
    by_stream: dict[tuple[str, str], list[Effect]] = {}
    for effect in dict.fromkeys(effect for effect, _ in found if effect.kind != "letter"):
        by_stream.setdefault((effect.kind, effect.camera_id), []).append(effect)
    return [
        f"wrong: {later} after {earlier}"
        for effects in by_stream.values()
        for earlier, later in pairwise(effects)
        if later.offset < earlier.offset
    ]


def _starts(expected: Effects) -> int:
    return sum(effect.kind == "event" and effect.detail.endswith("start") for effect, _ in expected)
