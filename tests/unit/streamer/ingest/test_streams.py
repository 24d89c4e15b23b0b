from pathlib import Path

import pytest

from deploy.errors import ConfigError
from streamer.ingest.run import CameraFeed, IngestPlan
from streamer.ingest.streams import find_source, stream_name


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("rtsp://user:s3cret@camera:554/s3cret?token=s3cret", "rtsp://camera:554"),
        ("rtsp://user:s3@cret@camera/1", "rtsp://camera"),
        ("http://camera?token=s3cret", "http://camera"),
        ("http://[fe80::1]:80/s3cret", "http://[fe80::1]:80"),
        ("udp://@239.0.0.1:1234", "udp://239.0.0.1:1234"),
    ],
)
def test_only_scheme_host_and_port_are_shown(url: str, name: str) -> None:
    assert stream_name(url) == name


@pytest.mark.parametrize(
    ("url", "rule"),
    [
        ("rstp://user:s3cret@camera/1", "rtsp, .*, got a URL that begins with 'rstp'"),
        ("file:///s3cret", "begins with 'file'"),
        ("rtsp://user:s3/cret@camera/1", "%2F for a /"),
        ("rtsp://user:12/s3cret@camera/1", "%2F for a /"),
        ("rtsp://user:s3?cret@camera/1", r"%3F for a \?"),
        ("rtsp:///s3cret", "HOST:PORT"),
    ],
)
def test_other_urls_are_refused_at_start_without_being_shown(url: str, rule: str) -> None:
    with pytest.raises(ConfigError, match=rule) as raised:
        IngestPlan([CameraFeed("gate", url)])
    assert "s3" not in str(raised.value)


class TestFindSource:
    def test_reads_argument_file_or_environment(self, tmp_path: Path) -> None:
        (tmp_path / "url").write_text("rtsp://user:secret@camera/1\n")
        environment = {"ODDSIGHT_INGEST_SOURCE": "rtsp://a:b@other/1"}
        assert find_source("v.mp4", None, environment) == "v.mp4"
        assert find_source(None, tmp_path / "url", environment) == "rtsp://user:secret@camera/1"
        assert find_source(None, None, environment) == "rtsp://a:b@other/1"

    def test_refuses_a_password_on_the_command_line(self) -> None:
        with pytest.raises(ConfigError, match="--source-file") as raised:
            find_source("rtsp://user:s3cret@camera/1", None, {})
        assert "s3cret" not in str(raised.value)

    @pytest.mark.parametrize("url", ["rtsp://user:s3cret@[camera/1", "rtsp://user:s3cret@[12:34]/1", "rtsp://user:s3cret@]/1"])
    def test_refuses_a_password_before_an_address_that_is_none(self, url: str) -> None:
        with pytest.raises(ConfigError, match="--source-file") as raised:
            find_source(url, None, {})
        assert "s3cret" not in str(raised.value)

    def test_needs_exactly_one_source(self, tmp_path: Path) -> None:
        for argument, file in [(None, None), ("v.mp4", tmp_path / "url"), (None, tmp_path / "missing")]:
            with pytest.raises(ConfigError, match=r"source"):
                find_source(argument, file, {})
