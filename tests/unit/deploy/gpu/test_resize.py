"""Images fitted by PyTorch are those that OpenCV fits, but for a grey level."""

from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from deploy.gpu import resize as fit
from deploy.gpu.driver import CudaDriver
from deploy.gpu.resize import MAX_PLANS, GpuResizer, resize_weights
from deploy.image import DeviceFrame, decode_image, fit_frame, jpeg_reduction
from deploy.spec import ClipSpec
from tests.harness.host_driver import HostDriver
from tests.unit.deploy.test_image import BGR, GRAY, encode

SIDES = st.integers(1, 200)
SPECS = st.builds(
    ClipSpec,
    length=st.just(1),
    height_px=st.integers(16, 70),
    width_px=st.integers(16, 70),
    colour=st.sampled_from(["gray", "bgr"]),
)


@pytest.fixture(params=["made up", pytest.param("gpu", marks=pytest.mark.gpu)])
def driver(request: pytest.FixtureRequest) -> Any:
    return HostDriver() if request.param == "made up" else CudaDriver("torch-cuda")


def by_opencv(image: NDArray[np.uint8], spec: ClipSpec) -> NDArray[np.int64]:
    """What the fitter does, written with OpenCV."""
    height_px, width_px = image.shape[:2]
    reduction = jpeg_reduction(width_px, height_px, spec)
    if reduction > 1:
        bottom, right = -height_px % reduction, -width_px % reduction
        filled = cv2.copyMakeBorder(image, 0, bottom, 0, right, cv2.BORDER_REPLICATE)
        size = (filled.shape[1] // reduction, filled.shape[0] // reduction)
        image = np.asarray(cv2.resize(filled, size, interpolation=cv2.INTER_AREA), np.uint8)
    # OpenCV drops the axis of a single channel, and fit_frame takes what is left of three for colour.
    return fit_frame(image[:, :, 0] if image.ndim == 3 and image.shape[2] == 1 else image, spec).astype(np.int64)


def noise(height_px: int, width_px: int, spec: ClipSpec, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height_px, width_px, spec.channels), np.uint8)


