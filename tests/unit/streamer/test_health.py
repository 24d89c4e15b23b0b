"""Alive: the loop turns. Ready: alive, and nothing is being waited for."""

import pytest

from streamer.monitoring import Health
from tests.harness.fakes import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(0.0)


@pytest.fixture
def health(clock: FakeClock) -> Health:
    return Health(clock)


def test_a_new_service_is_alive_but_not_ready(health: Health) -> None:
    assert health.live() is None
    assert health.ready() == "has not joined its consumer group yet"


def test_a_service_that_works_is_ready_until_it_waits_again(health: Health) -> None:
    health.problem = None
    assert health.ready() is None

    health.problem = "Redis is away"
    assert health.ready() == "Redis is away"
    assert health.live() is None

    health.problem = None
    assert health.ready() is None


@pytest.mark.parametrize(("stuck_s", "problem"), [(29.9, None), (30.0, "the loop has not turned for 30 s")])
def test_a_loop_that_does_not_turn_is_neither_alive_nor_ready(
    health: Health, clock: FakeClock, stuck_s: float, problem: str | None
) -> None:
    health.problem = None

    clock.now_s += stuck_s

    assert health.live() == problem
    assert health.ready() == problem


def test_a_turn_of_the_loop_makes_it_alive_again(health: Health, clock: FakeClock) -> None:
    health.problem = None
    clock.now_s += 100

    health.beat()

    assert health.live() is None
    assert health.ready() is None


def test_a_stuck_loop_is_named_rather_than_what_it_last_waited_for(health: Health, clock: FakeClock) -> None:
    health.problem = "Redis is away"

    clock.now_s += 31

    assert health.ready() == "the loop has not turned for 31 s"
