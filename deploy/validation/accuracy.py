"""Accuracy checks on what a bundle holds for them: of an engine against the reference, and of a decoder against the CPU's.

A float32 engine must give the scores, heat maps and states that the reference gave on the golden clips (parity). Engines of
another precision give other scores, so their errors on the golden sequences are judged by the effect on decisions: whether frames
keep their order (Spearman's rank correlation), and whether unusual frames are told from ordinary ones as well as before (AUC).
Their heat maps are not compared: they may differ where nothing is decided. Decoders round differently, by a grey level or two;
what counts is the effect on the scores.
"""

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from deploy.bundle import SEQUENCES_NAME, Bundle, GoldenClips
from deploy.engine import CachingEngine, Engine, Precision, Scores, State, upload_history
from deploy.errors import BadFrame, DecoderRefused, EngineFailed
from deploy.image import CpuDecoder, DeviceFrame, Frame, ImageDecoder, encode_jpeg
from deploy.records import AccuracyResult
from deploy.sequences import GoldenSequences, read_sequences, score_sequences

F32_TOLERANCE = 1e-4
"""Separates float32 from other precisions. Measured on an encoder-decoder-encoder of 0.2 M parameters as the larger of score and
heat map error: order of additions 6e-7, float16 1e-3, bfloat16 1e-2."""


@dataclass(frozen=True, slots=True)
class Parity:
    """Deviation of an engine's results on the golden clips from the reference's."""

    clips: int
    max_score_error: float
    """Relative to the largest value of the reference's scores and heat maps, since all golden scores may be small by chance."""
    median_score_error: float
    max_heatmap_error: float  # relative to the largest value of the reference's heat maps
    max_state_error: float | None
    """Of the next states, each channel relative to its own largest value: channels have different units. None without a state."""


def measure_parity(engine: Engine, golden: GoldenClips) -> Parity:
    """Score the golden clips with ``engine`` and compare the results with the reference's.

    Raises EngineFailed if there are no golden clips, or heat maps or states have another shape than the reference's.
    """
    if not len(golden.clips):
        raise EngineFailed("the bundle holds no golden clips to try an engine on; make it again with oddsight-train")
    scores = _score_all(engine, golden)
    if scores.heatmap.shape != golden.heatmap.shape:
        raise EngineFailed(f"{engine.name}: heat maps {scores.heatmap.shape}, the reference's are {golden.heatmap.shape}")
    actual, expected = (None if state is None else state.shape for state in (scores.state, golden.next_state))
    if actual != expected:
        raise EngineFailed(f"{engine.name}: states {actual}, the reference's are {expected}")
    score_error = np.abs(scores.score - golden.score) / _largest(golden.score, golden.heatmap)
    return Parity(
        clips=len(golden.clips),
        max_score_error=float(score_error.max()),
        median_score_error=float(np.median(score_error)),
        max_heatmap_error=_max_error(scores.heatmap, golden.heatmap),
        max_state_error=_state_error(scores.state, golden.next_state),
    )


def check_parity(engine: Engine, golden: GoldenClips, tolerance: float = F32_TOLERANCE) -> Parity:
    """Measure parity. Raises EngineFailed if the largest error is above ``tolerance``, and as :func:`measure_parity` does."""
    parity = measure_parity(engine, golden)
    state_error = parity.max_state_error or 0.0
    # If one error is NaN, so is NumPy's maximum; Python's depends on their order.
    if not np.max([parity.max_score_error, parity.max_heatmap_error, state_error]) <= tolerance:
        raise EngineFailed(
            f"{engine.name}: scores differ from the reference's by up to {parity.max_score_error:.2g}, heat maps by up to "
            f"{parity.max_heatmap_error:.2g}, states by up to {state_error:.2g} (relative); at most {tolerance:g} is accepted; "
            "use another engine"
        )
    return parity


