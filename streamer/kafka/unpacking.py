"""Unpacks compressed record batches up to a limit, so that a few hundred bytes cannot claim the memory of the machine."""

import io
import struct
import zlib
from collections.abc import Callable

from streamer.interfaces import StreamError

MAX_UNPACKED_BYTES = 64 * 1024 * 1024
"""Largest unpacked content of a batch; sixteen times the largest frame that is sent."""

_GZIP = 31  # zlib: window of any size, with gzip's header
_XERIAL_HEADER = b"\x82SNAPPY\0"
_XERIAL_HEADER_BYTES = 16


class BatchCorrupt(StreamError):
    """A record batch cannot be read; the message says why."""


def unpack(codec: int, packed: bytes, limit_bytes: int = MAX_UNPACKED_BYTES) -> bytes:
    """The content of a batch that was compressed with Kafka's codec of this number.

    Raises:
        BatchCorrupt: the codec is unknown, the bytes are not of this codec, or the content is larger than ``limit_bytes``.
    """
    if codec not in _CODECS:
        raise BatchCorrupt(f"compressed with codec {codec}, which is none of {', '.join(map(str, _CODECS))}")
    name, function = _CODECS[codec]
    try:
        unpacked = function(packed, limit_bytes)
    except BatchCorrupt:
        raise
    except ImportError as error:
        raise BatchCorrupt(f"compressed with {name}, and {error}: pip install 'kafka-python[{name}]'") from error
    except Exception as error:  # each library has errors of its own for bytes that are not of its codec
        raise BatchCorrupt(f"not valid {name}: {error}") from error
    _check_size(len(unpacked), limit_bytes)
    return unpacked


def _check_size(size_bytes: int, limit_bytes: int) -> None:
    if size_bytes > limit_bytes:
        raise BatchCorrupt(f"unpacked it is larger than {limit_bytes} bytes")


# Each returns at most one byte more than the limit.


def _gzip(packed: bytes, limit_bytes: int) -> bytes:
    member = zlib.decompressobj(_GZIP)
    unpacked = member.decompress(packed, limit_bytes + 1)
    _check_size(len(unpacked), limit_bytes)
    if not member.eof or member.unused_data:  # producers write one member
        raise BatchCorrupt(f"not valid gzip: it {'goes on behind its end' if member.eof else 'ends too early'}")
    return unpacked


def _snappy(packed: bytes, limit_bytes: int) -> bytes:
    import snappy

    if not packed.startswith(_XERIAL_HEADER):
        _check_size(_claimed_bytes(packed), limit_bytes)
        return bytes(snappy.decompress(packed))
    blocks, at, size_bytes = [], _XERIAL_HEADER_BYTES, 0
    while at < len(packed):
        (length,) = struct.unpack_from(">i", packed, at)
        if not 0 < length <= len(packed) - at - 4:
            raise BatchCorrupt(f"not valid snappy: a block claims {length} bytes")
        block = packed[at + 4 : at + 4 + length]
        size_bytes += _claimed_bytes(block)
        _check_size(size_bytes, limit_bytes)
        blocks.append(snappy.decompress(block))
        at += 4 + length
    return b"".join(blocks)


def _claimed_bytes(block: bytes) -> int:
    """The unpacked size with which a snappy block begins; snappy allocates it before it looks any further."""
    size_bytes = 0
    for index, byte in enumerate(block[:5]):
        size_bytes |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return size_bytes
    raise BatchCorrupt("not valid snappy: it does not begin with its size")


def _lz4(packed: bytes, limit_bytes: int) -> bytes:
    from lz4.frame import LZ4FrameDecompressor

    with LZ4FrameDecompressor() as frame:
        unpacked: bytes = frame.decompress(packed, max_length=limit_bytes + 1)
        _check_size(len(unpacked), limit_bytes)
        if not frame.eof:
            raise BatchCorrupt("not valid lz4: it ends too early")
    return unpacked


def _zstd(packed: bytes, limit_bytes: int) -> bytes:
    import zstandard

    _check_size(zstandard.frame_content_size(packed), limit_bytes)  # -1 if it does not say
    unpacker = zstandard.ZstdDecompressor(max_window_size=limit_bytes)
    with unpacker.stream_reader(io.BytesIO(packed), read_across_frames=True) as reader:
        return reader.read(limit_bytes + 1)


_CODECS: dict[int, tuple[str, Callable[[bytes, int], bytes]]] = {
    1: ("gzip", _gzip),
    2: ("snappy", _snappy),
    3: ("lz4", _lz4),
    4: ("zstd", _zstd),
}
