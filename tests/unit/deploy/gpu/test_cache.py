"""What stays on the device: the same scores as of whole clips, rows that are never written twice, and none that is lost."""

import copy
import pickle
import re
import weakref
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from deploy.bundle import Bundle, read_bundle
from deploy.engine import RESERVED_ROWS, ZERO_ROW, CachingEngine, EngineRequest, FrameHandle, HandlePool, Scores, caching_engine
from deploy.engines.tensorrt import MODULES
from deploy.errors import BadClips, ConfigError, EngineClosed, EngineFailed
from deploy.gpu.driver import Launch
from deploy.gpu.engine import SLOTS, GpuEngine, program_shapes
from deploy.image import DecodedFrame, DeviceFrame, ImageDecoder, encode_jpeg
from deploy.registry import load_decoder, load_engine
from deploy.spec import ClipSpec
from tests.harness import fake_nvimgcodec
from tests.harness.cache_comparison import CacheComparison, assert_same, contents, to_device
from tests.harness.fake_tensorrt import FakeTensorRt
from tests.harness.gpu_engines import GPU_ENGINES, build_when_asked_for, make_up_gpu
from tests.harness.host_driver import HostDriver, HostEvent

CAMERAS = 4
KINDS = [(length, recurrent) for length in (1, 3) for recurrent in (False, True)]
WHERE = [pytest.param(False, id="newest on host"), pytest.param(True, id="newest on device")]
EVENTS = st.dictionaries(st.integers(0, CAMERAS - 1), st.sampled_from(["next", "next", "gap", "again"]), min_size=1)


def spec_of(length: int, *, recurrent: bool) -> ClipSpec:
    return ClipSpec(length=length, height_px=16, width_px=16, state_shape=(1, 16, 16) if recurrent else None)


class Mixes:
    """A program to which the place of a frame in its clip matters, and the state, which is never zeros again.

    ``broken``: what a launch raises from now on. ``poison``: is added to every next state.
    """

    def __init__(self, spec: ClipSpec) -> None:
        self.spec = spec
        self.broken: Exception | None = None
        self.poison = 0.0
        self.launched = 0

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return program_shapes(self.spec, (16, 16))

    def launcher(self, bucket: int, tensors: Mapping[str, Any]) -> Launch:
        weights = torch.arange(1.0, self.spec.length + 1).reshape(-1, 1, 1)

        def launch() -> None:
            self.launched += 1
            if self.broken:
                raise self.broken
            seen = (tensors["clips"][:bucket, ..., 0] * weights).sum(1)
            if "state" in tensors:
                seen = seen + tensors["state"][:bucket, 0]
                tensors["next_state"][:bucket, 0] = seen / 2 + 1 + self.poison
            if "profile" in tensors:
                factor, offset = tensors["profile"][:bucket].reshape(-1, 2, 1, 1).unbind(1)
                seen = factor * seen + offset
            tensors["heatmap"][:bucket] = seen
            tensors["score"][:bucket] = seen.amax((1, 2))

        return launch


class OnHost(GpuEngine):
    name = "on-host"

    def __init__(self, spec: ClipSpec, buckets: tuple[int, ...] = (1, 3), max_clips: int = 4, cameras: int = CAMERAS) -> None:
        self.driver, self.program = HostDriver(), Mixes(spec)
        default_profile = np.array([1.0, 0.0], np.float32) if spec.profile_size else None
        request = EngineRequest(max_clips=max_clips, gpu_cached_cameras=cameras)
        super().__init__(spec, request, self.driver, self.program, buckets, default_profile)

    def describe(self) -> dict[str, str]:
        return {}

    @property
    def free(self) -> tuple[int, int]:
        """Free rows for frames and for states, whoever dropped their handles."""
        assert self._store is not None
        return self._store.frames.n_free, 0 if self._store.states is None else self._store.states.n_free

    def table(self, name: str) -> NDArray[Any]:
        assert self._store is not None
        table: NDArray[Any] = self._store._tables[name].numpy()
        return table


