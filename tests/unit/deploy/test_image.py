"""Bytes are hostile: whatever they are, a frame of the right shape or a BadFrame comes out, and quickly."""

import resource
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
import simplejpeg
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from deploy import MAX_IMAGE_PX
from deploy.errors import BadFrame
from deploy.image import (
    MAX_IMAGE_BYTES,
    MAX_JPEG_SCANS,
    MAX_PNG_BYTES,
    checked_size,
    decode_image,
    encode_jpeg,
    fit_frame,
    image_size,
    is_jpeg,
    jpeg_reduction,
)
from deploy.spec import ClipSpec

GRAY = ClipSpec(length=1, height_px=24, width_px=32, colour="gray")
BGR = ClipSpec(length=1, height_px=24, width_px=32, colour="bgr")
REASONS = {"empty", "too_large", "unsupported_type", "bad_header", "undecodable", "damaged"}


def sample_image(height_px: int = 48, width_px: int = 64) -> NDArray[np.uint8]:
    """A smooth colour image: blue grows to the right, green downwards, red is 90."""
    x, y = np.meshgrid(np.linspace(0, 250, width_px), np.linspace(0, 250, height_px))
    return np.stack([x, y, np.full_like(x, 90)], axis=-1).astype(np.uint8)


def encode(suffix: str, image: NDArray[np.generic], *parameters: int) -> bytes:
    done, encoded = cv2.imencode(suffix, image, list(parameters))
    assert done
    return encoded.tobytes()


JPEG = encode(".jpg", sample_image())
PNG = encode(".png", sample_image())


def jpeg_segment(marker: int, payload: bytes) -> bytes:
    return bytes([0xFF, marker]) + (len(payload) + 2).to_bytes(2, "big") + payload


def jpeg_header(width_px: int, height_px: int) -> bytes:
    """A JPEG frame header of one component, baseline."""
    return jpeg_segment(0xC0, bytes([8]) + height_px.to_bytes(2, "big") + width_px.to_bytes(2, "big") + bytes([1, 1, 0x11, 0]))


def cmyk_jpeg() -> bytes:
    """16 x 16 pixels of four components, all of them mid-gray: one-bit Huffman codes for "no change" and "end of block"."""
    components = range(1, 5)
    one_code = bytes([1] + [0] * 15 + [0])
    return b"".join(
        [
            b"\xff\xd8",
            jpeg_segment(0xEE, b"Adobe\x00\x64\x00\x00\x00\x00\x00"),
            jpeg_segment(0xDB, bytes([0] + [1] * 64)),
            jpeg_segment(0xC0, bytes([8, 0, 16, 0, 16, 4]) + b"".join(bytes([c, 0x11, 0]) for c in components)),
            jpeg_segment(0xC4, b"\x00" + one_code),
            jpeg_segment(0xC4, b"\x10" + one_code),
            jpeg_segment(0xDA, bytes([4]) + b"".join(bytes([c, 0]) for c in components) + bytes([0, 63, 0])),
            bytes(4),  # four times four blocks of two bits
            b"\xff\xd9",
        ]
    )


def refused(encoded: bytes) -> str:
    with pytest.raises(BadFrame) as caught:
        decode_image(encoded, GRAY)
    assert str(caught.value)
    return caught.value.reason


def decoded_or_reason(encoded: bytes) -> str:
    try:
        decoded = decode_image(encoded, GRAY)
    except BadFrame as error:
        return error.reason
    assert decoded.frame.shape == GRAY.frame_shape
    assert decoded.frame.dtype == np.uint8
    return "decoded"


