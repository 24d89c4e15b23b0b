"""Logging in and out, and who one is."""

from typing import Annotated

from fastapi import APIRouter, Request, Response
from pydantic import StringConstraints

from streamer.dashboard.access import COOKIE, Identity
from streamer.dashboard.models import Row
from streamer.dashboard.parts import AppParts, Viewer
from streamer.dashboard.users import MAX_PASSWORD_CHARS, Role

router = APIRouter(tags=["session"])


class Login(Row):
    """Who wants to log in."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=64)]
    password: Annotated[str, StringConstraints(min_length=1, max_length=MAX_PASSWORD_CHARS)]


class LoginWays(Row):
    """How one may log in."""

    passwords: bool
    """With name and password."""
    oidc: str | None
    """With OpenID Connect, at ``/login/oidc``: what the provider is called; None if there is none."""


class Me(Row):
    """Who is logged in."""

    user: str
    role: Role
    csrf: str
    """What the header ``X-CSRF-Token`` of every POST must hold."""
    can_log_out: bool
    """False without users: then everybody on this machine is ``local``."""


@router.get("/me")
def me(who: Viewer, parts: AppParts) -> Me:
    """Tell who is logged in, and the token for changes."""
    return _me(who, can_log_out=parts.access.has_users)


@router.get("/login")
async def login_ways(parts: AppParts) -> LoginWays:
    """Tell how one may log in."""
    oidc = parts.settings.dashboard.oidc
    return LoginWays(passwords=parts.access.has_passwords, oidc=None if oidc is None else oidc.title)


@router.post("/login")
def login(login: Login, request: Request, response: Response, parts: AppParts) -> Me:
    """Begin a session, which a cookie holds."""
    token, who = parts.access.log_in(request, login.name, login.password)
    parts.access.set_cookie(request, response, token)
    return _me(who, can_log_out=True)


@router.post("/logout", status_code=204)
def logout(who: Viewer, request: Request, response: Response, parts: AppParts) -> None:
    """End the session."""
    parts.access.log_out(request)
    parts.access.audit(request, who, "logout", "", "ok")
    response.delete_cookie(COOKIE, httponly=True, samesite="strict")


def _me(who: Identity, *, can_log_out: bool) -> Me:
    return Me(user=who.user, role=who.role, csrf=who.csrf, can_log_out=can_log_out)
