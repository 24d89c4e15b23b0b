"""What counts as lost, doubled and wrong."""

import pytest

from streamer.chaos.audit import Effect, Effects, compare
from streamer.chaos.results import Entry, StreamCopy

CUTOFF = {0: 9}
SCORES: Effects = [(Effect("score", "gate", 0, offset), offset / 10) for offset in range(12)]
EVENT: Effects = [(Effect("event", "gate", 0, 4, "a start"), None), (Effect("event", "gate", 0, 7, "a end"), None)]
LETTER: Effects = [(Effect("letter", "", 0, 3), None)]
ALL = [*SCORES, *EVENT, *LETTER]


def counts(found: Effects, **options: object) -> tuple[int, int, int]:
    tally = compare(ALL, found, CUTOFF, **options)  # type: ignore[arg-type]  # of one test, with its name
    assert len(tally.problems) >= (tally.lost + tally.wrong > 0)
    return tally.lost, tally.doubled, tally.wrong


def without(effect: Effect) -> Effects:
    return [each for each in ALL if each[0] != effect]


def test_nothing_is_wrong_with_what_was_expected() -> None:
    assert counts(ALL) == (0, 0, 0)
    assert compare(ALL, ALL, CUTOFF).events == 1


@pytest.mark.parametrize("effect", [SCORES[9][0], EVENT[0][0], EVENT[1][0], LETTER[0][0]])
def test_missing_effect_is_lost(effect: Effect) -> None:
    assert counts(without(effect)) == (1, 0, 0)
    assert str(effect) in compare(ALL, without(effect), CUTOFF).problems[0]


def test_what_lies_beyond_the_cutoff_may_be_missing() -> None:
    assert counts(without(SCORES[10][0])) == (0, 0, 0)
    assert compare(ALL, [], {}).lost == 0


@pytest.mark.parametrize("effect", [SCORES[0], EVENT[1]])
def test_effect_that_comes_again_is_doubled(effect: tuple[Effect, float | None]) -> None:
    assert counts([*ALL, effect]) == (0, 1, 0)
    assert counts([*ALL, effect, effect]) == (0, 2, 0)


def test_letters_may_come_twice() -> None:
    assert counts([*ALL, *LETTER]) == (0, 0, 0)


def test_event_with_another_id_is_wrong() -> None:
    assert counts([*SCORES, (Effect("event", "gate", 0, 4, "b start"), None), *EVENT, *LETTER]) == (0, 0, 1)


def test_score_of_another_state_is_wrong() -> None:
    assert counts([(effect, 0.7 if effect == SCORES[2][0] else score) for effect, score in ALL]) == (0, 0, 1)


def test_order_is_that_of_the_frames() -> None:
    assert counts([SCORES[1], SCORES[0], *SCORES[2:], *EVENT, *LETTER]) == (0, 0, 1)
    assert counts([*SCORES, *EVENT[::-1], *LETTER]) == (0, 0, 1)


def test_message_that_kafka_has_acknowledged_and_lost() -> None:
    assert counts(ALL, missing_messages=[(0, 5)]) == (1, 0, 0)


def test_only_what_is_new_is_told() -> None:
    before = compare(ALL, ALL[1:], CUTOFF)
    new = compare(ALL, ALL[2:], CUTOFF).since(before)

    assert (new.events, new.lost, len(new.problems)) == (0, 1, 1)


def test_steps_that_redis_forgot_and_got_again_are_read_once() -> None:
    stream: list[Entry] = [(f"{number}-0", {}) for number in range(1, 5)]
    copy = StreamCopy()

    def read() -> list[str]:
        copy.read(lambda first: stream if first == "-" else [each for each in stream if each[0] > first.removeprefix("(")])
        return [entry_id for entry_id, _ in copy.entries]

    assert read() == ["1-0", "2-0", "3-0", "4-0"]
    stream[3:] = [("5-0", {}), ("6-0", {})]  # killed without the newest step
    assert read() == ["1-0", "2-0", "3-0", "5-0", "6-0"]
    assert read() == ["1-0", "2-0", "3-0", "5-0", "6-0"]
