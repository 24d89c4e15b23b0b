"""Addresses of buckets, and where credentials come from; no store is asked."""

from pathlib import Path

import pytest

from deploy.errors import ConfigError
from streamer.config import Settings
from streamer.evidence.bucket import own_credentials
from streamer.settings_file import parse_settings, settings_toml
from streamer.storage import EvidenceSettings

CREDENTIALS = """
[default]
aws_access_key_id = AKIDDEFAULT
aws_secret_access_key = first
[yard]
aws_access_key_id = AKIDYARD
aws_secret_access_key = second
aws_session_token = third
"""


@pytest.mark.parametrize("address", ["s3://videos", "s3://videos.example/oddsight", "s3://videos/a/b_c/d=e/"])
def test_an_address_of_a_bucket_stays_one(address: str) -> None:
    settings = Settings(evidence=EvidenceSettings.model_validate({"dir": address}))
    assert settings.evidence.dir == address.rstrip("/")
    assert f'dir = "{address.rstrip("/")}"' in settings_toml(settings)


def test_all_else_is_a_folder() -> None:
    for folder in ("evidence", "/var/lib/s3://x"):
        assert EvidenceSettings.model_validate({"dir": folder}).dir == Path(folder)


@pytest.mark.parametrize(
    "address", ["s3:", "s3://", "s3:/videos", "s3://Videos", "s3://videos/../other", "s3://k:s@videos", "s3://v/a b"]
)
def test_what_is_no_address_is_no_folder_either(address: str) -> None:
    with pytest.raises(ConfigError, match=r"evidence\.dir: a store must be a folder, s3://BUCKET or s3://BUCKET/PREFIX"):
        parse_settings({"evidence": {"dir": address}}, "test")


@pytest.mark.parametrize("endpoint", ["minio:9000", "https://key:secret@minio", "https://minio/path?x"])
def test_an_endpoint_holds_no_credentials(endpoint: str) -> None:
    with pytest.raises(ConfigError, match=r"evidence\.endpoint"):
        parse_settings({"evidence": {"endpoint": endpoint}}, "test")


def test_credentials_come_from_the_file_of_awss_programs(tmp_path: Path) -> None:
    (tmp_path / "credentials").write_text(CREDENTIALS)
    named = {"AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials")}
    assert own_credentials(named) == {"access_key_id": "AKIDDEFAULT", "secret_access_key": "first"}
    assert own_credentials({**named, "AWS_PROFILE": "yard"})["session_token"] == "third"
    assert own_credentials({**named, "AWS_PROFILE": "nobody"}) == {}
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE"):
        assert own_credentials({**named, variable: "x"}) == {}
    assert own_credentials({"AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none")}) == {}


def test_a_damaged_file_of_credentials_is_not_shown(tmp_path: Path) -> None:
    (tmp_path / "credentials").write_text("secret-without-a-section = 1")
    with pytest.raises(ConfigError, match="is no file of AWS credentials") as refused:
        own_credentials({"AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials")})
    assert "secret-without" not in str(refused.value)
