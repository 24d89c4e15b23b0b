"""A serving graph with 8-bit convolutions, by explicit Q/DQ: one file for every engine that reads it. Needs ``oddsight[train]``.

A quantised convolution reads maps and weights through pairs of its own, symmetric, of weights one scale a channel. Whatever else
reads the same maps keeps them as they were: a score is a small difference of large things, and would not bear it.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.bundle import ONNX_NAME, Bundle
from deploy.engine import EngineRequest
from deploy.engines.onnxruntime import OnnxEngine
from deploy.errors import EngineRefused
from deploy.export.calibration_frames import CalibrationFrames
from deploy.golden import Sequences, score_sequences, walk
from deploy.records import AccuracyResult
from deploy.validation.accuracy import LIMITS, MIN_FRAMES, judge

_ORDER_ROOM_USED = 0.1
"""Of the gate's limit on the rank correlation: of the shipped model, up to twelve times as much was lost on other footage as on
that which convolutions were chosen by, see ``docs/research/engines.md``."""
_AUC_ROOM_USED = 0.5
_READ_IN_8_BITS = 2
"""Of a convolution's inputs: maps and weights. Its bias stays as it is: TensorRT takes none of 32-bit integers."""


def quantize_graph(
    bundle: Bundle, footage: CalibrationFrames, tell: Callable[[int, int], None], names: Sequence[str] | None = None
) -> bytes:
    """The graph with 8-bit convolutions; the same bytes for the same bundle and footage.

    ``names``: the convolutions to quantise, whatever becomes of the scores; None: as many as the footage bears, by
    :func:`choose`. ``tell`` is told of finished trials, and of how many there will be at least; each scores all of the footage.

    Raises:
        EngineRefused: no convolution can be quantised, or clips of this length leave too few scores.
    """
    sequences = _scored(bundle, footage)
    pairs = _Pairs(bundle, sequences.frames)

    def gate(tried: Sequence[str]) -> AccuracyResult:
        engine = _engine(bundle, sequences.frames, pairs.graph(tried))
        return _sterner(score_sequences(engine, sequences.frames), sequences)

    return pairs.graph(choose(bundle.path, pairs.names, gate, tell) if names is None else names)


def choose(
    path: Path, names: Sequence[str], gate: Callable[[Sequence[str]], AccuracyResult], tell: Callable[[int, int], None]
) -> list[str]:
    """Which convolutions to quantise: as many as a tenth of the gate's room holds, first those that cost the least order alone.

    The rest is left to the engine's own rounding, and to footage other than that which they are chosen by. What does not fit
    alone is never tried with others, whose errors might hide its own. ``gate`` judges the scores with some of them quantised.

    Raises:
        EngineRefused: not one.
    """
    tried = _Told(gate, tell, len(names))
    alone = {name: tried([name]) for name in names}
    offered = sorted((name for name in names if _fits(alone[name])), key=lambda name: -alone[name].spearman)
    chosen = _most([], offered, lambda together: _fits(tried(together)))
    if not chosen:
        found = f"the least rank correlation that one costs is {_least_cost(alone):.4f}" if alone else "there is none"
        raise EngineRefused(f"{path}: no convolution can be computed in int8: {found}; use f16 or f32")
    return chosen


class _Told:
    """A gate that tells of its trials: of each convolution alone, and of some together, always one more until none is left."""

    def __init__(self, gate: Callable[[Sequence[str]], AccuracyResult], tell: Callable[[int, int], None], names: int) -> None:
        self._gate, self._tell, self._names, self._done = gate, tell, names, 0

    def __call__(self, names: Sequence[str]) -> AccuracyResult:
        found = self._gate(names)
        self._done += 1
        self._tell(self._done, max(self._names, self._done) + 1)
        return found


def _most(chosen: list[str], offered: list[str], fits: Callable[[list[str]], bool]) -> list[str]:
    """``chosen`` and what of ``offered`` fits with it, the first ones first; by halves, so that few are tried one by one."""
    if not offered or fits([*chosen, *offered]):
        return [*chosen, *offered]
    if len(offered) == 1:
        return chosen
    middle = len(offered) // 2
    return _most(_most(chosen, offered[:middle], fits), offered[middle:], fits)


def _fits(gate: AccuracyResult) -> bool:
    limits = LIMITS["int8"]
    within_order = 1 - gate.spearman <= _ORDER_ROOM_USED * (1 - limits.least_spearman)
    return gate.passed and within_order and gate.auc_difference <= _AUC_ROOM_USED * limits.max_auc_difference


def _least_cost(alone: Mapping[str, AccuracyResult]) -> float:
    return 1 - max(gate.spearman for gate in alone.values())


def _sterner(found: NDArray[np.float32], sequences: Sequences) -> AccuracyResult:
    """A gate whose rank correlation is also that of ordinary frames alone, if that is less.

    Where half the frames are hurried, most of the order is that these are above the others, which is hard to lose.
    """
    whole = judge("int8", found, sequences)
    ordinary = judge("int8", found, replace(sequences, score=np.where(sequences.hurried, np.nan, sequences.score)))
    return whole.model_copy(update={"spearman": min(whole.spearman, ordinary.spearman)})


