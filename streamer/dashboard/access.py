"""Who is asking, and whether they may: sessions, roles, the token of every change, and the limit of failed logins."""

import hashlib
import hmac
import secrets
import time
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import urlsplit

from fastapi import Request, Response
from pydantic import BaseModel, ConfigDict, ValidationError

from streamer.dashboard.oidc import Flow, Person
from streamer.dashboard.problems import RequestRefused, SignInRefused
from streamer.dashboard.users import ROLES, Role, UserList, is_password_of
from streamer.redis.operators import AuditEntry, OperatorStore
from streamer.sign_in import OidcSettings

COOKIE: Final = "oddsight_session"
CSRF_HEADER: Final = "X-CSRF-Token"
_WINDOW_S: Final = 900
_MOST_ATTEMPTS: Final = {"pair": 5, "address": 30, "name": 50}
"""Failed logins within the window: of a name from one address, from an address, and of a name from anywhere."""
_MOST_SIGN_INS: Final = 100
"""Begun from one address within the window."""
_TOKEN_BYTES: Final = 32


class _Session(BaseModel):
    """What Redis holds of a session."""

    model_config = ConfigDict(frozen=True)

    user: str
    credential: str
    """What it was begun with; it does not outlive that."""
    csrf: str
    role: Role | None = None
    """Of somebody whom the provider of OpenID Connect vouches for; the file of users says it of all others."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who is asking."""

    user: str
    role: Role
    csrf: str
    """What the header of every change must hold."""


