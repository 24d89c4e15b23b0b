"""Decoding of encoded images to frames: the reference for training and serving.

GPU decoding (:mod:`deploy.gpu.nvjpeg`, :mod:`deploy.gpu.resize`) is validated against it.

Bytes are untrusted. Formats other than JPEG and PNG never reach a decoder, and the pixel limit is set before OpenCV is imported:
a JPEG whose header claims 30000 x 30000 would otherwise cost 11 s and 5 GB.
"""

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, NamedTuple, Protocol, TypeVar

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from deploy import MAX_IMAGE_PX
from deploy.errors import BadFrame, first_line
from deploy.spec import ClipSpec

MAX_IMAGE_BYTES = 16_777_216
MAX_JPEG_SCANS = 64
"""Progressive JPEGs have about ten scans. Each passes over the whole image (3 ms at the pixel limit) and may take 40 bytes."""
MAX_PNG_BYTES = 33_554_432
"""Unpacked, which is what decoding costs: a PNG of 130 KB may claim 134 MB. 4K has 33.2 MB with 8 bits a channel and alpha."""

DECODER_VERSION: str = f"simplejpeg {simplejpeg.__version__}, OpenCV {cv2.__version__}"

_JPEG_MAGIC = b"\xff\xd8\xff"
_JPEG_SCAN_MARKER = b"\xff\xda"
_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type (PNG specification, 11.2.2)
_PNG_DEPTHS = (1, 2, 4, 8, 16)
_JPEG_SIZE_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# Segments that libjpeg also skips by their length: tables, restart interval, comment, application data.
_JPEG_SKIPPED_MARKERS = frozenset({0xC4, 0xCC, 0xDB, 0xDC, 0xDD, 0xFE, *range(0xE0, 0xF0)})
_JPEG_REDUCTIONS = (8, 4, 2)

Frame = NDArray[np.uint8]  # uint8 (H, W, C); C is 1 (gray) or 3 (BGR)


@dataclass(frozen=True, slots=True, eq=False)
class DeviceFrame:
    """A frame in GPU memory. It is complete, so any stream may read it, and is never written again."""

    pixels: Any  # torch.uint8 (H, W, C), not a view of other frames' memory

    def on_host(self) -> Frame:
        """A copy in host memory. Raises PyTorch's errors if the device is lost."""
        copy: Frame = self.pixels.cpu().numpy()
        return copy


AnyFrame = Frame | DeviceFrame
F_co = TypeVar("F_co", bound=AnyFrame, covariant=True)


class DecodedFrame(NamedTuple, Generic[F_co]):
    """A frame fitted to a spec, and the size of the image it was decoded from."""

    frame: F_co
    width_px: int
    height_px: int
    decoder: str  # name of the decoder that made it


class ImageDecoder(Protocol):
    """Decodes many images as :func:`decode_image` does. Not thread-safe.

    All frames are in host memory, or all on the GPU, as chosen when it was loaded.
    """

    name: str

    def decode(self, images: Sequence[bytes]) -> Sequence[DecodedFrame[AnyFrame] | BadFrame]:
        """Decode JPEGs and PNGs and fit them to the spec; one result for each image, in order, a BadFrame for a refused one.

        Raises DecoderFailed if it stopped decoding.
        """

    def describe(self) -> dict[str, str]:
        """What is in use: backend, version, device."""

    def close(self) -> None:
        """Free its resources. May be called again."""


