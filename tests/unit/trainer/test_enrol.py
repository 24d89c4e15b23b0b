"""Enrolment: how footage is divided into what is learned from and what is scored."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.data.footage import MOST_FRAMES, Block, plan_windows
from trainer.enrol import BLOCK_FRAMES, plan_blocks


def frames_of(blocks: list[Block]) -> set[tuple[int, int]]:
    return {(block.clip, frame) for block in blocks for frame in range(block.first, block.last)}


@given(st.lists(st.integers(1, 2000), min_size=1, max_size=6).filter(lambda counts: sum(counts) >= 300))
def test_parts_share_no_frame(counts):
    frames = {part: frames_of(blocks) for part, blocks in plan_blocks(counts).items()}
    together = set.union(*frames.values())
    assert sum(map(len, frames.values())) == len(together)
    assert all(frame < counts[clip] for clip, frame in together)


@pytest.mark.parametrize("length", [300, 1000, 6000, 100_000])
def test_each_part_sees_all_of_the_footage(length):
    for part, blocks in plan_blocks([length]).items():
        firsts = [block.first / length for block in blocks]
        assert len(blocks) >= 3, part
        assert min(firsts) < 0.35, part
        assert max(firsts) > 0.65, part
        assert all(block.last - block.first <= BLOCK_FRAMES for block in blocks)


@given(st.lists(st.integers(1, 2000), min_size=1, max_size=6).filter(lambda counts: sum(counts) >= 300))
def test_a_fifth_is_left_to_thresholds(counts):
    learned = sum(len(frames_of(blocks)) for blocks in plan_blocks(counts).values())
    assert len(frames_of(plan_windows(counts))) == sum(counts)
    assert learned <= 0.88 * sum(counts)


@pytest.mark.parametrize("counts", [[864_000], [36_000] * 24, [54_001]])
def test_long_footage_is_scored_in_part(counts):
    windows = plan_windows(counts)
    assert MOST_FRAMES / 2 <= len(frames_of(windows)) <= MOST_FRAMES
    assert {window.clip for window in windows} == set(range(len(counts))) or len(counts) > len(windows)
