"""Parts that the networks share: DCGAN's strided pyramid, fully convolutional, bias-free, with its initialisation."""

from torch import Tensor, nn

LEAK = 0.2
INIT_STD = 0.02


class Encoder(nn.Module):
    """Pictures (N, in_channels, H, W) to a linear map (N, out_channels, H / 2^depth, W / 2^depth)."""

    def __init__(self, in_channels: int, width: int, depth: int, out_channels: int) -> None:
        super().__init__()
        self.features = nn.Sequential(*_down(in_channels, width, normalise=False))
        for level in range(1, depth):
            self.features.extend(_down(width << (level - 1), width << level, normalise=True))
        self.head = nn.Conv2d(width << (depth - 1), out_channels, 3, padding=1, bias=False)

    def forward(self, pictures: Tensor) -> Tensor:
        """See the class."""
        latent: Tensor = self.head(self.features(pictures))
        return latent


class Decoder(nn.Module):
    """The mirror image: (N, in_channels, h, w) to pictures (N, out_channels, h * 2^depth, w * 2^depth) in [-1, 1]."""

    def __init__(self, in_channels: int, width: int, depth: int, out_channels: int) -> None:
        super().__init__()
        top = width << (depth - 1)
        self.stem = nn.Sequential(nn.Conv2d(in_channels, top, 3, padding=1, bias=False), nn.BatchNorm2d(top), nn.ReLU())
        self.features = nn.Sequential()
        for level in range(depth - 1, 0, -1):
            self.features.extend(_up(width << level, width << (level - 1)))
        self.head = nn.Sequential(nn.ConvTranspose2d(width, out_channels, 4, stride=2, padding=1, bias=False), nn.Tanh())

    def forward(self, latent: Tensor) -> Tensor:
        """See the class."""
        pictures: Tensor = self.head(self.features(self.stem(latent)))
        return pictures


def initialise(module: nn.Module) -> None:
    """DCGAN's initialisation of one module, for ``network.apply``: weights N(0, 0.02), batch norm N(1, 0.02) and 0."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, INIT_STD)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, INIT_STD)
        nn.init.zeros_(module.bias)


def window_means(values: Tensor, size: int) -> Tensor:
    """Means over all ``size`` x ``size`` windows of maps (N, 1, h, w): (N, h', w'). A smaller map is one window."""
    sides = tuple(min(size, side) for side in values.shape[2:])
    return nn.functional.avg_pool2d(values, sides, stride=1)[:, 0]


def _down(channels: int, out_channels: int, *, normalise: bool) -> list[nn.Module]:
    convolution = nn.Conv2d(channels, out_channels, 4, stride=2, padding=1, bias=False)
    normalisation = [nn.BatchNorm2d(out_channels)] if normalise else []
    return [convolution, *normalisation, nn.LeakyReLU(LEAK)]


def _up(channels: int, out_channels: int) -> list[nn.Module]:
    convolution = nn.ConvTranspose2d(channels, out_channels, 4, stride=2, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(out_channels), nn.ReLU()]
