"""Which capture times are believed, whatever a camera's clock or a stranger says."""

from collections.abc import Iterable, Sequence
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from deploy.clock import ClockRule, ClockState, Tick, gap_limit_ms, tick

RULE = ClockRule(jump_ms=5_000, interval_ms=100)
MAX_GAP_MS = 5_000
BEGIN_MS = 1_700_000_000_000
YEAR_MS = 365 * 86_400_000
BEFORE_1974_MS = 10**11  # as a time in milliseconds; below that a clock may count seconds
ODD_CLOCKS = {
    "constant": lambda _: BEGIN_MS,
    "zero": lambda _: 0,
    "backward": lambda now_ms: 2 * BEGIN_MS - now_ms,
    "slow": lambda now_ms: BEGIN_MS + (now_ms - BEGIN_MS) // 100,
    "fast": lambda now_ms: BEGIN_MS + (now_ms - BEGIN_MS) * 1000,
    "random": lambda now_ms: now_ms * 2_654_435_761 % (2 * BEGIN_MS),
}

Reading = tuple[int, int | None]
"""What the camera claims, and the time of receipt."""

intervals_ms = st.sampled_from([40, 100, 1_111, 10_000])
anything = st.lists(st.tuples(st.integers(0, 4 * BEGIN_MS) | st.integers(0, 5_000), st.none() | st.integers(1, 4 * BEGIN_MS)))


def run(readings: Iterable[Reading], state: ClockState | None = None) -> list[Tick]:
    ticks = []
    for claimed_ms, received_ms in readings:
        ticks.append(tick(RULE, state, claimed_ms, received_ms))
        state = ticks[-1].after
    return ticks


def believed(ticks: Iterable[Tick]) -> list[int]:
    return [each.after.believed_ms for each in ticks]


def faults(ticks: Iterable[Tick]) -> list[str]:
    return [each.fault for each in ticks if each.fault is not None]


def gaps(ticks: Sequence[Tick]) -> list[int]:
    """Numbers of the frames that do not belong to those before them."""
    limits_ms = [gap_limit_ms(MAX_GAP_MS, each.after.interval_ms) for each in ticks[1:]]
    steps_ms = [after - before for before, after in pairwise(believed(ticks))]
    return [number for number, (step, limit) in enumerate(zip(steps_ms, limits_ms, strict=True), 1) if step > limit]


