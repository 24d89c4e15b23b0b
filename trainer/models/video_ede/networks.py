"""Encoder, decoder, encoder over what is seen: how strange each place is, taught by pseudo-anomalies.

    seen ─E1─▶ z ─D─▶ the scene as it would be without anything strange ─E2─▶ z'

GANomaly's latent distance (Akcay et al., 2018, section 3) from z to z', with two changes: D is taught to draw the *normal* scene
behind a pasted anomaly, and the distance itself is taught to be large there. Beside it E1 says what it thinks itself.

Maps carried along with what moves: what was known of a person is found again where the person is now.

Sees motion: frames in, optical flow and the features it was read from out. Learned from a classical teacher.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from trainer.models.layers import FewChannelConv2d, to_float32
from trainer.models.optical_flow import smooth


def warp(maps: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
    """``maps`` (N, C, h, w) of the frame before, moved to where things are now; and how surely they were there, (N, 1, h, w).

    ``flow``: (N, 2, h, w), cells right and down, from each place to where it was. Sure is 1 up to the middle of the outermost
    cells and falls to 0 at the picture's edge: a verdict of yes or no would turn over with the last bit of the flow, and an
    engine that adds in another order would remember something else.
    """
    height, width = flow.shape[2:]
    across = torch.arange(width, dtype=flow.dtype, device=flow.device).expand(height, width)
    down = torch.arange(height, dtype=flow.dtype, device=flow.device)[:, None].expand(height, width)
    size = torch.tensor([width, height], dtype=flow.dtype, device=flow.device)[:, None, None]
    # -1 and 1 are the outer edges of the first and the last cell.
    where = (flow + (torch.stack([across, down]) + 0.5)) * (2.0 / size) - 1.0
    # In half cells past the middle of the outermost cell.
    past = 1.0 + ((where.abs() - 1.0) * size).amax(dim=1, keepdim=True)
    sure = torch.clamp(1.0 - past, 0.0, 1.0)
    grid = where.permute(0, 2, 3, 1)
    moved = nn.functional.grid_sample(maps, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return moved, sure


CELL_PX = 4
"""Side of the cells of the motion grid."""
_GREY_LEVELS = 64.0
_RIDGE = 3e-4
"""Added to the squared gradients: where there is no texture, flow goes to zero instead of to noise."""
_MOST_PX = 8.0


class FlowFeatures(NamedTuple):
    """What is seen of a frame and the frames before it."""

    fine: Tensor
    """Features (N, fine, H / 4, W / 4)."""
    coarse: Tensor
    """Features (N, coarse, H / 8, W / 8)."""
    flow: Tensor
    """To the frame before, (N, 2, H / 4, W / 4): frame pixels right and down."""


class LucasKanade(nn.Module):
    """Flow by least squares (Lucas and Kanade, 1981), at full, half and quarter size: what the network corrects.

    Products of gradients are what a few convolutions learn last: without these the net needs twice as long. Each scale gives
    the flow to the frame before, in frame pixels, and how much texture it rests on: 9 channels on the grid.

    Maps of full size are one to a tensor, and sums of shifted ones instead of convolutions: engines lay channels side by side,
    pixel by pixel, and shuffling two or five of them to and fro took three quarters of the time.
    """

    channels = 9

    def forward(self, newest: Tensor, before: Tensor) -> Tensor:
        """Two frames (N, 1, H, W) in units of 64 grey levels."""
        found = []
        for reduction in (1, 2, 4):
            found.append(_flow_at_scale(smooth(newest), smooth(before), reduction))
            newest, before = nn.functional.avg_pool2d(newest, 2), nn.functional.avg_pool2d(before, 2)
        return torch.cat(found, dim=1)


def _flow_at_scale(newest: Tensor, before: Tensor, reduction: int) -> Tensor:
    """Flow from the newest frame to the one before, and texture, (N, 3, H / 4, W / 4), of frames this much smaller."""
    change = before - newest
    mean = nn.functional.pad((newest + before) / 2.0, (1, 1, 1, 1), mode="replicate")
    right = (mean[:, :, 1:-1, 2:] - mean[:, :, 1:-1, :-2]) / 2.0
    down = (mean[:, :, 2:, 1:-1] - mean[:, :, :-2, 1:-1]) / 2.0
    products = (right * right, down * down, right * down, right * change, down * change)
    cells = torch.cat([nn.functional.avg_pool2d(product, CELL_PX // reduction) for product in products], dim=1)
    xx, yy, xy, xt, yt = torch.split(nn.functional.avg_pool2d(cells, 3, 1, 1, count_include_pad=False), 1, dim=1)
    xx, yy = xx + _RIDGE, yy + _RIDGE
    flow = torch.cat([xy * yt - yy * xt, xy * xt - xx * yt], dim=1) / (xx * yy - xy * xy)
    texture = torch.log((xx + yy) / (2.0 * _RIDGE)) / 4.0
    return torch.cat([(flow * reduction).clamp(-_MOST_PX, _MOST_PX), texture], dim=1)


class FlowNet(nn.Module):
    """An encoder with skips, three scales deep; no normalisation, so that a crop is seen as the frame it was cut from."""

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
        """``frames``: grey levels float32 (N, 1 + history, H, W), the newest first; H and W are multiples of 8."""
        scaled = normalise_frames(frames)
        local = self.local(frames[:, :1] / _GREY_LEVELS, frames[:, 1:2] / _GREY_LEVELS)
        looked = torch.relu(self.to_local(torch.relu(self.at_half(scaled))))
        quarter = torch.relu(self.at_quarter(torch.cat([looked, local], dim=1)))
        eighth = torch.relu(self.at_eighth(quarter))
        sixteenth = torch.relu(self.at_sixteenth(eighth))
        coarse = torch.relu(eighth + resize_to(self.to_eighth(sixteenth), eighth))
        fine = torch.relu(quarter + resize_to(self.to_quarter(coarse), quarter))
        return FlowFeatures(fine, coarse, to_float32(self.flow(fine)))


def normalise_frames(frames: Tensor) -> Tensor:
    """The newest frame, and how it differs from each older one, in units of 64 grey levels."""
    scaled = frames / _GREY_LEVELS
    newest = scaled[:, :1]
    return torch.cat([newest - 128.0 / _GREY_LEVELS, newest - scaled[:, 1:]], dim=1)


def resize_to(maps: Tensor, pattern: Tensor) -> Tensor:
    """``maps`` laid over the grid of ``pattern``."""
    return nn.functional.interpolate(maps, size=pattern.shape[2:], mode="bilinear", align_corners=False)


def init_he(network: nn.Module) -> None:
    """Weights for layers that are followed by a ReLU (He et al., 2015), biases 0."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


