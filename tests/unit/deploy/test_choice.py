"""What serves: the settings first, then the bundle's default where it was chosen here, then ours."""

from datetime import UTC, datetime
from typing import Any

import pytest

from deploy.bundle import Bundle
from deploy.engine import EngineRequest
from deploy.engines.registry import ENGINES, load_engine
from deploy.errors import BundleCorrupt, BundleError, ConfigError, EngineFailed, EngineRefused, EngineUnavailable
from deploy.records import DefaultEngine, LoadTestResult, read_default, write_default
from deploy.selection.select import Loaded, Wanted, load_chosen, resolve
from deploy.validation.admission import fingerprint

MEASURED = LoadTestResult(
    due=9, scored=9, clips_per_s=1, cpu_s_per_clip=1, latency_ms={"p50": 1, "p95": 2, "p99": 3}, busy_share=1
)
SHIPPED = ("openvino", "f32", "throughput")


@pytest.fixture(scope="module")
def here(bundle_folder: Any) -> dict[str, str]:
    """ONNX Runtime's fingerprint on this machine."""
    from deploy.bundle import read_bundle

    pytest.importorskip("onnxruntime")
    return fingerprint(load_engine(read_bundle(bundle_folder), EngineRequest("onnx")))


def kept(bundle: Bundle, found: dict[str, str], **changes: object) -> DefaultEngine:
    default = DefaultEngine(
        engine="onnx",
        precision="f32",
        performance_hint="latency",
        model_sha256=bundle.manifest.files["model.onnx"],
        fingerprint=found,
        cameras=4,
        frame_rate=12.5,
        keeps_up=True,
        measured=MEASURED,
        chosen_at=datetime(2026, 1, 2, tzinfo=UTC),
    ).model_copy(update=changes)
    write_default(bundle, default)
    return default


def loaded(bundle: Bundle, wanted: Wanted) -> Loaded:
    """What is loaded; the engine is the one that the choice says."""
    found = load_chosen(bundle, wanted, EngineRequest(max_clips=4))
    assert (found.admitted.engine.name, found.admitted.engine.max_clips) == (found.choice.engine, 4)
    assert found.admitted.engine.describe()["performance_hint"] == found.choice.performance_hint
    found.admitted.engine.close()
    return found


def parts(found: Loaded) -> tuple[str, str, str]:
    return found.choice.engine, found.choice.precision, found.choice.performance_hint


def test_what_was_kept_is_read_and_replaced(bundle: Bundle) -> None:
    assert read_default(bundle) is None
    assert kept(bundle, {"a": "b"}) == read_default(bundle)
    assert kept(bundle, {"a": "c"}) == read_default(bundle)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"engine": 1}', b"\xff\xfe", b"[" * 100_000])
def test_a_default_that_cannot_be_read_is_told_with_its_path(bundle: Bundle, content: bytes) -> None:
    kept(bundle, {})
    (bundle.path / "engines" / "default.json").write_bytes(content)
    with pytest.raises(BundleCorrupt, match=r"engines/default\.json: .*delete it and run oddsight-deploy optimize again"):
        load_chosen(bundle, Wanted("openvino"), EngineRequest(max_clips=4))


def test_a_default_that_cannot_be_read_is_in_nobodys_way_who_names_everything(bundle: Bundle) -> None:
    kept(bundle, {})
    (bundle.path / "engines" / "default.json").write_bytes(b"")
    assert parts(loaded(bundle, Wanted("onnx", "f32", "throughput"))) == ("onnx", "f32", "throughput")


def test_a_bundle_that_cannot_be_written_to_is_one_error(bundle: Bundle) -> None:
    (bundle.path / "engines").write_text("in the way")
    with pytest.raises(BundleError, match=r"default\.json: .*; choose on a copy"):
        kept(bundle, {})


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (Wanted(), ("onnx", "f32", "latency")),
        (Wanted(performance_hint="throughput"), ("onnx", "f32", "throughput")),
        (Wanted("onnx"), ("onnx", "f32", "latency")),
        (Wanted("onnx", performance_hint="throughput"), ("onnx", "f32", "throughput")),
        (Wanted("openvino"), SHIPPED),
        (Wanted("openvino", performance_hint="latency"), ("openvino", "f32", "latency")),
    ],
)
def test_what_the_settings_name_wins_and_the_default_fills_the_rest(
    bundle: Bundle, here: dict[str, str], wanted: Wanted, expected: tuple[str, str, str]
) -> None:
    kept(bundle, here)
    found = loaded(bundle, wanted)
    assert (parts(found), found.passed_over) == (expected, None)


