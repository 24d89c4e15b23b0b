"""What the wall shows of cameras, from scores, events, health and pictures."""

from streamer.dashboard.board import Batch, Board
from streamer.redis.subscriber import ScoreEntry, Updates
from tests.harness.dashboard import event_of, health_of, score_of


def test_scores_between_two_messages_are_one_row_that_keeps_the_highest() -> None:
    board = Board()
    board.apply(Batch(Updates([score_of("gate", 1, 0.2), score_of("gate", 2, 0.9), score_of("gate", 3, 0.1)], [])))
    (row,) = board.take_scores()
    assert (row.score, row.highest) == (0.1, 0.9)
    assert board.take_scores() == []
    assert [score for _, score in board.camera("gate").recent] == [0.9]


def test_the_most_urgent_state_is_told() -> None:
    board = Board()
    learning = ScoreEntry("gate", 1, 0.1, 0.5, 1, learning=0.4, learning_left_s=60.0)
    board.apply(Batch(Updates([learning], [])))
    assert board.camera("gate").state == "learning"
    board.apply(Batch(Updates([], [], [health_of("gate", "start")])))
    assert board.camera("gate").state == "problem"
    changed = board.apply(Batch(Updates([], [event_of(1)])))
    assert [row.state for row in changed.cameras] == ["alarm"]
    board.apply(Batch(Updates([], [event_of(1, "end")], [health_of("gate", "end")])))
    board.apply(Batch(Updates([score_of("gate", 2)], [])))
    assert board.camera("gate").state == "watching"


def test_a_camera_that_never_had_a_score_is_shown() -> None:
    board = Board()
    board.apply(Batch(Updates([], [], [health_of("dock", "start", "offline")])))
    assert [(row.camera_id, row.newest) for row in board.cameras()] == [("dock", None)]
    assert [entry.problem for entry in board.health("dock")] == ["offline"]


def test_only_new_pictures_are_told() -> None:
    board = Board()
    assert [row.picture_at_ms for row in board.apply(Batch(pictures={"gate": 5})).cameras] == [5]
    assert board.apply(Batch(pictures={"gate": 5})).cameras == []