@st.composite
def receipts(draw: st.DrawFn, interval_ms: int, count: int) -> list[int]:
    """Of frames that come at this interval and travel for up to half of it."""
    delays = draw(st.lists(st.integers(1, interval_ms // 2), min_size=count, max_size=count))
    return [BEGIN_MS + number * interval_ms + delay for number, delay in enumerate(delays)]


@given(anything)
def test_times_increase_whatever_is_claimed(readings: list[Reading]) -> None:
    assert all(before < after for before, after in pairwise(believed(run(readings))))


@given(anything, st.data())
def test_going_on_from_what_was_stored_changes_nothing(readings: list[Reading], data: st.DataObject) -> None:
    whole, cut = run(readings), data.draw(st.integers(0, len(readings)))
    stored = whole[cut - 1].after.model_dump_json() if cut else None
    assert run(readings[cut:], None if stored is None else ClockState.model_validate_json(stored)) == whole[cut:]


@given(st.lists(st.integers(50, 300), max_size=60), st.booleans())
def test_clock_that_runs_is_believed(steps_ms: list[int], are_received: bool) -> None:
    claims = [BEGIN_MS + sum(steps_ms[:number]) for number in range(len(steps_ms) + 1)]
    ticks = run((claim, claim + 7 if are_received else None) for claim in claims)
    assert believed(ticks) == claims
    assert faults(ticks) == []


@pytest.mark.parametrize("name", ODD_CLOCKS)
@given(interval_ms=intervals_ms, data=st.data())
def test_times_of_receipt_stand_in_for_an_odd_clock(name: str, interval_ms: int, data: st.DataObject) -> None:
    received = data.draw(receipts(interval_ms, 100))
    ticks = run((ODD_CLOCKS[name](BEGIN_MS + number * interval_ms), at_ms) for number, at_ms in enumerate(received))
    start = max(15, 3_000 // interval_ms)  # before, the clock may still turn out to count whole seconds
    passed_ms = ticks[-1].after.believed_ms - ticks[start].after.believed_ms
    assert passed_ms == pytest.approx((99 - start) * interval_ms, rel=0.1)
    assert [number for number in gaps(ticks) if number > 6] == []
    assert len(faults(ticks)) >= 25


@pytest.mark.parametrize("name", ["constant", "backward", "zero"])
def test_usual_interval_stands_in_where_nothing_else_is_known(name: str) -> None:
    ticks = run((BEGIN_MS + 40 * number, None) for number in range(20))
    after = run(((ODD_CLOCKS[name](BEGIN_MS + 800 + 40 * number), None) for number in range(100)), ticks[-1].after)
    assert after[-1].after.believed_ms - ticks[-1].after.believed_ms == pytest.approx(100 * 40 * 3 / 4, rel=0.1)
    assert gaps(after) == []


@given(interval_ms=intervals_ms, data=st.data())
def test_seconds_are_taken_as_such(interval_ms: int, data: st.DataObject) -> None:
    received = data.draw(receipts(interval_ms, 60))
    true_ms = [BEGIN_MS + number * interval_ms for number in range(60)]
    ticks = run((at_ms // 1000, received_ms) for at_ms, received_ms in zip(true_ms, received, strict=True))
    assert believed(ticks) == pytest.approx(true_ms, abs=1_000)
    assert faults(ticks) == ["seconds"] * 60


@given(interval_ms=intervals_ms, pause_ms=st.integers(60_000, YEAR_MS), received=st.booleans())
def test_pause_of_the_camera_is_a_gap(interval_ms: int, pause_ms: int, received: bool) -> None:
    claims = [BEGIN_MS + number * interval_ms + (pause_ms if number >= 20 else 0) for number in range(40)]
    ticks = run((claim, claim + 30 if received else None) for claim in claims)
    assert believed(ticks) == claims
    assert 20 in gaps(ticks)
    assert faults(ticks) == []


@pytest.mark.parametrize("name", ["constant", "backward", "random"])
def test_pause_of_a_camera_with_an_odd_clock_is_a_gap(name: str) -> None:
    true_ms = [BEGIN_MS + number * 100 + (600_000 if number >= 60 else 0) for number in range(100)]
    ticks = run((ODD_CLOCKS[name](at_ms), at_ms) for at_ms in true_ms)
    assert gaps(ticks) == [60]
    assert ticks[60].after.believed_ms - ticks[59].after.believed_ms == pytest.approx(600_000, rel=0.01)


def test_pause_in_footage_that_is_sent_faster_is_a_gap() -> None:
    claims = [BEGIN_MS + number * 100 + (60_000 if number >= 50 else 0) for number in range(100)]
    ticks = run((claim, BEGIN_MS + YEAR_MS + number) for number, claim in enumerate(claims))
    assert (believed(ticks), gaps(ticks), faults(ticks)) == (claims, [50], [])


def test_camera_that_starts_again_in_1970_goes_on() -> None:
    true_ms = [BEGIN_MS + number * 100 + (600_000 if number >= 60 else 0) for number in range(100)]
    ticks = run((at_ms if number < 60 else 1_000 + 100 * (number - 60), at_ms) for number, at_ms in enumerate(true_ms))
    assert believed(ticks) == pytest.approx(true_ms, abs=100)
    assert gaps(ticks) == [60]


@st.composite
def with_strangers(draw: st.DrawFn) -> list[tuple[int, bool]]:
    """Claimed times of frames, a tenth of a second apart, and whether they are the camera's own; no two strangers in a row."""
    far_ms = st.integers(0, BEGIN_MS - 60_000) | st.integers(BEGIN_MS + 60_000, 2 * BEGIN_MS)
    claims: list[tuple[int, bool]] = []
    for number in range(60):
        claims.append((BEGIN_MS + number * 100, True))
        if draw(st.booleans()):
            claims.append((draw(far_ms), False))
    return claims


@given(with_strangers())
def test_far_times_of_strangers_are_not_believed(claims: list[tuple[int, bool]]) -> None:
    number, readings = 0, []
    for claim, is_own in claims:
        number += is_own
        readings.append((claim, BEGIN_MS + number * 100 - (5 if is_own else -45)))
    ticks = run(readings)
    own = [each for each, (_, is_own) in zip(ticks, claims, strict=True) if is_own]
    assert believed(own) == [claim for claim, is_own in claims if is_own]
    assert faults(own) == []
    assert len(faults(ticks)) == len(ticks) - len(own)
    assert gaps(ticks) == []


def test_strangers_whose_records_lie_as_well_cost_one_gap() -> None:
    readings: list[Reading] = []
    for number in range(100):
        own_ms = BEGIN_MS + number * 100
        readings += [(own_ms, own_ms + 5), (own_ms + YEAR_MS, own_ms + YEAR_MS + 50)]
    assert len(gaps(run(readings))) == 1
    assert len(gaps(run((claim, None) for claim, _ in readings))) == 1


@given(st.integers(BEFORE_1974_MS - BEGIN_MS, -10_000) | st.integers(10_000, BEGIN_MS))
@example(-3_600_000)
@example(3_600_000)
@example(-BEGIN_MS)
def test_clock_that_was_set_is_followed_and_in_the_end_taken_at_its_word(shift_ms: int) -> None:
    """Not to a time that reads as seconds; but 1970 does not."""
    true_ms = [BEGIN_MS + number * 100 for number in range(1_500)]
    claims = [at_ms + (shift_ms if number >= 800 else 0) for number, at_ms in enumerate(true_ms)]
    ticks = run((claim, at_ms + 9) for claim, at_ms in zip(claims, true_ms, strict=True))
    assert len(faults(ticks)) == 3
    assert believed(ticks)[:1_350] == pytest.approx(true_ms[:1_350], abs=100)
    assert believed(ticks)[1_450:] == claims[1_450:]


def test_clock_of_whole_seconds_is_no_fault() -> None:
    true_ms = [BEGIN_MS + number * 100 for number in range(500)]
    ticks = run((at_ms // 1000 * 1000, at_ms + 9) for at_ms in true_ms)
    assert believed(ticks) == pytest.approx(true_ms, abs=1_000)
    assert faults(ticks) == []


@pytest.mark.parametrize("interval_ms", [40, 1_111, 20_000])
def test_usual_interval_is_that_of_the_camera(interval_ms: int) -> None:
    ticks = run((BEGIN_MS + number * interval_ms, BEGIN_MS + number * interval_ms + 9) for number in range(20))
    assert ticks[-1].after.interval_ms == interval_ms
    assert [number for number in gaps(ticks) if number > 4] == []


def test_bursts_say_nothing_of_the_usual_interval() -> None:
    ticks = run((BEGIN_MS + number // 10, None) for number in range(100))
    assert ticks[-1].after.interval_ms >= 10
    assert ticks[-1].after.believed_ms - BEGIN_MS >= 500