def decode_image(encoded: bytes, spec: ClipSpec) -> DecodedFrame[Frame]:
    """Decode one JPEG or PNG and fit it to ``spec``.

    JPEGs much larger than the spec are decoded at 1/2, 1/4 or 1/8 size: DCT scaling is cheap and anti-aliased.
    Raises BadFrame with ``reason`` ``empty``, ``too_large``, ``unsupported_type``, ``bad_header``, ``undecodable``, or
    ``damaged`` for a JPEG that could be decoded only with repairs.
    """
    width_px, height_px = image_size(encoded)
    if is_jpeg(encoded):
        reduction = jpeg_reduction(width_px, height_px, spec)
        image = _decode_jpeg(encoded, spec.colour, -(-width_px // reduction), -(-height_px // reduction))
    else:
        # Rotation tags are ignored: a camera mounted upside down is part of the scene, and width and height must not swap.
        colour = cv2.IMREAD_GRAYSCALE if spec.colour == "gray" else cv2.IMREAD_COLOR
        image = imdecode(encoded, colour | cv2.IMREAD_IGNORE_ORIENTATION)
    return DecodedFrame(fit_frame(image, spec), width_px, height_px, "cpu")


def checked_size(encoded: bytes) -> tuple[int, int]:
    """Width and height in pixels after all checks of :func:`decode_image`, for JPEGs that another decoder is to decode.

    A JPEG is read to its end at the smallest size, which finds the same damage in 2/3 of the time. Raises as
    :func:`decode_image`.
    """
    size = image_size(encoded)
    if is_jpeg(encoded):
        _decode_jpeg(encoded, "gray", 1, 1)
    return size


def is_jpeg(encoded: bytes) -> bool:
    """Whether an image begins as a JPEG does."""
    return encoded.startswith(_JPEG_MAGIC)


class CpuDecoder:
    """An :class:`ImageDecoder` on ``threads`` threads: OpenCV releases the interpreter lock while it decodes."""

    name = "cpu"

    def __init__(self, spec: ClipSpec, threads: int) -> None:
        self._spec = spec
        self._threads = threads
        self._pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="decode")

    def decode(self, images: Sequence[bytes]) -> list[DecodedFrame[Frame] | BadFrame]:
        return list(self._pool.map(self._decode_one, images))

    def check(self, images: Sequence[bytes]) -> list[tuple[int, int] | BadFrame]:
        """As :func:`checked_size`, for many images."""
        return list(self._pool.map(_checked_or_error, images))

    def describe(self) -> dict[str, str]:
        return {"backend": self.name, "version": DECODER_VERSION, "device": "CPU", "threads": str(self._threads)}

    def close(self) -> None:
        self._pool.shutdown()

    def _decode_one(self, image: bytes) -> DecodedFrame[Frame] | BadFrame:
        try:
            return decode_image(image, self._spec)
        except BadFrame as error:
            return _without_traceback(error)


def _checked_or_error(image: bytes) -> tuple[int, int] | BadFrame:
    try:
        return checked_size(image)
    except BadFrame as error:
        return _without_traceback(error)


def _without_traceback(error: BadFrame) -> BadFrame:
    """The error, to be kept as a result: its traceback would keep the image in memory, and the future of the pool."""
    return error.with_traceback(None)


def image_size(encoded: bytes) -> tuple[int, int]:
    """Width and height in pixels from the header, after all checks that need no decoder. Raises as :func:`decode_image`."""
    if not encoded:
        raise BadFrame("empty", "the message has no bytes")
    if len(encoded) > MAX_IMAGE_BYTES:
        raise BadFrame("too_large", f"{len(encoded)} bytes; at most {MAX_IMAGE_BYTES} are accepted")
    if is_jpeg(encoded):
        if (scans := encoded.count(_JPEG_SCAN_MARKER)) > MAX_JPEG_SCANS:
            raise BadFrame("too_large", f"a JPEG with {scans} scans; at most {MAX_JPEG_SCANS} are accepted")
        width_px, height_px = _jpeg_size(encoded)
    elif encoded.startswith(_PNG_MAGIC):
        width_px, height_px = _png_size(encoded)
        _check_png_chunks(encoded)
    else:
        raise BadFrame("unsupported_type", f"neither JPEG nor PNG: starts with {encoded[:8].hex(' ')}")
    if width_px < 1 or height_px < 1:
        raise BadFrame("bad_header", f"the header claims {width_px} x {height_px} pixels")
    if width_px * height_px > MAX_IMAGE_PX:
        raise BadFrame("too_large", f"the header claims {width_px} x {height_px} pixels; at most {MAX_IMAGE_PX} are accepted")
    return width_px, height_px


def fit_frame(image: NDArray[np.uint8], spec: ClipSpec) -> Frame:
    """Fit a decoded image, (H, W) or (H, W, 3) BGR, to ``spec``: colour first, then size by area averaging."""
    if spec.colour == "gray" and image.ndim == 3:
        image = np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), dtype=np.uint8)
    if image.shape[:2] != (spec.height_px, spec.width_px):
        image = np.asarray(cv2.resize(image, (spec.width_px, spec.height_px), interpolation=cv2.INTER_AREA), dtype=np.uint8)
    return image.reshape(spec.frame_shape)


def jpeg_reduction(width_px: int, height_px: int, spec: ClipSpec) -> int:
    """Largest of 1, 2, 4 and 8 by which a JPEG's sides can be divided when decoding without falling below the spec's size."""
    return next((r for r in _JPEG_REDUCTIONS if width_px // r >= spec.width_px and height_px // r >= spec.height_px), 1)


def natural_key(path: Path) -> list[Any]:
    """Sort key that compares numbers in file names by value: ``frame9`` comes before ``frame10``."""
    # The split alternates between text and digits, so entries at one position are always of one type.
    return [int(part) if position % 2 else part for position, part in enumerate(re.split(r"(\d+)", path.name))]


def encode_jpeg(image: NDArray[np.uint8], quality: int) -> bytes:
    """Encode (H, W) gray or (H, W, 3) BGR as JPEG; quality 1 to 100."""
    return _encode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])