def grey(*levels: int) -> NDArray[np.uint8]:
    return np.array(levels, np.uint8).reshape(-1, 1, 1, 1) * np.ones((1, 16, 16, 1), np.uint8)


@pytest.fixture(params=KINDS, ids=lambda kind: f"length {kind[0]}, {'recurrent' if kind[1] else 'stateless'}")
def spec(request: pytest.FixtureRequest) -> ClipSpec:
    length, recurrent = request.param
    return spec_of(length, recurrent=recurrent)


@pytest.mark.parametrize("on_device", WHERE)
@given(st.sampled_from(KINDS), st.sampled_from([(1,), (2, 4), (1, 3), (4,)]), st.lists(EVENTS, max_size=12), st.integers(0, 99))
@settings(deadline=None, max_examples=50)
def test_equals_whole_clips(
    on_device: bool, kind: tuple[int, bool], buckets: tuple[int, ...], steps: list[dict[int, Any]], seed: int
) -> None:
    engine = OnHost(spec_of(kind[0], recurrent=kind[1]), buckets)
    everything, comparison = engine.free, CacheComparison(engine, seed, on_device=on_device)
    for events in steps:
        comparison.step(events)
    comparison.cameras.clear()
    assert engine.free == everything


def test_no_row_leaks_in_1000_steps(spec: ClipSpec) -> None:
    engine = OnHost(spec)
    everything, comparison, random = engine.free, CacheComparison(engine, 0), np.random.default_rng(1)
    for _ in range(1000):
        numbers = random.permutation(CAMERAS)[: random.integers(1, CAMERAS + 1)].tolist()
        comparison.step({number: random.choice(["next", "next", "next", "gap", "again"]) for number in numbers})
    assert comparison.scored > 1000
    held = sum(len(camera.frame_rows) for camera in comparison.cameras.values())
    assert engine.free[0] == everything[0] - held
    comparison.cameras.clear()
    assert engine.free == everything


def test_full_cache_is_an_error() -> None:
    engine = OnHost(spec_of(3, recurrent=True), cameras=1, max_clips=2)
    before = engine.upload(grey(1, 2))
    results = [engine.score_newest(grey(3), [before], [None]) for _ in range(4)]
    assert engine.free == (0, 1)
    with pytest.raises(
        EngineFailed, match=r"^all 6 rows for frames on the device, allocated for 1 cameras, are in use; drop handles"
    ):
        engine.score_newest(grey(3), [before], [None])
    results.pop()
    with pytest.raises(EngineFailed):
        engine.upload(grey(1, 2))
    assert engine.free == (1, 2)
    assert engine.score_newest(grey(3), [before], [None]).score == [1 + 2 * 2 + 3 * 3]


def test_frees_frames_if_states_do_not_fit() -> None:
    engine = OnHost(spec_of(1, recurrent=True), cameras=1, max_clips=2)
    states = [engine.score_newest(grey(3), [[]], [None]).states[0] for _ in range(5)]
    everything = engine.free
    with pytest.raises(EngineFailed, match="all 5 rows for states") as kept:
        engine.score_newest(grey(3), [[]], [None])
    assert engine.free == everything == (4, 0)
    del states, kept
    assert engine.free == (4, 5)


def test_capacity_holds_two_calls() -> None:
    engine = OnHost(spec_of(3, recurrent=True), cameras=CAMERAS, max_clips=CAMERAS)
    before = [engine.upload(grey(*range(CAMERAS))) for _ in range(2)]
    clips: Any = [list(rows) for rows in zip(*before, strict=True)]
    del before
    states: Any = [None] * CAMERAS
    for _ in range(5):
        first = engine.score_newest(grey(*range(CAMERAS)), clips, states)
        found = engine.score_newest(grey(*range(CAMERAS)), clips, states)
        np.testing.assert_array_equal(first.score, found.score)
        del first
        clips = [[*rows, row][1:] for rows, row in zip(clips, found.frames, strict=True)]
        states = found.states


