"""Enrolment: how footage is divided, and that thresholds never come from frames that set the ranges."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.data.footage import Footage
from trainer.enrol import BLOCK_FRAMES, Block, split_into_blocks


def footage(*lengths: int) -> list[Footage]:
    return [
        Footage(str(number), np.full((length, 4, 6, 1), number, np.uint8), np.arange(length), length, ())
        for number, length in enumerate(lengths)
    ]


def frames_of(blocks: list[Block]) -> set[tuple[str, int]]:
    return {(block.video.name, frame) for block in blocks for frame in range(block.first, block.last)}


@given(st.lists(st.integers(1, 2000), min_size=1, max_size=6).filter(lambda lengths: sum(lengths) >= 300))
def test_parts_share_no_frame(lengths):
    parts = split_into_blocks(footage(*lengths))
    frames = {part: frames_of(blocks) for part, blocks in parts.items()}
    assert sum(map(len, frames.values())) == len(set.union(*frames.values()))


@pytest.mark.parametrize("length", [300, 1000, 6000, 100_000])
def test_each_part_sees_all_of_the_footage(length):
    for part, blocks in split_into_blocks(footage(length)).items():
        firsts = [block.first / length for block in blocks]
        assert len(blocks) >= 3, part
        assert min(firsts) < 0.35, part
        assert max(firsts) > 0.65, part
        assert all(block.last - block.first <= BLOCK_FRAMES for block in blocks)


def test_long_footage_costs_no_more():
    hour, day = (
        sum(block.last - block.first for blocks in split_into_blocks(footage(length)).values() for block in blocks)
        for length in (36_000, 864_000)
    )
    assert hour == day


def test_lead_frames_stop_at_the_clip():
    (video,) = footage(200)
    assert len(Block(video, 100, 150).footage(64).frames) == 114
    assert len(Block(video, 20, 70).footage(64).frames) == 70
