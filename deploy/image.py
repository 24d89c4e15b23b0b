"""Pictures to frames: the only place where a picture is decoded or resized, for training and serving alike.

A GPU may do it instead (:mod:`deploy.decoders.nvjpeg`, :mod:`deploy.decoders.gpu_resize`), and is held to what is done here.

Bytes are untrusted. The pixel limit is set before OpenCV is imported, because a JPEG header that claims 30000x30000
otherwise costs 11 s and 5 GB; formats other than JPEG and PNG never reach a decoder.

A frame in the memory of a GPU: what a decoder there hands to an engine there, with no copy on the host between them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from deploy import MAX_PICTURE_PX
from deploy.errors import BadFrame
from deploy.spec import ClipSpec


@dataclass(frozen=True, slots=True, eq=False)
class DeviceFrame:
    """A fitted frame on a device. It is complete, so that any stream may read it, and nobody writes to it any more."""

    pixels: Any
    """``torch.uint8`` (H, W, C), in memory of its own: it keeps no other frame alive."""

    def on_host(self) -> NDArray[np.uint8]:
        """uint8 (H, W, C), copied now. Raises whatever PyTorch raises where the device is lost."""
        copy: NDArray[np.uint8] = self.pixels.cpu().numpy()
        return copy


MAX_PICTURE_BYTES = 16_777_216
MAX_JPEG_SCANS = 64
"""A progressive JPEG has about ten. Each passes over the whole picture (3 ms at the limit above) and may take 40 bytes."""

OPENCV_VERSION: str = cv2.__version__

Frame = NDArray[np.uint8]
"""uint8 (H, W, C); C is 1 (gray) or 3 (BGR)."""
AnyFrame = Frame | DeviceFrame
"""A frame wherever it lies."""
F_co = TypeVar("F_co", bound=AnyFrame, covariant=True)

_JPEG_MAGIC = b"\xff\xd8\xff"
_JPEG_SCAN_MARKER = b"\xff\xda"
_JPEG_END = b"\xff\xd9"
_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_JPEG_SIZE_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# The segments that libjpeg, too, steps over by their length (tables, restart interval, comment, application data).
_JPEG_SKIPPED_MARKERS = frozenset({0xC4, 0xCC, 0xDB, 0xDC, 0xDD, 0xFE, *range(0xE0, 0xF0)})
_REDUCTIONS = (8, 4, 2)


class DecodedFrame(NamedTuple, Generic[F_co]):
    """A frame fitted to a spec, and the size of the picture it came from."""

    frame: F_co
    width_px: int
    height_px: int
    decoder: str
    """The decoder that made it, see :mod:`deploy.decoders.registry`."""


def decode_picture(encoded: bytes, spec: ClipSpec) -> DecodedFrame[Frame]:
    """Decode one JPEG or PNG and fit it to ``spec``.

    JPEGs much larger than the spec are decoded at 1/2, 1/4 or 1/8 size (DCT scaling: cheap and anti-aliased).

    Raises:
        BadFrame: with ``reason`` ``empty``, ``too_large``, ``unsupported_type``, ``bad_header`` or ``undecodable``.
    """
    width_px, height_px = picture_size(encoded)
    reduction = jpeg_reduction(width_px, height_px, spec) if encoded.startswith(_JPEG_MAGIC) else 1
    picture = imdecode(encoded, _decode_flag(spec, reduction))
    return DecodedFrame(fit_frame(picture, spec), width_px, height_px, "cpu")


def picture_size(encoded: bytes) -> tuple[int, int]:
    """Width and height in pixels from the header, after every check that needs no decoder.

    Raises:
        BadFrame: as :func:`decode_picture`.
    """
    if not encoded:
        raise BadFrame("empty", "the message has no bytes")
    if len(encoded) > MAX_PICTURE_BYTES:
        raise BadFrame("too_large", f"{len(encoded)} bytes; at most {MAX_PICTURE_BYTES} are accepted")
    if encoded.startswith(_JPEG_MAGIC):
        _check_jpeg_scans(encoded)
        width_px, height_px = _jpeg_size(encoded)
    elif encoded.startswith(_PNG_MAGIC):
        width_px, height_px = _png_size(encoded)
        _check_png_chunks(encoded)
    else:
        raise BadFrame("unsupported_type", f"neither JPEG nor PNG: starts with {encoded[:8].hex(' ')}")
    if width_px < 1 or height_px < 1:
        raise BadFrame("bad_header", f"the header claims {width_px} x {height_px} pixels")
    if width_px * height_px > MAX_PICTURE_PX:
        raise BadFrame("too_large", f"the header claims {width_px} x {height_px} pixels; at most {MAX_PICTURE_PX} are accepted")
    return width_px, height_px


def fit_frame(picture: NDArray[np.uint8], spec: ClipSpec) -> Frame:
    """Fit a decoded picture, (H, W) or (H, W, 3) BGR, to ``spec``: colour first, then area-averaged size."""
    if spec.colour == "gray" and picture.ndim == 3:
        picture = np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY), dtype=np.uint8)
    if picture.shape[:2] != (spec.height_px, spec.width_px):
        picture = np.asarray(cv2.resize(picture, (spec.width_px, spec.height_px), interpolation=cv2.INTER_AREA), dtype=np.uint8)
    return picture.reshape(spec.frame_shape)


def is_whole_jpeg(encoded: bytes) -> bool:
    """Whether this is a JPEG that reaches its end marker; OpenCV refuses those that do not, other decoders may not notice."""
    # Some cameras fill up with zeros behind it.
    return encoded.startswith(_JPEG_MAGIC) and encoded.rstrip(b"\0").endswith(_JPEG_END)


def jpeg_reduction(width_px: int, height_px: int, spec: ClipSpec) -> int:
    """1, 2, 4 or 8: what a JPEG's sides are divided by when it is decoded, the most that leaves both as large as the spec."""
    return next((r for r in _REDUCTIONS if width_px // r >= spec.width_px and height_px // r >= spec.height_px), 1)


def encode_jpeg(picture: NDArray[np.uint8], quality: int) -> bytes:
    """Encode (H, W) gray or (H, W, 3) BGR as JPEG; quality 1 to 100."""
    return _encode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])