def fitted(fitter: GpuResizer, driver: Any, *images: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    return [frame.on_host() for frame in fitter.fit([torch.tensor(image, device=driver.device) for image in images])]


def assert_as_opencv(driver: Any, spec: ClipSpec, height_px: int, width_px: int) -> None:
    image = noise(height_px, width_px, spec)
    [frame] = fitted(GpuResizer(spec, driver), driver, image)
    assert (frame.shape, frame.dtype) == (spec.frame_shape, np.uint8)
    difference = np.abs(frame - by_opencv(image, spec))
    assert difference.max() <= 1
    if height_px >= spec.height_px and width_px >= spec.width_px:
        assert (difference > 0).mean() < 0.1


@settings(deadline=None, max_examples=300)
@given(SPECS, SIDES, SIDES)
def test_within_one_level_of_opencv(spec: ClipSpec, height_px: int, width_px: int) -> None:
    assert_as_opencv(HostDriver(), spec, height_px, width_px)


@settings(deadline=None)
@given(SPECS, st.integers(1, 20), st.integers(1, 20))
def test_whole_multiples(spec: ClipSpec, rows: int, columns: int) -> None:
    assert_as_opencv(HostDriver(), spec, rows * spec.height_px, columns * spec.width_px)


@pytest.mark.parametrize("spec", [GRAY, BGR], ids=["gray", "bgr"])
@pytest.mark.parametrize(
    ("height_px", "width_px"), [(24, 32), (48, 64), (60, 80), (72, 96), (131, 175), (384, 512), (10, 12), (9, 99), (200, 20)]
)
def test_any_device(driver: Any, spec: ClipSpec, height_px: int, width_px: int) -> None:
    assert_as_opencv(driver, spec, height_px, width_px)


@pytest.mark.parametrize("factor", [1, 2, 4, 8, 16])
def test_block_means_are_exact(factor: int) -> None:
    image = noise(24 * factor, 32 * factor, BGR)
    [frame] = fitted(GpuResizer(BGR, HostDriver()), HostDriver(), image)
    np.testing.assert_array_equal(frame, by_opencv(image, BGR))


@pytest.mark.parametrize(("height_px", "width_px"), [(60, 80), (72, 96), (131, 175), (24, 32), (10, 12)])
@pytest.mark.parametrize("spec", [GRAY, BGR], ids=["gray", "bgr"])
def test_jpeg_equals_reduced_decoding(spec: ClipSpec, height_px: int, width_px: int) -> None:
    rough = cv2.resize(noise(height_px // 2, width_px // 2, BGR), (width_px, height_px))
    encoded = encode(".jpg", rough, cv2.IMWRITE_JPEG_QUALITY, 90, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, 0x111111)
    colour = cv2.IMREAD_GRAYSCALE if spec.colour == "gray" else cv2.IMREAD_COLOR
    full = np.asarray(cv2.imdecode(np.frombuffer(encoded, np.uint8), colour), np.uint8).reshape(height_px, width_px, -1)
    [frame] = fitted(GpuResizer(spec, HostDriver()), HostDriver(), full)
    assert np.abs(frame - decode_image(encoded, spec).frame.astype(int)).mean() < 0.5  # in one step: 2.6 to 8.8


@given(st.integers(1, 60), st.integers(1, 60))
def test_weights_equal_opencv(source_px: int, target_px: int) -> None:
    impulses = np.eye(source_px, dtype=np.float32)
    found = cv2.resize(impulses, (source_px, target_px), interpolation=cv2.INTER_AREA)
    expected = resize_weights(source_px, target_px, area=target_px <= source_px)
    np.testing.assert_allclose(expected, found, atol=2e-3)  # OpenCV leaves out pixels of which it takes a thousandth


@given(st.integers(2, 60), st.integers(1, 60))
def test_weights_of_mixed_scaling(source_px: int, target_px: int) -> None:
    column = np.random.default_rng(0).random((source_px, 1), np.float32)
    found = cv2.resize(column, (2, target_px), interpolation=cv2.INTER_AREA)
    expected = resize_weights(source_px, target_px, area=False) @ column
    np.testing.assert_allclose(found, np.repeat(expected, 2, 1), atol=1e-5)


SIZES = [(48, 64), (24, 32), (131, 175), (48, 64), (10, 12), (131, 175), (48, 64)]


def test_keeps_order_of_sizes(driver: Any) -> None:
    images = [noise(*size, BGR, seed) for seed, size in enumerate(SIZES)]
    fitter = GpuResizer(BGR, driver)
    for image, frame in zip(images, fitted(fitter, driver, *images), strict=True):
        np.testing.assert_array_equal(frame, fitted(fitter, driver, image)[0])


@pytest.mark.parametrize(
    ("size", "room_px"),
    [((48, 64), 2 * 48 * 64 + 1), ((2, 2), 2 * 24 * 32 + 1)],
    ids=["images", "frames, where those are larger"],
)
def test_bounds_pixels_at_once(monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], room_px: int) -> None:
    images = [noise(*size, GRAY, seed) for seed in range(5)]
    fitter = GpuResizer(GRAY, HostDriver())
    expected = fitted(fitter, HostDriver(), *images)
    stacked, stack = [], torch.stack
    monkeypatch.setattr(torch, "stack", lambda tensors: (stacked.append(len(tensors)), stack(tensors))[1])
    monkeypatch.setattr(fit, "MAX_IMAGE_PX", room_px)
    found = fitted(fitter, HostDriver(), *images)
    assert stacked == [2, 2, 1]
    np.testing.assert_array_equal(np.stack(found), np.stack(expected))


def test_frame_owns_its_memory(driver: Any) -> None:
    images = [torch.tensor(noise(*size, BGR), device=driver.device) for size in SIZES]
    for frame, image in zip(GpuResizer(BGR, driver).fit(images), images, strict=True):
        assert frame.pixels.is_contiguous()
        assert frame.pixels.untyped_storage().nbytes() == np.prod(BGR.frame_shape)
        assert frame.pixels.data_ptr() != image.data_ptr()


def test_weight_cache_is_bounded() -> None:
    fitter = GpuResizer(GRAY, HostDriver())
    for side in range(30, 30 + 2 * MAX_PLANS):
        fitted(fitter, HostDriver(), noise(side, side, GRAY))
    assert fitter._plan.cache_info().currsize == MAX_PLANS


def test_empty_call() -> None:
    assert GpuResizer(GRAY, HostDriver()).fit([]) == []


def test_to_device_copies(driver: Any) -> None:
    frame = noise(24, 32, GRAY)
    moved = GpuResizer(GRAY, driver).to_device(frame)
    expected = frame.copy()
    frame[:] = 0
    assert isinstance(moved, DeviceFrame)
    np.testing.assert_array_equal(moved.on_host(), expected)
