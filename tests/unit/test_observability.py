"""Alert rules and the Grafana dashboard name only metrics and labels that exist; Prometheus' own checks run where it is."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from streamer.monitoring import EvidenceMetrics, Metrics, NotifyMetrics

FOLDER = Path(__file__).parents[2] / "docker/observability"
RULES = [rule for group in yaml.safe_load((FOLDER / "alerts.yaml").read_text("utf-8"))["groups"] for rule in group["rules"]]
DASHBOARD = json.loads((FOLDER / "grafana-dashboard.json").read_text("utf-8"))
SUFFIXES = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"], "info": ["_info"], "gauge": [""]}
USED = re.compile(r"(oddsight_\w+)(?:\{([^}]*)\})?")
GROUPED = re.compile(r"by \(([^)]*)\)")
ADDED = {"instance", "job", "le"}
"""Labels that Prometheus adds."""


def metrics() -> dict[str, set[str]]:
    """Every name that Prometheus gets, and its labels."""
    names = {}
    for collector in (*vars(Metrics()).values(), *vars(NotifyMetrics()).values(), *vars(EvidenceMetrics()).values()):
        if hasattr(collector, "describe") and hasattr(collector, "_labelnames"):
            (family,) = collector.describe()
            names |= {f"{family.name}{suffix}": {*collector._labelnames, *ADDED} for suffix in SUFFIXES[family.type]}
    return names


def expressions() -> Iterator[str]:
    yield from (rule["expr"] for rule in RULES)
    yield from (target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"])
    yield from (variable["query"] for variable in DASHBOARD["templating"]["list"])


@pytest.mark.parametrize("expression", list(expressions()))
def test_names_and_labels_exist(expression: str) -> None:
    known = metrics()
    used = USED.findall(expression)
    assert {name for name, _ in used} <= known.keys()
    for name, matchers in used:
        assert set(re.findall(r"(\w+)\s*(?:=|!)", matchers)) <= known[name]
    labels = set().union(*(known[name] for name, _ in used)) if used else ADDED
    assert {label.strip() for group in GROUPED.findall(expression) for label in group.split(",")} <= labels


def test_what_matters_is_watched() -> None:
    assert all(rule["annotations"]["summary"] and rule["labels"]["severity"] in {"critical", "warning", "info"} for rule in RULES)
    watched = " ".join(rule["expr"] for rule in RULES)
    for name in (
        "lag_messages",
        "shed_frames",
        "frames_total",
        "lost_dead_letters",
        "engine_recoveries",
        "notify_failures",
        "evidence_failures",
    ):
        assert name in watched


def test_panels_have_places_of_their_own() -> None:
    places = [tuple(panel["gridPos"][key] for key in "xywh") for panel in DASHBOARD["panels"]]
    cells = [(column, line) for x, y, w, h in places for column in range(x, x + w) for line in range(y, y + h)]
    assert len(cells) == len(set(cells))
    assert max(column for column, _ in cells) < 24
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(places)


def promtool(*arguments: str | Path) -> str:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_prometheus_accepts_them() -> None:
    assert f"{len(RULES)} rules found" in promtool("check", "rules", FOLDER / "alerts.yaml")
    promtool("check", "config", FOLDER / "prometheus.yaml")


DOWN, LAG, FRAMES = 'up{job="oddsight"}', 'oddsight_lag_messages{partition="0"}', 'oddsight_frames_total{camera_id="gate"}'
COMMITS = 'oddsight_redis_commits_total{outcome="applied"}'
FAILURES, WAITING = 'oddsight_notify_failures_total{receiver="ops"}', 'oddsight_notify_waiting{receiver="ops"}'
TOLD_LATE, UNREAD = 'oddsight_notify_delay_seconds{receiver="ops"}', 'oddsight_notify_unread_entries{receiver="ops"}'
STORED_LATE, NOT_STORED = 'oddsight_evidence_delay_seconds{instance="e"}', 'oddsight_evidence_failures_total{instance="e"}'
LOST = 'oddsight_evidence_lost_events_total{instance="e",reason="given_up"}'
FIRES = [
    ("OddsightDown", {DOWN: "0x30"}, True),
    ("OddsightDown", {DOWN: "1x30"}, False),
    ("OddsightFallsBehind", {LAG: "0+100x30"}, True),
    ("OddsightFallsBehind", {LAG: "3000-100x30"}, False),
    ("OddsightCameraSilent", {FRAMES: "0+600x10 6000x20"}, True),
    ("OddsightCameraSilent", {FRAMES: "0+600x10 _x20"}, True),
    ("OddsightCameraSilent", {FRAMES: "0+600x30"}, False),
    ("OddsightStuck", {COMMITS: "500x30", LAG: "7x30"}, True),
    ("OddsightStuck", {COMMITS: "0+5x30", LAG: "7x30"}, False),
    ("OddsightReceiverFails", {FAILURES: "0+1x30", WAITING: "1x30"}, True),
    ("OddsightReceiverFails", {FAILURES: "3x30", WAITING: "1x30"}, False),
    ("OddsightToldLate", {TOLD_LATE: "0+60x30"}, True),
    ("OddsightToldLate", {TOLD_LATE: "0x30", UNREAD: "0+100x30"}, True),
    ("OddsightToldLate", {TOLD_LATE: "30x30", UNREAD: "5x30"}, False),
    ("OddsightEvidenceFails", {NOT_STORED: "0+2x30", STORED_LATE: "0+60x30"}, True),
    ("OddsightEvidenceFails", {NOT_STORED: "7x30", STORED_LATE: "0+60x30"}, False),
    ("OddsightEvidenceLate", {STORED_LATE: "0+60x30"}, True),
    ("OddsightEvidenceLate", {STORED_LATE: "5x30"}, False),
    ("OddsightEvidenceLost", {LOST: "0x25 1x10"}, True),
    ("OddsightEvidenceLost", {LOST: "1x30"}, False),
]
"""Alert, what Prometheus has got each minute, and whether it fires after 29 minutes."""


def test_alerts_fire_when_they_should(tmp_path: Path) -> None:
    tests = []
    for name, series, fires in FIRES:
        firing = f'count(ALERTS{{alertname="{name}",alertstate="firing"}})'
        expected = [{"labels": "{}", "value": 1}] if fires else []
        values = [{"series": key, "values": value} for key, value in series.items()]
        asked = [{"expr": firing, "eval_time": "29m", "exp_samples": expected}]
        tests.append({"interval": "1m", "input_series": values, "promql_expr_test": asked})
    file = tmp_path / "tests.yaml"
    file.write_text(yaml.safe_dump({"rule_files": [str(FOLDER / "alerts.yaml")], "tests": tests}), encoding="utf-8")
    promtool("test", "rules", file)
