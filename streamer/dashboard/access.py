"""Who is asking, and whether they may: sessions, roles, the token of every change, and the limit of failed logins."""

import hmac
import secrets
import time
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import urlsplit

from fastapi import Request
from pydantic import BaseModel, ConfigDict, ValidationError

from streamer.dashboard.problems import RequestRefused
from streamer.dashboard.users import ROLES, Role, UserList, is_password_of
from streamer.redis.operators import AuditEntry, OperatorStore

COOKIE: Final = "oddsight_session"
CSRF_HEADER: Final = "X-CSRF-Token"
_WINDOW_S: Final = 900
_MOST_ATTEMPTS: Final = {"pair": 5, "address": 30, "name": 50}
"""Failed logins within the window: of a name from one address, from an address, and of a name from anywhere."""
_TOKEN_BYTES: Final = 32


class _Session(BaseModel):
    """What Redis holds of a session."""

    model_config = ConfigDict(frozen=True)

    user: str
    credential: str
    csrf: str


@dataclass(frozen=True, slots=True)
class Identity:
    """Who is asking."""

    user: str
    role: Role
    csrf: str
    """What the header of every change must hold."""


class Access:
    """Sessions of the users in a file; without one, everybody is the admin ``local``."""

    def __init__(self, users: UserList | None, store: OperatorStore, session_s: int) -> None:
        self._users, self._store, self.session_s = users, store, session_s
        self._local = Identity("local", "admin", secrets.token_urlsafe(_TOKEN_BYTES))

    @property
    def has_users(self) -> bool:
        """Whether one must log in."""
        return self._users is not None

    def find(self, token: str | None) -> Identity | None:
        """Who holds a session's token, as the file of users says now. Raises RedisUnavailable."""
        if self._users is None:
            return self._local
        content = self._store.read_session(token) if token else None
        if content is None:
            return None
        try:
            session = _Session.model_validate_json(content)
        except ValidationError:
            return None
        user = self._users.get(session.user)
        if user is None or user.credential != session.credential:
            return None
        return Identity(session.user, user.role, session.csrf)

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
                409, "there are no users, so nobody logs in", "make some: oddsight-stream users add NAME --role admin"
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
        self.log_out(request)
        token, csrf = secrets.token_urlsafe(_TOKEN_BYTES), secrets.token_urlsafe(_TOKEN_BYTES)
        session = _Session(user=name, credential=user.credential, csrf=csrf)
        self._store.put_session(token, session.model_dump_json(), self.session_s)
        identity = Identity(name, user.role, csrf)
        self.audit(request, identity, "login", "", "ok")
        return token, identity

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
