"""A letter holds the message as it came, and of parts that are too large only size and hash."""

import hashlib
from dataclasses import replace

import pytest

from streamer.kafka.deadletters import make_letter
from streamer.types import FrameMessage, Partition, Rejected

MESSAGE = FrameMessage(Partition("frames", 2), 7, b"gate", b"rubbish", (("sequence", b"1"),), 1000)
COORDINATES = [("reason", b"undecodable"), ("detail", b"why"), ("topic", b"frames"), ("partition", b"2"), ("offset", b"7")]
HUGE = bytes(5_000_000)


def rejected(message: FrameMessage) -> Rejected:
    return Rejected(message, "undecodable", "why")


def test_small_message_is_kept_as_it_came() -> None:
    key, value, headers = make_letter(rejected(MESSAGE))
    assert (key, value) == (b"gate", b"rubbish")
    assert headers == [("sequence", b"1"), *COORDINATES]


def test_stretch_names_its_first_offset() -> None:
    key, value, headers = make_letter(rejected(replace(MESSAGE, key=None, value=None, headers=(), first_offset=4)))
    assert (key, value) == (None, b"")
    assert headers == [*COORDINATES, ("first_offset", b"4")]


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("key", replace(MESSAGE, key=HUGE)),
        ("value", replace(MESSAGE, value=HUGE)),
        ("headers", replace(MESSAGE, headers=(("", HUGE),))),
    ],
)
def test_large_part_is_left_out_and_told(part: str, message: FrameMessage) -> None:
    letter = make_letter(rejected(message))
    told = dict(letter.headers)
    assert told[f"{part}_bytes"] == b"5000000"
    assert told[f"{part}_sha256"].decode() == hashlib.sha256(HUGE).hexdigest()
    assert [header for header in letter.headers if header in COORDINATES] == COORDINATES
    assert letter.key == (None if part == "key" else b"gate")
    assert letter.value == (None if part == "value" else b"rubbish")
    assert (("sequence", b"1") in letter.headers) == (part != "headers")


def test_largest_letter_fits_a_topic_of_default_size() -> None:
    headers = tuple((f"header{number}", bytes(1000)) for number in range(64))
    key, value, sent = make_letter(
        Rejected(replace(MESSAGE, key=bytes(32_768), value=bytes(786_432), headers=headers), "r", "d" * 9000)
    )
    assert None not in (key, value)
    assert len(key or b"") + len(value or b"") + sum(len(name) + len(text) + 10 for name, text in sent) < 1_000_000