def check_resident(engine: CachingEngine, golden: GoldenClips, tolerance: float = F32_TOLERANCE) -> None:
    """Refuse an engine that gives other scores from cached frames and states than from whole clips.

    The golden clips are scored both ways, and once more as if each camera had sent its newest frame again.
    Raises EngineFailed if scores differ by more than ``tolerance``, relative to the largest.
    """
    clips = golden.clips[: min(engine.max_clips, engine.gpu_cached_cameras)]
    again = np.concatenate([clips[:, 1:], clips[:, -1:]], axis=1)
    before = upload_history(engine, clips)
    whole = engine.score(clips)
    newest = engine.score_newest(clips[:, -1], before, [None] * len(clips))
    following = [[*frames, last][1:] for frames, last in zip(before, newest.frames, strict=True)]
    pairs = [(whole, newest), (engine.score(again, whole.state), engine.score_newest(clips[:, -1], following, newest.states))]
    error = float(np.max([_max_error(cached.score, expected.score) for expected, cached in pairs]))
    if not error <= tolerance:
        raise EngineFailed(
            f"{engine.name}: scores from frames that stay on the device differ from those of whole clips by up to {error:.2g} "
            f"(relative); at most {tolerance:g} is accepted; set engine.gpu_cached_cameras to 0"
        )


def _score_all(engine: Engine, golden: GoldenClips) -> Scores:
    def part_of(values: Any, batch: slice) -> Any:
        return None if values is None else values[batch]

    batches = [slice(first, first + engine.max_clips) for first in range(0, len(golden.clips), engine.max_clips)]
    parts = [engine.score(golden.clips[batch], part_of(golden.state, batch), part_of(golden.profile, batch)) for batch in batches]
    states = [part.state for part in parts if part.state is not None]
    return Scores(
        score=np.concatenate([part.score for part in parts]),
        heatmap=np.concatenate([part.heatmap for part in parts]),
        state=np.concatenate(states) if states else None,
    )


def _state_error(actual: State | None, expected: State | None) -> float | None:
    if actual is None or expected is None:
        return None
    # A channel that the reference leaves at zero is measured by the rounding of the others.
    floor = float(np.finfo(np.float32).eps) * _largest(expected)
    return float(np.max([_max_error(actual[:, n], expected[:, n], floor) for n in range(expected.shape[1])]))


def _max_error(actual: NDArray[np.float32], expected: NDArray[np.float32], floor: float = 0.0) -> float:
    """Largest difference, relative to the largest expected value or ``floor``."""
    return float(np.abs(actual - expected).max()) / max(_largest(expected), floor)


def _largest(*arrays: NDArray[np.float32]) -> float:
    return max(*(float(np.abs(values).max()) for values in arrays), float(np.finfo(np.float32).tiny))


MIN_FRAMES = 20  # least number of scores for a meaningful rank correlation


class AccuracyLimits(NamedTuple):
    """Largest accepted deviations of an engine's scores; None: no limit."""

    max_error: float | None
    least_spearman: float
    max_auc_difference: float
    max_median_error: float | None = None


ACCURACY_LIMITS: Final[Mapping[Precision, AccuracyLimits]] = {
    # On single clips float32 is held to F32_TOLERANCE; here errors accumulate in the engine's own states.
    "f32": AccuracyLimits(max_error=1e-3, least_spearman=0.9999, max_auc_difference=1e-4),
    "bf16": AccuracyLimits(max_error=None, least_spearman=0.995, max_auc_difference=3e-3),
    "f16": AccuracyLimits(max_error=None, least_spearman=0.995, max_auc_difference=5e-4, max_median_error=1e-3),
    "int8": AccuracyLimits(max_error=None, least_spearman=0.995, max_auc_difference=3e-3),
}

