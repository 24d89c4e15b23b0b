"""Sends a file of an event's evidence, or the part of it that a browser asks for, as when somebody seeks in a clip."""

import re
from collections.abc import Iterator, Mapping
from typing import Final

from fastapi.responses import FileResponse, Response, StreamingResponse

from streamer.dashboard.evidence import MEDIA_TYPES, EvidenceReader, folder_of
from streamer.dashboard.models import EventRow
from streamer.dashboard.problems import RequestRefused
from streamer.evidence.files import EvidenceFiles, StoredFile
from streamer.interfaces import StoreUnavailable

_RANGE: Final = re.compile(r"bytes=([0-9]{0,15})-([0-9]{0,15})")
_CHUNK_BYTES: Final = 1 << 20
_HEADERS: Final = {"Cache-Control": "private, no-cache"}


def send_file(reader: EvidenceReader, row: EventRow, name: str, asked: Mapping[str, str]) -> Response | None:
    """The answer; None if there is no such file. ``asked``: headers of the request. Raises StoreUnavailable, RequestRefused."""
    folder, files = folder_of(row), reader.files
    if files is None or folder is None:
        return None
    path = files.local(f"{folder}/{name}")
    if path is not None:
        return FileResponse(path, media_type=MEDIA_TYPES[name], headers=_HEADERS)
    try:
        file = files.find(f"{folder}/{name}")
    except StoreUnavailable as error:
        reader.failed(error)
        raise
    return None if file is None else _from_store(reader, files, file, asked)


def _from_store(reader: EvidenceReader, files: EvidenceFiles, file: StoredFile, asked: Mapping[str, str]) -> Response:
    """The file, or a part of it, as it comes from the store: a long clip is never in memory as a whole."""
    is_current = asked.get("if-range", file.version) == file.version
    part = byte_range(asked.get("range", ""), file.size_bytes) if is_current else None
    first, end = part or (0, file.size_bytes)
    headers = {**_HEADERS, "Accept-Ranges": "bytes", "Content-Length": str(end - first), "ETag": file.version}
    if part is not None:
        headers["Content-Range"] = f"bytes {first}-{end - 1}/{file.size_bytes}"
    media_type = MEDIA_TYPES[file.name.rpartition("/")[2]]
    return StreamingResponse(_chunks(reader, files, file, first, end), 206 if part else 200, headers, media_type)


def _chunks(reader: EvidenceReader, files: EvidenceFiles, file: StoredFile, first: int, end: int) -> Iterator[bytes]:
    for begin in range(first, end, _CHUNK_BYTES):
        try:
            yield files.read_part(file, begin, min(end, begin + _CHUNK_BYTES))
        except StoreUnavailable as error:  # the answer has begun: all that is left is to break it off
            reader.failed(error)
            raise


def byte_range(header: str, size_bytes: int) -> tuple[int, int] | None:
    """The first byte and the end of what the header Range asks for; None for all, as if it asks for several parts.

    Raises RequestRefused if there is no such part.
    """
    match = _RANGE.fullmatch(header)
    if match is None or not (match[1] or match[2]):
        return None
    if match[1]:
        first, end = int(match[1]), min(size_bytes, int(match[2]) + 1) if match[2] else size_bytes
    else:
        first, end = max(0, size_bytes - int(match[2])), size_bytes
    if first >= end:
        headers = {"Content-Range": f"bytes */{size_bytes}"}
        raise RequestRefused(416, f"there is no such part of {size_bytes} bytes", "ask for the bytes that there are", headers)
    return first, end
