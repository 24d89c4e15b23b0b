import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.errors import BadFrame
from deploy.image import decode_picture, encode_jpeg
from deploy.spec import ClipSpec
from trainer.data.footage import dataset_image_size, decode_dataset_image, read_mask

GRAY = ClipSpec(length=1, height_px=16, width_px=24)
BGR = ClipSpec(length=1, height_px=16, width_px=24, colour="bgr")
PICTURE = np.random.default_rng(0).integers(0, 255, (16, 24), np.uint8)


def encoded(suffix, picture=PICTURE):
    return cv2.imencode(suffix, picture)[1].tobytes()


@pytest.mark.parametrize("suffix", [".tif", ".bmp", ".png"])
def test_lossless_pictures_come_out_as_they_went_in(suffix, tmp_path):
    content = encoded(suffix)
    assert np.array_equal(decode_dataset_image(content, GRAY)[..., 0], PICTURE)
    assert np.array_equal(decode_dataset_image(content, BGR), np.repeat(PICTURE[..., None], 3, axis=2))
    assert dataset_image_size(content) == (24, 16)
    (tmp_path / "mask").write_bytes(content)
    assert np.array_equal(read_mask(tmp_path / "mask"), PICTURE > 0)


def test_a_jpeg_is_decoded_by_the_services_decoder():
    content = encode_jpeg(np.kron(PICTURE, np.ones((4, 4), np.uint8)), 90)
    assert np.array_equal(decode_dataset_image(content, GRAY), decode_picture(content, GRAY).frame)


def test_a_tiff_of_16_bits_is_read_as_8():
    assert np.array_equal(decode_dataset_image(encoded(".tif", PICTURE.astype(np.uint16) * 257), GRAY)[..., 0], PICTURE)


@pytest.mark.parametrize("content", [b"", b"BM", b"II*\0" + b"\xff" * 40, b"GIF89a" + b"\0" * 40])
def test_what_is_no_picture_is_refused(content):
    for read in (lambda: decode_dataset_image(content, GRAY), lambda: dataset_image_size(content)):
        with pytest.raises(BadFrame):
            read()


def test_a_header_that_claims_too_many_pixels_is_refused():
    content = bytearray(encoded(".bmp"))
    content[18:26] = (30_000).to_bytes(4, "little") * 2
    with pytest.raises(BadFrame):
        decode_dataset_image(bytes(content), GRAY)


@settings(deadline=None)  # a busy disk is no failure
@given(st.sampled_from([".tif", ".bmp"]), st.data())
def test_a_damaged_picture_is_a_picture_or_a_clear_error(suffix, data):
    content = bytearray(encoded(suffix))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        frame = decode_dataset_image(bytes(content[: data.draw(st.integers(1, len(content)))]), GRAY)
    except BadFrame:
        return
    assert frame.shape == (16, 24, 1)
