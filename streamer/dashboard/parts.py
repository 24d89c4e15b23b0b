"""What answers requests, and how a request gets at it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends, Request

from streamer.config import Settings
from streamer.dashboard.access import Access, Identity
from streamer.dashboard.evidence import EvidenceReader
from streamer.dashboard.live import Live
from streamer.dashboard.oidc import Provider
from streamer.dashboard.users import Role
from streamer.redis.areas import RedisAreaStore
from streamer.redis.client import RedisProgressStore
from streamer.redis.operators import OperatorStore
from streamer.redis.overview import OverviewReader


@dataclass(frozen=True, slots=True)
class Parts:
    """All that answers are made from."""

    settings: Settings
    live: Live
    operators: OperatorStore
    status: OverviewReader
    access: Access
    evidence: EvidenceReader
    areas: RedisAreaStore
    progress: RedisProgressStore
    provider: Provider | None = None
    """Of OpenID Connect."""


def parts_of(request: Request) -> Parts:
    """The parts of the application that answers a request."""
    return cast("Parts", request.app.state.parts)


def _asker(role: Role) -> Callable[[Request], Identity]:
    def who(request: Request) -> Identity:
        return parts_of(request).access.require(request, role)

    return who


AppParts = Annotated[Parts, Depends(parts_of)]
Viewer = Annotated[Identity, Depends(_asker("viewer"))]
Operator = Annotated[Identity, Depends(_asker("operator"))]
Admin = Annotated[Identity, Depends(_asker("admin"))]
