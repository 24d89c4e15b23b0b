"""Signing in with OpenID Connect: pages that a browser is sent to, and no part of the API."""

from typing import Annotated
from urllib.parse import quote

import structlog
from fastapi import APIRouter, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import RedirectResponse

from streamer.dashboard.oidc import Provider
from streamer.dashboard.parts import AppParts, Parts
from streamer.dashboard.problems import SignInRefused

log = structlog.get_logger("oddsight.dashboard")

router = APIRouter(prefix="/login/oidc", include_in_schema=False)
_COOKIE = "oddsight_sign_in"

Told = Annotated[str, Query(max_length=4_000)]


@router.get("")
async def begin(request: Request, parts: AppParts, place: Annotated[str, Query(max_length=1_000)] = "") -> RedirectResponse:
    """Send the browser to the provider; ``place`` is where on the page it returns to."""
    provider = _provider(parts)
    await run_in_threadpool(parts.access.count_sign_in, request)
    try:
        address, flow = await provider.begin(str(request.url_for("finish")), place)
    except SignInRefused as error:
        log.warning("sign-in failed", error=str(error))
        raise
    token = await run_in_threadpool(parts.access.put_flow, flow.model_dump_json())
    response = RedirectResponse(address, 302)
    # Not strict: the provider sends the browser back, and that is a request from another site.
    response.set_cookie(
        _COOKIE,
        token,
        max_age=parts.access.FLOW_S,
        path=router.prefix,
        secure=request.url.scheme == "https",
        httponly=True,
        samesite="lax",
    )
    return response


@router.get("/callback")
async def finish(
    request: Request, parts: AppParts, state: Told = "", code: Told = "", error: Told = "", error_description: Told = ""
) -> RedirectResponse:
    """Begin the session of somebody whom the provider sent back."""
    provider, access = _provider(parts), parts.access
    flow = await run_in_threadpool(access.take_flow, request.cookies.get(_COOKIE), state)
    try:
        _refuse_error(error, error_description)
        person = await provider.finish(flow, code)
    except SignInRefused as refused:
        log.warning("sign-in failed", error=str(refused))
        await run_in_threadpool(access.note_refused, request, refused.who, refused.error)
        raise
    token = await run_in_threadpool(access.sign_in, request, person)
    # A fragment leads to no other site, whatever it holds.
    response = RedirectResponse(f"/#{quote(flow.place, safe='/?=&%')}", 303)
    access.set_cookie(request, response, token)
    response.delete_cookie(_COOKIE, path=router.prefix, httponly=True, samesite="lax")
    return response


def _refuse_error(error: str, description: str) -> None:
    if error:
        said = f"{error}: {description}" if description else error
        raise SignInRefused(403, f"the provider did not sign you in: {said[:300]}", "sign in again, or ask its admin")


def _provider(parts: Parts) -> Provider:
    if parts.provider is None:
        raise SignInRefused(404, "there is no provider of OpenID Connect", "set dashboard.oidc, or log in with a password")
    return parts.provider