def _scored(bundle: Bundle, footage: CalibrationFrames) -> Sequences:
    """The footage with the scores of the bundle's graph as it is."""
    score = score_sequences(_engine(bundle, footage.frames), footage.frames)
    if (found := int(np.isfinite(score[~footage.hurried]).sum())) < MIN_FRAMES:
        raise EngineRefused(
            f"{bundle.path}: of the footage, {found} ordinary frames have a score, since a clip is {bundle.spec.length} frames; "
            f"at least {MIN_FRAMES} are needed; give more"
        )
    return Sequences(footage.frames, footage.hurried, score)


def _engine(bundle: Bundle, frames: NDArray[np.uint8], graph: bytes | None = None) -> OnnxEngine:
    return OnnxEngine(bundle, EngineRequest("onnx", max_clips=len(frames)), graph)


class _Pairs:
    """The pairs of all convolutions, made in one go, to be put into the bundle's graph as wanted."""

    def __init__(self, bundle: Bundle, frames: NDArray[np.uint8]) -> None:
        import onnx

        self._original = bundle.file(ONNX_NAME).read_bytes()
        quantised = onnx.load_from_string(_quantised(self._original, _Walked(_engine(bundle, frames), frames))).graph
        self._parts = {part.name: part for part in quantised.initializer}
        self._makers = {node.output[0]: node for node in quantised.node if node.op_type in {"QuantizeLinear", "DequantizeLinear"}}
        reads = {node.name: list(node.input[:_READ_IN_8_BITS]) for node in quantised.node if node.op_type == "Conv"}
        self._reads = {name: inputs for name, inputs in reads.items() if all(part in self._makers for part in inputs)}
        in_order = [node.name for node in onnx.load_from_string(self._original).graph.node]
        self.names = [name for name in in_order if name in self._reads]

    def graph(self, names: Sequence[str]) -> bytes:
        """The bundle's graph with these convolutions quantised."""
        import onnx

        model = onnx.load_from_string(self._original)
        graph, known = model.graph, {part.name for part in model.graph.initializer}
        nodes: list[Any] = []
        for node in graph.node:
            if node.name in names:
                node.input[:_READ_IN_8_BITS] = self._reads[node.name]
                for part in self._needed(self._reads[node.name], known):
                    (nodes if part.name not in self._parts else graph.initializer).append(part)
            nodes.append(node)
        return _finished(model, nodes)

    def _needed(self, names: Sequence[str], known: set[str]) -> Iterator[Any]:
        """Nodes and constants that these values come from, each once, those that others need first."""
        for name in names:
            if name in known:
                continue
            known.add(name)
            if name in self._makers:
                yield from self._needed(self._makers[name].input, known)
                yield self._makers[name]
            elif name in self._parts:
                yield self._parts[name]


def _finished(model: Any, nodes: Sequence[Any]) -> bytes:
    """The model of these nodes, in their order, and of those constants that they read."""
    import onnx

    used = {name for node in nodes for name in node.input}
    whole = onnx.helper.make_graph(
        nodes,
        model.graph.name,
        model.graph.input,
        model.graph.output,
        [part for part in model.graph.initializer if part.name in used],
    )
    model.graph.CopyFrom(whole)
    onnx.checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _quantised(graph: bytes, walked: "_Walked") -> bytes:
    """All convolutions quantised, and with them whatever else reads the same maps."""
    import onnx
    from onnxruntime.quantization import (  # type: ignore[import-untyped]  # ships no py.typed
        QuantFormat,
        QuantType,
        quantize_static,
    )

    model = onnx.load_from_string(graph)
    # It is as it should be, which would otherwise be doubted in the log.
    onnx.helper.set_model_props(model, {"onnx.quant.pre_process": "onnxruntime.quant"})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ONNX_NAME
        quantize_static(
            model,
            path,
            walked,
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            extra_options={
                "ActivationSymmetric": True,
                "WeightSymmetric": True,
                "QuantizeBias": False,
                # What follows a convolution need not be of 8 bits, unless it is read by another one.
                "OpTypesToExcludeOutputQuantization": ["Conv"],
            },
        )
        return path.read_bytes()


class _Walked:
    """What an engine is given on its way through sequences, as onnxruntime's ``CalibrationDataReader``."""

    def __init__(self, engine: OnnxEngine, frames: NDArray[np.uint8]) -> None:
        self._steps = walk(engine, frames)
        self._spec = engine.spec

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        """The next inputs of the graph; None: no more."""
        step = next(self._steps, None)
        if step is None:
            return None
        clips, state, _ = step
        if self._spec.state_shape is None:
            return {"clips": clips}
        return {"clips": clips, "state": np.zeros((len(clips), *self._spec.state_shape), np.float32) if state is None else state}