def encode_png(frame: Frame) -> bytes:
    """Encode a frame without loss."""
    return _encode(".png", frame, [])


def _encode(suffix: str, image: NDArray[np.uint8], settings: list[int]) -> bytes:
    done, encoded = cv2.imencode(suffix, image, settings)
    if not done:
        raise BadFrame("unencodable", f"an image of shape {image.shape} could not be encoded as {suffix}")
    return encoded.tobytes()


def _decode_jpeg(encoded: bytes, colour: Literal["gray", "bgr"], least_width_px: int, least_height_px: int) -> NDArray[np.uint8]:
    """Decode a JPEG with a checked header at the smallest size that is not below these sides. Raises as :func:`decode_image`.

    Not by OpenCV, which fills in what is damaged and does not tell: half a picture of grey would be a great anomaly.
    """
    try:
        return _simplejpeg(encoded, colour, least_width_px, least_height_px, strict=True)
    except ValueError as error:
        reason, detail = "undecodable", first_line(error)
    with suppress(ValueError):
        _simplejpeg(encoded, colour, least_width_px, least_height_px, strict=False)
        reason = "damaged"
    raise BadFrame(reason, f"a JPEG of {len(encoded)} bytes: {detail}")


def _simplejpeg(
    encoded: bytes, colour: Literal["gray", "bgr"], least_width_px: int, least_height_px: int, *, strict: bool
) -> NDArray[np.uint8]:
    """(H, W) gray or (H, W, 3) BGR; raises ValueError if libjpeg fails, or with ``strict`` if it warns."""
    image: Frame = simplejpeg.decode_jpeg(encoded, colour, min_width=least_width_px, min_height=least_height_px, strict=strict)
    return image[..., 0] if colour == "gray" else image


def imdecode(encoded: bytes, flag: int) -> NDArray[np.uint8]:
    """Decode an image of a checked format by OpenCV; ``flag`` is one of ``cv2.IMREAD_*``. Raises as :func:`decode_image`."""
    if len(encoded) > MAX_IMAGE_BYTES:
        raise BadFrame("too_large", f"{len(encoded)} bytes; at most {MAX_IMAGE_BYTES} are accepted")
    try:
        image = cv2.imdecode(np.frombuffer(encoded, dtype=np.uint8), flag)
    except cv2.error as error:
        raise BadFrame("undecodable", f"OpenCV: {error.err}") from error
    if image is None:
        raise BadFrame("undecodable", f"{len(encoded)} bytes with a valid header do not decode: truncated or damaged")
    return np.asarray(image, dtype=np.uint8)


def _png_size(encoded: bytes) -> tuple[int, int]:
    """Width and height of a PNG that does not unpack to more than the limit."""
    if len(encoded) < 26 or encoded[12:16] != b"IHDR":
        raise BadFrame("bad_header", "a PNG without its IHDR chunk")
    width_px, height_px = int.from_bytes(encoded[16:20], "big"), int.from_bytes(encoded[20:24], "big")
    depth, colour_type = encoded[24:26]
    if depth not in _PNG_DEPTHS or colour_type not in _PNG_CHANNELS:
        raise BadFrame("bad_header", f"a PNG that claims colour type {colour_type} with {depth} bits")
    channels = _PNG_CHANNELS[colour_type]
    unpacked_bytes = -(-width_px * channels * depth // 8) * height_px
    if unpacked_bytes > MAX_PNG_BYTES:
        claim = f"{width_px} x {height_px} pixels of {channels} x {depth} bits, {unpacked_bytes} bytes unpacked"
        limit = f"at most {MAX_PNG_BYTES} are accepted; send fewer pixels, 8 bits a channel, or JPEG"
        raise BadFrame("too_large", f"a PNG that claims {claim}; {limit}")
    return width_px, height_px


def _check_png_chunks(encoded: bytes) -> None:
    """Refuse chunks that reach beyond the end: the decoder would first allocate their length, up to 2 GB."""
    position = len(_PNG_MAGIC)
    while position < len(encoded):
        position += 12 + int.from_bytes(encoded[position : position + 4], "big")
    if position > len(encoded):
        raise BadFrame("undecodable", f"a PNG chunk reaches {position - len(encoded)} bytes beyond the end: truncated or damaged")


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
            height, width = encoded[position + 5 : position + 7], encoded[position + 7 : position + 9]
            return int.from_bytes(width, "big"), int.from_bytes(height, "big")
        elif marker in _JPEG_SKIPPED_MARKERS:
            position += 2 + int.from_bytes(encoded[position + 2 : position + 4], "big")
        else:
            raise BadFrame("bad_header", f"a JPEG with marker {marker:#04x} before its frame header")
    raise BadFrame("bad_header", "a JPEG without a frame header")
