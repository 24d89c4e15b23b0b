"""The whole: running services, Redis, and the trail of what people did."""

import time
from collections.abc import Mapping
from importlib.metadata import version
from typing import Annotated

from fastapi import APIRouter, Query

from streamer.dashboard.live import Link
from streamer.dashboard.models import Row
from streamer.dashboard.parts import Admin, AppParts, Viewer
from streamer.redis.operators import AuditEntry
from streamer.served import other_bundle

router = APIRouter(tags=["system"])


class DashboardStatus(Row):
    """What this process says of itself."""

    version: str
    started_at_ms: int
    pages: int
    """How many pages are open."""
    cameras: int
    events: int
    """How many events are listed."""
    evidence: bool
    """Whether ``evidence.dir`` is set."""
    evidence_problem: str | None
    """Why the store of evidence does not answer at the moment."""
    evidence_failures: int
    """How often it did not answer."""


class System(Row):
    """The state of the whole."""

    now_ms: int
    link: Link
    dashboard: DashboardStatus
    services: dict[str, dict[str, str]]
    """What each running service says of itself."""
    other_bundle: str | None
    """That a service serves another network than the bundle of the dashboard's settings has."""
    streams: dict[str, int]
    """How many entries each stream holds."""
    server: Mapping[str, str]
    """What Redis says of itself."""


@router.get("/system")
def system(_who: Viewer, parts: AppParts) -> System:
    """Tell how the whole is."""
    live = parts.live
    camera_ids, services = live.board.camera_ids, parts.status.services()
    return System(
        now_ms=round(time.time() * 1000),
        link=live.link,
        dashboard=DashboardStatus(
            version=version("oddsight"),
            started_at_ms=live.started_at_ms,
            pages=len(live.hub),
            cameras=len(camera_ids),
            events=len(live.board.events),
            evidence=parts.evidence.files is not None,
            evidence_problem=parts.evidence.problem,
            evidence_failures=parts.evidence.failures,
        ),
        services=services,
        other_bundle=other_bundle(parts.settings, services.values()),
        streams=parts.status.stream_lengths(camera_ids),
        server=parts.status.server(),
    )


@router.get("/audit")
def audit(_who: Admin, parts: AppParts, limit: Annotated[int, Query(ge=1, le=1_000)] = 100) -> list[AuditEntry]:
    """Tell what people did last, newest first."""
    return parts.operators.newest_audit(limit)
