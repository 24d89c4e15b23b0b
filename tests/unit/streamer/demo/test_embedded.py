import pytest

from streamer.demo.embedded import embedded_kafka
from streamer.interfaces import EmbeddedUnavailable


def test_missing_broker_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALF_TANSU_BIN", "/no/such/program")
    with pytest.raises(EmbeddedUnavailable, match=r"not installed.*extra 'stream'"), embedded_kafka():
        pass
