"""The parts of ``oddsight-stream chaos`` that need no server."""

from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from deploy.bundle import read_bundle
from deploy.errors import ConfigError
from deploy.image import CpuDecoder
from streamer.chaos.audit import Tally
from streamer.chaos.faults import COMBINED, FAULTS, draw_faults
from streamer.chaos.messages import Frame, Message
from streamer.chaos.reference import Reference
from streamer.chaos.run import Report, Row, choose_faults, report_table
from streamer.chaos.servers import check_kafka_home
from streamer.chaos.stack import BUNDLE, stack_settings
from streamer.chaos.traffic import hostile_messages, make_pictures
from streamer.chaos.unfenced import FENCE
from streamer.interfaces import EmbeddedUnavailable
from streamer.pipeline.clips import MessageDecoder
from streamer.redis.script import STEP
from streamer.types import UNREADABLE, FrameInfo, FrameMessage, Partition, Rejected

PICTURES = make_pictures()
P0 = Partition("frames", 0)


@pytest.fixture
def reference() -> Iterator[Reference]:
    reference = Reference(read_bundle(BUNDLE), stack_settings("127.0.0.1:1", "redis://127.0.0.1:1"), PICTURES)
    yield reference
    reference.close()


def test_each_round_of_pictures_is_one_event(reference: Reference) -> None:
    frames = 3 * len(PICTURES) + 10
    for offset in range(frames):
        info = FrameInfo(P0, offset, "gate", offset * 200, 0, 0)
        reference.add(Message(0, offset, Frame(info, offset % len(PICTURES))))
    kinds = [effect.detail.partition(" ")[2] for effect, _ in reference.effects if effect.kind == "event"]

    assert [kind for kind in kinds if kind != "update"] == ["start", "end"] * 3
    assert "update" in kinds
    assert sum(effect.kind == "score" for effect, _ in reference.effects) == frames


def test_hostile_messages_are_no_frames() -> None:
    decoder = MessageDecoder(CpuDecoder(read_bundle(BUNDLE).spec, 1))
    hostile = [each for each in hostile_messages(PICTURES[0], 0) if all(type(name) is str for name, _ in each[2])]
    messages = [FrameMessage(P0, at, key, value, tuple(headers), 0) for at, (key, value, headers) in enumerate(hostile)]
    unreadable = FrameMessage(P0, 9, b"gate", PICTURES[0], ((UNREADABLE, b"why"),), 0)

    results = decoder.decode([*messages, unreadable])

    assert len(messages) == len(hostile_messages(PICTURES[0], 0)) - 1
    assert all(isinstance(result, Rejected) for result in results)


def test_fence_that_the_self_check_takes_out_is_in_the_script() -> None:
    assert STEP.count(FENCE) == 1
    assert "fenced" not in STEP.replace(FENCE, "")


def test_embedded_broker_skips_what_it_cannot_do() -> None:
    embedded, skipped = choose_faults([], has_apache=False)
    apache, none = choose_faults([], has_apache=True)

    assert skipped == ["kafka killed", "partition added"]
    assert none == []
    assert [fault.name for fault in apache if fault.name not in skipped] == [fault.name for fault in embedded]
    assert apache[-1].name == COMBINED


def test_unknown_fault_is_named_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"--fault must be one of replica killed, .*combined; got 'earthquake'"):
        choose_faults(["earthquake"], has_apache=False)


def test_fault_that_the_broker_cannot_do_is_not_passed_over_if_it_was_asked_for() -> None:
    with pytest.raises(ConfigError, match="'kafka killed' needs Apache Kafka: let KAFKA_HOME"):
        choose_faults(["kafka killed"], has_apache=False)
    assert [fault.name for fault in choose_faults(["kafka killed"], has_apache=True)[0]] == ["kafka killed"]


def test_kafka_home_must_hold_kafka(tmp_path: Path) -> None:
    with pytest.raises(EmbeddedUnavailable, match=f"no Kafka jars in {tmp_path}/libs"):
        check_kafka_home(tmp_path)


def report_of(tally: Tally, recovered_s: float | None = 1.26, *, fenced: bool = True) -> Report:
    row = Row("redis killed")
    row.add(Tally(events=3), 0.5)
    row.add(tally, recovered_s)
    return Report("embedded", 7, fenced, [row], skipped=["kafka killed"], problems=list(tally.problems))


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        (report_of(Tally(events=2)), True),
        (report_of(Tally(lost=1)), False),
        (report_of(Tally(doubled=1)), False),
        (report_of(Tally(wrong=1)), False),
        (report_of(Tally(problems=("the service did not recover",)), recovered_s=None), False),
        (report_of(Tally(doubled=1), fenced=False), True),
        (report_of(Tally(events=2), fenced=False), False),
    ],
)
def test_exit_status(report: Report, expected: bool) -> None:
    assert report.is_as_expected is expected


def test_row_sums_up_and_tells_the_median() -> None:
    report = report_of(Tally(events=2, lost=1, problems=("lost: score of gate@0:7",)))
    (row,) = report.values()["rows"]

    assert list(row.values()) == ["redis killed", 2, 5, 1, 0, 0, 0.9]
    assert report.values()["faults"] == 2
    assert report_table(report).row_count == 1
    assert report.lines() == [
        "skipped, because they need Apache Kafka in KAFKA_HOME: kafka killed",
        "lost: score of gate@0:7",
    ]


def test_combined_faults_are_of_different_parts() -> None:
    draws = [draw_faults(FAULTS, Random(seed)) for seed in range(50)]

    assert all(len({fault.part for fault in drawn}) == len(drawn) for drawn in draws)
    assert {len(drawn) for drawn in draws} == {2, 3}
    assert {fault.name for drawn in draws for fault in drawn} == {fault.name for fault in FAULTS}