def encode_png(frame: Frame) -> bytes:
    """Encode a frame without loss: :func:`decode_picture` gives it back as it was."""
    return _encode(".png", frame, [])


def _encode(suffix: str, picture: NDArray[np.uint8], settings: list[int]) -> bytes:
    done, encoded = cv2.imencode(suffix, picture, settings)
    if not done:
        raise BadFrame("unencodable", f"a picture of shape {picture.shape} could not be encoded as {suffix}")
    return encoded.tobytes()


def _decode_flag(spec: ClipSpec, reduction: int) -> int:
    colour = "GRAYSCALE" if spec.colour == "gray" else "COLOR"
    name = f"IMREAD_{colour}" if reduction == 1 else f"IMREAD_REDUCED_{colour}_{reduction}"
    # A camera turned upside down is a fact of the scene; a rotation tag must not swap width and height.
    return int(getattr(cv2, name)) | int(cv2.IMREAD_IGNORE_ORIENTATION)


def imdecode(encoded: bytes, flag: int) -> NDArray[np.uint8]:
    """Decode an image of a checked format by OpenCV; ``flag`` is one of ``cv2.IMREAD_*``.

    Raises:
        BadFrame: with ``reason`` ``too_large`` or ``undecodable``.
    """
    if len(encoded) > MAX_PICTURE_BYTES:
        raise BadFrame("too_large", f"{len(encoded)} bytes; at most {MAX_PICTURE_BYTES} are accepted")
    try:
        picture = cv2.imdecode(np.frombuffer(encoded, dtype=np.uint8), flag)
    except cv2.error as error:
        raise BadFrame("undecodable", f"OpenCV: {error.err}") from error
    if picture is None:
        raise BadFrame("undecodable", f"{len(encoded)} bytes with a valid header do not decode: truncated or damaged")
    return np.asarray(picture, dtype=np.uint8)


def _png_size(encoded: bytes) -> tuple[int, int]:
    if len(encoded) < 24 or encoded[12:16] != b"IHDR":
        raise BadFrame("bad_header", "a PNG without its IHDR chunk")
    return int.from_bytes(encoded[16:20], "big"), int.from_bytes(encoded[20:24], "big")


def _check_png_chunks(encoded: bytes) -> None:
    """Refuse a chunk that is longer than the picture: the decoder would first allocate its length, up to 2 GB."""
    position = len(_PNG_MAGIC)
    while position < len(encoded):
        position += 12 + int.from_bytes(encoded[position : position + 4], "big")
    if position > len(encoded):
        raise BadFrame("undecodable", f"a PNG chunk reaches {position - len(encoded)} bytes beyond the end: truncated or damaged")


def _check_jpeg_scans(encoded: bytes) -> None:
    scans = encoded.count(_JPEG_SCAN_MARKER)
    if scans > MAX_JPEG_SCANS:
        raise BadFrame("too_large", f"a JPEG with {scans} scans; at most {MAX_JPEG_SCANS} are accepted")


def _jpeg_size(encoded: bytes) -> tuple[int, int]:
    """Walk the JPEG segments to the frame header (ITU-T T.81, B.2.2).

    Whatever libjpeg might read in another way is refused, so that no second header can hide behind the one found here.
    """
    position = 2
    while position + 9 <= len(encoded) and encoded[position] == 0xFF:
        marker = encoded[position + 1]
        if marker == 0xFF:  # a fill byte (B.1.1.2)
            position += 1
        elif marker in _JPEG_SIZE_MARKERS:
            height_px = int.from_bytes(encoded[position + 5 : position + 7], "big")
            width_px = int.from_bytes(encoded[position + 7 : position + 9], "big")
            return width_px, height_px
        elif marker in _JPEG_SKIPPED_MARKERS:
            position += 2 + int.from_bytes(encoded[position + 2 : position + 4], "big")
        else:
            raise BadFrame("bad_header", f"a JPEG with marker {marker:#04x} before its frame header")
    raise BadFrame("bad_header", "a JPEG without a frame header")


class PictureDecoder(Protocol[F_co]):
    """Gives what :func:`deploy.image.decode_picture` gives, for many pictures; for one thread at a time.

    All its frames lie in the host's memory, or all on the GPU: what it was loaded for.
    """

    name: str

    def decode(self, pictures: Sequence[bytes]) -> Sequence[DecodedFrame[F_co] | BadFrame]:
        """Decode JPEGs and PNGs and fit them to the spec; one result a picture, in their order.

        A picture that is refused is a BadFrame among the results, and hurts no other.

        Raises:
            DecoderFailed: it can decode no longer.
        """

    def describe(self) -> dict[str, str]:
        """What is really in use: backend, version, device."""

    def close(self) -> None:
        """Free what it holds. May be called again."""