def test_without_a_default_ours_holds(bundle: Bundle) -> None:
    found = loaded(bundle, Wanted())
    assert (parts(found), found.passed_over) == (SHIPPED, None)
    assert set(found.choice.sources.values()) == {"shipped default"}


def test_every_part_says_where_it_comes_from(bundle: Bundle) -> None:
    default = kept(bundle, {})
    assert resolve(Wanted(performance_hint="throughput"), default).told() == {
        "engine": "onnx",
        "precision": "f32",
        "performance_hint": "throughput",
        "engine_from": "bundle default",
        "precision_from": "bundle default",
        "performance_hint_from": "settings",
    }
    assert resolve(Wanted("onnx"), None).sources == {
        "engine": "settings",
        "precision": "shipped default",
        "performance_hint": "shipped default",
    }


def test_a_default_from_elsewhere_is_passed_over_and_every_difference_named(bundle: Bundle, here: dict[str, str]) -> None:
    kept(bundle, {**here, "version": "0", "processor": "another"})
    found = loaded(bundle, Wanted())
    assert parts(found) == SHIPPED
    assert found.passed_over is not None
    assert f"version was 0, is {here['version']}" in found.passed_over
    assert "processor was another, is None" in found.passed_over
    assert f"oddsight-deploy optimize {bundle.path} --cameras 4 --frame-rate 12.5" in found.passed_over


def test_a_default_from_elsewhere_never_changes_the_engine_that_is_named(bundle: Bundle, here: dict[str, str]) -> None:
    kept(bundle, {**here, "version": "0"})
    found = loaded(bundle, Wanted("onnx"))
    assert parts(found) == ("onnx", "f32", "throughput")
    assert found.passed_over is not None


def test_a_default_for_another_model_is_passed_over_without_loading_it(
    bundle: Bundle, here: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept(bundle, here, model_sha256="abc")
    monkeypatch.setitem(ENGINES, "onnx", lambda *_: pytest.fail("loaded in vain"))
    found = loaded(bundle, Wanted())
    assert parts(found) == SHIPPED
    assert found.passed_over is not None
    assert f"model_sha256 was abc, is {bundle.manifest.files['model.onnx']}" in found.passed_over


def test_a_default_whose_library_is_missing_is_passed_over_unless_it_is_named(
    bundle: Bundle, here: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept(bundle, here)
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    found = loaded(bundle, Wanted())
    assert parts(found) == SHIPPED
    assert "pip install 'oddsight[onnx]'" in str(found.passed_over)
    with pytest.raises(EngineUnavailable, match="onnx"):
        load_chosen(bundle, Wanted("onnx"), EngineRequest(max_clips=4))


def test_a_default_that_this_version_does_not_know_is_passed_over(bundle: Bundle) -> None:
    kept(bundle, {}, engine="abacus")
    found = loaded(bundle, Wanted())
    assert parts(found) == SHIPPED
    assert "abacus, which does not compute in f32 here" in str(found.passed_over)


def test_a_precision_that_the_default_lacks_is_asked_of_ours(bundle: Bundle, here: dict[str, str]) -> None:
    kept(bundle, here)
    with pytest.raises((EngineRefused, EngineUnavailable)) as caught:
        load_chosen(bundle, Wanted(precision="bf16"), EngineRequest(max_clips=4))
    assert str(caught.value).startswith("openvino")


def test_a_default_in_bf16_that_never_passed_here_is_passed_over(bundle: Bundle) -> None:
    kept(bundle, {}, engine="openvino", precision="bf16", performance_hint="latency")
    found = loaded(bundle, Wanted())
    assert parts(found) == SHIPPED
    assert found.passed_over


def test_another_precision_than_the_defaults_is_no_difference_of_machines(bundle: Bundle) -> None:
    in_f32 = fingerprint(load_engine(bundle, EngineRequest("openvino")))
    kept(bundle, {**in_f32, "precision": "bf16"}, engine="openvino", precision="bf16", performance_hint="latency")
    found = loaded(bundle, Wanted(precision="f32"))
    assert (parts(found), found.passed_over) == (("openvino", "f32", "latency"), None)


def test_a_default_that_computes_something_else_is_an_error(bundle_with_other_weights: Bundle) -> None:
    kept(bundle_with_other_weights, {}, engine="torch", performance_hint="throughput")
    with pytest.raises(EngineFailed, match="torch: scores differ"):
        load_chosen(bundle_with_other_weights, Wanted(), EngineRequest(max_clips=4))


def test_a_wrong_name_is_still_a_wrong_setting(bundle: Bundle) -> None:
    with pytest.raises(ConfigError, match=r"engine\.precision must be one of f32 with onnx, got 'bf16'"):
        load_chosen(bundle, Wanted("onnx", "bf16"), EngineRequest(max_clips=4))