def test_padding_writes_to_no_camera(spec: ClipSpec) -> None:
    engine, levels = OnHost(spec, (4,)), (9, 10, 11, 12)
    before: Any = [row for _ in range(spec.length - 1) for row in engine.upload(grey(1))]
    # From now on the numbers of four rows that are free again lie in the buffers.
    engine.score_newest(grey(5, 6, 7, 8), [before] * 4, [None] * 4)
    held = [engine.score_newest(grey(level), [before], [None]) for level in levels]
    np.testing.assert_array_equal(
        contents(engine, [*before, *(one.frames[0] for one in held)]), grey(*[1] * len(before), *levels)
    )
    if spec.state_shape:
        clips = np.stack([np.stack([*grey(*[1] * len(before)), *grey(level)]) for level in levels])
        np.testing.assert_array_equal(contents(engine, [one.states[0] for one in held]), engine.score(clips).state)
        assert not engine.table("states")[ZERO_ROW].any()


def test_failed_launch_changes_no_handle(spec: ClipSpec) -> None:
    engine = OnHost(spec)
    before = [[row for _ in range(spec.length - 1) for row in engine.upload(grey(level))] for level in (1, 2)]
    first = engine.score_newest(grey(3, 4), before, [None, None])
    again: Any = ([[*rows, row][1:] for rows, row in zip(before, first.frames, strict=True)], first.states)
    expected, room = engine.score_newest(grey(5, 6), *again), engine.free
    engine.program.broken = RuntimeError("an illegal memory access")
    with pytest.raises(EngineFailed, match=r"^on-host: scoring 2 newest frames failed: an illegal memory access$") as kept:
        engine.score_newest(grey(7, 8), *again)
    assert engine.free == room
    engine.program.broken = None
    found = engine.score_newest(grey(5, 6), *again)
    np.testing.assert_array_equal(found.score, expected.score)
    if spec.state_shape:
        np.testing.assert_array_equal(contents(engine, found.states), contents(engine, expected.states))
    del kept


@pytest.mark.parametrize(
    ("poison", "says"), [(np.inf, "a next state holds values that are not finite numbers"), (np.nan, "a next state holds")]
)
def test_nan_state_is_an_error(poison: float, says: str) -> None:
    engine = OnHost(spec_of(1, recurrent=True))
    state, room = engine.score_newest(grey(1), [[]], [None]).states[0], engine.free
    engine.program.poison = poison
    for _ in range(2):
        with pytest.raises(EngineFailed, match=f"^on-host: {says}"):
            engine.score_newest(grey(1, 2), [[], []], [state, None])
    assert engine.free == room
    engine.program.poison = 0
    assert engine.score_newest(grey(1), [[]], [state]).score == [1 + 1.5]


def test_copies_only_needed_heat_maps() -> None:
    engine = OnHost(spec_of(1, recurrent=False))
    engine.heatmap_threshold = 100
    found = engine.score_newest(grey(99, 100, 7, 200), [[]] * 4, [None] * 4)
    assert np.isnan(found.heatmap).all((1, 2)).tolist() == [True, False, True, False]
    assert found.heatmap[3].max() == 200


def test_copies_are_ordered_by_events() -> None:
    engine = OnHost(spec_of(1, recurrent=False), (1,))
    orders = []
    there = to_device(engine, grey(1, 2))
    for call in (
        lambda: engine.score(grey(1, 2)[:, np.newaxis]),
        lambda: engine.score_newest(grey(1, 2), [[], []], [None] * 2),
        lambda: engine.score_newest(there, [[], []], [None] * 2),
    ):
        engine.driver.operations.clear()
        call()
        orders.append(list(engine.driver.operations))
    assert [operation for operation in orders[0] if operation[0] == "launch"]
    assert orders[0] == orders[1] == orders[2]


def test_device_frames_bypass_the_host(spec: ClipSpec) -> None:
    engine = OnHost(spec)
    on_host = [slot._on_host["newest"] for slot in engine._slots]
    for values in on_host:
        values.fill_(77)
    first = to_device(engine, grey(1, 2, 3, 4))
    rows = [engine.upload(first) for _ in range(spec.length - 1)]
    found = engine.score_newest(
        to_device(engine, grey(5, 6, 7, 8)), [list(each) for each in zip(*rows, strict=True)] or [[]] * 4, [None] * 4
    )
    assert {int(value) for values in on_host for value in values.unique()} == {77}
    np.testing.assert_array_equal(contents(engine, found.frames), grey(5, 6, 7, 8))
    np.testing.assert_array_equal(np.stack([frame.on_host() for frame in first]), grey(1, 2, 3, 4))


