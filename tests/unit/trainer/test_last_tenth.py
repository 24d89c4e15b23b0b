import numpy as np
import pytest

from deploy.bundle import Calibration
from trainer.calibrate import calibration_from
from trainer.holdout import Facts, LastTenth, Moment, clock, judge, last_tenth_lines, loss_ratio, threshold_drift

FACTS = Facts(hours=1.0, calibration_frames=9000, threshold_drift=0.1, last_tenth_hours=0.1, events=0, loss_ratio=1.0)


def scores(count, seed, scale=1.0):
    return np.random.default_rng(seed).exponential(scale, count).astype(np.float32)


def test_halves_that_agree_give_no_drift_and_a_restless_second_half_much():
    calm = scores(4000, 0)
    assert threshold_drift(np.concatenate([calm, calm]), calibration_from(calm)) == 0.0
    restless = np.concatenate([scores(4000, 0), scores(4000, 1, scale=4.0)])
    assert threshold_drift(restless, calibration_from(restless)) > 0.5


def test_the_drift_is_in_units_of_the_thresholds_height():
    calibration = Calibration(median=1.0, q99=2.0, q999=2.5, enter=3.0, exit=2.0, frames=200)
    first, second = scores(100, 0), scores(100, 1, scale=2.0)
    apart = abs(calibration_from(first).enter - calibration_from(second).enter)
    assert threshold_drift(np.concatenate([first, second]), calibration) == pytest.approx(apart / 2.0)


def test_too_few_frames_for_two_thresholds_say_nothing_of_a_drift():
    few = scores(99, 0)
    assert threshold_drift(few, calibration_from(few)) is None


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.0, "0:00:00.0"), (59.96, "0:01:00.0"), (3723.44, "1:02:03.4"), (36000.0, "10:00:00.0")]
)
def test_times_are_read_as_on_a_clock(seconds, shown):
    assert clock(seconds) == shown


def lines(*moments):
    facts = Facts(**{**{name: getattr(FACTS, name) for name in Facts.__slots__}, "events": sum(m.announced for m in moments)})
    return list(last_tenth_lines(LastTenth(moments, facts, judge(facts), 25.0), 1.5))


def test_events_and_quiet_moments_are_told_with_times_frames_and_scores():
    told = lines(Moment("gate", 1500, 1550, 1525, 2.345, announced=True), Moment("gate", 100, 100, 100, 0.5, announced=False))
    assert "6.0 minutes" in told[0]
    assert "has 1 event at the threshold 1.5" in told[0]
    assert told[1] == "  1. gate: 0:01:00.0 to 0:01:02.0, score 2.35 at 0:01:01.0 (frame 1525)"
    assert told[2] == "  2. gate: no event, score 0.5 at 0:00:04.0 (frame 100)"
    assert told[-1] == "was the footage enough? enough"


def test_a_moment_above_the_threshold_that_is_no_event_was_too_short():
    told = lines(Moment("gate", 100, 100, 100, 7.0, announced=False))
    assert told[1] == "  1. gate: too short for an event, score 7 at 0:00:04.0 (frame 100)"


def test_without_an_event_it_says_so():
    assert "has no events at the threshold" in lines(Moment("gate", 100, 100, 100, 0.5, announced=False))[0]


@pytest.mark.parametrize(
    ("learned", "held_out", "ratio"), [(2.0, 3.0, 1.5), (2.0, None, None), (-1.0, 2.0, None), (0.0, 1.0, None)]
)
def test_losses_are_compared_where_there_are_two_above_0(learned, held_out, ratio):
    assert loss_ratio({"loss_learned": learned, "loss_held_out": held_out}) == ratio