@pytest.mark.parametrize(
    "encoded",
    [
        JPEG,
        PNG,
        encode(".jpg", sample_image(), cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
        encode(".jpg", sample_image(), cv2.IMWRITE_JPEG_RST_INTERVAL, 1),
        encode(".jpg", sample_image()[:, :, 0]),
        encode(".png", sample_image()[:, :, 0]),
        encode(".png", sample_image().astype(np.uint16) * 257),
        encode(".png", np.dstack([sample_image(), np.full((48, 64), 255, np.uint8)])),
        cmyk_jpeg(),
    ],
    ids=["jpeg", "png", "progressive", "restart", "gray-jpeg", "gray-png", "16-bit-png", "png-with-alpha", "cmyk"],
)
@pytest.mark.parametrize("spec", [GRAY, BGR], ids=["gray", "bgr"])
def test_decodes_common_kinds(encoded: bytes, spec: ClipSpec) -> None:
    decoded = decode_image(encoded, spec)
    assert (decoded.frame.shape, decoded.frame.dtype) == (spec.frame_shape, np.uint8)
    assert (decoded.width_px, decoded.height_px) == image_size(encoded)


def test_jpeg_nearly_equals_png() -> None:
    frames = [decode_image(encoded, BGR).frame.astype(int) for encoded in (JPEG, PNG)]
    assert np.abs(frames[0] - frames[1]).max() <= 12
    assert np.abs(frames[1] - cv2.resize(sample_image(), (32, 24), interpolation=cv2.INTER_AREA)).max() <= 1


@pytest.mark.parametrize("factor", [2, 4, 8, 16])
def test_reduced_decoding_equals_scaling(factor: int) -> None:
    large = sample_image(24 * factor, 32 * factor)
    decoded = decode_image(encode(".jpg", large, cv2.IMWRITE_JPEG_QUALITY, 98), BGR)
    assert (decoded.width_px, decoded.height_px) == (32 * factor, 24 * factor)
    expected = cv2.resize(large, (32, 24), interpolation=cv2.INTER_AREA).astype(int)
    assert np.abs(decoded.frame - expected).mean() < 3


def test_narrow_side_keeps_detail() -> None:
    stripes = np.tile(np.repeat([0, 255], 2), (24 * 8, 8)).astype(np.uint8)
    decoded = decode_image(encode(".jpg", stripes, cv2.IMWRITE_JPEG_QUALITY, 98), GRAY)
    np.testing.assert_allclose(decoded.frame[:, :, 0], stripes[:24], atol=30)


def test_scales_small_image_up() -> None:
    assert decode_image(encode(".png", sample_image(5, 7)), BGR).frame.shape == BGR.frame_shape


def test_ignores_rotation_tag() -> None:
    exif = b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06\x00\x00\x00\x00\x00\x00"
    tagged = JPEG[:2] + jpeg_segment(0xE1, exif) + JPEG[2:]
    np.testing.assert_array_equal(decode_image(tagged, BGR).frame, decode_image(JPEG, BGR).frame)


def test_fitting_frame_is_unchanged() -> None:
    gray = sample_image(24, 32)[:, :, 0]
    np.testing.assert_array_equal(fit_frame(gray, GRAY)[:, :, 0], gray)


def test_is_jpeg() -> None:
    assert is_jpeg(JPEG)
    assert not is_jpeg(PNG)


UNDAMAGED = {
    "progressive": encode(".jpg", sample_image(), cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
    "restart": encode(".jpg", sample_image(), cv2.IMWRITE_JPEG_RST_INTERVAL, 1),
    "optimized": encode(".jpg", sample_image(), cv2.IMWRITE_JPEG_OPTIMIZE, 1),
    "full quality": encode(".jpg", sample_image(), cv2.IMWRITE_JPEG_QUALITY, 100),
    "least quality": encode(".jpg", sample_image(), cv2.IMWRITE_JPEG_QUALITY, 1),
    "odd size": encode(".jpg", sample_image(59, 83)),
    "zeros behind it": JPEG + bytes(100),
    "text behind it": JPEG + b"camera 7",
    "another image behind it": JPEG + JPEG,
    "fill bytes before its end": JPEG[:-2] + b"\xff\xff\xff\xd9",
    **{
        f"sampled {sampling}": simplejpeg.encode_jpeg(sample_image(), colorspace="BGR", colorsubsampling=sampling)
        for sampling in ("444", "422", "420", "440", "411", "Gray")
    },
}


@pytest.mark.parametrize("encoded", UNDAMAGED.values(), ids=UNDAMAGED)
@pytest.mark.parametrize(
    "spec", [GRAY, BGR, BGR.model_copy(update={"height_px": 59, "width_px": 83})], ids=["gray", "bgr", "large"]
)
def test_undamaged_jpeg_is_what_opencv_sees(encoded: bytes, spec: ClipSpec) -> None:
    width_px, height_px = checked_size(encoded)
    scale = jpeg_reduction(width_px, height_px, spec)
    name = f"IMREAD_{'REDUCED_' if scale > 1 else ''}{'GRAYSCALE' if spec.colour == 'gray' else 'COLOR'}"
    flag = getattr(cv2, name if scale == 1 else f"{name}_{scale}") | cv2.IMREAD_IGNORE_ORIENTATION
    expected = fit_frame(cv2.imdecode(np.frombuffer(encoded, np.uint8), flag), spec)
    np.testing.assert_array_equal(decode_image(encoded, spec).frame, expected)


def test_refuses_what_would_be_repaired() -> None:
    rng = np.random.default_rng(0)
    noisy = (sample_image(240, 320) + rng.integers(0, 6, (240, 320, 3))).clip(0, 255).astype(np.uint8)
    whole = encode_jpeg(noisy, 80)
    reasons = []
    for _ in range(200):
        damaged = bytearray(whole)
        at = int(rng.integers(len(whole) // 2, len(whole) - 2000))
        damaged[at : at + 1000] = bytes(1000)
        reasons.append(refused(bytes(damaged)))
        with pytest.raises(BadFrame):
            checked_size(bytes(damaged))
    assert set(reasons) == {"damaged"}


@given(st.data())
def test_check_refuses_what_decoding_refuses(data: st.DataObject) -> None:
    damaged = bytearray(JPEG)
    for _ in range(data.draw(st.integers(0, 3))):
        damaged[data.draw(st.integers(0, len(JPEG) - 1))] = data.draw(st.integers(0, 255))
    try:
        checked_size(bytes(damaged))
        checked = "decoded"
    except BadFrame as error:
        checked = error.reason
    assert checked == decoded_or_reason(bytes(damaged))


def test_encode_and_decode() -> None:
    assert decoded_or_reason(encode_jpeg(sample_image(), 80)) == "decoded"


@pytest.mark.parametrize(
    ("encoded", "reason"),
    [
        (b"", "empty"),
        (b"hello", "unsupported_type"),
        (b"GIF89a" + bytes(50), "unsupported_type"),
        (encode(".bmp", sample_image()), "unsupported_type"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "unsupported_type"),
        (b"\xff\xd8\xff", "bad_header"),
        (b"\xff\xd8\xff\xd9", "bad_header"),
        (b"\xff\xd8" + b"\xff" * 1000, "bad_header"),
        (b"\xff\xd8" + jpeg_header(0, 10), "bad_header"),
        (b"\x89PNG\r\n\x1a\n", "bad_header"),
        (PNG[:12] + b"IDAT" + PNG[16:], "bad_header"),
        (b"\xff\xd8" + jpeg_header(64, 48), "undecodable"),
        (PNG[:-40] + bytes(40), "undecodable"),
        (JPEG + bytes(MAX_IMAGE_BYTES), "too_large"),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{len(value)}-bytes",
)
def test_rejects_other_bytes(encoded: bytes, reason: str) -> None:
    assert refused(encoded) == reason


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_rejects_truncated_image(suffix: str) -> None:
    whole = encode(suffix, sample_image())
    expected = REASONS - {"too_large"} - ({"damaged"} if suffix == ".png" else set())
    assert {refused(whole[:cut]) for cut in range(len(whole))} == expected


@pytest.mark.parametrize(
    "encoded",
    [
        b"\xff\xd8" + jpeg_header(30_000, 30_000),
        PNG[:16] + (30_000).to_bytes(4, "big") * 2 + PNG[24:],
        PNG[:16] + (2**31 - 1).to_bytes(4, "big") * 2 + PNG[24:],
    ],
    ids=["jpeg", "png", "png-largest"],
)
def test_rejects_huge_header(encoded: bytes) -> None:
    assert_cheap(encoded, {"too_large"})


def hide_header(shown: bytes, obeyed: bytes, lone_marker: int) -> bytes:
    """A gray JPEG in which a careless parser finds the header ``shown`` while libjpeg obeys ``obeyed``.

    Markers such as FF 01 and FF 00 have no length (T.81, B.1.1.4). A parser that takes the FF C0 that follows for one lands
    on ``shown``, which for libjpeg is inside a comment.
    """
    gray = encode(".jpg", sample_image()[:, :, 0])
    start = gray.index(b"\xff\xc0")
    end = start + 2 + int.from_bytes(gray[start + 2 : start + 4], "big")
    beginning = b"\xff\xd8\xff" + bytes([lone_marker]) + obeyed
    padding = bytes(4 + 0xFFC0 - len(beginning) - 4)
    return beginning + jpeg_segment(0xFE, padding + shown) + gray[2:start] + gray[end:]


@pytest.mark.parametrize("lone_marker", [0x00, 0x01, 0x02, 0xBF, *range(0xD0, 0xDA)])
def test_rejects_hidden_huge_header(lone_marker: int) -> None:
    hidden = hide_header(jpeg_header(64, 48), jpeg_header(30_000, 30_000), lone_marker)
    assert_cheap(hidden, {"bad_header", "unsupported_type"})


@pytest.mark.parametrize("kind", [b"IDAT", b"tEXt"])
def test_rejects_huge_png_chunk(kind: bytes) -> None:
    at = PNG.index(b"IDAT")
    assert_cheap(PNG[: at - 4] + (2**31 - 1).to_bytes(4, "big") + kind + PNG[at + 4 :], {"undecodable"})


def test_rejects_too_many_scans() -> None:
    assert decoded_or_reason(jpeg_of_empty_scans(MAX_JPEG_SCANS - 1)) == "decoded"
    assert_cheap(jpeg_of_empty_scans(100_000), {"too_large"})


def jpeg_of_empty_scans(scans: int, side_px: int = 4096) -> bytes:
    """A progressive gray JPEG whose ``scans`` after the first say "no change" in 40 bytes for 262144 blocks."""
    blocks = (side_px // 8) ** 2
    size = side_px.to_bytes(2, "big")
    run_of_16384_blocks = bytes([1] + [0] * 15 + [0xE0])
    run_bits = (1 + 14) * (blocks // 16_384)
    return b"".join(
        [
            b"\xff\xd8",
            jpeg_segment(0xDB, bytes([0] + [1] * 64)),
            jpeg_segment(0xC2, bytes([8]) + size + size + bytes([1, 1, 0x11, 0])),
            jpeg_segment(0xC4, bytes([0x00, 1] + [0] * 15 + [0])),
            jpeg_segment(0xDA, bytes([1, 1, 0, 0, 0, 0])) + bytes(blocks // 8),
            jpeg_segment(0xC4, b"\x10" + run_of_16384_blocks),
            (jpeg_segment(0xDA, bytes([1, 1, 0, 1, 63, 0])) + bytes(-(-run_bits // 8))) * scans,
            b"\xff\xd9",
        ]
    )


def test_opencv_has_the_pixel_limit() -> None:
    program = """
import sys
import deploy.image
import cv2, numpy as np
try:
    image = cv2.imdecode(np.frombuffer(sys.stdin.buffer.read(), np.uint8), cv2.IMREAD_GRAYSCALE)
except cv2.error:
    image = None
print("refused" if image is None else image.shape)
"""
    gray = encode(".jpg", sample_image(128, 128)[:, :, 0])
    outcomes = []
    for side_px in (128, 6000):
        claiming = gray.replace(b"\x00\x80\x00\x80\x01", side_px.to_bytes(2, "big") * 2 + b"\x01")
        done = subprocess.run([sys.executable, "-c", program], input=claiming, check=True, capture_output=True, timeout=60)
        outcomes.append(done.stdout)
    assert outcomes == [b"(128, 128)\n", b"refused\n"]


def assert_cheap(encoded: bytes, reasons: set[str]) -> None:
    memory_before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started_s = time.thread_time()
    assert refused(encoded) in reasons
    assert time.thread_time() - started_s < 0.25
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory_before_kib < 64 * 1024


def png_claiming(width_px: int, height_px: int, depth: int, colour_type: int) -> bytes:
    return PNG[:16] + width_px.to_bytes(4, "big") + height_px.to_bytes(4, "big") + bytes([depth, colour_type]) + PNG[26:]


@pytest.mark.parametrize(
    ("size", "depth", "colour_type", "accepted"),
    [
        ((3840, 2160), 8, 6, True),
        ((4096, 4096), 8, 0, True),
        ((4096, 4096), 8, 3, True),
        ((4096, 4096), 1, 0, True),
        ((4096, 4096), 16, 0, True),
        ((4096, 4096), 8, 2, False),
        ((4096, 4096), 16, 6, False),
        ((3840, 2160), 16, 2, False),
    ],
)
def test_png_is_measured_unpacked(size: tuple[int, int], depth: int, colour_type: int, accepted: bool) -> None:
    encoded = png_claiming(*size, depth, colour_type)
    if accepted:
        assert image_size(encoded) == size
    else:
        assert_cheap(encoded, {"too_large"})


def test_small_png_of_many_deep_pixels_is_refused_before_it_is_decoded() -> None:
    packed = encode(".png", np.zeros((4096, 4096, 4), np.uint16), cv2.IMWRITE_PNG_COMPRESSION, 9)
    assert len(packed) < 200_000
    assert_cheap(packed, {"too_large"})
    with pytest.raises(BadFrame, match=f"4 x 16 bits, 134217728 bytes unpacked; at most {MAX_PNG_BYTES} are accepted; send"):
        image_size(packed)


@pytest.mark.parametrize(("depth", "colour_type"), [(0, 0), (3, 0), (32, 2), (8, 1), (8, 7)])
def test_png_of_unknown_kind_is_refused(depth: int, colour_type: int) -> None:
    assert refused(png_claiming(48, 64, depth, colour_type)) == "bad_header"


def test_accepts_largest_image() -> None:
    side = int(MAX_IMAGE_PX**0.5)
    assert image_size(b"\xff\xd8" + jpeg_header(side, side)) == (side, side)
    assert refused(b"\xff\xd8" + jpeg_header(side, side + 1)) == "too_large"


@given(st.binary(max_size=300), st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", JPEG[:200], PNG[:40]]))
def test_random_bytes(tail: bytes, head: bytes) -> None:
    assert decoded_or_reason(head + tail) in REASONS | {"decoded"}


@given(st.sampled_from([JPEG, PNG]), st.data())
def test_damaged_images(whole: bytes, data: st.DataObject) -> None:
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 5))):
        damaged[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    assert decoded_or_reason(bytes(damaged)) in REASONS | {"decoded"}