def test_device_frames_live_until_read(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = OnHost(spec_of(1, recurrent=False), (1,))
    frames = to_device(engine, grey(1, 2, 3))
    pixels = [weakref.ref(frame.pixels) for frame in frames]
    waited, synchronize = [], HostEvent.synchronize
    monkeypatch.setattr(
        HostEvent, "synchronize", lambda event: (waited.append(sum(ref() is not None for ref in pixels)), synchronize(event))
    )
    # The caller lets go of them as soon as they are in its call.
    engine.upload([frames.pop(0) for _ in range(3)])
    assert waited == [3, 3, 3]
    assert not any(ref() for ref in pixels)
    engine.program.broken = RuntimeError("an illegal memory access")
    frames = to_device(engine, grey(1))
    pixels[:] = [weakref.ref(frame.pixels) for frame in frames]
    waited.clear()
    with pytest.raises(EngineFailed):
        engine.score_newest([frames.pop()], [[]], [None])
    assert waited == [1] * 3 * SLOTS


def test_engine_without_cache() -> None:
    plain, engine = OnHost(spec_of(1, recurrent=False), cameras=0), OnHost(spec_of(1, recurrent=False))
    assert (plain.program.launched, engine.program.launched) == (2 * SLOTS, 2 * 2 * SLOTS)
    assert caching_engine(plain) is None
    assert caching_engine(engine) is engine
    with pytest.raises(ConfigError, match=r"^the on-host engine caches no frames; load it with gpu_cached_cameras of at least 1"):
        plain.score_newest(grey(1), [[]], [None])


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda row, state: (grey(1)[0], [[row]], [state]), "frames must have shape (N, 16, 16, 1), got (16, 16, 1)"),
        (lambda row, state: (grey(1).astype(np.float32), [[row]], [state]), "frames must be of dtype uint8, got float32"),
        (lambda row, state: (grey(*range(5)), [[row]] * 5, [state] * 5), "at most 4 frames a call (max_clips), got 5"),
        (lambda row, state: (grey(1, 2), [[row]], [state] * 2), "2 newest frames need the history of each, got 1"),
        (lambda row, state: (grey(1), [[row, row]], [state]), "a clip of this model has 1 frames before the newest, got 2"),
        (lambda _, state: (grey(1), [[state]], [state]), "must be FrameHandles of this engine"),
        (lambda row, state: (grey(1), [[row]], [state] * 2), "1 newest frames need a state (or None) each, got 2"),
        (lambda row, _: (grey(1), [[row]], [row]), "states must be StateHandles of this engine, or None"),
    ],
)
def test_rejects_bad_frames_and_handles(wrong: Callable[[Any, Any], Any], says: str) -> None:
    engine = OnHost(spec_of(2, recurrent=True))
    before = engine.upload(grey(0))
    state = engine.score_newest(grey(1), [before], [None]).states[0]
    with pytest.raises(BadClips, match=re.escape(says)):
        engine.score_newest(*wrong(before[0], state))
    assert engine.score_newest(grey(1), [before], [state]).score == [2 + 2]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (
            lambda there: [there[0], grey(1)[0]],
            "frames must be one numpy array, or DeviceFrames all of them; frame 1 is of type ndarray",
        ),
        (lambda _: [*grey(1)], "frame 0 is of type ndarray"),
        (
            lambda there: [there[0], DeviceFrame(there[0].pixels[:8])],
            "frames on the device must be torch.uint8 (16, 16, 1) on cpu; frame 1 is torch.uint8 (8, 16, 1) on cpu",
        ),
        (lambda there: [DeviceFrame(there[0].pixels.float())], "frame 0 is torch.float32 (16, 16, 1) on cpu"),
        (lambda there: [DeviceFrame(there[0].pixels.to("meta"))], "frame 0 is torch.uint8 (16, 16, 1) on meta"),
        (lambda there: there * 5, "at most 4 frames a call (max_clips), got 5"),
        (lambda there: there[0], "frames must be a numpy array, got DeviceFrame"),
    ],
)
def test_rejects_bad_device_frames(wrong: Callable[[Any], Any], says: str) -> None:
    engine = OnHost(spec_of(1, recurrent=False))
    there, everything = to_device(engine, grey(3)), engine.free
    given = wrong(there)
    with pytest.raises(BadClips, match=re.escape(says)):
        engine.score_newest(given, [[]] * 5, [None] * 5)
    with pytest.raises(BadClips, match=re.escape(says)):
        engine.upload(given)
    assert engine.free == everything
    assert engine.score_newest(there, [[]], [None]).score == [3]


