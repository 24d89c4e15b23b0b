"""Pictures on a device to frames on a device: what :mod:`deploy.image` does by OpenCV, in a few launches for all of a size."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy import MAX_PICTURE_PX
from deploy.gpu.driver import Driver, import_torch
from deploy.image import DeviceFrame, Frame, jpeg_reduction
from deploy.spec import ClipSpec

MAX_PLANS = 16
"""Sizes of pictures whose weights are kept; of the shipped model some 1.5 MB each."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """How pictures of one size become frames."""

    reduction: int
    """Sides of the blocks whose means are taken first."""
    filled: tuple[Any, Any] | None
    """int64 (H') and (W'): which rows and columns make whole blocks; None where the picture does as it is."""
    weights: tuple[Any, Any] | None
    """float32 (h, H'') and (W'', w): what each row and column of a frame is made of; None where the size fits."""
    halves_up: bool
    """Whether the weights are those of 2 x 2 pixels, whose mean OpenCV rounds in another way."""


class Fitter:
    """Fits JPEGs decoded at full size as if :func:`deploy.image.decode_picture` had decoded them, but for a grey level.

    The mean of 2 x 2, 4 x 4 or 8 x 8 pixels stands for the decoding at reduced size. Without it a picture of 2.5 times the
    spec's size gives scores that are off by 4 % of the largest, with it by 0.2 % (measured with the shipped model).
    """

    def __init__(self, spec: ClipSpec, driver: Driver) -> None:
        self._torch = import_torch("nvjpeg")
        self._device = driver.device
        self._frame_px = spec.height_px * spec.width_px
        self._plan = lru_cache(MAX_PLANS)(partial(_plan, self._torch, self._device, spec))

    def fit(self, pictures: Sequence[Any]) -> list[DeviceFrame]:
        """Enqueue on the current stream what makes frames of ``pictures``, tensors uint8 (H, W, C) of the spec's channels.

        The pictures are read, and the frames are complete, when the stream has come that far.
        """
        places: dict[tuple[int, int], list[int]] = defaultdict(list)
        for place, picture in enumerate(pictures):
            places[picture.shape[0], picture.shape[1]].append(place)
        frames: dict[int, DeviceFrame] = {}
        for (height_px, width_px), of_size in places.items():
            # No more pixels at once, before or after, than one picture may have: they become floats on their way.
            at_once = max(1, MAX_PICTURE_PX // max(height_px * width_px, self._frame_px))
            for begin in range(0, len(of_size), at_once):
                part = of_size[begin : begin + at_once]
                fitted = self._fitted([pictures[place] for place in part], self._plan(height_px, width_px))
                # A view would keep its neighbours in memory for as long as somebody holds it.
                frames |= {place: DeviceFrame(frame.clone()) for place, frame in zip(part, fitted, strict=True)}
        return [frames[place] for place in range(len(pictures))]

    def moved_up(self, frame: Frame) -> DeviceFrame:
        """Enqueue on the current stream a copy of ``frame`` to the device."""
        return DeviceFrame(self._torch.tensor(frame, device=self._device))

    def _fitted(self, pictures: list[Any], plan: _Plan) -> Any:
        """uint8 (N, h, w, C), contiguous."""
        batch = self._torch.stack(pictures)
        if plan.filled is not None:
            rows, columns = plan.filled
            batch = batch.index_select(1, rows).index_select(2, columns)
        if plan.reduction > 1:
            batch = self._rounded(_block_means(batch, plan.reduction), halves_up=plan.reduction == 2)
        if plan.weights is not None:
            batch = self._rounded(_weighted(batch.float(), *plan.weights), halves_up=plan.halves_up)
        return batch.byte().contiguous()

    def _rounded(self, values: Any, *, halves_up: bool) -> Any:
        """As OpenCV does: halves to the even neighbour, but up where 2 x 2 pixels are averaged."""
        return (values + 0.5).floor_() if halves_up else values.round_()


def resize_weights(source_px: int, target_px: int, *, area: bool) -> NDArray[np.float64]:
    """(target, source): what each pixel of a line resized by OpenCV's ``INTER_AREA`` is made of.

    ``area``: neither side of the picture grows. Elsewhere OpenCV mixes two neighbours on both sides, by shares of its own.
    """
    return _by_area(source_px, target_px) if area else _by_neighbours(source_px, target_px)


def _by_area(source_px: int, target_px: int) -> NDArray[np.float64]:
    edges, at = np.arange(target_px + 1) * (source_px / target_px), np.arange(source_px)
    overlap = np.clip(np.minimum(edges[1:, np.newaxis], at + 1) - np.maximum(edges[:-1, np.newaxis], at), 0, None)
    weights: NDArray[np.float64] = overlap / overlap.sum(1, keepdims=True)
    return weights


def _by_neighbours(source_px: int, target_px: int) -> NDArray[np.float64]:
    place, ratio = np.arange(target_px), target_px / source_px
    # Written as OpenCV has it: its roundings decide which pixel is taken where two are equally near.
    left = np.floor(place * (1 / ratio)).astype(np.int64)
    share = ((place + 1) - (left + 1) * ratio).astype(np.float32)
    share = np.where(share <= 0, 0, share - np.floor(share))
    left = np.minimum(left, source_px - 1)
    weights = np.zeros((target_px, source_px))
    np.add.at(weights, (place, left), 1 - share)
    np.add.at(weights, (place, np.minimum(left + 1, source_px - 1)), share)
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
        # libjpeg, too, fills up to whole blocks; stretching to whole pixels instead would shift everything.
        None if whole else (indices(height_px, rows), indices(width_px, columns)),
        None if fits else (weights(rows, spec.height_px), weights(columns, spec.width_px).T.contiguous()),
        (rows, columns) == (2 * spec.height_px, 2 * spec.width_px),
    )


def _block_means(batch: Any, side: int) -> Any:
    """float32 (N, H / side, W / side, C) of (N, H, W, C)."""
    n_pictures, height_px, width_px, channels = batch.shape
    return batch.float().view(n_pictures, height_px // side, side, width_px // side, side, channels).mean((2, 4))


def _weighted(batch: Any, rows: Any, columns: Any) -> Any:
    """float32 (N, h, w, C) of float32 (N, H, W, C), by rows (h, H) and columns (W, w)."""
    n_pictures, _, width_px, channels = batch.shape
    halfway = (rows @ batch.flatten(2)).view(n_pictures, -1, width_px, channels)
    return (halfway.transpose(2, 3) @ columns).transpose(2, 3)
