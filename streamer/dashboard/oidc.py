"""Signing in with OpenID Connect: the authorization code flow with PKCE. Authlib speaks it, and checks what comes back."""

import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

from authlib.integrations.starlette_client import OAuth, OAuthError
from httpx2 import HTTPError, TransportError
from joserfc.errors import ExpiredTokenError, InvalidClaimError, JoseError, MissingClaimError
from pydantic import BaseModel, ConfigDict

from streamer.dashboard.problems import SignInRefused
from streamer.dashboard.users import Role
from streamer.sign_in import OidcSettings, client_secret_of, role_of

_TIMEOUT_S: Final = 10
_LEEWAY_S: Final = 60
"""By which the provider's clock may differ from ours."""
_TIMES: Final = {"exp", "iat", "nbf"}
_SIGNATURES: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "Ed25519", "EdDSA")
"""Made with a key that the provider alone has: not ``none``, and none that the client's secret makes."""
_MAX_NAME_CHARS: Final = 64
_MAX_TOLD_CHARS: Final = 300


class Flow(BaseModel):
    """What must come back from the provider, and with what the code is redeemed; never leaves the server but for the state."""

    model_config = ConfigDict(frozen=True)

    state: str
    nonce: str
    code_verifier: str
    redirect_uri: str
    place: str
    """The fragment of the page's address that the browser returns to."""


class Person(NamedTuple):
    """Whom the provider vouches for."""

    name: str
    role: Role
    subject: str
    """What the provider calls them, for ever."""


class Provider:
    """The provider in the settings. It is asked when somebody signs in, so it may be away at start."""

    def __init__(self, settings: OidcSettings) -> None:
        self._settings = settings
        options = {
            "scope": " ".join(settings.scopes),
            "code_challenge_method": "S256",
            "timeout": _TIMEOUT_S,
            "verify": ssl.create_default_context(cafile=settings.ca_file),
        }
        self._app = OAuth().register(
            "oidc",
            client_id=settings.client_id,
            client_secret=client_secret_of(settings),
            server_metadata_url=f"{settings.issuer.rstrip('/')}/.well-known/openid-configuration",
            client_kwargs=options,
        )

    async def begin(self, redirect_uri: str, place: str) -> tuple[str, Flow]:
        """Where to send the browser, and what to expect back. Raises SignInRefused."""
        with self._errors():
            await self._look_up()
            started = await self._app.create_authorization_url(redirect_uri)
        kept = {name: started[name] for name in ("state", "nonce", "code_verifier")}
        return started["url"], Flow(**kept, redirect_uri=redirect_uri, place=place)

    async def finish(self, flow: Flow, code: str) -> Person:
        """Who somebody is that came back with a code. Raises SignInRefused."""
        own = self._settings
        wanted = {"iss": {"essential": True, "value": own.issuer}, "aud": {"essential": True, "value": own.client_id}}
        with self._errors():
            await self._look_up()
            token = await self._app.fetch_access_token(
                code=code, redirect_uri=flow.redirect_uri, code_verifier=flow.code_verifier
            )
            claims = await self._app.parse_id_token(token, nonce=flow.nonce, claims_options=wanted, leeway=_LEEWAY_S)
            if claims is None:
                raise MissingClaimError("id_token")
        return _person(own, claims)

    async def _look_up(self) -> None:
        """Read what the provider says of itself, once, and hold it to what it must be."""
        metadata = await self._app.load_server_metadata()
        if metadata.get("issuer") != self._settings.issuer:
            found = _told(metadata.pop("issuer", None))
            metadata.pop("_loaded_at", None)
            next_step = f"set dashboard.oidc.issuer to what it writes there, {found!r}, if that is the one you mean"
            raise SignInRefused(502, f"the provider at {self._settings.issuer} says that it is another one", next_step)
        offered = metadata.get("id_token_signing_alg_values_supported") or ["RS256"]
        metadata["id_token_signing_alg_values_supported"] = [each for each in offered if each in _SIGNATURES]

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Tell in plain words what went wrong between us and the provider."""
        issuer = self._settings.issuer
        try:
            yield
        except OAuthError as error:
            said = _told(f"{error.error}: {error.description}" if error.description else error.error)
            next_step = "sign in again; if it stays, check client_id, client_secret and the redirect address at the provider"
            raise SignInRefused(403, f"the provider {issuer} refused: {said}", next_step) from error
        except ExpiredTokenError as error:
            raise _clocks(issuer, "is expired") from error
        except InvalidClaimError as error:
            if error.claim in _TIMES:
                raise _clocks(issuer, f"has a wrong {error.claim}") from error
            raise _not_valid(issuer, error) from error
        except JoseError as error:
            raise _not_valid(issuer, error) from error
        except TransportError as error:
            next_step = "check that this machine reaches it, by its name and with its certificate; then sign in again"
            raise SignInRefused(502, f"the provider {issuer} cannot be reached: {_told(error)}", next_step) from error
        # What is not as the protocol says: a page instead of JSON, a list instead of an object, no endpoint.
        except (HTTPError, OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
            why = _told(f"{type(error).__name__}: {error}")
            next_step = "check dashboard.oidc.issuer and the provider; then sign in again"
            raise SignInRefused(502, f"the provider {issuer} does not answer as it should: {why}", next_step) from error


def _person(settings: OidcSettings, claims: Mapping[str, Any]) -> Person:
    name, subject = claims.get(settings.name_claim), str(claims["sub"])
    if not isinstance(name, str) or not name.isprintable() or not 1 <= len(name.strip()) <= _MAX_NAME_CHARS:
        rule = f"a text of 1 to {_MAX_NAME_CHARS} printable characters"
        next_step = "ask for a scope that gives it, or set dashboard.oidc.name_claim to another claim of the ID token"
        raise SignInRefused(403, f"the claim {settings.name_claim} is not {rule}", next_step)
    role = role_of(settings, claims)
    if role is None:
        next_step = "ask an admin to give you a role there, or to add yours to the settings"
        problem = f"{name.strip()} has no role here: nothing in the claim {settings.role_claim} is one of those in dashboard.oidc"
        raise SignInRefused(403, problem, next_step, who=name.strip())
    return Person(name.strip(), role, subject)


def _clocks(issuer: str, what: str) -> SignInRefused:
    next_step = f"set the clocks of both machines (NTP): they may differ by {_LEEWAY_S} s; then sign in again"
    return SignInRefused(403, f"the token of {issuer} {what}, by the clock of this machine", next_step)


def _not_valid(issuer: str, error: JoseError) -> SignInRefused:
    next_step = "sign in again; if it stays, check issuer and client_id in the settings"
    return SignInRefused(403, f"the token of {issuer} is not valid: {_told(str(error))}", next_step)


def _told(text: object) -> str:
    """What the provider said, short and on one line."""
    return "".join(each if each.isprintable() else " " for each in str(text))[:_MAX_TOLD_CHARS]
