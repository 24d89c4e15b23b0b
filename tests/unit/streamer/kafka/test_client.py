import logging
import ssl
from pathlib import Path

import pytest
from pydantic import SecretStr

from deploy.errors import ConfigError
from streamer.config import KafkaSettings
from streamer.interfaces import BrokerUnavailable
from streamer.kafka.client import connection_options, make_producer, silence_kafka_log
from streamer.kafka.diagnostics import Address, parse_address


class TestAddress:
    @pytest.mark.parametrize(
        ("text", "address"),
        [
            ("broker:9094", Address("broker", 9094)),
            (" broker ", Address("broker", 9092)),
            ("[::1]:9094", Address("::1", 9094)),
            ("[::1]", Address("::1", 9092)),
        ],
    )
    def test_parses_host_and_port(self, text: str, address: Address) -> None:
        assert parse_address(text) == address
        assert parse_address(str(address)) == address

    @pytest.mark.parametrize(
        "text", ["", ":9092", "broker:", "broker:kafka", "broker:0", "broker:65536", "broker:-1", "broker:٣"]
    )
    def test_rejects_invalid_addresses(self, text: str) -> None:
        with pytest.raises(ValueError, match="write host:port"):
            parse_address(text)


class TestConnectionOptions:
    def test_lists_every_server(self) -> None:
        options = connection_options(KafkaSettings(bootstrap_servers="one:1, two , [::1]:3"))
        assert options["bootstrap_servers"] == ["one:1", "two:9092", "[::1]:3"]

    def test_plaintext_has_no_tls_and_password(self) -> None:
        options = connection_options(KafkaSettings(username="app", password=SecretStr("secret")))
        assert options["ssl_context"] is None
        assert not any(name.startswith("sasl") for name in options)

    def test_tls_checks_certificate_and_host_name(self) -> None:
        context = connection_options(KafkaSettings(security_protocol="SSL"))["ssl_context"]
        assert context.verify_mode == ssl.CERT_REQUIRED
        assert context.check_hostname

    def test_sasl_has_user_and_password(self) -> None:
        settings = KafkaSettings(security_protocol="SASL_PLAINTEXT", username="app", password=SecretStr("secret"))
        options = connection_options(settings)
        assert options["sasl_mechanism"] == "SCRAM-SHA-512"
        assert (options["sasl_plain_username"], options["sasl_plain_password"]) == ("app", "secret")

    def test_rejects_unusable_ca_files(self, tmp_path: Path) -> None:
        (tmp_path / "ca.pem").write_text("no certificate")
        for ca_file in (tmp_path / "ca.pem", tmp_path / "missing.pem"):
            with pytest.raises(ConfigError, match=r"kafka\.ca_file: .* is no readable PEM file"):
                connection_options(KafkaSettings(security_protocol="SSL", ca_file=ca_file))


def test_requires_crc32c(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(BrokerUnavailable, match="crc32c is not installed"):
        make_producer(KafkaSettings())


def test_silences_the_library() -> None:
    before = logging.getLogger("kafka").level
    silence_kafka_log()
    assert not logging.getLogger("kafka.net.manager").isEnabledFor(logging.ERROR)
    logging.getLogger("kafka").setLevel(before)
