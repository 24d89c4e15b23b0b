"""Encoder, decoder, encoder over what is seen: how strange each place is, taught by pseudo-anomalies.

    seen ─E1─▶ z ─D─▶ the scene as it would be without anything strange ─E2─▶ z'

GANomaly's latent distance (Akcay et al., 2018, section 3) from z to z', with two changes: D is taught to draw the *normal* scene
behind a pasted anomaly, and the distance itself is taught to be large there. Beside it E1 says what it thinks itself.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from trainer.models.exact import exact
from trainer.models.few_maps import FewMaps
from trainer.models.motion_net import Seen, initialise_relu, like

_SCENE_CHANNELS = 3
_SLOPE_AT_START, _LEVEL_AT_START = 1.0, -3.0
_RARE = -3.0
_SMALL = 0.05


class Judgement(NamedTuple):
    """What is thought of a frame."""

    strange: Tensor
    """Logit of E1, (N, 1, H / 4, W / 4)."""
    distant: Tensor
    """Logit of the latent distance, (N, 1, H / 8, W / 8)."""
    scene: Tensor
    """The scene as it should be, (N, 3, H / 4, W / 4): brightness, 64 grey levels from 128 are 1, and flow in pixels."""
    code: Tensor
    """The second code z', (N, latent, H / 8, W / 8)."""


class Judge(nn.Module):
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
        self.strange = FewMaps(width // 2, 1)
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
        initialise_relu(self)
        for last in (self.latent, self.encoder_again[-1], self.decoder[-2], self.strange):
            nn.init.normal_(last.weight, 0.0, _SMALL)  # type: ignore[arg-type]  # the last layer of a Sequential is a convolution
        nn.init.constant_(self.strange.bias, _RARE)  # type: ignore[arg-type]  # it has a bias

    def forward(self, frame: Tensor, seen: Seen, place: Tensor) -> Judgement:
        """``frame``: as MotionNet takes it, (N, 1, H, W). ``place``: (N, 2, H / 4, W / 4), -1 to 1 across and down."""
        looks = self.look(frame)
        down = torch.relu(self.down(torch.cat([seen.fine, seen.flow, looks, place], dim=1)))
        near = torch.relu(self.join(torch.cat([down, seen.coarse], dim=1)))
        thought = torch.relu(self.mix(torch.cat([near, like(self.wide(near), near)], dim=1)))
        fine = self.from_fine(torch.cat([seen.fine, looks], dim=1))
        strange = self.strange(torch.relu(like(self.from_coarse(thought), fine) + fine))
        coarse_place = nn.functional.avg_pool2d(place, 2)
        latent = self.latent(thought)
        scene = self.decoder(torch.cat([latent, coarse_place], dim=1))
        latent_again = self.encoder_again(torch.cat([self.again(scene), coarse_place], dim=1))
        distance = (exact(latent) - exact(latent_again)).square().mean(dim=1, keepdim=True)
        return Judgement(exact(strange), nn.functional.softplus(self.slope) * distance + self.level, scene, latent_again)
