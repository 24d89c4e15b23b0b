"""Progress bars and messages of training on the screen."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from rich import progress as bars
from rich.console import Console

from deploy.spec import ClipSpec
from trainer.data.annotations import ANOMALY, NORMAL, AnnotatedClip
from trainer.data.clips import Split
from trainer.data.footage import Footage
from trainer.training.loop import LoopSettings, Progress

_PROBLEMS_SHOWN = 5


def make_bar(
    console: Console, name: str, amount: bars.ProgressColumn, *more: bars.ProgressColumn, **options: Any
) -> bars.Progress:
    """A progress bar with the time left; ``amount`` is the column that shows how much is done."""
    columns = (bars.TextColumn(name), bars.BarColumn(), amount, bars.TimeRemainingColumn(), *more)
    return bars.Progress(*columns, console=console, **options)


@contextmanager
def progress_bar(console: Console, name: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar for ``total`` parts of work; yields the function that advances it by a number of parts."""
    with make_bar(console, name, bars.MofNCompleteColumn()) as bar:
        task = bar.add_task(name, total=total or None)  # without a total the bar pulses
        yield partial(bar.advance, task)


def print_unreadable_frames(console: Console, footage: Footage) -> None:
    """Name the first unreadable frames of a clip, if there are any."""
    if not footage.problems:
        return
    console.print(f"{footage.name}: {len(footage.problems)} of {footage.total} frames unreadable, skipped:")
    for problem in footage.problems[:_PROBLEMS_SHOWN]:
        console.print(f"  {problem}", markup=False, highlight=False)


def print_split(console: Console, split: Split, spec: ClipSpec) -> None:
    """Print the sizes of the training and held-out footage, and the shape of clips."""
    train, held_out, set_aside = (
        sum(len(video.frames) for video in part) for part in (split.train, split.validation, split.holdout)
    )
    names = ", ".join(video.name for video in split.validation)
    console.print(
        f"{train} frames of {len(split.train)} videos to train on, {held_out} held out ({names})"
        f"{f', the last {set_aside} set aside' if set_aside else ''}; "
        f"clips of {spec.length} frames, {spec.width_px} x {spec.height_px}, {spec.colour}",
        highlight=False,
    )


def print_feedback(console: Console, annotated: Sequence[AnnotatedClip]) -> None:
    """Print how much operators annotated, if anything."""
    if not annotated:
        return
    parts = []
    for kind in (ANOMALY, NORMAL):
        clips = [clip for clip in annotated if clip.anomalous is (kind == ANOMALY)]
        frames = sum(clip.last - clip.first + 1 for clip in clips)
        parts.append(f"{len(clips)} stretches of {frames} frames marked {kind}")
    console.print(f"feedback: {', '.join(parts)}", highlight=False)


def print_stopped(console: Console, settings: LoopSettings, progress: Progress) -> None:
    """Print why training ended, and which weights are kept."""
    if settings.patience is None:  # the learning rate decays to nothing, and the last weights are kept
        console.print(f"{progress.step} steps")
        return
    if progress.stale_validations >= settings.patience:
        console.print(f"stopped early: no smaller loss of held-out footage in {progress.stale_validations} validations")
    if progress.best_step:
        console.print(
            f"{progress.step} steps; the weights of step {progress.best_step} are kept, where held-out footage had the "
            f"smallest loss ({progress.best_loss:.4g})"
        )
