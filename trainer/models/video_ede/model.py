"""Video EDE, the default model: an encoder-decoder-encoder whose measurements are averaged along the motion of objects.

    newest frame, two before ─FlowNet─▶ flow ─┬─▶ velocity, averaged along the motion ─▶ steady speed against its row's usual one
                                              └─▶ AnomalyNet (E1, D, E2) ─▶ anomaly map, averaged along the motion
    newest frame, the camera's background ────────▶ dwell: how long each place has shown something else

Per frame: (1) Shake and flicker of the camera are taken out of the two frames before, and ``FlowNet`` estimates the flow to the
frame before and features. (2) ``AnomalyNet`` gives an anomaly probability for each cell, and the distance of its two latents.
(3) Mean velocity, its variance and the mean anomaly of each cell are warped along the flow and updated with the new frame;
dwell stays at its place. (4) The camera's profile brings the maps to their normal ranges there, and joins them to one heat map;
the score is its maximum. The model is recurrent: the state holds two frames, the dwell and the averages. A camera's first frame
has no motion and is scored by the anomaly map alone.

Training (``stages``): FlowNet learns from classical optical flow; then, with FlowNet frozen, AnomalyNet learns from
pseudo-anomalies and, if there are any, operators' annotations; last, the default profile is fitted to normal footage.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from deploy.dwell import PLACE_PX, REFERENCES, empty_background
from deploy.profile_learning import Normal, normal_size
from deploy.score_maps import PLACE_CELLS, Grid, place_grid
from deploy.spec import ClipSpec
from trainer.data.clips import ClipDataset, Split
from trainer.data.footage import Footage, PlaceFootage, reduced_footage
from trainer.models.base import ClipModel, ProgressBar, ServingNetwork, TrainingStage
from trainer.models.video_ede.dwell import Background, Dwell, foreground, update_dwell
from trainer.models.video_ede.learners import TrainableNetworks
from trainer.models.video_ede.networks import CELL_PX, AnomalyNet, FlowNet, adapted_channels, normalise_frames, resize_to, warp
from trainer.models.video_ede.places import learn_places
from trainer.models.video_ede.score_scale import (
    WARMUP_FRAMES,
    ScoreMaps,
    fit_profile,
    heat_map,
    score_first_frames,
    score_footage,
    unpack_profile,
)
from trainer.models.video_ede.stabilisation import stabilise
from trainer.models.video_ede.stages import adaptation_stage, fine_tuning_stages, training_stages
from trainer.training.interfaces import Settings

KIND = "video-ede"
FRAME_AREA_PX = 86_400  # 240 x 360, at which people in the usual benchmarks are at least 30 pixels tall
SIDE_STEP_PX = 8
HISTORY = (1, 2)  # distances of the older frames from the newest one. A fourth frame made the flow only 3 % better.

_MIN_UPDATE = 0.2  # weight of the newest frame in the averages
_FIRST_VARIANCE = 0.3**2
_TINY = 1e-6
_FRAME_CHANNELS = CELL_PX * CELL_PX  # a frame is stored as this many maps of the cell grid
_MOTION_CHANNELS = (2, 1, 1, 1, 1)  # of the fields of MotionState


class VideoEdeConfig(Settings):
    """Everything that is needed to build the network; stored in the bundle."""

    height_px: int = Field(default=240, ge=64, multiple_of=SIDE_STEP_PX)
    width_px: int = Field(default=360, ge=64, multiple_of=SIDE_STEP_PX)
    first: int = Field(default=16, ge=1)
    fine: int = Field(default=32, ge=1)
    coarse: int = Field(default=48, ge=1)
    width: int = Field(default=48, ge=6, multiple_of=6)
    latent: int = Field(default=16, ge=1)
    window: int = Field(default=3, ge=1)
    """Side of the windows over which score maps are averaged, in cells of 4 x 4 pixels."""
    steady_spreads: float = Field(default=0.25, ge=0)
    """Standard deviations subtracted from the mean velocity: a leg is fast but uneven."""
    least_anomaly: float = Field(default=1e-3, ge=1e-6, le=0.1)
    """Probabilities of anomalies are held between this and 1 minus it before they become log-odds."""
    lights: int = Field(default=REFERENCES, ge=REFERENCES, le=REFERENCES)
    """Lights that a profile knows, each with normal ranges of its own."""
    learning_rate: float = Field(default=3e-3, gt=0)

    @property
    def grid(self) -> tuple[int, int]:
        return self.height_px // CELL_PX, self.width_px // CELL_PX

    @property
    def state_shape(self) -> tuple[int, int, int]:
        return (_FRAME_CHANNELS * HISTORY[-1] + len(PlaceState._fields) + sum(_MOTION_CHANNELS), *self.grid)

    @property
    def adaptation_size(self) -> int:
        """Number of values of a profile that adapt the network; the others say what is normal."""
        return 2 * sum(adapted_channels(self.width).values())

    def spec(self, fps: float) -> ClipSpec:
        return ClipSpec(
            length=1,
            height_px=self.height_px,
            width_px=self.width_px,
            colour="gray",
            fps=fps,
            state_shape=self.state_shape,
            state_warmup_frames=WARMUP_FRAMES,
            profile_size=self.adaptation_size + normal_size(self.grid),
        )


class MotionState(NamedTuple):
    """What is carried along the motion from frame to frame, (N, channels, h, w) on the grid of cells."""

    velocity: Tensor  # mean velocity, two channels: pixels per frame to the right and down
    variance: Tensor  # variance of the velocity, both directions together
    anomaly: Tensor  # mean anomaly probability
    age: Tensor  # frames with motion since the object entered the image, at most 5
    started: Tensor  # 1 once the camera has had a frame


class PlaceState(NamedTuple):
    """What is kept of each place, (N, 1, h, w)."""

    picture: Tensor  # the newest frame, reduced: grey levels
    dwell: Tensor  # how long it has shown something else than the background, see Dwell.cells


class VideoEde(ServingNetwork):
    """uint8 frames (N, 1, H, W, 1), state and profile to score (N,), heat map (N, H / 4, W / 4) and next state.

    The names ``motion`` and ``judge`` are part of the keys of stored weights.
    """

    def __init__(self, config: VideoEdeConfig) -> None:
        super().__init__()
        self.config = config
        self.motion = FlowNet(len(HISTORY), config.first, config.fine, config.coarse)
        self.judge = AnomalyNet(config.fine, config.coarse, config.width, config.latent)
        self.position = nn.Buffer(position_grid(config.grid)[None], persistent=False)

    def forward(self, clips: Tensor, state: Tensor, profile: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        adaptation, values = profile.tensor_split([self.config.adaptation_size], dim=1)
        normal = unpack_profile(values, self.config.grid)
        maps, next_state = self.score_maps(clips, state, normal.background, adaptation)
        heatmap = heat_map(maps, normal)  # (N, h, w)
        return torch.amax(heatmap, dim=(1, 2)), heatmap, next_state

    def score_maps(
        self, clips: Tensor, state: Tensor, background: Background, adaptation: Tensor | None = None
    ) -> tuple[ScoreMaps, Tensor]:
        """The parts of the score before scaling, and the next state (N, 40, h, w) with h = H / 4, w = W / 4.

        ``adaptation``: of each clip's camera, (N, A); None for none.
        """
        frame = clips.float()[:, 0, :, :, 0][:, None]  # (N, 1, H, W)
        # In memory order: gathering the pixels of each cell would take 2 % of all time.
        packed = frame.reshape(-1, _FRAME_CHANNELS, *self.config.grid)  # (N, 16, h, w)
        past, dwell, before = self._unpack_state(packed, state)
        frames = torch.cat([packed, *past], dim=1).reshape(-1, 1 + HISTORY[-1], *frame.shape[2:])  # (N, 3, H, W), newest first
        features = self.motion(stabilise(frames))
        position = self.position.expand(frame.shape[0], -1, -1, -1)
        output = self.judge(normalise_frames(frame), features, position, adaptation)
        distance = resize_to(torch.sigmoid(output.distance), output.anomaly)
        anomaly = (torch.sigmoid(output.anomaly) + distance) / 2.0  # (N, 1, h, w)
        motion = _update(before, features.flow, anomaly)
        picture = reduce_frame(frame)  # (N, 1, h / 2, w / 2)
        shown, light = foreground(picture, background)
        dwell = update_dwell(dwell, shown, background.dwell_step)
        places = PlaceState(_to_cells(picture), dwell.cells())
        return self._window_means(motion, dwell.total(), light), torch.cat([packed, *past[:-1], *places, *motion], dim=1)

    def stages(self, split: Split, progress: ProgressBar) -> Iterator[TrainingStage]:
        networks = TrainableNetworks(self.motion, self.judge, HISTORY, self.config.learning_rate)
        return training_stages(self, networks, split, progress)

    def fine_tuning_stages(self, split: Split, progress: ProgressBar) -> Iterator[TrainingStage]:
        networks = TrainableNetworks(self.motion, self.judge, HISTORY, self.config.learning_rate, pretrained=True)
        return fine_tuning_stages(self, networks, split, progress)

    def adaptation_stage(self, footage: Sequence[Footage], progress: ProgressBar) -> tuple[TrainingStage, Tensor]:
        networks = TrainableNetworks(self.motion, self.judge, HISTORY, self.config.learning_rate, pretrained=True)
        return adaptation_stage(self, networks, footage, progress)

    def fit_scale(self, train: ClipDataset, validation: ClipDataset, fps: float) -> Tensor:
        return self.fit_profile(train, validation, reduced_footage((*train.footage, *validation.footage), fps), None)

    def fit_profile(self, train: ClipDataset, validation: ClipDataset, places: PlaceFootage, adaptation: Tensor | None) -> Tensor:
        config, shape = self.config, self.config.state_shape
        grid = Grid(config.grid, config.window, config.steady_spreads, config.least_anomaly)
        adaptation = torch.zeros(config.adaptation_size) if adaptation is None else adaptation
        usual = learn_places(places, grid)
        pictures, differences = (torch.from_numpy(part)[None] for part in usual.background)
        background = Background(pictures, differences, torch.full((1, 1, 1, 1), usual.dwell_step))

        def score_maps(clips: Tensor, state: Tensor) -> tuple[ScoreMaps, Tensor]:
            own = Background(*(part.expand(len(clips), -1, -1, -1) for part in background))
            return self.score_maps(clips, state, own, adaptation.expand(len(clips), -1))

        first = score_first_frames(score_maps, validation, shape)
        train_maps, validation_maps = (score_footage(score_maps, clips, shape) for clips in (train, validation))
        return torch.cat([adaptation, fit_profile(train_maps, validation_maps, first, usual)])

    def join_profiles(self, profiles: Tensor) -> Tensor:
        median, grid = profiles.quantile(0.5, dim=0), self.config.grid
        # The median of several cameras' pictures is the background of none.
        joined = Normal.from_values(median.numpy(), grid)._replace(background=empty_background(place_grid(grid)))
        return torch.cat([median[: self.config.adaptation_size], torch.from_numpy(joined.values())])

    def _unpack_state(self, packed: Tensor, state: Tensor) -> tuple[list[Tensor], Dwell, MotionState]:
        *frames, places, maps = torch.split(
            state, [_FRAME_CHANNELS] * HISTORY[-1] + [len(PlaceState._fields), sum(_MOTION_CHANNELS)], dim=1
        )
        motion = MotionState(*torch.split(maps, list(_MOTION_CHANNELS), dim=1))
        started = motion.started[:, :, :1, :1] > 0.5  # (N, 1, 1, 1)
        dwell = Dwell.from_cells(places[:, 1:])
        # Frames (N, 16, h, w), the newest first. A camera's first frame is its own past.
        return [torch.where(started, maps, packed) for maps in frames], dwell, motion

    def _window_means(self, motion: MotionState, dwell: Tensor, light: Tensor) -> ScoreMaps:
        observed = (motion.age.amax(dim=(2, 3), keepdim=True) * _MIN_UPDATE).expand_as(motion.age)
        speed = (motion.velocity.square().sum(dim=1, keepdim=True) + _TINY).sqrt()  # (N, 1, h, w)
        spread = (motion.variance + _TINY).sqrt()
        steady = speed - self.config.steady_spreads * spread
        dwelt = _to_cells(window_means(dwell, self.config.window))
        means = window_means(torch.cat([steady, motion.anomaly, observed], dim=1), self.config.window)  # (N, 3, h, w)
        probability = torch.clamp(means[:, 1], self.config.least_anomaly, 1.0 - self.config.least_anomaly)
        log_odds = torch.log(probability) - torch.log(1.0 - probability)
        return ScoreMaps(means[:, 0], log_odds, means[:, 2], dwelt[:, 0], light)


def window_means(maps: Tensor, side: int) -> Tensor:
    """Means of maps (N, C, h, w) over windows.

    Only windows that lie wholly inside the image: at its edge the flow is a guess. The others get the nearest mean.
    """
    before, after = (side - 1) // 2, side // 2
    return nn.functional.pad(nn.functional.avg_pool2d(maps, side, 1), (before, after, before, after), mode="replicate")


def reduce_frame(frame: Tensor) -> Tensor:
    """A frame (N, 1, H, W) reduced to places, (N, 1, H / 8, W / 8)."""
    return nn.functional.avg_pool2d(frame, PLACE_PX)


def _to_cells(maps: Tensor) -> Tensor:
    """Maps of places (N, C, h / 2, w / 2) on the grid of cells, (N, C, h, w)."""
    return nn.functional.interpolate(maps, scale_factor=float(PLACE_CELLS), mode="nearest")


def _update(before: MotionState, flow: Tensor, anomaly: Tensor) -> MotionState:
    """Warp the averages along the flow (N, 2, h, w), in pixels, and update them with the new frame.

    The newest frame has the weight g = max(0.2, 1 / age). What enters the image starts anew, and so does everything in a
    camera's second frame.
    """
    warped, inside = warp(torch.cat(before, dim=1), flow / CELL_PX)  # (N, 6, h, w), (N, 1, h, w)
    velocity, variance, mean_anomaly, age, _ = torch.split(warped, list(_MOTION_CHANNELS), dim=1)
    started = before.started
    age = (inside * age + 1.0) * started  # a camera's first frame has no motion to average: its age stays 0
    gain = torch.clamp(1.0 / torch.clamp(age, min=1.0), min=_MIN_UPDATE)
    change = -flow - velocity  # the flow leads back to where things were
    spread = (1.0 - gain) * (variance + gain * change.square().sum(dim=1, keepdim=True))
    return MotionState(
        velocity=(velocity + gain * change) * started,
        variance=spread + _FIRST_VARIANCE * torch.clamp(2.0 - age, 0.0, 1.0),
        anomaly=mean_anomaly + gain * (anomaly - mean_anomaly),
        age=torch.clamp(age, max=1.0 / _MIN_UPDATE),
        started=torch.ones_like(started),
    )


def position_grid(grid: tuple[int, int]) -> Tensor:
    """The position of each cell in the frame, (2, h, w): -1 to 1 across, then down."""
    down = torch.linspace(-1.0, 1.0, grid[0])[:, None].expand(grid)
    across = torch.linspace(-1.0, 1.0, grid[1]).expand(grid)
    return torch.stack([across, down])


CLIP_MODEL = ClipModel(
    KIND, FRAME_AREA_PX, SIDE_STEP_PX, VideoEdeConfig.model_validate, VideoEde, learns_annotations=True, fine_tunes=True
)
