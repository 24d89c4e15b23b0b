"""What happens when the engine named is not ready: nothing, a new plan, or another engine, as the settings say."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deploy.bundle import Bundle, read_golden
from deploy.engine import EngineRequest
from deploy.engines.registry import load_engine
from deploy.errors import EngineRefused, EngineUnavailable, PlanStale
from deploy.export.graph_cache import graph_of
from deploy.export.tensorrt import make_plan
from deploy.golden import Sequences, score_sequences
from deploy.records import BuildOptions, find_record
from deploy.records import read_plan as really_read_plan
from deploy.selection.select import FALLBACKS, load_ready
from tests.harness.fake_tensorrt import FakeTensorRt
from tests.harness.gpu_engines import make_up_gpu
from tests.unit.deploy.test_quantise import footage, judged
from tests.unit.deploy.test_sequences import noise, with_sequences

REQUEST = EngineRequest("tensorrt", "f16", max_clips=4)


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeTensorRt:
    """A GPU that is made up, and plans that are only there once they were built."""
    script = FakeTensorRt()
    make_up_gpu(monkeypatch, tmp_path, script)
    monkeypatch.setattr("deploy.engines.tensorrt.read_plan", really_read_plan)
    return script


@pytest.fixture
def tried(bundle: Bundle) -> Bundle:
    """With golden sequences that hold the reference's scores."""
    frames = noise(bundle, 40)
    return with_sequences(
        bundle,
        Sequences(
            frames.frames,
            frames.hurried,
            score_sequences(load_engine(bundle, EngineRequest("torch")), frames.frames),
        ),
    )


def scores(engine: Any, bundle: Bundle) -> Any:
    return engine.score(read_golden(bundle).clips[:4]).score


def test_an_engine_that_is_ready_is_loaded_whatever_the_policy(bundle: Bundle) -> None:
    ready = load_ready(bundle, EngineRequest("onnx", max_clips=4), "fallback")
    assert (ready.admitted.engine.name, ready.recovered, ready.reason) == ("onnx", None, "")


@pytest.mark.parametrize("name", ["tensorrt", "torch-cuda"])
def test_fail_starts_nothing(tried: Bundle, library: FakeTensorRt, name: str) -> None:
    with pytest.raises(EngineRefused, match=r"has (no plan|not been validated)"):
        load_ready(tried, replace(REQUEST, engine=name), "fail")


def test_rebuild_builds_a_missing_plan_and_puts_it_to_the_gate(tried: Bundle, library: FakeTensorRt) -> None:
    ready = load_ready(tried, REQUEST, "rebuild")
    assert (ready.admitted.engine.name, ready.recovered) == ("tensorrt", "rebuild")
    assert "has no plan in this bundle" in ready.reason
    variant = find_record(tried, "tensorrt", "f16")
    assert variant is not None
    assert variant.accuracy is not None
    assert (variant.accuracy.passed, variant.accuracy.buckets) == (True, (1, 8, 32, 128))
    np.testing.assert_allclose(scores(ready.admitted.engine, tried), read_golden(tried).score[:4], rtol=1e-2)
    assert load_ready(tried, REQUEST, "fail").recovered is None


def test_rebuild_builds_a_stale_plan_as_it_was_built_before(tried: Bundle, library: FakeTensorRt) -> None:
    options = BuildOptions(buckets=(2, 4), optimization_level=1)
    make_plan(tried, "tensorrt", "f16", options, lambda *_: None)
    library.__version__ = "11.5.0"
    with pytest.raises(PlanStale, match=r"version was 11\.4\.0, is 11\.5\.0"):
        load_ready(tried, REQUEST, "fail")
    ready = load_ready(tried, REQUEST, "rebuild")
    assert "version was 11.4.0, is 11.5.0" in ready.reason
    variant = find_record(tried, "tensorrt", "f16")
    assert variant is not None
    assert variant.plan is not None
    assert variant.plan.options == options


def test_rebuild_in_int8_takes_the_graph_that_is_kept_and_without_one_asks_for_footage(
    bundle: Bundle, library: FakeTensorRt
) -> None:
    tried, options = judged(bundle), EngineRequest("tensorrt", "int8", max_clips=4)
    with pytest.raises(EngineRefused, match=r"no graph in int8 was made of this model yet.*--calibration-data FOLDER"):
        load_ready(tried, options, "rebuild")
    graph = graph_of(tried, "int8", footage(tried))
    ready = load_ready(tried, options, "rebuild")
    assert (ready.admitted.engine.describe()["precision"], ready.recovered) == ("int8", "rebuild")
    variant = find_record(tried, "tensorrt", "int8")
    assert variant is not None
    assert variant.plan is not None
    assert variant.plan.calibration == graph.footage


def test_a_plan_that_cannot_pass_is_not_rebuilt_into_service(bundle: Bundle, library: FakeTensorRt) -> None:
    wrong = with_sequences(bundle, noise(bundle, 40))
    with pytest.raises(EngineRefused, match="failed validation"):
        load_ready(wrong, REQUEST, "rebuild")


def test_rebuild_helps_no_engine_without_a_plan(bundle: Bundle) -> None:
    with pytest.raises(EngineRefused, match="has not been validated"):
        load_ready(bundle, EngineRequest("openvino", "bf16", max_clips=4), "rebuild")


def test_fallback_takes_the_first_that_may_serve_and_says_why(tried: Bundle, library: FakeTensorRt) -> None:
    ready = load_ready(tried, REQUEST, "fallback")
    # In f16 it has not been validated; in f32 it holds to the golden clips.
    assert (ready.admitted.engine.name, ready.admitted.engine.describe()["precision"]) == ("torch-cuda", "f32")
    assert (ready.recovered, "has no plan in this bundle" in ready.reason) == ("fallback", True)


def test_without_a_gpu_the_fallback_is_the_cpu(bundle: Bundle) -> None:
    ready = load_ready(bundle, replace(REQUEST, engine="torch-cuda"), "fallback")
    assert (ready.admitted.engine.name, ready.recovered) == ("openvino", "fallback")
    assert "needs" in ready.reason


def test_if_nothing_else_may_serve_the_reason_is_that_of_the_engine_named(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deploy.selection.select.FALLBACKS", FALLBACKS[:2])
    with pytest.raises(EngineUnavailable, match="the torch-cuda engine needs"):
        load_ready(bundle, replace(REQUEST, engine="torch-cuda"), "fallback")
