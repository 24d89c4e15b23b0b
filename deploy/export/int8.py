"""Quantize convolutions of the serving graph to 8 bits, by explicit Q/DQ pairs. Needs ``oddsight[train]``.

Maps are quantized symmetrically with one scale, weights with one scale a channel. Other readers of the same maps keep them in
float32: a score is a small difference of large values.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.bundle import ONNX_NAME, Bundle
from deploy.engine import EngineRequest
from deploy.engines.onnxruntime import OnnxEngine
from deploy.errors import EngineRefused
from deploy.records import AccuracyResult
from deploy.sequences import CalibrationFrames, GoldenSequences, run_sequences, score_sequences
from deploy.validation.accuracy import ACCURACY_LIMITS, MIN_FRAMES, compare_scores

_SPEARMAN_SHARE = 0.1
"""Share of the accuracy check's limit that calibration frames may use: with the shipped model, up to twelve times as much rank
correlation was lost on other footage, see ``docs/engines.md``."""
_AUC_SHARE = 0.5
_MAPS_AND_WEIGHTS = 2
"""Inputs of a convolution that are quantized. The bias stays in float32: TensorRT takes no bias of 32-bit integers."""


def quantize_graph(
    bundle: Bundle, calibration: CalibrationFrames, on_progress: Callable[[int, int], None], names: Sequence[str] | None = None
) -> bytes:
    """The serving graph with 8-bit convolutions; the same bytes for the same bundle and calibration frames.

    ``names``: convolutions to quantize; None: as many as keep the scores, see :func:`choose_convolutions`. ``on_progress`` gets
    the number of finished trials and the least number of all; each scores all calibration frames.
    Raises EngineRefused if no convolution can be quantized, or clips of this length leave too few scores.
    """
    sequences = _reference_scores(bundle, calibration)
    graph = _QuantizedGraph(bundle, sequences.frames)

    def evaluate(trial: Sequence[str]) -> AccuracyResult:
        engine = _engine(bundle, sequences.frames, graph.build(trial))
        return _strict_accuracy(score_sequences(engine, sequences.frames), sequences)

    chosen = choose_convolutions(bundle.path, graph.convolutions, evaluate, on_progress) if names is None else names
    return graph.build(chosen)


def choose_convolutions(
    path: Path, names: Sequence[str], evaluate: Callable[[Sequence[str]], AccuracyResult], on_progress: Callable[[int, int], None]
) -> list[str]:
    """The convolutions to quantize: as many as fit into a tenth of the accuracy limits, starting with the least harmful ones.

    The rest of the limits is left to the engine's own rounding and to other footage. A convolution that does not fit alone is
    never combined with others, whose errors might hide its own. ``evaluate`` measures accuracy with some of them quantized.
    Raises EngineRefused if none fits.
    """
    finished = count(1)

    def trial(quantized: Sequence[str]) -> AccuracyResult:
        result, done = evaluate(quantized), next(finished)
        on_progress(done, max(len(names), done) + 1)
        return result

    alone = {name: trial([name]) for name in names}
    fitting = sorted((name for name in names if _fits(alone[name])), key=lambda name: -alone[name].spearman)
    chosen = _largest_fitting([], fitting, lambda quantized: _fits(trial(quantized)))
    if not chosen:
        costs = [1 - result.spearman for result in alone.values()]
        reason = f"the least rank correlation that one costs is {min(costs):.4f}" if costs else "there is none"
        raise EngineRefused(f"{path}: no convolution can be computed in int8: {reason}; use f16 or f32")
    return chosen


def _largest_fitting(chosen: list[str], offered: list[str], fits: Callable[[list[str]], bool]) -> list[str]:
    """``chosen`` and what of ``offered`` fits with it, earlier ones first; by bisection, to save trials."""
    if not offered or fits([*chosen, *offered]):
        return [*chosen, *offered]
    if len(offered) == 1:
        return chosen
    middle = len(offered) // 2
    return _largest_fitting(_largest_fitting(chosen, offered[:middle], fits), offered[middle:], fits)


def _fits(result: AccuracyResult) -> bool:
    limits = ACCURACY_LIMITS["int8"]
    in_order = 1 - result.spearman <= _SPEARMAN_SHARE * (1 - limits.least_spearman)
    return result.passed and in_order and result.auc_difference <= _AUC_SHARE * limits.max_auc_difference


def _strict_accuracy(scores: NDArray[np.float32], sequences: GoldenSequences) -> AccuracyResult:
    """Accuracy whose rank correlation is the lower of that of all frames and that of ordinary frames alone.

    Where half the frames are sped up, most of the order is that these are above the others, which is hard to lose.
    """
    whole = compare_scores("int8", scores, sequences)
    ordinary_scores = np.where(sequences.sped_up, np.nan, sequences.score)
    ordinary = compare_scores("int8", scores, replace(sequences, score=ordinary_scores))
    return whole.model_copy(update={"spearman": min(whole.spearman, ordinary.spearman)})


def _reference_scores(bundle: Bundle, calibration: CalibrationFrames) -> GoldenSequences:
    score = score_sequences(_engine(bundle, calibration.frames), calibration.frames)
    if (scored := int(np.isfinite(score[~calibration.sped_up]).sum())) < MIN_FRAMES:
        raise EngineRefused(
            f"{bundle.path}: of the footage, {scored} ordinary frames have a score, since a clip is {bundle.spec.length} frames; "
            f"at least {MIN_FRAMES} are needed; give more"
        )
    return GoldenSequences(calibration.frames, calibration.sped_up, score)


def _engine(bundle: Bundle, frames: NDArray[np.uint8], graph: bytes | None = None) -> OnnxEngine:
    return OnnxEngine(bundle, EngineRequest("onnx", max_clips=len(frames)), graph=graph)


class _QuantizedGraph:
    """The serving graph with all convolutions quantized, of which any can be set back to float32."""

    def __init__(self, bundle: Bundle, frames: NDArray[np.uint8]) -> None:
        import onnx

        self._original = onnx.load(bundle.file(ONNX_NAME))
        self._quantized = _quantize_all(self._original, _CalibrationReader(_engine(bundle, frames), frames))
        self._float_inputs = {node.name: list(node.input) for node in self._original.graph.node}
        convolutions = {node.name: node for node in onnx.load_from_string(self._quantized).graph.node if node.op_type == "Conv"}
        self.convolutions = [
            name
            for name, float_inputs in self._float_inputs.items()
            if name in convolutions and not set(convolutions[name].input[:_MAPS_AND_WEIGHTS]) & set(float_inputs)
        ]

    def build(self, names: Sequence[str]) -> bytes:
        import onnx
        import onnx_ir.passes.common

        model = onnx.load_from_string(self._quantized)
        present = {weights.name for weights in model.graph.initializer}
        model.graph.initializer.extend(weights for weights in self._original.graph.initializer if weights.name not in present)
        for node in model.graph.node:
            if node.name in self._float_inputs and node.name not in names:
                node.input[:] = self._float_inputs[node.name]
        reduced = onnx_ir.from_proto(model)
        onnx_ir.passes.common.RemoveUnusedNodesPass()(reduced)
        built = onnx.ModelProto()
        built.CopyFrom(self._original)
        built.graph.CopyFrom(onnx_ir.to_proto(reduced).graph)
        del built.graph.value_info[:]
        onnx.checker.check_model(built, full_check=True)
        content: bytes = built.SerializeToString(deterministic=True)
        return content


def _quantize_all(model: Any, reader: "_CalibrationReader") -> bytes:
    """Quantize all convolutions, and with them whatever else reads the same maps."""
    import onnx
    from onnxruntime import quantization  # type: ignore[import-untyped]  # ships no py.typed

    prepared = onnx.ModelProto()
    prepared.CopyFrom(model)
    # Without this mark, ONNX Runtime warns that the model should be pre-processed, which the exporter has done.
    onnx.helper.set_model_props(prepared, {"onnx.quant.pre_process": "onnxruntime.quant"})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ONNX_NAME
        quantization.quantize_static(
            prepared,
            path,
            reader,
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],
            per_channel=True,
            activation_type=quantization.QuantType.QInt8,
            weight_type=quantization.QuantType.QInt8,
            extra_options={
                "ActivationSymmetric": True,
                "WeightSymmetric": True,
                "QuantizeBias": False,
                # A convolution's output stays in float32 unless another convolution reads it.
                "OpTypesToExcludeOutputQuantization": ["Conv"],
            },
        )
        return path.read_bytes()


class _CalibrationReader:
    """Inputs of the graph along sequences, as ONNX Runtime's ``CalibrationDataReader``."""

    def __init__(self, engine: OnnxEngine, frames: NDArray[np.uint8]) -> None:
        runs = run_sequences(engine, frames)
        self._inputs = (engine.checked_inputs(clips, state, None) for clips, state, _ in runs)

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        return next(self._inputs, None)