class Access:
    """Sessions of the users in a file, and of those whom a provider vouches for; without either all are the admin ``local``."""

    FLOW_S: Final = 600
    """How long one may take at the provider."""

    def __init__(self, users: UserList | None, store: OperatorStore, session_s: int, oidc: OidcSettings | None = None) -> None:
        self._users, self._store, self.session_s = users, store, session_s
        self._provider = None if oidc is None else hashlib.sha256(oidc.model_dump_json().encode()).hexdigest()[:16]
        self._local = Identity("local", "admin", _random())

    @property
    def has_passwords(self) -> bool:
        """Whether there are users with passwords."""
        return self._users is not None

    @property
    def has_users(self) -> bool:
        """Whether one must log in."""
        return self._users is not None or self._provider is not None

    def find(self, token: str | None) -> Identity | None:
        """Who holds a session's token, as the file of users says now. Raises RedisUnavailable."""
        if not self.has_users:
            return self._local
        content = self._store.read_session(token) if token else None
        if content is None:
            return None
        try:
            session = _Session.model_validate_json(content)
        except ValidationError:
            return None
        role = self._role_now(session)
        return None if role is None else Identity(session.user, role, session.csrf)

    def _role_now(self, session: _Session) -> Role | None:
        if session.role is not None:
            return session.role if session.credential == self._provider else None
        user = None if self._users is None else self._users.get(session.user)
        return None if user is None or user.credential != session.credential else user.role

    def require(self, request: Request, role: Role) -> Identity:
        """Who is asking, if they have at least this role; a change must come from our own page."""
        is_change = request.method not in {"GET", "HEAD"}
        if is_change:
            refuse_other_origin(request)
        identity = self.find(request.cookies.get(COOKIE))
        if identity is None:
            raise RequestRefused(401, "nobody is logged in", "log in: POST /api/v1/login")
        if is_change and not hmac.compare_digest(request.headers.get(CSRF_HEADER, "").encode(), identity.csrf.encode()):
            raise RequestRefused(
                403, f"the header {CSRF_HEADER} is missing or old", "send the csrf of GET /api/v1/me; reload the page"
            )
        if ROLES.index(identity.role) < ROLES.index(role):
            self.audit(request, identity, f"{request.method} {request.url.path}", "", "refused")
            raise RequestRefused(403, f"this needs the role {role}, {identity.user} is {identity.role}", "ask an admin for it")
        return identity

    def log_in(self, request: Request, name: str, password: str) -> tuple[str, Identity]:
        """The token of a new session; the one that the browser had before ends."""
        refuse_other_origin(request)
        if self._users is None:
            raise RequestRefused(
                409, "there are no users with passwords", "make some: oddsight-stream users add NAME --role admin"
            )
        limits = _limits(name, address_of(request))
        self._refuse_many_attempts(request, name, limits)
        user = self._users.get(name)
        if not is_password_of(user, password) or user is None:
            self._note(request, name, "none", "login", "", "refused")
            raise RequestRefused(401, "name or password is wrong", "try again, or ask an admin for a new password")
        self._store.forget_attempts(limits["pair"])
        for kind in ("address", "name"):
            self._store.uncount_attempt(limits[kind])
        return self._open_session(request, _Session(user=name, credential=user.credential, csrf=_random()), user.role, "")

    def sign_in(self, request: Request, person: Person) -> str:
        """The token of a new session of somebody whom the provider vouches for; the one that the browser had before ends."""
        if self._provider is None:
            raise SignInRefused(409, "there is no provider any more", "set dashboard.oidc")
        if self._users is not None and self._users.get(person.name) is not None:
            # Else nobody could tell in the trail which of the two did something.
            problem, next_step = f"{person.name} is also a user with a password", f"log in with it, or have {person.name} removed"
            self.note_refused(request, person.name, problem)
            raise SignInRefused(403, problem, next_step)
        session = _Session(user=person.name, credential=self._provider, csrf=_random(), role=person.role)
        token, _ = self._open_session(request, session, person.role, f"OpenID Connect, {person.subject}"[:200])
        return token

    def _open_session(self, request: Request, session: _Session, role: Role, target: str) -> tuple[str, Identity]:
        """A new session never has a token that the browser brought along."""
        self.log_out(request)
        token, identity = _random(), Identity(session.user, role, session.csrf)
        self._store.put_session(token, session.model_dump_json(), self.session_s)
        self.audit(request, identity, "login", target, "ok")
        return token, identity

    def set_cookie(self, request: Request, response: Response, token: str) -> None:
        """Have the browser keep a session's token, out of reach of scripts and of other sites."""
        secure = request.url.scheme == "https"
        response.set_cookie(COOKIE, token, max_age=self.session_s, secure=secure, httponly=True, samesite="strict")

    def count_sign_in(self, request: Request) -> None:
        """Refuse an address that begins to sign in again and again."""
        attempts = self._store.count_attempt(f"sign in\n{address_of(request)}", _WINDOW_S)
        if attempts.number > _MOST_SIGN_INS:
            raise SignInRefused(429, "too many attempts to sign in", f"wait {attempts.left_s} s")

    def put_flow(self, content: str) -> str:
        """Keep what is expected back from the provider; the token is for this browser's cookie only."""
        token = _random()
        self._store.put_flow(token, content, self.FLOW_S)
        return token

    def take_flow(self, token: str | None, state: str) -> Flow:
        """What this browser is expected to come back with, once. Raises SignInRefused if it does not match the state."""
        content = self._store.take_flow(token) if token else None
        try:
            flow = None if content is None else Flow.model_validate_json(content)
        except ValidationError:
            flow = None
        if flow is None or not hmac.compare_digest(flow.state.encode(), state.encode()):
            minutes = self.FLOW_S // 60
            problem = "this browser did not begin to sign in, or did so longer ago than that holds, or has come back already"
            raise SignInRefused(403, problem, f"begin again on the page of Oddsight; one has {minutes} minutes for it")
        return flow

    def note_refused(self, request: Request, name: str, why: str) -> None:
        """Add to the trail that somebody was not let in."""
        self._note(request, name, "none", "login", f"OpenID Connect: {why}"[:200], "refused")

    def log_out(self, request: Request) -> None:
        """End the browser's session, if it has one."""
        if token := request.cookies.get(COOKIE):
            self._store.delete_session(token)

    def audit(self, request: Request, who: Identity, action: str, target: str, outcome: Literal["ok", "refused"]) -> None:
        """Add to the trail of what was done. Raises RedisUnavailable: what cannot be noted must not be done."""
        self._note(request, who.user, who.role, action, target, outcome)

    def _note(self, request: Request, user: str, role: str, action: str, target: str, outcome: Literal["ok", "refused"]) -> None:
        at_ms, address = round(time.time() * 1000), address_of(request)
        entry = AuditEntry(user=user, role=role, action=action, target=target, address=address, outcome=outcome, at_ms=at_ms)
        self._store.audit(entry)

    def _refuse_many_attempts(self, request: Request, name: str, limits: dict[str, str]) -> None:
        attempts = {kind: self._store.count_attempt(limit, _WINDOW_S) for kind, limit in limits.items()}
        over = [each.left_s for kind, each in attempts.items() if each.number > _MOST_ATTEMPTS[kind]]
        if over:
            self._note(request, name, "none", "login", "too many attempts", "refused")
            wait = {"Retry-After": str(max(over))}
            raise RequestRefused(429, "too many failed logins", f"wait {max(over)} s, or log in from another machine", wait)


def _random() -> str:
    return secrets.token_urlsafe(_TOKEN_BYTES)


def refuse_other_origin(request: Request) -> None:
    """Refuse a change that another site's page sends. Browsers name the page's origin, and no page can change that."""
    origin = request.headers.get("Origin")
    if origin is not None and urlsplit(origin).netloc != request.headers.get("Host"):
        raise RequestRefused(403, "the request comes from a page of another site", "open the dashboard itself")


def address_of(request: Request) -> str:
    """Where the request comes from; behind a reverse proxy that is trusted, what that says."""
    return request.client.host if request.client else "?"


def _limits(name: str, address: str) -> dict[str, str]:
    return {"pair": f"pair\n{address}\n{name}", "address": f"address\n{address}", "name": f"name\n{name}"}
