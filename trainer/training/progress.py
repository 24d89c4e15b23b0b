"""What training says on the screen."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from rich import progress as bars
from rich.console import Console

from deploy.spec import ClipSpec
from trainer.data.annotations import ANOMALY, NORMAL, AnnotatedClip
from trainer.data.clips import Split
from trainer.data.footage import Footage
from trainer.training.loop import LoopSettings, Progress, share_done

_PROBLEMS_SHOWN = 5


class TrainingBar:
    """A bar from 0 to the end of the time or step budget, whichever is nearer, with time left and the losses of the last step."""

    def __init__(self, console: Console, settings: LoopSettings, name: str) -> None:
        self._settings = settings
        self._bar = bars.Progress(
            bars.TextColumn(name),
            bars.BarColumn(),
            bars.TaskProgressColumn(),
            bars.TimeRemainingColumn(),
            bars.TextColumn("{task.fields[losses]}"),
            console=console,
        )
        self._task = self._bar.add_task(name, total=1.0, losses="")

    def start(self, progress: Progress) -> None:
        """Show the bar, at where the run stands."""
        self._bar.update(self._task, completed=share_done(self._settings, progress))
        self._bar.start()

    def show(self, progress: Progress, losses: Mapping[str, float]) -> None:
        """Move the bar on."""
        text = " ".join(f"{name[:3]} {value:.4f}" for name, value in losses.items())
        self._bar.update(self._task, completed=share_done(self._settings, progress), losses=f"step {progress.step} {text}")

    def stop(self) -> None:
        """Leave the bar as it is."""
        self._bar.stop()


@contextmanager
def progress_bar(console: Console, what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar with the time left, for work of ``total`` parts; gives what moves it on by so many."""
    # An unknown total shows as a bar that runs to and fro.
    with bars.Progress(
        bars.TextColumn(what), bars.BarColumn(), bars.MofNCompleteColumn(), bars.TimeRemainingColumn(), console=console
    ) as bar:
        task = bar.add_task(what, total=total or None)
        yield partial(bar.advance, task)


def print_unreadable_frames(console: Console, footage: Footage) -> None:
    """Name unreadable frames; silent about clips that are whole."""
    if not footage.problems:
        return
    console.print(f"{footage.name}: {len(footage.problems)} of {footage.total} frames unreadable, skipped:")
    for problem in footage.problems[:_PROBLEMS_SHOWN]:
        console.print(f"  {problem}", markup=False, highlight=False)


def print_unreadable_total(console: Console, footage: list[Footage]) -> int:
    """Count the frames that were skipped over all clips; silent where there are none."""
    count = sum(len(clip.problems) for clip in footage)
    if count:
        console.print(f"{count} unreadable frames skipped in all; the bundle's metrics say so, too")
    return count


def print_split(console: Console, split: Split, spec: ClipSpec) -> None:
    """Say what is learned from and what is held out."""
    fit, held_out = (sum(len(video.frames) for video in part) for part in (split.train, split.validation))
    names = ", ".join(video.name for video in split.validation)
    console.print(
        f"{fit} frames of {len(split.train)} videos to learn from, {held_out} held out ({names}){_aside(split)}; "
        f"clips of {spec.length} frames, {spec.width_px} x {spec.height_px}, {spec.colour}",
        highlight=False,
    )


def print_feedback(console: Console, marked: Sequence[AnnotatedClip]) -> None:
    """Say what operators marked; silent where they marked nothing."""
    if not marked:
        return
    kinds = {kind: [mark for mark in marked if mark.anomalous is (kind == ANOMALY)] for kind in (ANOMALY, NORMAL)}
    said = ", ".join(
        f"{len(marks)} stretches of {sum(mark.last - mark.first + 1 for mark in marks)} frames marked {kind}"
        for kind, marks in kinds.items()
    )
    console.print(f"feedback: {said}", highlight=False)


def _aside(split: Split) -> str:
    frames = sum(len(video.frames) for video in split.holdout)
    return f", the last {frames} set aside" if frames else ""


def print_resumed(console: Console, folder: Path, progress: Progress | None) -> None:
    """Say whether a checkpoint was gone on from."""
    if progress is not None:
        console.print(f"going on from step {progress.step} after {progress.elapsed_s:.0f} s (checkpoint in {folder})")
    else:
        console.print(f"checkpoints go to {folder}; after an interruption the same command goes on from there")


def print_stopped(console: Console, settings: LoopSettings, progress: Progress) -> None:
    """Say why training ended, and which weights are kept."""
    if settings.patience is None:  # whose rate falls to nothing: the last weights are the ones to keep
        console.print(f"{progress.step} steps")
        return
    if progress.stale >= settings.patience:
        console.print(f"stopped early: no smaller loss of held-out footage in {progress.stale} validations")
    if progress.best_step:
        console.print(
            f"{progress.step} steps; the weights of step {progress.best_step} are kept, where held-out footage had the "
            f"smallest loss ({progress.best_loss:.4g})"
        )
