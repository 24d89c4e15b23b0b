"""What every engine promises. A new engine needs nothing here but its name in ``deploy.registry.ENGINES``.

Engines for GPUs are held to it twice: everywhere with a device that is made up, so that all but the device itself is tried, and
on a GPU where there is one (``pytest -m gpu``).
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from numpy.typing import NDArray

from deploy.bundle import ONNX_NAME, WEIGHTS_NAME, Bundle, read_bundle, read_golden, write_bundle
from deploy.engine import Engine, EngineRequest, PerformanceHint, Scores
from deploy.engines.tensorrt import MODULES
from deploy.errors import BadClips, BundleCorrupt, BundleIncompatible, ConfigError, EngineClosed, EngineFailed, EngineUnavailable
from deploy.registry import ENGINES, TUNABLE_ENGINES, load_engine
from deploy.spec import ClipSpec
from deploy.validation.accuracy import check_parity
from deploy.validation.admission import fingerprint
from tests.harness.gpu_engines import GPU_ENGINES, build_when_asked_for, make_up_gpu

CPU_LIBRARIES = {"openvino": ("openvino", "stream"), "onnx": ("onnxruntime", "onnx"), "torch": ("torch", "train")}
MAX_CLIPS = 5
ROUNDING = 1e-5
"""Relative. Kernels may add in another order for another batch size; float32 has 6e-8, and some hundred terms are added."""


@pytest.fixture(params=list(CPU_LIBRARIES))
def cpu_name(request: pytest.FixtureRequest) -> str:
    engine_name: str = request.param
    pytest.importorskip(CPU_LIBRARIES[engine_name][0])
    return engine_name


@pytest.fixture(
    params=[
        *((name, False) for name in CPU_LIBRARIES),
        *((name, True) for name in GPU_ENGINES),
        *(pytest.param((name, False), marks=pytest.mark.gpu) for name in GPU_ENGINES),
    ],
    ids=lambda param: f"{param[0]}, device made up" if param[1] else param[0],
)
def name(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    engine_name, made_up = request.param
    if engine_name in CPU_LIBRARIES:
        pytest.importorskip(CPU_LIBRARIES[engine_name][0])
    elif made_up:
        make_up_gpu(monkeypatch, tmp_path)
    else:
        pytest.importorskip(MODULES.get(engine_name, "torch"))
        build_when_asked_for(monkeypatch)
    return str(engine_name)


@dataclass(frozen=True)
class Input:
    """What goes into an engine; any part of it is an input, too."""

    clips: NDArray[np.uint8]
    state: NDArray[np.float32] | None
    profile: NDArray[np.float32] | None

    def __getitem__(self, wanted: slice | list[int]) -> "Input":
        """A view for a slice, a copy for a list of places."""
        return Input(*(None if values is None else values[wanted] for values in self))

    def __iter__(self) -> Iterator[Any]:
        return iter((self.clips, self.state, self.profile))


@pytest.fixture(params=["bundle_folder", "recurrent_folder"], ids=["stateless", "recurrent"])
def bundle(request: pytest.FixtureRequest, tmp_path: Path) -> Bundle:
    """A copy that a test may change, of a model of either kind."""
    return read_bundle(shutil.copytree(request.getfixturevalue(request.param), tmp_path / "bundle"))


@pytest.fixture
def given(bundle: Bundle) -> Input:
    """The golden clips, with their states and profiles where the model has them."""
    golden = read_golden(bundle)
    return Input(golden.clips, golden.state, golden.profile)


@pytest.fixture
def engine(name: str, bundle: Bundle) -> Iterator[Engine]:
    engine = load_engine(bundle, EngineRequest(name, max_clips=MAX_CLIPS))
    yield engine
    engine.close()


def assert_same(found: Scores, expected: Scores) -> None:
    np.testing.assert_allclose(found.score, expected.score, rtol=ROUNDING)
    np.testing.assert_allclose(found.heatmap, expected.heatmap, rtol=ROUNDING, atol=ROUNDING * expected.heatmap.max())
    assert (found.state is None) == (expected.state is None)
    if found.state is not None and expected.state is not None:
        np.testing.assert_allclose(found.state, expected.state, rtol=ROUNDING, atol=ROUNDING)


def assert_reference_scores(found: Scores, bundle: Bundle) -> None:
    golden = read_golden(bundle)
    assert_same(found, Scores(golden.score, golden.heatmap, golden.next_state))


def part(scores: Scores, wanted: slice) -> Scores:
    return Scores(scores.score[wanted], scores.heatmap[wanted], None if scores.state is None else scores.state[wanted])


def own_copy(scores: Scores) -> Scores:
    return Scores(scores.score.copy(), scores.heatmap.copy(), None if scores.state is None else scores.state.copy())


def with_onnx(bundle: Bundle, path: Path, content: bytes, spec: ClipSpec | None = None) -> Bundle:
    """A bundle with right sums around another serving graph and other weights."""
    files = {file: bundle.file(file).read_bytes() for file in bundle.manifest.files} | {
        ONNX_NAME: content,
        WEIGHTS_NAME: content,
    }
    return write_bundle(
        path,
        model=bundle.manifest.model,
        spec=spec or bundle.spec,
        calibration=bundle.calibration,
        files=files,
        metrics={},
        versions={},
    )


def test_output_shapes_and_types(engine: Engine, given: Input) -> None:
    scores = engine.score(*given[:3])
    assert (scores.score.shape, scores.score.dtype) == ((3,), np.float32)
    assert (scores.heatmap.shape, scores.heatmap.dtype) == ((3, 6, 10), np.float32)


def test_keeps_order_of_clips(engine: Engine, given: Input) -> None:
    forward, backward = engine.score(*given[:MAX_CLIPS]), engine.score(*given[:MAX_CLIPS][::-1])
    assert len(set(forward.score.tolist())) == MAX_CLIPS
    assert_same(part(backward, slice(None, None, -1)), forward)


@pytest.mark.parametrize("n_clips", range(1, MAX_CLIPS + 1))
def test_score_ignores_batch_size(engine: Engine, given: Input, n_clips: int) -> None:
    alone = engine.score(*given[:1])
    assert_same(part(engine.score(*given[:n_clips]), slice(0, 1)), alone)


@pytest.mark.parametrize("neighbour", [0, 128, 254])
def test_score_ignores_neighbours(engine: Engine, given: Input, neighbour: int) -> None:
    among = given[[4, 4, 0, 4, 4]]
    among.clips[[0, 1, 3, 4]] = neighbour
    if among.profile is not None:
        among.profile[[0, 1, 3, 4]] *= neighbour
    assert_same(part(engine.score(*among), slice(2, 3)), engine.score(*given[:1]))


def test_empty_call(engine: Engine, given: Input) -> None:
    scores = engine.score(*given[:0])
    assert (scores.score.shape, scores.score.dtype, len(scores.heatmap)) == ((0,), np.float32, 0)
    assert (scores.state is None) == (engine.spec.state_shape is None)


def test_accepts_read_only_and_views(engine: Engine, given: Input) -> None:
    fixed = given[[0, 1]]
    for values in fixed:
        if values is not None:
            values.flags.writeable = False
    assert_same(engine.score(*fixed), engine.score(*given[:2]))
    assert_same(engine.score(*given[:4:2]), engine.score(*given[[0, 2]]))


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (lambda clips: clips[:6], "at most 5 clips a call (max_clips), got 6"),
        (lambda clips: clips.astype(np.float32), "uint8, got float32"),
        (lambda clips: clips.tolist(), "a numpy array, got list"),
        (bytes, "a numpy array, got bytes"),
        (lambda clips: clips[0], "(N, 3, 24, 40, 1), got (3, 24, 40, 1)"),
        (lambda clips: clips[:2, :2], "(N, 3, 24, 40, 1), got (2, 2, 24, 40, 1)"),
        (lambda clips: clips[:2].transpose(0, 1, 3, 2, 4), "(N, 3, 24, 40, 1), got (2, 3, 40, 24, 1)"),
        (lambda clips: clips[0, 0, 0, 0], "(N, 3, 24, 40, 1), got (1,)"),
    ],
)
def test_rejects_bad_clips(engine: Engine, given: Input, broken: Callable[[NDArray[np.uint8]], Any], says: str) -> None:
    expected = engine.score(*given[:2])
    with pytest.raises(BadClips) as caught:
        engine.score(broken(given.clips))
    assert says in str(caught.value)
    assert_same(engine.score(*given[:2]), expected)


def test_nan_score_is_an_error(engine: Engine, given: Input) -> None:
    expected = engine.score(*given[:2])
    white = given[[0, 1]]
    white.clips[1] = 255
    with pytest.raises(EngineFailed, match="not a finite number"):
        engine.score(*white)
    assert_same(engine.score(*given[:2]), expected)


def test_is_thread_safe(engine: Engine, given: Input) -> None:
    expected = [engine.score(*given[i : i + 3]) for i in range(5)]
    with ThreadPoolExecutor(2) as pool:
        for _ in range(5):
            for found, wanted in zip(pool.map(lambda i: engine.score(*given[i : i + 3]), range(5)), expected, strict=True):
                assert_same(found, wanted)


def test_results_are_not_shared(engine: Engine, given: Input) -> None:
    first = engine.score(*given[:3])
    expected = own_copy(first)
    engine.score(*given[3:6])
    assert_same(first, expected)
    if first.state is not None:
        first.state[:] = 0
    np.testing.assert_array_equal(first.heatmap, expected.heatmap)
    first.heatmap[:], first.score[:] = 0, 0
    assert_same(engine.score(*given[:3]), expected)


def test_inputs_are_not_changed(engine: Engine, given: Input) -> None:
    before = given[list(range(8))]
    engine.score(*given[:3])
    np.testing.assert_array_equal(given.clips, before.clips)
    np.testing.assert_array_equal(given.state, before.state)
    np.testing.assert_array_equal(given.profile, before.profile)


def test_results_outlive_the_engine(name: str, bundle: Bundle, given: Input) -> None:
    engine = load_engine(bundle, EngineRequest(name))
    found = engine.score(*given)
    engine.close()
    del engine
    assert_reference_scores(found, bundle)


def test_closed_engine_is_an_error(engine: Engine, given: Input) -> None:
    engine.close()
    engine.close()
    with pytest.raises(EngineClosed, match=engine.name):
        engine.score(*given[:1])
    with pytest.raises(EngineClosed):
        engine.score(*given[:0])


def test_states_equal_the_reference(name: str, recurrent_bundle: Bundle) -> None:
    golden = read_golden(recurrent_bundle)
    assert golden.profile is not None
    with closing(load_engine(recurrent_bundle, EngineRequest(name))) as engine:
        steps: list[Scores] = []
        for clip, profile in zip(golden.clips[:, np.newaxis], golden.profile[:, np.newaxis], strict=True):
            steps.append(engine.score(clip, steps[-1].state if steps else None, profile))
    found = Scores(*(np.concatenate(values) for values in zip(*map(astuple, steps), strict=True)))
    assert_reference_scores(found, recurrent_bundle)


def test_default_state_is_zeros(name: str, recurrent_bundle: Bundle) -> None:
    clips = read_golden(recurrent_bundle).clips[:3]
    with closing(load_engine(recurrent_bundle, EngineRequest(name))) as engine:
        assert_same(engine.score(clips), engine.score(clips, np.zeros((3, 3, 6, 10), np.float32)))


@pytest.mark.parametrize(
    ("state", "says"),
    [
        (np.zeros((2, 3, 6, 10)), "dtype float32, got float64"),
        ([[0.0]], "dtype float32, got list"),
        (np.zeros((3, 6, 10), np.float32), "2 clips must have shape (2, 3, 6, 10), got (3, 6, 10)"),
        (np.zeros((1, 3, 6, 10), np.float32), "2 clips must have shape (2, 3, 6, 10), got (1, 3, 6, 10)"),
        (np.zeros((2, 3, 10, 6), np.float32), "2 clips must have shape (2, 3, 6, 10), got (2, 3, 10, 6)"),
    ],
)
def test_rejects_bad_state(name: str, recurrent_bundle: Bundle, state: Any, says: str) -> None:
    golden = read_golden(recurrent_bundle)
    with closing(load_engine(recurrent_bundle, EngineRequest(name))) as engine:
        with pytest.raises(BadClips, match=re.escape(says)):
            engine.score(golden.clips[:2], state)
        assert_reference_scores(engine.score(golden.clips, golden.state, golden.profile), recurrent_bundle)


def test_clips_of_one_call_have_their_own_profiles(name: str, recurrent_bundle: Bundle) -> None:
    golden = read_golden(recurrent_bundle)
    assert golden.profile is not None
    assert len(np.unique(golden.profile, axis=0)) == 2
    with closing(load_engine(recurrent_bundle, EngineRequest(name))) as engine:
        together = engine.score(golden.clips, golden.state, golden.profile)
        default = engine.score(golden.clips, golden.state)
        expected = engine.score(golden.clips, golden.state, np.resize(golden.profile[0], golden.profile.shape))
    assert_reference_scores(together, recurrent_bundle)
    assert_same(default, expected)
    assert not np.allclose(default.score[1::2], together.score[1::2], rtol=0.1)


@pytest.mark.parametrize(
    ("profile", "says"),
    [
        (np.ones((2, 2)), "profile must be a numpy array of dtype float32, got float64"),
        (np.ones((1, 2), np.float32), "the profile of 2 clips must have shape (2, 2), got (1, 2)"),
        (np.ones(2, np.float32), "the profile of 2 clips must have shape (2, 2), got (2,)"),
    ],
)
def test_rejects_bad_profile(name: str, recurrent_bundle: Bundle, profile: Any, says: str) -> None:
    golden = read_golden(recurrent_bundle)
    with closing(load_engine(recurrent_bundle, EngineRequest(name))) as engine:
        with pytest.raises(BadClips, match=re.escape(says)):
            engine.score(golden.clips[:2], None, profile)
        assert_reference_scores(engine.score(golden.clips, golden.state, golden.profile), recurrent_bundle)


def test_rejects_state_of_stateless_model(name: str, bundle_folder: Path, clips: NDArray[np.uint8], tmp_path: Path) -> None:
    stateless = read_bundle(shutil.copytree(bundle_folder, tmp_path / "stateless"))
    with (
        closing(load_engine(stateless, EngineRequest(name))) as engine,
        pytest.raises(BadClips, match="has no state"),
    ):
        engine.score(clips[:1], np.zeros((1, 1, 1, 1), np.float32))


def test_rejects_profile_of_model_without(name: str, bundle_folder: Path, clips: NDArray[np.uint8], tmp_path: Path) -> None:
    bundle = read_bundle(shutil.copytree(bundle_folder, tmp_path / "without"))
    with closing(load_engine(bundle, EngineRequest(name))) as engine, pytest.raises(BadClips, match="takes no profiles"):
        engine.score(clips[:1], None, np.zeros((1, 2), np.float32))


def test_nan_state_is_an_error(name: str, recurrent_bundle: Bundle) -> None:
    golden = read_golden(recurrent_bundle)
    assert golden.state is not None
    broken = golden.state.copy()
    broken[3, 2] = np.inf
    with closing(load_engine(recurrent_bundle, EngineRequest(name))) as engine:
        with pytest.raises(EngineFailed, match="a next state holds values that are not finite numbers"):
            engine.score(golden.clips, broken)
        assert_reference_scores(engine.score(golden.clips, golden.state, golden.profile), recurrent_bundle)


@pytest.mark.parametrize("name", ["openvino", "onnx"])
@pytest.mark.parametrize(
    ("state_shape", "says"),
    [
        (None, "and gives next_state of (3, 6, 10), the spec says clips of (3, 24, 40, 1) and profile of (2,);"),
        ((2, 6, 10), "the spec says clips of (3, 24, 40, 1) and state of (2, 6, 10) and profile of (2,);"),
    ],
)
def test_rejects_graph_with_other_state(
    name: str, recurrent_bundle: Bundle, tmp_path: Path, state_shape: tuple[int, int, int] | None, says: str
) -> None:
    pytest.importorskip(CPU_LIBRARIES[name][0])
    spec = recurrent_bundle.spec.model_copy(update={"state_shape": state_shape, "state_warmup_frames": 0})
    other = with_onnx(recurrent_bundle, tmp_path / "other", recurrent_bundle.file(ONNX_NAME).read_bytes(), spec)
    with pytest.raises(BundleIncompatible, match=re.escape(says)):
        load_engine(other, EngineRequest(name))


def test_describe(engine: Engine, name: str) -> None:
    described = engine.describe()
    assert described["backend"] == name == engine.name
    assert described["version"][0].isdigit()
    assert "CPU" in described.get("device", "").upper() or described["os" if "rtx" in name else "gpu"]
    assert described["precision"] in {"f32", "float32", "tensor(float)"}
    assert all(isinstance(value, str) and value for value in described.values())


def test_describe_reports_threads(cpu_name: str, bundle: Bundle, given: Input) -> None:
    engine = load_engine(bundle, EngineRequest(cpu_name, threads=1))
    assert engine.describe()["threads"] == "1"
    assert_reference_scores(engine.score(*given), bundle)


@pytest.mark.parametrize("name", sorted(TUNABLE_ENGINES))
def test_hint_changes_no_score(name: str, bundle: Bundle, given: Input) -> None:
    pytest.importorskip(CPU_LIBRARIES[name][0])
    with (
        closing(load_engine(bundle, EngineRequest(name))) as many,
        closing(load_engine(bundle, EngineRequest(name, performance_hint="latency"))) as soon,
    ):
        assert (many.describe()["performance_hint"], soon.describe()["performance_hint"]) == ("throughput", "latency")
        assert fingerprint(many) == fingerprint(soon)
        np.testing.assert_array_equal(many.score(*given).score, soon.score(*given).score)


def test_openvino_latency_has_one_stream(bundle: Bundle) -> None:
    pytest.importorskip("openvino")
    many, soon = (
        load_engine(bundle, EngineRequest("openvino", performance_hint=hint)).describe() for hint in get_args(PerformanceHint)
    )
    assert soon["streams"] == "1"
    assert soon["threads"] == many["threads"]
    if many["threads"] != "1":
        assert int(many["streams"]) > 1


def test_onnx_spins_for_latency_only(bundle: Bundle) -> None:
    pytest.importorskip("onnxruntime")
    described = [
        load_engine(bundle, EngineRequest("onnx", performance_hint=hint)).describe()["spinning"]
        for hint in get_args(PerformanceHint)
    ]
    assert described == ["off", "on"]


@pytest.mark.parametrize("performance_hint", get_args(PerformanceHint))
def test_agrees_with_the_reference(name: str, bundle: Bundle, performance_hint: PerformanceHint) -> None:
    parity = check_parity(
        load_engine(bundle, EngineRequest(name, max_clips=3, performance_hint=performance_hint)),
        read_golden(bundle),
    )
    assert parity.clips == 8
    assert max(parity.max_score_error, parity.max_heatmap_error, parity.max_state_error or 0) < ROUNDING
    assert (parity.max_state_error is None) == (bundle.spec.state_shape is None)


def test_missing_library_names_the_extra(cpu_name: str, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    library, extra = CPU_LIBRARIES[cpu_name]
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.delitem(sys.modules, "deploy.engines.torch", raising=False)
    with pytest.raises(EngineUnavailable, match=rf"the {cpu_name} engine .* pip install 'oddsight\[{extra}\]'"):
        load_engine(bundle, EngineRequest(cpu_name))


def test_rejects_unknown_engine(bundle: Bundle) -> None:
    with pytest.raises(ConfigError, match=rf"engine\.backend must be one of {', '.join(ENGINES)}, got 'cuda'"):
        load_engine(bundle, EngineRequest("cuda"))


def test_rejects_tampered_bundle(bundle: Bundle) -> None:
    for file in (ONNX_NAME, WEIGHTS_NAME):
        path = bundle.path / file
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(BundleCorrupt, match=file):
            read_bundle(bundle.path)
        path.write_bytes(content)


def test_unreadable_model_fails_in_one_line(cpu_name: str, bundle: Bundle, tmp_path: Path) -> None:
    broken = with_onnx(bundle, tmp_path / "broken", b"no model at all")
    with pytest.raises(EngineFailed, match=f"^{cpu_name}: .*broken cannot be loaded: .+") as caught:
        load_engine(broken, EngineRequest(cpu_name))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["openvino", "onnx"])
def test_rejects_graph_for_other_spec(name: str, bundle: Bundle, tmp_path: Path) -> None:
    pytest.importorskip(CPU_LIBRARIES[name][0])
    spec = bundle.spec.model_copy(update={"width_px": 48})
    other = with_onnx(bundle, tmp_path / "other", bundle.file(ONNX_NAME).read_bytes(), spec)
    with pytest.raises(BundleIncompatible, match=r"takes clips of \(3, 24, 40, 1\).* the spec says clips of \(3, 24, 48, 1\)"):
        load_engine(other, EngineRequest(name))


def test_rejects_unknown_network_kind(bundle: Bundle) -> None:
    pytest.importorskip("torch")
    card = bundle.manifest.model.model_copy(update={"kind": "no-such-network"})
    stranger = Bundle(bundle.path, bundle.manifest.model_copy(update={"model": card}), bundle.calibration)
    with pytest.raises(BundleIncompatible, match=r"'no-such-network'.*tiny-network"):
        load_engine(stranger, EngineRequest("torch"))


def test_torch_restores_thread_setting(bundle: Bundle, given: Input) -> None:
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    load_engine(bundle, EngineRequest("torch", threads=before + 1)).score(*given)
    assert torch.get_num_threads() == before


def test_openvino_loads_no_telemetry(bundle: Bundle) -> None:
    pytest.importorskip("openvino")
    program = (
        "import pathlib, sys\n"
        "from deploy.bundle import read_bundle\n"
        "from deploy.engine import EngineRequest\n"
        "from deploy.registry import load_engine\n"
        "load_engine(read_bundle(pathlib.Path(sys.argv[1])), EngineRequest('openvino'))\n"
        "print([name for name in sys.modules if 'telemetry' in name or name == 'torch'])\n"
    )
    done = subprocess.run([sys.executable, "-c", program, bundle.path], check=True, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("[]\n", "")
