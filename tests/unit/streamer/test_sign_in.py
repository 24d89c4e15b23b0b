"""The settings of signing in with OpenID Connect: what they may be, where the secret comes from, and who gets which role."""

from pathlib import Path
from typing import Any

import pytest

from deploy.errors import ConfigError
from streamer.config import Settings
from streamer.settings_file import load_settings, parse_settings, settings_toml
from streamer.sign_in import OidcSettings, check_sign_in, client_secret_of, role_of

OWN = {"issuer": "https://id.example/realms/a", "client_id": "oddsight", "operators": ["cctv"]}


def settings(**changed: Any) -> OidcSettings:
    own = parse_settings({"dashboard": {"oidc": {**OWN, **changed}}}, "settings").dashboard.oidc
    assert own is not None
    return own


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"issuer": "http://id.example"}, "an issuer must be https://"),
        ({"issuer": "https://me:secret@id.example"}, "an issuer must be https://"),
        ({"issuer": "https://id.example/?x=1"}, "an issuer must be https://"),
        ({"issuer": "https://[::1"}, "an issuer must be https://"),
        ({"operators": []}, "nobody could sign in"),
        ({"scopes": ["profile"]}, "scopes must hold openid"),
        ({"client_secret": "a", "client_secret_file": "b"}, "not both"),
        ({"viewer": ["x"]}, "dashboard.oidc.viewer: no such setting"),
    ],
)
def test_what_cannot_work_is_refused_without_showing_a_secret(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as raised:
        settings(**{"client_secret": "hush", **changed})
    assert "hush" not in str(raised.value)
    assert "me:secret" not in str(raised.value)


def test_http_is_for_this_machine_only() -> None:
    assert settings(issuer="http://127.0.0.1:8080").issuer == "http://127.0.0.1:8080"


def test_the_secret_comes_from_the_settings_a_file_or_the_environment(tmp_path: Path) -> None:
    path, config = tmp_path / "secret", tmp_path / "oddsight.toml"
    path.write_text("from a file\n")
    assert client_secret_of(settings()) is None
    assert client_secret_of(settings(client_secret="from the settings")) == "from the settings"
    assert client_secret_of(settings(client_secret_file=str(path))) == "from a file"
    config.write_text('[dashboard.oidc]\nissuer = "https://id.example"\nclient_id = "a"\nadmins = ["a"]\n')
    variable = {"ODDSIGHT_DASHBOARD_OIDC_CLIENT_SECRET": "from outside"}
    own = load_settings(config, variable)
    assert own.dashboard.oidc is not None
    assert client_secret_of(own.dashboard.oidc) == "from outside"
    shown = settings_toml(own)
    assert "[dashboard.oidc]" in shown
    assert "from outside" not in shown
    assert load_settings(None, variable).dashboard.oidc is None


def test_settings_as_printed_are_settings(tmp_path: Path) -> None:
    config = tmp_path / "oddsight.toml"
    config.write_text(settings_toml(Settings.model_validate({"dashboard": {"oidc": OWN}})))
    assert load_settings(config, {}).dashboard.oidc == settings()


def test_files_that_are_missing_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"dashboard\.oidc\.client_secret_file: .*No such file"):
        check_sign_in(settings(client_secret_file=str(tmp_path / "none")))
    with pytest.raises(ConfigError, match=r"dashboard\.oidc\.ca_file: .* is no file"):
        check_sign_in(settings(ca_file=str(tmp_path / "none")))


@pytest.mark.parametrize(
    ("claim", "claims", "role"),
    [
        ("groups", {"groups": ["cctv"]}, "operator"),
        ("realm_access.roles", {"realm_access": {"roles": ["cctv"]}}, "operator"),
        ("https://id.example/roles", {"https://id.example/roles": "cctv"}, "operator"),
        ("a.b", {"a": ["cctv"], "a.c": "cctv"}, None),
        ("email", {"email": "cctv"}, None),
        ("email", {"email": "cctv", "email_verified": "true"}, None),
        ("email", {"email": "cctv", "email_verified": True}, "operator"),
    ],
)
def test_where_a_role_is_found(claim: str, claims: dict[str, Any], role: str | None) -> None:
    assert role_of(settings(role_claim=claim), claims) == role
