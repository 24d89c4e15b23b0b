"""Charts as PNG pictures. No text from disk enters them: matplotlib would read a ``$`` in a clip's name as a formula."""

from collections.abc import Sequence
from io import BytesIO

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from deploy.bundle import Calibration
from trainer.events import ClipEvents
from trainer.metrics import Roc

Curve = tuple[str, Roc]
"""What a curve is called, and its points."""

_DPI = 110
_MODEL_COLOUR = "#1f5fbf"
_BASELINE_COLOURS = ("#8a8a8a", "#c08a2a", "#2a8a5a")
_TRUTH_COLOUR = "#d9534f"
_MARGIN = 0.06


def roc_chart(curves: Sequence[Curve]) -> bytes:
    """ROC curves, the model's first."""
    figure, axes = _figure(5.6, 5.0)
    colours = (_MODEL_COLOUR, *_BASELINE_COLOURS)
    for number, (name, roc) in enumerate(curves):
        width = 2.2 if number == 0 else 1.2
        axes.plot(roc.false_alarm_rate, roc.hit_rate, label=name, color=colours[number % len(colours)], linewidth=width)
    axes.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=0.8, linestyle=":", label="guessing")
    axes.set(xlabel="normal frames above the threshold", ylabel="anomalous frames above the threshold", aspect="equal")
    axes.legend(loc="lower right", frameon=False)
    return _png(figure)


def timeline(
    scores: NDArray[np.float32], events: ClipEvents, calibration: Calibration, fps: float, span: tuple[float, float]
) -> bytes:
    """One clip's scores, float32 (frames,), over time; ``span``: lowest and highest score shown, the same for all clips."""
    figure, axes = _figure(8.4, 1.9)
    seconds = np.arange(len(scores)) / fps
    for first, last in events.true:
        axes.axvspan(first / fps, (last + 1) / fps, color=_TRUTH_COLOUR, alpha=0.18, linewidth=0)
    axes.axhline(calibration.enter, color="#444444", linewidth=1.0, linestyle="--")
    axes.plot(seconds, scores, color=_MODEL_COLOUR, linewidth=1.3)
    low, high = span
    margin = (high - low) * _MARGIN or 1.0
    for event in events.announced:
        axes.plot([event.started / fps, (event.ended + 1) / fps], [high + margin] * 2, color="black", linewidth=3.0)
        axes.plot([event.announced / fps], [high + margin], marker="v", color="black", markersize=8)
    axes.set(xlim=(0, len(scores) / fps), ylim=(low - margin, high + 3 * margin), xlabel="seconds", ylabel="score")
    return _png(figure)


def _figure(width_inches: float, height_inches: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width_inches, height_inches), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _png(figure: Figure) -> bytes:
    buffer = BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