DECODER_TOLERANCE = 0.01
"""Largest accepted difference of a score, relative to the largest score. Measured on the shipped model: one grey level off in
30 % of the pixels 0.004, JPEG of quality 90 itself 0.005; but four grey levels off everywhere 0.011, eight 0.022, video's range
of 16 to 235 taken for 0 to 255 0.034, pictures of 2.5 times the size resized in another way 0.035 to 0.09."""
_JPEG_QUALITY = 90
_ENLARGED = (1, 3)
"""Frames as they are, and with every pixel three times as wide and high: the CPU decodes such a JPEG at reduced size."""


def measure_accuracy(engine: Engine, precision: Precision, sequences: GoldenSequences) -> AccuracyResult:
    """The worst result of ``engine`` on the golden sequences in any of its buckets. Raises EngineFailed if scoring fails."""
    if not engine.buckets:
        return compare_scores(precision, score_sequences(engine, sequences.frames), sequences)
    results = [result for bucket in engine.buckets for result in _bucket_results(engine, precision, sequences, bucket)]
    worst = max(results, key=lambda result: (len(result.failures), result.max_error))
    return worst.model_copy(update={"buckets": engine.buckets})


def compare_scores(precision: Precision, scores: NDArray[np.float32], sequences: GoldenSequences) -> AccuracyResult:
    """Compare scores float32 (S, F) with the reference's, by the limits of ``precision``."""
    scored = np.isfinite(sequences.score)
    expected, actual = sequences.score[scored], scores[scored]
    if (frames := len(expected)) < MIN_FRAMES:
        failure = f"the bundle's golden sequences have {frames} scores, at least {MIN_FRAMES} are needed"
        return AccuracyResult(frames=frames, max_error=0, median_error=0, spearman=0, auc_difference=0, failures=(failure,))
    errors = np.abs(actual - expected) / max(float(np.abs(expected).max()), float(np.finfo(np.float32).tiny))
    result = AccuracyResult(
        frames=frames,
        max_error=float(errors.max()),
        median_error=float(np.median(errors)),
        # Ties are not averaged, since scores of frames are hardly ever equal.
        spearman=float(np.corrcoef(_ranks(expected), _ranks(actual))[0, 1]) if np.ptp(expected) and np.ptp(actual) else 0.0,
        auc_difference=_auc_difference(scores, sequences),
        score_scale=_slope(expected, actual),
        failures=(),
    )
    return result.model_copy(update={"failures": tuple(_failures(result, ACCURACY_LIMITS[precision]))})


def check_decoder(decoder: ImageDecoder, engine: Engine, bundle: Bundle) -> float:
    """Compare the scores of golden frames decoded by ``decoder`` and on the CPU; returns the largest relative difference.

    Raises:
        DecoderRefused: there are no golden frames, it leaves ordinary JPEGs to another decoder, or scores differ.
        DecoderFailed, EngineFailed: decoding or scoring failed.
    """
    if SEQUENCES_NAME not in bundle.manifest.files:
        raise DecoderRefused(
            f"{bundle.path}: holds no golden sequences to try the {decoder.name} decoder on; make the bundle again with "
            "oddsight-train, or set decode.backend to cpu"
        )
    frames = read_sequences(bundle).frames
    error = float(np.max([_decoder_error(decoder, engine, frames, times) for times in _ENLARGED]))
    if not error <= DECODER_TOLERANCE:
        raise DecoderRefused(
            f"{decoder.name}: scores differ from those of frames decoded on the CPU by up to {error:.2g} of the largest score; "
            f"at most {DECODER_TOLERANCE:g} is accepted; set decode.backend to cpu"
        )
    return error


