"""The settings of signing in to the dashboard with OpenID Connect: whom to ask, and who may do what."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, SecretStr, StringConstraints, model_validator

from deploy.errors import ConfigError
from streamer.section import Section, read_secret

_LOOPBACK = {"127.0.0.1", "::1", "localhost"}
_WHERE = "dashboard.oidc"


def _issuer(url: str) -> str:
    try:
        parts = urlsplit(url)
        is_url = bool(parts.hostname) and "@" not in parts.netloc and not parts.query and not parts.fragment
    except ValueError:
        is_url = False
    if not is_url or (parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOOPBACK)):
        raise ValueError(
            "an issuer must be https://HOST or https://HOST/PATH, as the provider writes it; http:// only on this machine"
        )
    return url


Text = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f]+$")]


class OidcSettings(Section):
    """Signing in to the dashboard with OpenID Connect, at a provider such as Keycloak, Authentik or Entra ID.

    Its users need no entry in ``users``; who has none of the roles below is refused.
    """

    issuer: Annotated[str, AfterValidator(_issuer)]
    """Address of the provider, exactly as its ``/.well-known/openid-configuration`` writes it."""
    client_id: Text
    """What the provider calls this dashboard. Allow there the redirect to ``/login/oidc/callback`` at the dashboard's address."""
    client_secret: SecretStr | None = None
    """Secret that the provider gave for it; better set by the environment variable. Without one it must be a public client."""
    client_secret_file: Path | None = None
    """File that holds ``client_secret``."""
    title: Text = "single sign-on"
    """What the button says after *Sign in with*."""
    scopes: tuple[Annotated[str, StringConstraints(pattern=r"^[\x21\x23-\x5b\x5d-\x7e]+$")], ...] = ("openid", "profile", "email")
    """What is asked for; ``openid`` must be among it."""
    name_claim: Text = "preferred_username"
    """Claim of the ID token under which marks and the trail name somebody. Nobody should be able to choose it freely there."""
    role_claim: Text = "groups"
    """Claim of the ID token that holds roles or groups, a text or a list; dots lead into objects, as ``realm_access.roles``.
    ``email`` counts only if the provider has verified it."""
    viewers: tuple[Text, ...] = ()
    """Values of ``role_claim`` that make a viewer."""
    operators: tuple[Text, ...] = ()
    """Values of it that make an operator."""
    admins: tuple[Text, ...] = ()
    """Values of it that make an admin. Of several roles, the highest counts."""
    ca_file: Path | None = None
    """PEM file of the authority that signed the provider's certificate; without it, the system's authorities are trusted."""

    @model_validator(mode="after")
    def _somebody_may_sign_in(self) -> "OidcSettings":
        if not (self.viewers or self.operators or self.admins):
            raise ValueError("nobody could sign in: viewers, operators and admins are empty")
        if "openid" not in self.scopes:
            raise ValueError("scopes must hold openid")
        if self.client_secret is not None and self.client_secret_file is not None:
            raise ValueError("either client_secret or client_secret_file must be set, not both")
        return self


def client_secret_of(settings: OidcSettings) -> str | None:
    """The secret, from the settings or its file. Raises ConfigError."""
    if settings.client_secret_file is not None:
        return read_secret(f"{_WHERE}.client_secret_file", settings.client_secret_file)
    return None if settings.client_secret is None else settings.client_secret.get_secret_value()


def check_sign_in(settings: OidcSettings) -> None:
    """Look at the files that the settings name. Raises ConfigError."""
    client_secret_of(settings)
    if settings.ca_file is not None and not settings.ca_file.is_file():
        raise ConfigError(f"{_WHERE}.ca_file: {settings.ca_file} is no file")


def role_of(settings: OidcSettings, claims: Mapping[str, Any]) -> Literal["viewer", "operator", "admin"] | None:
    """The highest role that the claims of somebody's ID token give; None if they give none."""
    held = values_of(claims, settings.role_claim)
    if held & {*settings.admins}:
        return "admin"
    if held & {*settings.operators}:
        return "operator"
    return "viewer" if held & {*settings.viewers} else None


def values_of(claims: Mapping[str, Any], name: str) -> set[str]:
    """The texts that a claim holds. A name with dots is that of one claim if there is such a one, else leads into objects."""
    if name == "email" and claims.get("email_verified") is not True:
        return set()
    value: Any = claims
    for part in [name] if name in claims else name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return {each for each in (value if isinstance(value, list) else [value]) if isinstance(each, str)}
