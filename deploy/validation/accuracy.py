"""May a decoder be put to work? Scores of golden frames decoded by it against scores of the same frames decoded on the CPU.

Decoders round differently, so pixels differ by a grey level or two. What counts is what that does to the scores.

May an engine be put to work? Its scores of the golden sequences against the reference's. Pure, but for the scoring.

Float32 engines must give the reference's very scores. An engine of another precision gives others, so its errors are judged by
what they do: whether frames keep their order (Spearman's rank correlation), and whether unusual frames are told from ordinary
ones as well as before (AUC). Never by pixels: a heat map may be off where nothing is decided.
"""

from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from deploy.bundle import SEQUENCES_NAME, Bundle
from deploy.decoders.registry import CpuDecoder
from deploy.engine import Engine, Precision
from deploy.errors import BadFrame, DecoderRefused
from deploy.golden import Sequences, read_sequences, score_sequences
from deploy.image import AnyFrame, DeviceFrame, Frame, PictureDecoder, encode_jpeg
from deploy.records import AccuracyResult

MIN_FRAMES = 20
"""Fewer scores have no order to speak of."""


class Limits(NamedTuple):
    """What an engine's scores may differ by; None: no limit."""

    max_error: float | None
    least_spearman: float
    max_auc_difference: float
    max_median_error: float | None = None


LIMITS: Final[Mapping[Precision, Limits]] = {
    # Frame by frame float32 is held to 1e-4, see deploy.validation.parity; here an engine goes on from its own states.
    "f32": Limits(max_error=1e-3, least_spearman=0.9999, max_auc_difference=1e-4),
    "bf16": Limits(max_error=None, least_spearman=0.995, max_auc_difference=3e-3),
    "f16": Limits(max_error=None, least_spearman=0.995, max_auc_difference=5e-4, max_median_error=1e-3),
    "int8": Limits(max_error=None, least_spearman=0.995, max_auc_difference=3e-3),
}


def measure_accuracy(engine: Engine, precision: Precision, sequences: Sequences) -> AccuracyResult:
    """Score the golden sequences with ``engine``, in each of its buckets, and judge the scores by the limits of its precision.

    Raises:
        EngineFailed: the backend failed, or gave something that is no score.
    """
    if not engine.buckets:
        return judge(precision, score_sequences(engine, sequences.frames), sequences)
    gates = [gate for bucket in engine.buckets for gate in _gates_of_bucket(engine, precision, sequences, bucket)]
    worst = max(gates, key=lambda gate: (len(gate.failures), gate.max_error))
    return worst.model_copy(update={"buckets": engine.buckets})