def _bucket_results(engine: Engine, precision: Precision, sequences: GoldenSequences, bucket: int) -> Iterator[AccuracyResult]:
    """Repeat the sequences to fill a large bucket; split them where the bucket holds fewer."""
    count = len(sequences.frames)
    rows = np.arange(-(-max(bucket, count) // bucket) * bucket) % count
    scores = np.concatenate(
        [score_sequences(engine, sequences.frames[rows[begin : begin + bucket]]) for begin in range(0, len(rows), bucket)]
    )
    for begin in range(0, len(rows) - count + 1, count):
        yield compare_scores(precision, scores[begin : begin + count], sequences)


def _failures(result: AccuracyResult, limits: AccuracyLimits) -> Iterator[str]:
    if limits.max_error is not None and not result.max_error <= limits.max_error:
        yield f"the largest error is {result.max_error:.2g}, at most {limits.max_error:g} is accepted"
    if limits.max_median_error is not None and not result.median_error <= limits.max_median_error:
        yield f"the median error is {result.median_error:.2g}, at most {limits.max_median_error:g} is accepted"
    if not result.spearman >= limits.least_spearman:
        yield f"the rank correlation is {result.spearman:.4f}, at least {limits.least_spearman:g} is accepted"
    if not result.auc_difference <= limits.max_auc_difference:
        yield f"the AUC differs by {result.auc_difference:.4f}, at most {limits.max_auc_difference:g} is accepted"


def _slope(expected: NDArray[np.float32], scores: NDArray[np.float32]) -> float:
    """Least squares through zero, so that large scores decide."""
    squares = float(np.dot(expected.astype(np.float64), expected))
    return float(np.dot(expected.astype(np.float64), scores)) / squares if squares else 1.0


def _auc_difference(scores: NDArray[np.float32], sequences: GoldenSequences) -> float:
    """By how much the AUC of a sequence changes, on average.

    A sequence is of one camera, and a threshold holds for one camera: frames of different ones are not told apart by it.
    """
    rows = zip(np.isfinite(sequences.score), sequences.score, scores, sequences.sped_up, strict=True)
    aucs = [[_auc(values[scored], marks[scored]) for values in (old, new)] for scored, old, new, marks in rows]
    return float(np.abs(np.diff(aucs)).mean())


def _auc(scores: NDArray[np.float32], labels: NDArray[np.bool_]) -> float:
    """Mann-Whitney statistic: how often a labelled frame scores above another."""
    labelled = int(labels.sum())
    below = _ranks(scores)[labels].sum() - labelled * (labelled - 1) / 2
    return float(below / max(1, labelled * (len(labels) - labelled)))


def _ranks(values: NDArray[np.float32]) -> NDArray[np.int64]:
    ranks = np.empty(len(values), np.int64)
    ranks[np.argsort(values, kind="stable")] = np.arange(len(values))
    return ranks


def _decoder_error(decoder: ImageDecoder, engine: Engine, frames: NDArray[np.uint8], times: int) -> float:
    pictures = [encode_jpeg(frame.repeat(times, 0).repeat(times, 1), _JPEG_QUALITY) for row in frames for frame in row]
    with closing(CpuDecoder(engine.spec, threads=1)) as cpu:
        expected = _scores(engine, _decoded(cpu, pictures), frames.shape)
    actual = _scores(engine, _decoded(decoder, pictures), frames.shape)
    scored = np.isfinite(expected)
    largest = max(float(np.abs(expected[scored]).max()), float(np.finfo(np.float32).tiny))
    return float(np.abs(actual - expected)[scored].max()) / largest


def _decoded(decoder: ImageDecoder, pictures: list[bytes]) -> Iterator[Frame]:
    for result in decoder.decode(pictures):
        if isinstance(result, BadFrame) or result.decoder != decoder.name:
            reason = f"refuses it: {result}" if isinstance(result, BadFrame) else f"leaves it to {result.decoder}"
            raise DecoderRefused(f"{decoder.name}: an ordinary JPEG, and it {reason}; set decode.backend to cpu")
        yield result.frame.on_host() if isinstance(result.frame, DeviceFrame) else result.frame


def _scores(engine: Engine, frames: Iterator[Frame], shape: tuple[int, ...]) -> NDArray[np.float32]:
    sequences = np.stack(list(frames)).reshape(shape)
    parts = [sequences[first : first + engine.max_clips] for first in range(0, len(sequences), engine.max_clips)]
    return np.concatenate([score_sequences(engine, part) for part in parts])
