"""Live streams: which URLs are accepted, what of them may be shown, and how they are opened.

A camera is not trusted with the network or the disk of this host: FFmpeg follows no HTTP redirect and no playlist, and uses no
protocol but those of the URL's own scheme.
"""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import av

from deploy.errors import ConfigError, VideoUnreadable
from deploy.video import Video, reason_of

SOURCE_VARIABLE = "ODDSIGHT_INGEST_SOURCE"

_PROTOCOLS = {
    "rtsp": "rtsp,rtp,udp,tcp",
    "rtsps": "rtsps,rtp,tls,tcp",
    "http": "http,tcp",
    "https": "https,tls,tcp",
    "rtmp": "rtmp,tcp",
    "rtmps": "rtmps,tls,tcp",
    "udp": "udp",
}
"""Scheme of a URL -> FFmpeg's protocols that its stream may use."""

_FORMATS = "rtsp,mpjpeg,mjpeg,jpeg_pipe,mpegts,flv,live_flv,matroska,webm,mov,mp4,h264,hevc,avi,asf,ogg"
"""No playlists (hls, dash, concat): they name further URLs and files to read."""

_TIMEOUT_S = 10.0
_HOST_AND_PORT = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])?(:\d{1,5})?")


def is_stream(location: str) -> bool:
    """Whether a location is the URL of a stream, which has no end, rather than a file or folder."""
    return "://" in location


def stream_name(url: str) -> str:
    """``scheme://host:port`` of a URL, all of it that may be shown: user, password, path and query may hold secrets.

    Raises ConfigError, which shows no more, if the scheme is not accepted or the URL does not say clearly what the host is.
    """
    scheme, _, rest = url.partition("://")
    if scheme.lower() not in _PROTOCOLS:
        raise ConfigError(f"streams are read by {', '.join(_PROTOCOLS)}, got a URL that begins with {scheme[:20]!r}")
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    user, _, host = authority.rpartition("@")
    if not _HOST_AND_PORT.fullmatch(host) or not (user or host) or ("@" in rest and "@" not in authority):
        raise ConfigError(
            f"a {scheme} URL must be {scheme}://USER:PASSWORD@HOST:PORT/PATH; write %2F for a / and %3F for a ? in the password, "
            "and %40 for an @ in the path (the URL is not shown, because it may hold a password)"
        )
    return f"{scheme}://{host}"


def find_source(argument: str | None, file: Path | None, environment: Mapping[str, str] = os.environ) -> str:
    """The source that the command line names, that ``file`` holds, or that is in the environment.

    Raises ConfigError if there is none or two, the file cannot be read, or the command line shows everyone a password.
    """
    if argument is not None and file is not None:
        raise ConfigError("two sources were given: leave out SOURCE or --source-file")
    if argument is not None and is_stream(argument) and _has_password(argument):
        raise ConfigError(
            "the URL holds a password, which every user of this machine sees in the list of processes; put the URL in a file "
            f"(--source-file) or in the environment variable {SOURCE_VARIABLE}"
        )
    source = _read_source(file) if file is not None else argument or environment.get(SOURCE_VARIABLE)
    if not source:
        raise ConfigError(f"no source was given: name SOURCE, --source-file or the environment variable {SOURCE_VARIABLE}")
    return source


def _has_password(url: str) -> bool:
    try:
        return urlsplit(url).password is not None
    except ValueError:  # an address in brackets that is none of IPv6; what stands before the host cannot be told
        return "@" in url


def _read_source(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--source-file {file}: {getattr(error, 'strerror', None) or 'not text'}") from error


@contextmanager
def open_stream(url: str) -> Iterator[Video]:
    """Open a live stream that delivers data at least every 10 seconds. Raises VideoUnreadable if it cannot."""
    name, scheme = stream_name(url), url.partition("://")[0].lower()
    options = {"protocol_whitelist": _PROTOCOLS[scheme], "format_whitelist": _FORMATS, "max_redirects": "0"}
    if scheme.startswith("rtsp"):
        options["rtsp_transport"] = "tcp"
    try:
        container = av.open(url, timeout=_TIMEOUT_S, options=options, metadata_errors="replace")
    except (av.FFmpegError, OSError) as error:
        raise VideoUnreadable(f"{name}: cannot be opened as a stream: {reason_of(error)}") from error
    with container:
        if not container.streams.video:
            raise VideoUnreadable(f"{name}: contains no video stream")
        yield Video(container, name)
