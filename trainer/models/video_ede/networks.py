"""The two networks of the video model, FlowNet and AnomalyNet, and the warping of maps along the flow.

Shapes: frames are (N, C, H, W) with H and W multiples of 8; cells are 4 x 4 pixels, so h = H / 4 and w = W / 4. Attribute names
of modules are the keys of stored weights and must not change.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from trainer.models.layers import FewChannelConv2d, to_float32
from trainer.models.optical_flow import gradients, smooth, solve_flow

CELL_PX = 4  # side of the cells of the grid that flow and anomaly maps have
_GREY_LEVELS = 64.0
_RIDGE = 3e-4  # added to squared gradients: without texture, flow goes to zero instead of to noise
_MAX_FLOW_PX = 8.0
_SCENE_CHANNELS = 3
_INITIAL_LOGIT = -3.0


class FlowFeatures(NamedTuple):
    """Outputs of FlowNet."""

    fine: Tensor  # features (N, fine, h, w)
    coarse: Tensor  # features (N, coarse, h / 2, w / 2)
    flow: Tensor  # flow to the frame before, (N, 2, h, w): frame pixels to the right and down


class FlowNet(nn.Module):
    """Optical flow and features of the newest frame: a U-Net of three scales on top of Lucas-Kanade flow.

    It has no normalisation layers, so that a crop is seen as the frame that it was cut from.
    """

    def __init__(self, history: int, first: int, fine: int, coarse: int) -> None:
        super().__init__()
        self.at_half = nn.Conv2d(1 + history, first, 5, 2, 2)
        self.local = LucasKanade()
        self.to_local = nn.Conv2d(first, fine - LucasKanade.channels, 3, 2, 1)
        self.at_quarter = nn.Conv2d(fine, fine, 3, 1, 1)
        self.at_eighth = nn.Sequential(nn.Conv2d(fine, coarse, 3, 2, 1), nn.ReLU(), nn.Conv2d(coarse, coarse, 3, 1, 1))
        self.at_sixteenth = nn.Sequential(nn.Conv2d(coarse, coarse, 3, 2, 1), nn.ReLU(), nn.Conv2d(coarse, coarse, 3, 1, 1))
        self.to_eighth = nn.Conv2d(coarse, coarse, 1)
        self.to_quarter = nn.Conv2d(coarse, fine, 1)
        self.flow = nn.Sequential(nn.Conv2d(fine, fine, 3, 1, 1), nn.ReLU(), FewChannelConv2d(fine, 2))

    def forward(self, frames: Tensor) -> FlowFeatures:
        """``frames``: grey levels float32 (N, 1 + history, H, W), the newest first."""
        scaled = normalise_frames(frames)  # (N, 1 + history, H, W)
        local = self.local(frames[:, :1] / _GREY_LEVELS, frames[:, 1:2] / _GREY_LEVELS)  # (N, 9, h, w)
        learned = torch.relu(self.to_local(torch.relu(self.at_half(scaled))))  # (N, fine - 9, h, w)
        quarter = torch.relu(self.at_quarter(torch.cat([learned, local], dim=1)))  # (N, fine, h, w)
        eighth = torch.relu(self.at_eighth(quarter))  # (N, coarse, h / 2, w / 2)
        sixteenth = torch.relu(self.at_sixteenth(eighth))  # (N, coarse, h / 4, w / 4)
        coarse = torch.relu(eighth + resize_to(self.to_eighth(sixteenth), eighth))  # (N, coarse, h / 2, w / 2)
        fine = torch.relu(quarter + resize_to(self.to_quarter(coarse), quarter))  # (N, fine, h, w)
        return FlowFeatures(fine, coarse, to_float32(self.flow(fine)))


class LucasKanade(nn.Module):
    """Least-squares flow (Lucas and Kanade, 1981) at full, half and quarter size: flow and amount of texture, 9 channels.

    Products of gradients are what a few convolutions learn last; without these inputs training takes twice as long. Every map of
    full size is a tensor of one channel: engines interleave channels pixel by pixel, which took three quarters of the time.
    """

    channels = 9

    def forward(self, newest: Tensor, before: Tensor) -> Tensor:
        """Two frames (N, 1, H, W), in units of 64 grey levels, to (N, 9, h, w)."""
        scales = []
        for reduction in (1, 2, 4):
            scales.append(_flow_at_scale(smooth(newest), smooth(before), reduction))
            newest, before = nn.functional.avg_pool2d(newest, 2), nn.functional.avg_pool2d(before, 2)
        return torch.cat(scales, dim=1)


def _flow_at_scale(newest: Tensor, before: Tensor, reduction: int) -> Tensor:
    change = before - newest  # (N, 1, H / reduction, W / reduction)
    right, down = gradients((newest + before) / 2.0)
    products = (right * right, down * down, right * down, right * change, down * change)
    cells = torch.cat([nn.functional.avg_pool2d(product, CELL_PX // reduction) for product in products], dim=1)  # (N, 5, h, w)
    xx, yy, xy, xt, yt = torch.split(nn.functional.avg_pool2d(cells, 3, 1, 1, count_include_pad=False), 1, dim=1)
    xx, yy = xx + _RIDGE, yy + _RIDGE
    flow = solve_flow(xx, yy, xy, xt, yt)  # (N, 2, h, w)
    texture = torch.log((xx + yy) / (2.0 * _RIDGE)) / 4.0
    return torch.cat([(flow * reduction).clamp(-_MAX_FLOW_PX, _MAX_FLOW_PX), texture], dim=1)  # (N, 3, h, w)


class AnomalyOutput(NamedTuple):
    """Outputs of AnomalyNet."""

    anomaly: Tensor  # anomaly logit of E1, (N, 1, h, w)
    distance: Tensor  # anomaly logit from the distance of the latents z and z', (N, 1, h / 2, w / 2)
    scene: Tensor  # D's reconstruction of the normal scene, (N, 3, h, w): brightness as in normalise_frames, and flow in pixels
    code: Tensor  # the second latent z', (N, latent, h / 2, w / 2)


class Adaptation:
    """A camera's own scales and shifts of features (feature-wise linear modulation: Perez et al., "FiLM", 2018).

    They adapt a network that was trained on other cameras without changing its weights, so that cameras share a micro-batch.
    ``values``: (N, 2 * sum of ``channels``), of each layer the scales minus 1, then the shifts; zeros change nothing.
    """

    def __init__(self, values: Tensor, channels: Mapping[str, int]) -> None:
        counts = [count for each in channels.values() for count in (each, each)]
        parts = torch.split(values[:, :, None, None], counts, dim=1)  # (N, C, 1, 1) each
        self._layers = dict(zip(channels, zip(parts[::2], parts[1::2], strict=True), strict=True))

    def __call__(self, layer: str, features: Tensor) -> Tensor:
        """Features (N, C, h, w) of a layer, scaled and shifted."""
        scale, shift = self._layers[layer]
        return torch.addcmul(features + shift, features, scale)


def adapted_channels(width: int) -> dict[str, int]:
    """The layers of an :class:`AnomalyNet` that can be adapted to a camera, and their channels."""
    whole = dict.fromkeys(("down", "near", "wide", "encoded", "again"), width)
    return {**whole, "head": width // 2, "anomaly": 1, "distance": 1}


class AnomalyNet(nn.Module):
    """How anomalous each cell is: an encoder-decoder-encoder over flow, features, appearance and position.

        inputs ─E1─▶ z ─D─▶ the scene as it would be without anomalies ─E2─▶ z'

    The distance of z and z' is GANomaly's (Akcay et al., 2018, section 3) with two changes: D learns to draw the *normal* scene
    behind a pasted anomaly, and the distance itself is trained to be large there. E1 also gives a logit of its own.
    """

    def __init__(self, fine: int, coarse: int, width: int, latent: int) -> None:
        super().__init__()
        looks = width // 3
        self.look = nn.Sequential(nn.Conv2d(1, looks // 2, 5, 2, 2), nn.ReLU(), nn.Conv2d(looks // 2, looks, 3, 2, 1), nn.ReLU())
        self.down = nn.Conv2d(fine + 2 + looks + 2, width, 3, 2, 1)
        self.join = nn.Conv2d(width + coarse, width, 3, 1, 1)
        self.wide = nn.Sequential(nn.Conv2d(width, width, 3, 2, 1), nn.ReLU(), nn.Conv2d(width, width, 3, 1, 1), nn.ReLU())
        self.mix = nn.Conv2d(2 * width, width, 3, 1, 1)
        self.latent = nn.Conv2d(width, latent, 1)
        self.from_coarse = nn.Conv2d(width, width // 2, 1)
        self.from_fine = nn.Conv2d(fine + looks, width // 2, 1)
        self.strange = FewChannelConv2d(width // 2, 1)
        self.decoder = nn.Sequential(*_three_convs(latent + 2, width, 4 * _SCENE_CHANNELS), nn.PixelShuffle(2))
        self.again = nn.Sequential(nn.Conv2d(_SCENE_CHANNELS, width // 2, 3, 2, 1), nn.ReLU())
        self.encoder_again = nn.Sequential(*_three_convs(width // 2 + 2, width, latent))
        self.slope = nn.Parameter(torch.tensor(1.0))
        self.level = nn.Parameter(torch.tensor(-3.0))
        self.adapted = adapted_channels(width)

    def init_weights(self) -> None:
        """Bias initial predictions towards normal, as anomalies are rare (Lin et al., "Focal Loss", 2017, section 3.3)."""
        init_he(self)
        for last in (self.latent, self.encoder_again[-1], self.decoder[-2], self.strange):
            nn.init.normal_(last.weight, 0.0, 0.05)  # type: ignore[arg-type]  # the last layer of a Sequential is a convolution
        nn.init.constant_(self.strange.bias, _INITIAL_LOGIT)  # type: ignore[arg-type]  # it has a bias

    def forward(self, frame: Tensor, features: FlowFeatures, position: Tensor, adaptation: Tensor | None = None) -> AnomalyOutput:
        """``frame``: the newest one, normalised, (N, 1, H, W). ``position``: (N, 2, h, w), -1 to 1 across and down.

        ``adaptation``: of each frame's camera, (N, A), see :class:`Adaptation`; None for none.
        """
        adapt = (lambda _, maps: maps) if adaptation is None else Adaptation(adaptation, self.adapted)
        looks = self.look(frame)  # (N, width / 3, h, w)
        inputs = torch.cat([features.fine, features.flow, looks, position], dim=1)
        down = torch.relu(adapt("down", self.down(inputs)))  # (N, width, h / 2, w / 2)
        near = torch.relu(adapt("near", self.join(torch.cat([down, features.coarse], dim=1))))  # (N, width, h / 2, w / 2)
        wide = adapt("wide", self.wide(near))  # (N, width, h / 4, w / 4)
        mixed = self.mix(torch.cat([near, resize_to(wide, near)], dim=1))
        encoded = torch.relu(adapt("encoded", mixed))  # (N, width, h / 2, w / 2)
        fine = self.from_fine(torch.cat([features.fine, looks], dim=1))  # (N, width / 2, h, w)
        # At half size: at full size it would cost four times as much.
        coarse = adapt("head", self.from_coarse(encoded))
        anomaly = self.strange(torch.relu(resize_to(coarse, fine) + fine))  # (N, 1, h, w)
        coarse_position = nn.functional.avg_pool2d(position, 2)  # (N, 2, h / 2, w / 2)
        latent = self.latent(encoded)  # (N, latent, h / 2, w / 2)
        scene = self.decoder(torch.cat([latent, coarse_position], dim=1))  # (N, 3, h, w)
        again = self.encoder_again[0](torch.cat([self.again(scene), coarse_position], dim=1))  # (N, width, h / 2, w / 2)
        latent_again = self.encoder_again[1:](adapt("again", again))  # (N, latent, h / 2, w / 2)
        distance = (to_float32(latent) - to_float32(latent_again)).square().mean(dim=1, keepdim=True)  # (N, 1, h / 2, w / 2)
        # softplus keeps the slope positive: a larger distance must mean more anomalous.
        logit = nn.functional.softplus(self.slope) * distance + self.level
        return AnomalyOutput(adapt("anomaly", to_float32(anomaly)), adapt("distance", logit), scene, latent_again)


def _three_convs(before: int, width: int, after: int) -> list[nn.Module]:
    wide, deep = nn.Conv2d(before, width, 3, 1, 1), nn.Conv2d(width, width, 3, 1, 1)
    return [wide, nn.ReLU(), deep, nn.ReLU(), nn.Conv2d(width, after, 1)]


def warp(maps: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
    """Warp ``maps`` (N, C, h, w) of the frame before to the newest frame; and how far inside each source was, (N, 1, h, w).

    ``flow``: (N, 2, h, w), from each cell to where it was, in cells right and down. The second map is 1 up to the centre of the
    outermost cells and falls to 0 at the image's edge. A yes or no would flip with the last bit of the flow, and an engine that
    adds in another order would end up in another state.
    """
    height, width = flow.shape[2:]
    across = torch.arange(width, dtype=flow.dtype, device=flow.device).expand(height, width)
    down = torch.arange(height, dtype=flow.dtype, device=flow.device)[:, None].expand(height, width)
    size = torch.tensor([width, height], dtype=flow.dtype, device=flow.device)[:, None, None]
    # -1 and 1 are the outer edges of the first and the last cell.
    source = (flow + (torch.stack([across, down]) + 0.5)) * (2.0 / size) - 1.0  # (N, 2, h, w)
    outside = 1.0 + ((source.abs() - 1.0) * size).amax(dim=1, keepdim=True)  # half cells beyond the centre of the outermost cell
    inside = torch.clamp(1.0 - outside, 0.0, 1.0)
    grid = source.permute(0, 2, 3, 1)  # (N, h, w, 2)
    warped = nn.functional.grid_sample(maps, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return warped, inside


def normalise_frames(frames: Tensor) -> Tensor:
    """Grey levels (N, C, H, W), the newest first, to the newest frame and its differences from the others, per 64 levels."""
    scaled = frames / _GREY_LEVELS
    newest = scaled[:, :1]
    return torch.cat([newest - 128.0 / _GREY_LEVELS, newest - scaled[:, 1:]], dim=1)


def resize_to(maps: Tensor, pattern: Tensor) -> Tensor:
    """``maps`` resized to the height and width of ``pattern``."""
    return nn.functional.interpolate(maps, size=pattern.shape[2:], mode="bilinear", align_corners=False)


def init_he(network: nn.Module) -> None:
    """He initialisation (2015) of convolutions followed by a ReLU; biases 0."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
