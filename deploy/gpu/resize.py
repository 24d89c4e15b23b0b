"""Resizing of decoded images on the GPU with OpenCV's results, in a few kernel launches for all images of one size."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy import MAX_IMAGE_PX
from deploy.gpu.driver import CudaDriver, import_torch
from deploy.image import DeviceFrame, Frame, jpeg_reduction
from deploy.spec import ClipSpec

MAX_PLANS = 16  # number of image sizes whose resize weights are cached; for the shipped model about 1.5 MB each


@dataclass(frozen=True, slots=True)
class _Plan:
    """How images of one size are resized."""

    reduction: int  # side of the blocks that are averaged first, as a JPEG decoded at reduced size
    padding: tuple[Any, Any] | None  # int64 (H') and (W'): source rows and columns that fill up the last blocks; None: all whole
    weights: tuple[Any, Any] | None  # float32 (h, H'') and (W'', w): weights of the rows and columns; None if the size fits
    halves_up: bool  # whether the weights average 2 x 2 pixels, which OpenCV rounds differently


class GpuResizer:
    """Fits JPEGs decoded at full size to the spec; within one grey level of :func:`deploy.image.decode_image`.

    Averaging blocks of 2 x 2, 4 x 4 or 8 x 8 pixels replaces decoding at reduced size. Without it an image of 2.5 times the
    spec's size gives scores that are off by 4 % of the largest, with it by 0.2 % (measured with the shipped model).
    """

    def __init__(self, spec: ClipSpec, driver: CudaDriver) -> None:
        self._torch = import_torch("nvjpeg")
        self._device = driver.device
        self._frame_px = spec.height_px * spec.width_px
        self._plan = lru_cache(MAX_PLANS)(partial(_plan, self._torch, self._device, spec))

    def fit(self, images: Sequence[Any]) -> list[DeviceFrame]:
        """Enqueue on the current stream the resizing of tensors uint8 (H, W, C) with the spec's channels."""
        positions: dict[tuple[int, int], list[int]] = defaultdict(list)
        for position, image in enumerate(images):
            positions[image.shape[0], image.shape[1]].append(position)
        frames: dict[int, DeviceFrame] = {}
        for (height_px, width_px), of_size in positions.items():
            # Pixels become floats on their way, so at most the pixels of one largest image are processed at once.
            at_once = max(1, MAX_IMAGE_PX // max(height_px * width_px, self._frame_px))
            for begin in range(0, len(of_size), at_once):
                part = of_size[begin : begin + at_once]
                fitted = self._fit_batch([images[position] for position in part], self._plan(height_px, width_px))
                # Cloned, because a view would keep the whole batch in memory.
                frames |= {position: DeviceFrame(frame.clone()) for position, frame in zip(part, fitted, strict=True)}
        return [frames[position] for position in range(len(images))]

    def to_device(self, frame: Frame) -> DeviceFrame:
        """Enqueue on the current stream a copy of ``frame`` to the device."""
        return DeviceFrame(self._torch.tensor(frame, device=self._device))

    def _fit_batch(self, images: list[Any], plan: _Plan) -> Any:
        """uint8 (N, h, w, C), contiguous."""
        batch = self._torch.stack(images)
        if plan.padding is not None:
            rows, columns = plan.padding
            batch = batch.index_select(1, rows).index_select(2, columns)
        if plan.reduction > 1:
            side, (n_images, height_px, width_px, channels) = plan.reduction, batch.shape
            blocks = batch.float().view(n_images, height_px // side, side, width_px // side, side, channels)
            batch = self._rounded(blocks.mean((2, 4)), halves_up=side == 2)
        if plan.weights is not None:
            batch = self._rounded(_weighted(batch.float(), *plan.weights), halves_up=plan.halves_up)
        return batch.byte().contiguous()

    def _rounded(self, values: Any, *, halves_up: bool) -> Any:
        # As OpenCV does: halves to even, but up where 2 x 2 pixels are averaged.
        return (values + 0.5).floor_() if halves_up else values.round_()


def resize_weights(source_px: int, target_px: int, *, area: bool) -> NDArray[np.float64]:
    """Weights (target, source) of OpenCV's ``INTER_AREA`` along one side.

    ``area``: whether no side of the image grows. Otherwise OpenCV interpolates between two neighbours on both sides.
    """
    return _area_weights(source_px, target_px) if area else _linear_weights(source_px, target_px)


def _area_weights(source_px: int, target_px: int) -> NDArray[np.float64]:
    edges, at = np.arange(target_px + 1) * (source_px / target_px), np.arange(source_px)
    overlap = np.clip(np.minimum(edges[1:, np.newaxis], at + 1) - np.maximum(edges[:-1, np.newaxis], at), 0, None)
    weights: NDArray[np.float64] = overlap / overlap.sum(1, keepdims=True)
    return weights


def _linear_weights(source_px: int, target_px: int) -> NDArray[np.float64]:
    target, ratio = np.arange(target_px), target_px / source_px
    # The same operations as in OpenCV, whose rounding decides between two equally near pixels.
    left = np.floor(target * (1 / ratio)).astype(np.int64)
    share = ((target + 1) - (left + 1) * ratio).astype(np.float32)
    share = np.where(share <= 0, 0, share - np.floor(share))
    left = np.minimum(left, source_px - 1)
    weights = np.zeros((target_px, source_px))
    np.add.at(weights, (target, left), 1 - share)
    np.add.at(weights, (target, np.minimum(left + 1, source_px - 1)), share)
    return weights


def _plan(torch: Any, device: Any, spec: ClipSpec, height_px: int, width_px: int) -> _Plan:
    reduction = jpeg_reduction(width_px, height_px, spec)
    rows, columns = -(-height_px // reduction), -(-width_px // reduction)

    def indices(source_px: int, blocks: int) -> Any:
        return torch.arange(blocks * reduction).clamp(max=source_px - 1).to(device)

    def weights(source_px: int, target_px: int) -> Any:
        area = rows >= spec.height_px and columns >= spec.width_px
        return torch.tensor(resize_weights(source_px, target_px, area=area), dtype=torch.float32, device=device)

    whole = (rows * reduction, columns * reduction) == (height_px, width_px)
    fits = (rows, columns) == (spec.height_px, spec.width_px)
    return _Plan(
        reduction,
        # libjpeg also pads to whole blocks; stretching the image instead would shift everything.
        None if whole else (indices(height_px, rows), indices(width_px, columns)),
        None if fits else (weights(rows, spec.height_px), weights(columns, spec.width_px).T.contiguous()),
        (rows, columns) == (2 * spec.height_px, 2 * spec.width_px),
    )


def _weighted(batch: Any, rows: Any, columns: Any) -> Any:
    """Resize float32 (N, H, W, C) to (N, h, w, C) by weights of rows (h, H) and columns (W, w)."""
    n_images, _, width_px, channels = batch.shape
    halfway = (rows @ batch.flatten(2)).view(n_images, -1, width_px, channels)
    return (halfway.transpose(2, 3) @ columns).transpose(2, 3)