def test_rejects_handles_of_other_engines() -> None:
    one, other = OnHost(spec_of(2, recurrent=True)), OnHost(spec_of(2, recurrent=True))
    strange = one.upload(grey(1))
    with pytest.raises(BadClips, match="FrameHandles of this engine"):
        other.score_newest(grey(1), [strange], [None])
    stateless = OnHost(spec_of(1, recurrent=False))
    state: Any = one.score_newest(grey(1), [strange], [None]).states[0]
    with pytest.raises(BadClips, match="this model has no state"):
        stateless.score_newest(grey(1), [[]], [state])


def test_empty_call(spec: ClipSpec) -> None:
    engine = OnHost(spec)
    found = engine.score_newest(grey(), [], [])
    assert (len(found.score), len(found.heatmap), found.frames, found.states) == (0, 0, [], [])
    assert engine.upload(grey()) == []
    assert engine.upload([]) == []


def test_handles_outlive_a_closed_engine(spec: ClipSpec) -> None:
    engine = OnHost(spec)
    rows, there = engine.upload(grey(1)), to_device(engine, grey(1))
    engine.close()
    with pytest.raises(EngineClosed):
        engine.upload(grey(1))
    with pytest.raises(EngineClosed):
        engine.upload(there)
    with pytest.raises(EngineClosed):
        engine.score_newest(grey(1), [rows * (spec.length - 1)], [None])
    everything = engine.free
    rows.clear()
    assert engine.free[0] == everything[0] + 1


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickle.dumps])
def test_handle_cannot_be_copied(copied: Callable[[Any], Any]) -> None:
    (row,) = HandlePool(FrameHandle, "frames", 1, 1).take(1)
    with pytest.raises(TypeError, match="cannot be copied"):
        copied(row)


def test_handles_freed_in_several_threads() -> None:
    rows = HandlePool(FrameHandle, "frames", 64, 1)

    def take_and_drop(_: int) -> bool:
        mine = rows.take(8)
        return len({row.index for row in mine}) == 8

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(take_and_drop, range(2000)))
    assert rows.n_free == 64
    assert sorted(row.index for row in rows.take(64)) == list(range(RESERVED_ROWS, RESERVED_ROWS + 64))


# --- real models and engines ------------------------------------------------------------------------------------------


