"""A micro-batch is scored beside the loop: whenever it is done, the results are those of a loop that waits for it."""

from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from streamer.interfaces import PartitionChange
from streamer.types import FrameMessage, Partition
from tests.harness.pipeline import CRASHES, RECURRENT, SPEC, Rig, run_of, streams


class Later(Executor):
    """Does what is submitted when it is told to."""

    def __init__(self) -> None:
        self.work: Callable[[], None] | None = None

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.work = lambda: future.set_result(function(*args, **kwargs))
        return future

    def do(self) -> None:
        """Do it."""
        assert self.work is not None
        self.work()


@hypothesis_settings(max_examples=20)
@given(messages=streams(), crashes=CRASHES, spec=st.sampled_from([SPEC, RECURRENT]))
def test_thread_changes_no_result(messages: list[FrameMessage], crashes: list[int], spec: Any) -> None:
    waiting, beside = Rig(messages, spec=spec), Rig(messages, spec=spec)
    waiting.finish()
    with ThreadPoolExecutor(1) as executor:
        beside.executor = executor
        beside.start()
        beside.survive(crashes, [])
    assert beside.effects()[:2] == waiting.effects()[:2]


def held(executor: Executor) -> Rig:
    """A pipeline whose first micro-batch is being scored."""
    rig = Rig(run_of("gate", [0.1] * 40))
    rig.executor = executor
    rig.start()
    while not rig.pipeline.scoring.is_busy:
        rig.steps(1)
    return rig


def test_loop_goes_on_while_a_micro_batch_is_scored() -> None:
    executor = Later()
    rig = held(executor)
    before = rig.counted("frames_total", camera_id="gate")
    rig.steps(3)
    assert rig.counted("frames_total", camera_id="gate") > before
    assert rig.scored_offsets() == []

    executor.do()
    rig.steps(1)
    assert rig.scored_offsets()


def test_engine_that_never_returns_is_noticed() -> None:
    rig = held(Later())
    rig.clock.now_s += 31
    rig.steps(1)
    assert (rig.health.live() or "").startswith("the loop has not turned for 3")


def test_results_of_a_partition_that_has_gone_are_dropped() -> None:
    executor = Later()
    rig = held(executor)
    gone = Partition("frames", 0)
    rig.source.changes += [PartitionChange("revoked", gone), PartitionChange("assigned", gone)]
    rig.steps(2)
    executor.do()
    for _ in range(100):
        rig.steps(1)
        if rig.pipeline.scoring.is_busy and not rig.pipeline.scoring.is_done:
            executor.do()
    assert rig.scored_offsets() == list(range(2, 40))