def _gates_of_bucket(engine: Engine, precision: Precision, sequences: Sequences, bucket: int) -> Iterator[AccuracyResult]:
    """The sequences over and over until a bucket is full, or one after the other where it holds fewer."""
    count = len(sequences.frames)
    rows = np.arange(-(-max(bucket, count) // bucket) * bucket) % count
    found = np.concatenate(
        [score_sequences(engine, sequences.frames[rows[begin : begin + bucket]]) for begin in range(0, len(rows), bucket)]
    )
    for begin in range(0, len(rows) - count + 1, count):
        yield judge(precision, found[begin : begin + count], sequences)


def judge(precision: Precision, found: NDArray[np.float32], sequences: Sequences) -> AccuracyResult:
    """The verdict on scores float32 (S, F)."""
    scored = np.isfinite(sequences.score)
    expected, scores, hurried = sequences.score[scored], found[scored], sequences.hurried[scored]
    if len(expected) < MIN_FRAMES:
        failure = f"the bundle's golden sequences have {len(expected)} scores, at least {MIN_FRAMES} are needed"
        return AccuracyResult(
            frames=len(expected), max_error=0, median_error=0, spearman=0, auc_difference=0, failures=(failure,)
        )
    errors = np.abs(scores - expected) / max(float(np.abs(expected).max()), float(np.finfo(np.float32).tiny))
    measured = AccuracyResult(
        frames=len(expected),
        max_error=float(errors.max()),
        median_error=float(np.median(errors)),
        spearman=_spearman(expected, scores),
        auc_difference=abs(_auc(expected, hurried) - _auc(scores, hurried)),
        score_scale=_slope(expected, scores),
        failures=(),
    )
    return measured.model_copy(update={"failures": tuple(_failures(measured, LIMITS[precision]))})


def _failures(gate: AccuracyResult, limits: Limits) -> Iterator[str]:
    if limits.max_error is not None and not gate.max_error <= limits.max_error:
        yield f"the largest error is {gate.max_error:.2g}, at most {limits.max_error:g} is accepted"
    if limits.max_median_error is not None and not gate.median_error <= limits.max_median_error:
        yield f"the median error is {gate.median_error:.2g}, at most {limits.max_median_error:g} is accepted"
    if not gate.spearman >= limits.least_spearman:
        yield f"the rank correlation is {gate.spearman:.4f}, at least {limits.least_spearman:g} is accepted"
    if not gate.auc_difference <= limits.max_auc_difference:
        yield f"the AUC differs by {gate.auc_difference:.4f}, at most {limits.max_auc_difference:g} is accepted"


def _spearman(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    """Pearson's correlation of the ranks; scores of frames are hardly ever equal, so ties need no care."""
    if not (np.ptp(first) and np.ptp(second)):
        return 0.0
    return float(np.corrcoef(_ranks(first), _ranks(second))[0, 1])


def _slope(expected: NDArray[np.float32], scores: NDArray[np.float32]) -> float:
    squares = float(np.dot(expected.astype(np.float64), expected))
    return float(np.dot(expected.astype(np.float64), scores)) / squares if squares else 1.0


def _auc(scores: NDArray[np.float32], labels: NDArray[np.bool_]) -> float:
    """Mann and Whitney's statistic: how often a labelled frame's score is above another's."""
    labelled = int(labels.sum())
    below = _ranks(scores)[labels].sum() - labelled * (labelled - 1) / 2
    return float(below / max(1, labelled * (len(labels) - labelled)))


def _ranks(values: NDArray[np.float32]) -> NDArray[np.int64]:
    ranks = np.empty(len(values), np.int64)
    ranks[np.argsort(values, kind="stable")] = np.arange(len(values))
    return ranks


SCORE_TOLERANCE = 0.01
"""Largest difference of a score, by the largest score of all. Measured on the shipped model: one grey level off in 30 % of the
pixels 0.004, JPEG of quality 90 itself 0.005; but four grey levels off everywhere 0.011, eight 0.022, video's range of 16 to 235
taken for 0 to 255 0.034, pictures of 2.5 times the size fitted in another way 0.035 to 0.09."""

_QUALITY = 90
_ENLARGED = (1, 3)
"""Frames as they are, and with every pixel three times as wide and high: the CPU decodes such a JPEG at reduced size."""


def check_decoder(decoder: PictureDecoder[AnyFrame], engine: Engine, bundle: Bundle) -> float:
    """Score the bundle's golden frames as ``decoder`` and as the CPU decodes them; gives the largest difference found.

    Raises:
        DecoderRefused: there are no golden frames, it leaves ordinary JPEGs to another decoder, or its scores differ.
        DecoderFailed, EngineFailed: it cannot be tried.
    """
    if SEQUENCES_NAME not in bundle.manifest.files:
        raise DecoderRefused(
            f"{bundle.path}: holds no golden sequences to try the {decoder.name} decoder on; make the bundle again with "
            "oddsight-train, or set decode.backend to cpu"
        )
    frames = read_sequences(bundle).frames
    error = float(np.max([_error(decoder, engine, frames, times) for times in _ENLARGED]))
    if not error <= SCORE_TOLERANCE:
        raise DecoderRefused(
            f"{decoder.name}: scores differ from those of frames decoded on the CPU by up to {error:.2g} of the largest score; "
            f"at most {SCORE_TOLERANCE:g} is accepted; set decode.backend to cpu"
        )
    return error


def _error(decoder: PictureDecoder[AnyFrame], engine: Engine, frames: NDArray[np.uint8], times: int) -> float:
    pictures = [encode_jpeg(frame.repeat(times, axis=0).repeat(times, axis=1), _QUALITY) for row in frames for frame in row]
    cpu = CpuDecoder(engine.spec, threads=1)
    try:
        expected = _scores(engine, _decoded(cpu, pictures), frames.shape)
    finally:
        cpu.close()
    found = _scores(engine, _decoded(decoder, pictures), frames.shape)
    scored = np.isfinite(expected)
    largest = max(float(np.abs(expected[scored]).max()), float(np.finfo(np.float32).tiny))
    return float(np.abs(found - expected)[scored].max()) / largest


def _decoded(decoder: PictureDecoder[AnyFrame], pictures: list[bytes]) -> Iterator[Frame]:
    for result in decoder.decode(pictures):
        if isinstance(result, BadFrame) or result.decoder != decoder.name:
            said = f"refuses it: {result}" if isinstance(result, BadFrame) else f"leaves it to {result.decoder}"
            raise DecoderRefused(f"{decoder.name}: an ordinary JPEG, and it {said}; set decode.backend to cpu")
        yield result.frame.on_host() if isinstance(result.frame, DeviceFrame) else result.frame


def _scores(engine: Engine, frames: Iterator[Frame], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """float32 (S, F) of frames that belong to sequences of ``shape`` (S, F, H, W, C)."""
    sequences = np.stack(list(frames)).reshape(shape)
    parts = [sequences[first : first + engine.max_clips] for first in range(0, len(sequences), engine.max_clips)]
    return np.concatenate([score_sequences(engine, part) for part in parts])
