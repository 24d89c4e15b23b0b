"""Pictures of data sets: besides JPEG and PNG also TIFF and BMP, in which some sets are published. The service takes neither.

Bytes are untrusted: the limits on bytes and pixels are those of :mod:`deploy.frames`, which is loaded first.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deploy.errors import BadFrame
from deploy.frames import MAX_PICTURE_BYTES, Frame, decode_picture, fit_frame, picture_size
from deploy.spec import ClipSpec

import cv2  # isort: skip  deploy.frames sets the limit on pixels, which OpenCV reads once

_STILL_MAGICS = (b"II*\0", b"MM\0*", b"BM")


def decode_frame(encoded: bytes, spec: ClipSpec) -> Frame:
    """Decode one JPEG, PNG, TIFF or BMP and fit it to ``spec``; JPEG and PNG exactly as the service does.

    Raises:
        BadFrame: as :func:`deploy.frames.decode_picture`.
    """
    if not encoded.startswith(_STILL_MAGICS):
        return decode_picture(encoded, spec).frame
    return fit_frame(_decode_still(encoded, cv2.IMREAD_GRAYSCALE if spec.colour == "gray" else cv2.IMREAD_COLOR), spec)


def frame_size_px(encoded: bytes) -> tuple[int, int]:
    """Width and height of one JPEG, PNG, TIFF or BMP.

    Raises:
        BadFrame: as :func:`deploy.frames.decode_picture`.
    """
    if not encoded.startswith(_STILL_MAGICS):
        return picture_size(encoded)
    height_px, width_px = _decode_still(encoded, cv2.IMREAD_GRAYSCALE).shape
    return width_px, height_px


def read_mask(path: Path) -> NDArray[np.bool_]:
    """A picture as a mask, bool (H, W): whatever is not black.

    Raises:
        BadFrame: as :func:`deploy.frames.decode_picture`.
        OSError: the file cannot be read.
    """
    encoded = path.read_bytes()
    if not encoded.startswith(_STILL_MAGICS):
        picture_size(encoded)
    return _decode_still(encoded, cv2.IMREAD_GRAYSCALE) > 0


def _decode_still(encoded: bytes, flag: int) -> NDArray[np.uint8]:
    if len(encoded) > MAX_PICTURE_BYTES:
        raise BadFrame("too_large", f"{len(encoded)} bytes; at most {MAX_PICTURE_BYTES} are accepted")
    try:
        picture = cv2.imdecode(np.frombuffer(encoded, dtype=np.uint8), flag)
    except cv2.error as error:
        raise BadFrame("undecodable", f"OpenCV: {error.err}") from error
    if picture is None:
        raise BadFrame("undecodable", f"{len(encoded)} bytes that look like a picture do not decode: truncated or damaged")
    return np.asarray(picture, dtype=np.uint8)
