"""The settings of ``oddsight-stream evidence``: what is stored of events, where, and for how long."""

import re
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field

from streamer.section import Section

_BUCKET = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/(?!\.{1,2}(/|$))[A-Za-z0-9._=-]+)*/?")


def _place(value: object) -> object:
    """Text that begins as an address of S3 must be one; all other text is a path."""
    if not isinstance(value, str):
        return value
    if not value.startswith("s3:"):
        return Path(value)
    if not _BUCKET.fullmatch(value):
        raise ValueError("a store must be a folder, s3://BUCKET or s3://BUCKET/PREFIX")
    return value.rstrip("/")


class EvidenceSettings(Section):
    """What ``oddsight-stream evidence`` stores of events: a picture with its heat map, a clip, and what is usual there."""

    dir: Annotated[Path | str | None, BeforeValidator(_place)] = None
    """Folder for it, which the dashboard must see as well; or ``s3://BUCKET/PREFIX``, which needs ``oddsight[s3]``. Credentials
    come from AWS' own environment variables and files, never from here."""
    endpoint: str | None = Field(default=None, pattern=r"^https?://[^\s@/?#]+/?$")
    """URL of a store that speaks S3 but is not AWS' own, such as ``https://minio:9000``."""
    region: str | None = Field(default=None, pattern=r"^[a-z0-9-]{1,50}$")
    """Region of the bucket; if not set, that of ``AWS_REGION``."""
    pre_roll_s: float = Field(default=5.0, ge=0, le=300)
    """How long before its event a clip begins."""
    post_roll_s: float = Field(default=5.0, ge=0, le=300)
    """How long after its event a clip ends."""
    max_clip_s: float = Field(default=60.0, ge=1, le=3600)
    """Of a longer event, a clip shows the first part."""
    keep_days: float = Field(default=30.0, gt=0, le=3650)
    """Evidence is deleted after so long; events stay."""
    keep_mb: int = Field(default=10_240, ge=10)
    """Size of all of it; of more, the oldest evidence is deleted first."""
    picture_every_s: float = Field(default=2.0, ge=0.2, le=3600)
    """How often the picture is renewed that the dashboard shows of each camera."""
    host: str = "127.0.0.1"
    """Address on which ``/metrics``, ``/livez`` and ``/readyz`` of the process are served."""
    port: int | None = Field(default=None, ge=0, le=65535)
    """Port for them; if not set, they are not served. 0 picks a free port, which is logged."""
