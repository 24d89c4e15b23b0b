"""What training says on the screen."""

from pathlib import Path
from types import TracebackType
from typing import Self

from rich import progress as bars
from rich.console import Console

from deploy.spec import ClipSpec
from trainer.checkpoint import Progress
from trainer.config import FitConfig
from trainer.data import Split
from trainer.footage import Footage

_PROBLEMS_SHOWN = 5


class TrainingBar:
    """A bar from 0 to the end of the time or step budget, whichever is nearer, with the losses of the last step."""

    def __init__(self, console: Console, config: FitConfig, progress: Progress) -> None:
        self._config = config
        self._bar = bars.Progress(
            bars.TextColumn("training"),
            bars.BarColumn(),
            bars.TaskProgressColumn(),
            bars.TimeRemainingColumn(),
            bars.TextColumn("{task.fields[losses]}"),
            console=console,
        )
        self._task = self._bar.add_task("training", total=1.0, losses="")
        self._bar.update(self._task, completed=self._share(progress))

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.stop()

    def show(self, progress: Progress, losses: dict[str, float]) -> None:
        """Move the bar on."""
        text = " ".join(f"{name[:3]} {value:.4f}" for name, value in losses.items())
        self._bar.update(self._task, completed=self._share(progress), losses=f"step {progress.step} {text}")

    def _share(self, progress: Progress) -> float:
        by_time = progress.elapsed_s / (self._config.max_minutes * 60)
        by_step = progress.step / self._config.max_steps if self._config.max_steps else 0.0
        return min(1.0, max(by_time, by_step))


def tell_footage(console: Console, footage: Footage) -> None:
    """Name unreadable frames; silent about clips that are whole."""
    if not footage.problems:
        return
    console.print(f"{footage.name}: {len(footage.problems)} of {footage.total} frames unreadable, skipped:")
    for problem in footage.problems[:_PROBLEMS_SHOWN]:
        console.print(f"  {problem}", markup=False, highlight=False)


def tell_split(console: Console, split: Split, spec: ClipSpec) -> None:
    """Say what is learned from and what is held out."""
    fit, held_out = (sum(len(video.frames) for video in part) for part in (split.fit, split.held_out))
    names = ", ".join(video.name for video in split.held_out)
    console.print(
        f"{fit} frames of {len(split.fit)} videos to learn from, {held_out} held out ({names}); "
        f"clips of {spec.length} frames, {spec.width_px} x {spec.height_px}, {spec.colour}",
        highlight=False,
    )


def tell_resumed(console: Console, folder: Path, progress: Progress | None) -> None:
    """Say whether a checkpoint was gone on from."""
    if progress is not None:
        console.print(f"going on from step {progress.step} after {progress.elapsed_s:.0f} s (checkpoint in {folder})")
    else:
        console.print(f"checkpoints go to {folder}; after an interruption the same command goes on from there")
