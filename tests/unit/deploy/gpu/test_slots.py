"""What engines on GPUs share: calls cut into buckets, copies ordered by events, and nothing left over from a call that failed."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from deploy.bundle import Bundle, read_golden
from deploy.engine import EngineRequest
from deploy.engines.torch import TorchProgram, load_network
from deploy.errors import BundleIncompatible, EngineFailed
from deploy.gpu.driver import Launch
from deploy.gpu.engine import SLOTS, GpuEngine, buckets_for, program_shapes, split_call
from deploy.registry import load_engine
from deploy.sequences import GoldenSequences, score_sequences
from deploy.spec import ClipSpec
from deploy.validation.accuracy import compare_scores, measure_accuracy
from tests.harness.fake_tensorrt import FakeTensorRt
from tests.harness.gpu_engines import make_up_gpu
from tests.harness.host_driver import HostDriver

SPEC = ClipSpec(length=1, height_px=16, width_px=16)
BUCKETS = st.lists(st.integers(1, 64), min_size=1, max_size=5).map(lambda sizes: tuple(sorted(set(sizes))))


class Means:
    """A program that scores a clip by the mean of its pixels. ``broken``: what a launch raises from now on."""

    def __init__(self) -> None:
        self.broken: Exception | None = None
        self.launched: list[int] = []

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return program_shapes(SPEC, (16, 16))

    def launcher(self, bucket: int, tensors: Mapping[str, Any]) -> Launch:
        def launch() -> None:
            if self.broken:
                raise self.broken
            self.launched.append(bucket)
            tensors["heatmap"][:bucket] = tensors["clips"][:bucket, 0, :, :, 0]
            tensors["score"][:bucket] = tensors["heatmap"][:bucket].mean((1, 2))

        return launch


class OnHost(GpuEngine):
    name = "on-host"

    def __init__(self, program: Any, buckets: tuple[int, ...], spec: ClipSpec = SPEC, heatmap_threshold: float = -np.inf) -> None:
        self.driver = HostDriver()
        super().__init__(spec, EngineRequest(max_clips=256), self.driver, program, buckets)
        self.heatmap_threshold = heatmap_threshold

    def describe(self) -> dict[str, str]:
        return {}


def grey(levels: list[int]) -> NDArray[np.uint8]:
    return np.array(levels, np.uint8).reshape(-1, 1, 1, 1, 1) * np.ones((1, *SPEC.clip_shape), np.uint8)


@given(st.integers(0, 500), BUCKETS)
def test_split_call_into_buckets(n_clips: int, buckets: tuple[int, ...]) -> None:
    pieces = list(split_call(n_clips, buckets))
    assert [row for piece in pieces for row in range(piece.begin, piece.end)] == list(range(n_clips))
    assert all(piece.end - piece.begin == piece.bucket == buckets[-1] for piece in pieces[:-1])
    for piece in pieces[-1:]:
        assert piece.bucket == min(bucket for bucket in buckets if bucket >= piece.end - piece.begin)


@given(st.integers(1, 70), BUCKETS)
def test_loads_only_needed_buckets(max_clips: int, offered: tuple[int, ...]) -> None:
    needed = {
        piece.bucket for n_clips in range(1, max_clips + 1) for piece in split_call(n_clips, buckets_for(max_clips, offered))
    }
    assert set(buckets_for(max_clips, offered)) == needed


@given(st.lists(st.integers(0, 255), max_size=40), BUCKETS)
def test_clips_get_their_own_results(levels: list[int], buckets: tuple[int, ...]) -> None:
    scores = OnHost(Means(), buckets).score(grey(levels))
    assert scores.score.tolist() == levels
    assert [set(heatmap.ravel().tolist()) for heatmap in scores.heatmap] == [{float(level)} for level in levels]


def test_copies_only_needed_heat_maps() -> None:
    scores = OnHost(Means(), (2, 4), heatmap_threshold=100).score(grey([5, 100, 99, 101, 0, 200]))
    assert np.isnan(scores.heatmap).all((1, 2)).tolist() == [True, False, True, False, True, False]
    assert scores.heatmap[5].max() == 200


def test_copies_are_ordered_by_events() -> None:
    engine = OnHost(Means(), (1,))
    engine.driver.operations.clear()
    engine.score(grey([1, 2]))
    operations = engine.driver.operations
    first, second = operations[:9], operations[9:18]
    for piece in (first, second):
        copy_in, compute, copy_out = piece[0][1], piece[3][1], piece[7][1]
        arrived, computed, returned = piece[1][1], piece[5][1], piece[8][1]
        assert len({copy_in, compute, copy_out}) == 3
        assert piece == [
            ("on", copy_in),
            ("record", arrived, copy_in),
            ("wait", arrived, compute),
            ("on", compute),
            ("launch", compute),
            ("record", computed, compute),
            ("wait", computed, copy_out),
            ("on", copy_out),
            ("record", returned, copy_out),
        ]
    # Both were on their way before the first was waited for.
    assert [operation for operation in operations if operation[0] == "synchronize"] == [
        ("synchronize", first[8][1]),
        ("synchronize", second[8][1]),
    ]
    assert "synchronize" not in [operation[0] for operation in operations[:18]]
    launches = [operation[1] for operation in engine.driver.operations if operation[0] == "launch"]
    assert len(set(launches)) == 2


def test_failed_call_leaves_no_results() -> None:
    program = Means()
    engine = OnHost(program, (2,))
    program.broken = RuntimeError("an illegal memory access")
    with pytest.raises(EngineFailed, match="scoring 5 clips failed: an illegal memory access"):
        engine.score(grey([1, 2, 3, 4, 5]))
    program.broken = None
    assert engine.score(grey([9])).score.tolist() == [9]


@pytest.mark.parametrize("precision", ["f32", "f16"])
def test_torch_equals_reference_in_every_bucket(recurrent_bundle: Bundle, precision: Any) -> None:
    program = TorchProgram(load_network(recurrent_bundle), recurrent_bundle.spec, precision, HostDriver())
    engine, golden = OnHost(program, (1, 3), recurrent_bundle.spec), read_golden(recurrent_bundle)
    found = engine.score(golden.clips, golden.state, golden.profile)
    tolerance = 1e-5 if precision == "f32" else 1e-2
    np.testing.assert_allclose(found.score, golden.score, rtol=tolerance, atol=tolerance * np.abs(golden.heatmap).max())
    assert found.state is not None
    assert golden.next_state is not None
    np.testing.assert_allclose(found.state, golden.next_state, rtol=tolerance, atol=tolerance)


def test_accuracy_is_that_of_the_worst_bucket() -> None:
    class WrongInFours(Means):
        def launcher(self, bucket: int, tensors: Mapping[str, Any]) -> Launch:
            launch = super().launcher(bucket, tensors)

            def wrong() -> None:
                launch()
                if bucket == 4:
                    tensors["score"][:bucket] = torch.rand(bucket)

            return wrong

    frames = np.random.default_rng(0).integers(0, 256, (3, 30, *SPEC.frame_shape), dtype=np.uint8)
    sped_up = np.arange(30) >= 15
    sequences = GoldenSequences(frames, np.tile(sped_up, (3, 1)), score_sequences(OnHost(Means(), (1,)), frames))
    right = measure_accuracy(OnHost(Means(), (1, 2, 4)), "f32", sequences)
    assert (right.passed, right.buckets, right.max_error) == (True, (1, 2, 4), 0)
    wrong = measure_accuracy(OnHost(WrongInFours(), (1, 2, 4)), "f32", sequences)
    assert not wrong.passed
    assert compare_scores("f32", sequences.score, sequences).buckets == ()


@pytest.mark.parametrize(
    ("call", "answer", "told"),
    [
        ("deserialize_cuda_engine", None, "the plan is refused"),
        ("create_execution_context", None, "no context for 1 clips"),
        ("set_optimization_profile_async", False, "profile 0 is refused"),
        ("set_input_shape", False, r"clips of \(1, 3, 24, 40, 1\) is refused"),
        ("set_tensor_address", False, "the memory of clips is refused"),
        ("infer_shapes", ["clips"], "shapes are missing for clips"),
    ],
)
def test_refused_plan_reports_the_log(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Any, call: str, answer: object, told: str
) -> None:
    make_up_gpu(monkeypatch, tmp_path, FakeTensorRt({call: answer}))
    with pytest.raises(EngineFailed, match=f"cannot be loaded: {told}: .*out of luck"):
        load_engine(bundle, EngineRequest("tensorrt"))


def test_recovers_from_enqueue_error(bundle: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    library = FakeTensorRt()
    make_up_gpu(monkeypatch, tmp_path, library)
    engine, golden = load_engine(bundle, EngineRequest("tensorrt")), read_golden(bundle)
    library.refuse["execute_async_v3"] = False
    with pytest.raises(EngineFailed, match="8 clips cannot be enqueued: out of luck"):
        engine.score(golden.clips)
    library.refuse.clear()
    np.testing.assert_allclose(engine.score(golden.clips).score, golden.score, rtol=1e-5)


def test_profile_of_each_bucket(bundle: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    library = FakeTensorRt()
    make_up_gpu(monkeypatch, tmp_path, library)
    load_engine(bundle, EngineRequest("tensorrt", max_clips=9)).close()
    assert [seen[0] for call, *seen in library.calls if call == "set_optimization_profile_async"] == [0, 1, 2] * SLOTS


def test_rejects_plan_of_other_graph(bundle: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    make_up_gpu(monkeypatch, tmp_path)
    spec = bundle.spec.model_copy(update={"width_px": 48})
    other = Bundle(bundle.path, bundle.manifest.model_copy(update={"spec": spec}), bundle.calibration)
    with pytest.raises(BundleIncompatible, match=r"the spec says clips of \(3, 24, 48, 1\)"):
        load_engine(other, EngineRequest("tensorrt"))


def test_compute_copies_nothing() -> None:
    program = Means()
    engine = OnHost(program, (1, 4))
    engine.score(grey([1, 2, 3]))
    program.launched.clear()
    engine.driver.operations.clear()
    engine.compute(6)
    assert program.launched == [4, 4]
    assert {operation[0] for operation in engine.driver.operations} == {"on", "launch", "record", "synchronize"}
    assert len({operation[1] for operation in engine.driver.operations if operation[0] == "on"}) == 1