_SCENE_CHANNELS = 3
_SLOPE_AT_START, _LEVEL_AT_START = 1.0, -3.0
_RARE = -3.0
_SMALL = 0.05


class AnomalyOutput(NamedTuple):
    """What is thought of a frame."""

    strange: Tensor
    """Logit of E1, (N, 1, H / 4, W / 4)."""
    distant: Tensor
    """Logit of the latent distance, (N, 1, H / 8, W / 8)."""
    scene: Tensor
    """The scene as it should be, (N, 3, H / 4, W / 4): brightness, 64 grey levels from 128 are 1, and flow in pixels."""
    code: Tensor
    """The second code z', (N, latent, H / 8, W / 8)."""


class AnomalyNet(nn.Module):
    """See the module."""

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
        self.decoder = nn.Sequential(
            nn.Conv2d(latent + 2, width, 3, 1, 1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, 1, 1),
            nn.ReLU(),
            nn.Conv2d(width, 4 * _SCENE_CHANNELS, 1),
            nn.PixelShuffle(2),
        )
        self.again = nn.Sequential(nn.Conv2d(_SCENE_CHANNELS, width // 2, 3, 2, 1), nn.ReLU())
        self.encoder_again = nn.Sequential(
            nn.Conv2d(width // 2 + 2, width, 3, 1, 1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, 1, 1),
            nn.ReLU(),
            nn.Conv2d(width, latent, 1),
        )
        self.slope = nn.Parameter(torch.tensor(_SLOPE_AT_START))
        self.level = nn.Parameter(torch.tensor(_LEVEL_AT_START))

    def initialise(self) -> None:
        """Begin with the opinion that hardly anything is strange."""
        init_he(self)
        for last in (self.latent, self.encoder_again[-1], self.decoder[-2], self.strange):
            nn.init.normal_(last.weight, 0.0, _SMALL)  # type: ignore[arg-type]  # the last layer of a Sequential is a convolution
        nn.init.constant_(self.strange.bias, _RARE)  # type: ignore[arg-type]  # it has a bias

    def forward(self, frame: Tensor, seen: FlowFeatures, place: Tensor) -> AnomalyOutput:
        """``frame``: as FlowNet takes it, (N, 1, H, W). ``place``: (N, 2, H / 4, W / 4), -1 to 1 across and down."""
        looks = self.look(frame)
        down = torch.relu(self.down(torch.cat([seen.fine, seen.flow, looks, place], dim=1)))
        near = torch.relu(self.join(torch.cat([down, seen.coarse], dim=1)))
        thought = torch.relu(self.mix(torch.cat([near, resize_to(self.wide(near), near)], dim=1)))
        fine = self.from_fine(torch.cat([seen.fine, looks], dim=1))
        strange = self.strange(torch.relu(resize_to(self.from_coarse(thought), fine) + fine))
        coarse_place = nn.functional.avg_pool2d(place, 2)
        latent = self.latent(thought)
        scene = self.decoder(torch.cat([latent, coarse_place], dim=1))
        latent_again = self.encoder_again(torch.cat([self.again(scene), coarse_place], dim=1))
        distance = (to_float32(latent) - to_float32(latent_again)).square().mean(dim=1, keepdim=True)
        return AnomalyOutput(to_float32(strange), nn.functional.softplus(self.slope) * distance + self.level, scene, latent_again)
