"""Building a plan: every refusal of TensorRT becomes an error with its reason. The library is a fake."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.bundle import ONNX_NAME, Bundle
from deploy.engines.tensorrt import MODULES, Log, import_library
from deploy.errors import ConfigError, EngineFailed, EngineUnavailable
from deploy.export.tensorrt import build_plan
from deploy.records import BuildOptions, parse_build_options
from tests.harness.fake_tensorrt import FakeTensorRt, Severity

OPTIONS = BuildOptions(buckets=(1, 4))


def build(library: FakeTensorRt, bundle: Bundle, options: BuildOptions = OPTIONS, **more: Any) -> Any:
    return build_plan(library, bundle.file(ONNX_NAME).read_bytes(), "f32", options, name="mine", **more)


@pytest.mark.parametrize(
    ("call", "answer", "message"),
    [
        ("create_network", None, "the network cannot be made"),
        ("parse", False, "the graph cannot be parsed: node_7: unsupported operator"),
        ("create_builder_config", None, "the builder cannot be configured"),
        ("create_optimization_profile", None, "a profile cannot be made"),
        ("get_shape", [], r"the profile takes no shapes .* for clips"),
        ("add_optimization_profile", -1, "the profile for 1 clips is refused"),
        ("build_serialized_network", None, "the plan cannot be built"),
    ],
)
def test_refusal_is_an_error(bundle: Bundle, call: str, answer: object, message: str) -> None:
    with pytest.raises(EngineFailed, match=message) as failed:
        build(FakeTensorRt({call: answer}), bundle)
    if call != "parse":
        assert str(failed.value).endswith(": out of luck")


def test_names_too_little_memory(bundle: Bundle) -> None:
    library = FakeTensorRt({"build_serialized_network": None}, says="Could not find any implementation for node conv_1")
    with pytest.raises(EngineFailed, match="too little GPU memory"):
        build(library, bundle)


def test_refusal_without_reason() -> None:
    with pytest.raises(EngineFailed, match="it failed: it gave no reason"):
        Log(FakeTensorRt()).require(None, "it failed")


@pytest.mark.parametrize("value", [0, 1, "", b"", [], 0.0])
def test_other_values_are_no_refusals(value: object) -> None:
    assert Log(FakeTensorRt()).require(value, "it failed") is value


def test_log_keeps_last_lines() -> None:
    log = Log(FakeTensorRt())
    for number in range(20):
        line = f"line\n  {number}"
        log.logger.log(Severity.WARNING, line)
        log.logger.log(Severity.INFO, "chatter")
    assert list(log.lines) == [f"line {number}" for number in range(12, 20)]


def test_build_configuration(bundle: Bundle) -> None:
    library = FakeTensorRt()
    plan = build(library, bundle, timing_cache=b"before")
    profiles = [seen[0] for call, *seen in library.calls if call == "add_optimization_profile"]
    assert [profile["clips"] for profile in profiles] == [[(clips, *bundle.spec.clip_shape)] * 3 for clips in (1, 4)]
    assert ("clear_flag", library.BuilderFlag.TF32) in library.calls
    assert ("set_memory_pool_limit", OPTIONS.workspace_bytes) in library.calls
    assert (plan.plan, plan.timing_cache) == (bundle.file(ONNX_NAME).read_bytes(), b"timed before")
    assert set(plan.products) == {"FLOAT"}


def test_library_without_timing_cache(bundle: Bundle) -> None:
    assert build(FakeTensorRt({"get_timing_cache": None}), bundle).timing_cache == b""


def test_refuses_graph_of_other_precision(bundle: Bundle) -> None:
    with pytest.raises(EngineFailed, match=r"the graph is not in f16: .*FLOAT"):
        build_plan(FakeTensorRt(), bundle.file(ONNX_NAME).read_bytes(), "f16", OPTIONS, name="mine")


def test_refuses_large_plan(bundle: Bundle) -> None:
    with pytest.raises(ConfigError, match=r"the plan has \d+ bytes, max_plan_bytes allows 10"):
        build(FakeTensorRt(), bundle, OPTIONS.model_copy(update={"max_plan_bytes": 10}))


def test_progress_and_interrupt(bundle: Bundle) -> None:
    steps: list[tuple[str, int, int]] = []
    build(FakeTensorRt(), bundle, on_progress=lambda *step: steps.append(step))
    assert steps == [("all", 0, 2), ("all", 1, 2), ("all", 2, 2), ("all", 2, 2)]

    def interrupt(_phase: str, done: int, _total: int) -> None:
        if done:
            raise KeyboardInterrupt

    library = FakeTensorRt()
    with pytest.raises(KeyboardInterrupt):
        build(library, bundle, on_progress=interrupt)
    assert "build_serialized_network" not in [call for call, *_ in library.calls]


def test_wide_profile() -> None:
    assert OPTIONS.model_copy(update={"profiles": "wide"}).profile_bounds() == [(1, 4, 4)]


@given(st.lists(st.integers(1, 1024), min_size=1, max_size=8))
def test_sorts_buckets(buckets: list[int]) -> None:
    options = parse_build_options(buckets=buckets)
    assert options.buckets == tuple(sorted(set(buckets)))
    assert [bounds[2] for bounds in options.profile_bounds()] == list(options.buckets)


@pytest.mark.parametrize("wrong", [{"buckets": [0]}, {"buckets": [2000]}, {"optimization_level": 9}])
def test_rejects_options_out_of_range(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        parse_build_options(**wrong)


@pytest.mark.parametrize("flavour", MODULES)
def test_missing_library_names_extra(flavour: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODULES, flavour, "no_such_library")
    with pytest.raises(EngineUnavailable, match=rf"No module named 'no_such_library'; install it: .*oddsight\[{flavour}\]"):
        import_library(flavour)