@pytest.fixture(
    params=[
        *((name, True) for name in GPU_ENGINES),
        *(pytest.param((name, False), marks=pytest.mark.gpu) for name in GPU_ENGINES),
    ],
    ids=lambda param: f"{param[0]}, device made up" if param[1] else param[0],
)
def name(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    engine_name, made_up = request.param
    if made_up:
        make_up_gpu(monkeypatch, tmp_path)
    else:
        pytest.importorskip(MODULES.get(engine_name, "torch"))
        build_when_asked_for(monkeypatch)
    return str(engine_name)


@pytest.fixture(params=["bundle_folder", "recurrent_folder", "newest_only_folder", "recurrent_newest_only_folder"])
def engine(request: pytest.FixtureRequest, name: str) -> Iterator[CachingEngine]:
    folder: Path = request.getfixturevalue(request.param)
    with closing(load_engine(read_bundle(folder), EngineRequest(name, max_clips=CAMERAS, gpu_cached_cameras=CAMERAS))) as loaded:
        found = caching_engine(loaded)
        assert found is not None
        yield found


@pytest.mark.parametrize("on_device", WHERE)
def test_real_model_equals_whole_clips(engine: CachingEngine, on_device: bool) -> None:
    comparison, random = CacheComparison(engine, 0, on_device=on_device), np.random.default_rng(1)
    for _ in range(30):
        numbers = random.permutation(CAMERAS)[: random.integers(1, CAMERAS + 1)].tolist()
        comparison.step({number: random.choice(["next", "next", "next", "gap", "again"]) for number in numbers})
    assert comparison.scored > 30


@pytest.fixture
def decoder(engine: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[ImageDecoder]:
    """On the engine's device, be that one made up or not."""
    if engine._store._driver.device.type == "cpu":
        fake_nvimgcodec.install(monkeypatch)
    else:
        pytest.importorskip("nvidia.nvimgcodec")
    with closing(load_decoder("nvjpeg", engine.spec, threads=1, on_device=True)) as found:
        yield found


def test_decoded_device_frames_equal_host_frames(engine: CachingEngine, decoder: ImageDecoder) -> None:
    noise, length = np.random.default_rng(0), engine.spec.length
    sizes = [(24, 40), (48, 80), (100, 130), (24, 40), (20, 50), (480, 640)][: length * 2]
    images = [encode_jpeg(noise.integers(0, 256, size, np.uint8), 90) for size in sizes]
    there = [result.frame for result in decoder.decode(images) if isinstance(result, DecodedFrame)]
    assert [type(frame) for frame in there] == [DeviceFrame] * 2 * length
    scores = []
    for frames in (there, np.stack([frame.on_host() for frame in there if isinstance(frame, DeviceFrame)])):
        before = [engine.upload(frames[begin : begin + length - 1]) for begin in (0, length)]
        scores.append(engine.score_newest(frames[length - 1 :: length], before, [None, None]))
    found, expected = scores
    states = None if engine.spec.state_shape is None else contents(engine, expected.states)
    assert_same(engine, found, Scores(expected.score, expected.heatmap, states))


def test_half_precision_equals_whole_clips(recurrent_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    make_up_gpu(monkeypatch, tmp_path)
    engine = caching_engine(
        load_engine(
            recurrent_bundle,
            EngineRequest("torch-cuda", precision="f16", max_clips=CAMERAS, gpu_cached_cameras=CAMERAS),
        )
    )
    assert engine is not None
    comparison = CacheComparison(engine, 0)
    for _ in range(6):
        comparison.step(dict.fromkeys(range(CAMERAS), "next"))
    assert comparison.scored == CAMERAS * 4


def test_recovers_from_enqueue_error(bundle: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    library = FakeTensorRt()
    make_up_gpu(monkeypatch, tmp_path, library)
    engine = caching_engine(load_engine(bundle, EngineRequest("tensorrt", gpu_cached_cameras=1)))
    assert engine is not None
    frames = np.random.default_rng(0).integers(0, 255, (3, *bundle.spec.frame_shape), dtype=np.uint8)
    before = engine.upload(frames[:2])
    library.refuse["execute_async_v3"] = False
    with pytest.raises(EngineFailed, match="scoring 1 newest frames failed: 1 clips cannot be enqueued: out of luck"):
        engine.score_newest(frames[2:], [before], [None])
    library.refuse.clear()
    expected = engine.score(frames[np.newaxis])
    np.testing.assert_array_equal(engine.score_newest(frames[2:], [before], [None]).score, expected.score)


@pytest.mark.parametrize("name", ["openvino", "onnx", "torch"])
def test_cpu_engines_have_no_cache(name: str, bundle: Bundle) -> None:
    pytest.importorskip({"onnx": "onnxruntime"}.get(name, name))
    with closing(load_engine(bundle, EngineRequest(name, gpu_cached_cameras=CAMERAS))) as loaded:
        assert caching_engine(loaded) is None
