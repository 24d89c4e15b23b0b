"""Signing in with OpenID Connect: a real server, a real Redis and a provider with real keys, over real HTTP."""

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx2
import pytest
from joserfc.jwk import OctKey

from streamer.config import Settings
from streamer.dashboard.oidc import Provider
from streamer.dashboard.problems import SignInRefused
from streamer.dashboard.users import add_user
from tests.harness.browser import CHROMIUM, PASSWORD, Stack, free_port, running_stack
from tests.harness.oidc_provider import CLIENT_ID, CLIENT_SECRET, OidcProvider, new_key, running_provider


@pytest.fixture(scope="module")
def running() -> Iterator[OidcProvider]:
    with running_provider() as provider:
        yield provider


@pytest.fixture
def provider(running: OidcProvider) -> OidcProvider:
    running.reset()
    return running


@pytest.fixture(scope="module")
def stack(running: OidcProvider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running_stack(tmp_path_factory.mktemp("oidc"), host="0.0.0.0", oidc=oidc(running)) as stack:  # noqa: S104  allowed without local users
        yield stack


def oidc(provider: OidcProvider, **more: object) -> dict[str, Any]:
    roles = {"viewers": ["cctv"], "operators": ["cctv-operators"], "admins": ["cctv-admins"]}
    own = {"issuer": provider.issuer, "client_id": CLIENT_ID, "client_secret": CLIENT_SECRET, "title": "Example AG"}
    return {**own, **roles, **more}


@pytest.fixture
def client(stack: Stack) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=stack.address) as client:
        yield client


def come_back(client: httpx2.Client, place: str = "") -> str:
    """Begin to sign in, and let the provider say where the browser goes next."""
    begun = client.get("/login/oidc", params={"place": place})
    assert begun.status_code == 302, begun.text
    return str(httpx2.get(begun.headers["location"]).headers["location"])


def sign_in(client: httpx2.Client, place: str = "") -> httpx2.Response:
    return client.get(come_back(client, place))


def me(client: httpx2.Client) -> dict[str, Any]:
    return dict(client.get("/api/v1/me").json())


def trail(stack: Stack) -> dict[str, str]:
    [(_, fields)] = stack.redis.xrevrange(stack.settings.redis.audit_key, count=1)
    return dict(fields)


def test_somebody_signs_in_works_and_logs_out(client: httpx2.Client, provider: OidcProvider, stack: Stack) -> None:
    assert client.get("/api/v1/login").json() == {"passwords": False, "oidc": "Example AG"}
    assert client.get("/api/v1/me").status_code == 401
    done = sign_in(client, "/event/00000000000000aa?x=1")
    assert (done.status_code, done.headers["location"]) == (303, "/#/event/00000000000000aa?x=1")
    assert (me(client)["user"], me(client)["role"]) == ("erin", "operator")
    assert (trail(stack)["user"], trail(stack)["action"], trail(stack)["target"]) == ("erin", "login", "OpenID Connect, 42")
    action = {"camera_id": "gate", "action": "unquiet", "event_id": "00000000000000aa"}
    assert client.post("/api/v1/camera/actions", json=action).status_code == 403  # without the token of changes
    headers = {"X-CSRF-Token": me(client)["csrf"]}
    assert client.post("/api/v1/camera/actions", json=action, headers=headers).status_code == 200
    assert client.get("/api/v1/audit").status_code == 403
    assert client.post("/api/v1/logout", headers=headers).status_code == 204
    assert client.get("/api/v1/me").status_code == 401


def test_what_the_browser_is_sent_with(client: httpx2.Client, provider: OidcProvider, stack: Stack) -> None:
    begun = client.get("/login/oidc")
    asked = {name: values[0] for name, values in parse_qs(urlsplit(begun.headers["location"]).query).items()}
    assert (asked["response_type"], asked["code_challenge_method"]) == ("code", "S256")
    assert asked["redirect_uri"] == f"{stack.address}/login/oidc/callback"
    assert min(len(asked[name]) for name in ("state", "nonce", "code_challenge")) >= 20
    cookie = begun.headers["set-cookie"]
    assert all(part in cookie for part in ("HttpOnly", "SameSite=lax", "Path=/login/oidc"))
    assert CLIENT_SECRET not in begun.headers["location"]
    assert not any(asked["nonce"] in value for value in client.cookies.values())


def test_the_session_is_a_new_one(client: httpx2.Client, provider: OidcProvider) -> None:
    client.cookies.set("oddsight_session", "planted", domain="127.0.0.1")
    done = sign_in(client)
    assert "planted" not in done.headers["set-cookie"]
    assert all(part in done.headers["set-cookie"] for part in ("HttpOnly", "SameSite=strict"))


@pytest.mark.parametrize(
    ("groups", "role"),
    [(["cctv"], "viewer"), ("cctv-operators", "operator"), (["x", "cctv", "cctv-admins"], "admin")],
)
def test_the_highest_role_counts(client: httpx2.Client, provider: OidcProvider, groups: object, role: str) -> None:
    provider.claims["groups"] = groups
    assert sign_in(client).status_code == 303
    assert me(client)["role"] == role


@pytest.mark.parametrize("groups", [None, [], ["CCTV"], "cctv cctv-admins", {"cctv-admins": True}, [["cctv-admins"]], 1])
def test_without_a_role_nobody_gets_in(client: httpx2.Client, provider: OidcProvider, stack: Stack, groups: object) -> None:
    provider.claims["groups"] = groups
    refuse(client, sign_in(client), 403, "erin has no role here")
    assert (trail(stack)["user"], trail(stack)["outcome"]) == ("erin", "refused")


def refuse(client: httpx2.Client, answer: httpx2.Response, status: int, *said: str) -> None:
    """It was refused, in words, on a page that runs nothing, and there is no session."""
    assert (answer.status_code, answer.headers["content-type"]) == (status, "text/html; charset=utf-8")
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    for text in said:
        assert text in answer.text
    assert "oddsight_session" not in answer.headers.get("set-cookie", "")
    assert client.get("/api/v1/me").status_code == 401


def with_claims(**claims: object) -> Callable[[OidcProvider], None]:
    return lambda provider: provider.claims.update(claims)


def unsigned(provider: OidcProvider) -> None:
    provider.algorithm = "none"


def signed_by_another(provider: OidcProvider) -> None:
    provider.signed_by = provider.other_key


def signed_with_the_clients_secret(provider: OidcProvider) -> None:
    provider.algorithm, provider.signed_by = "HS256", OctKey.import_key(CLIENT_SECRET)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (with_claims(nonce="another"), "nonce"),
        (with_claims(nonce=None), "nonce"),
        (with_claims(iss="https://evil.example"), "iss"),
        (with_claims(iss=None), "iss"),
        (with_claims(aud="another"), "aud"),
        (with_claims(aud="another", azp=CLIENT_ID), "aud"),
        (with_claims(aud=[CLIENT_ID, "another"], azp="another"), "azp"),
        (with_claims(aud=None), "aud"),
        (with_claims(exp=int(time.time()) - 3600), "set the clocks of both machines"),
        (with_claims(exp=None), "exp"),
        (with_claims(iat=int(time.time()) + 3600), "set the clocks of both machines"),
        (with_claims(nbf=int(time.time()) + 3600), "set the clocks of both machines"),
        (with_claims(sub=None), "sub"),
        (with_claims(at_hash="another"), "at_hash"),
        (unsigned, "not valid"),
        (signed_by_another, "not valid"),
        (signed_with_the_clients_secret, "not valid"),
        (with_claims(preferred_username=None), "preferred_username"),
        (with_claims(preferred_username="x\n<script>"), "preferred_username"),
    ],
)
def test_a_token_that_is_not_as_it_must_be_lets_nobody_in(
    client: httpx2.Client, provider: OidcProvider, change: Callable[[OidcProvider], None], said: str
) -> None:
    change(provider)
    refuse(client, sign_in(client), 403, said)


def test_a_state_that_this_browser_was_not_given_is_refused(client: httpx2.Client, provider: OidcProvider, stack: Stack) -> None:
    back = come_back(client)
    with httpx2.Client(base_url=stack.address) as other:  # whom an attacker sent the address to
        refuse(other, other.get(back), 403, "this browser did not begin")
        come_back(other)
        refuse(other, other.get(back), 403, "this browser did not begin")
    assert client.get(back).status_code == 303


@pytest.mark.parametrize("state", ["", "wrong", "ü"])
def test_a_wrong_state_is_refused_and_ends_the_attempt(client: httpx2.Client, provider: OidcProvider, state: str) -> None:
    back = come_back(client)
    wrong = {"code": parse_qs(urlsplit(back).query)["code"][0], "state": state}
    refuse(client, client.get(f"/login/oidc/callback?{urlencode(wrong)}"), 403, "this browser did not begin")
    refuse(client, client.get(back), 403, "this browser did not begin")


def test_nobody_comes_back_twice(client: httpx2.Client, provider: OidcProvider, stack: Stack) -> None:
    back = come_back(client)
    flow = client.cookies["oddsight_sign_in"]
    assert client.get(back).status_code == 303
    with httpx2.Client(base_url=stack.address, cookies={"oddsight_sign_in": flow}) as thief:
        refuse(thief, thief.get(back), 403, "has come back already")
        first = parse_qs(urlsplit(back).query)["code"][0]
        thief.cookies.clear()
        again = come_back(thief)
        replayed = again.replace(parse_qs(urlsplit(again).query)["code"][0], first)
        refuse(thief, thief.get(replayed), 403, "invalid_grant")


def test_the_state_of_a_sign_in_is_no_session(client: httpx2.Client, provider: OidcProvider) -> None:
    come_back(client)
    cookie = {"Cookie": f"oddsight_session={client.cookies['oddsight_sign_in']}"}
    assert client.get("/api/v1/me", headers=cookie).status_code == 401


@pytest.mark.parametrize("place", ["//evil.example", "https://evil.example", "/\\evil.example", "\r\nLocation: //evil", "@evil"])
def test_nobody_is_led_to_another_site(client: httpx2.Client, provider: OidcProvider, place: str) -> None:
    location = sign_in(client, place).headers["location"]
    assert location.startswith("/#")
    assert "\n" not in location


def test_what_the_provider_says_is_only_text(client: httpx2.Client, provider: OidcProvider) -> None:
    state = parse_qs(urlsplit(come_back(client)).query)["state"][0]
    said = {"state": state, "error": "access_denied", "error_description": "<script>alert(1)</script>"}
    answer = client.get(f"/login/oidc/callback?{urlencode(said)}")
    refuse(client, answer, 403, "access_denied: &lt;script&gt;")
    assert "<script" not in answer.text


def test_a_new_key_of_the_provider_is_fetched(client: httpx2.Client, provider: OidcProvider) -> None:
    assert sign_in(client).status_code == 303
    provider.key = provider.signed_by = new_key()
    assert sign_in(client).status_code == 303


def test_a_provider_that_cannot_be_reached_is_told() -> None:
    lost = Settings.model_validate({"dashboard": {"oidc": oidc(OidcProvider(f"http://127.0.0.1:{free_port()}"))}}).dashboard.oidc
    assert lost is not None
    with pytest.raises(SignInRefused, match=r"the provider http://127\.0\.0\.1:\d+ cannot be reached") as raised:
        asyncio.run(Provider(lost).begin("http://localhost/login/oidc/callback", ""))
    assert raised.value.status == 502


@pytest.fixture(scope="module")
def beside(running: OidcProvider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A dashboard that has a user with a password as well, whose name is erin."""
    folder = tmp_path_factory.mktemp("beside")
    add_user(folder / "users.json", "erin", "viewer", PASSWORD)
    with running_stack(folder, users=folder / "users.json", oidc=oidc(running)) as stack:
        yield stack


def test_a_provider_that_is_another_one_or_broken_is_told(provider: OidcProvider, beside: Stack) -> None:
    with httpx2.Client(base_url=beside.address) as client:
        provider.is_lost = True
        refuse(client, client.get("/login/oidc"), 502, "does not answer as it should", "check dashboard.oidc.issuer")
        provider.is_lost = False
        provider.metadata["issuer"] = "https://another.example"
        refuse(client, client.get("/login/oidc"), 502, "says that it is another one", "https://another.example")
        provider.metadata["issuer"] = provider.issuer
        provider.claims["preferred_username"] = "otto"
        assert sign_in(client).status_code == 303


def test_nobody_takes_the_name_of_a_user_with_a_password(provider: OidcProvider, beside: Stack) -> None:
    with httpx2.Client(base_url=beside.address) as client:
        assert client.get("/api/v1/login").json() == {"passwords": True, "oidc": "Example AG"}
        refuse(client, sign_in(client), 403, "erin is also a user with a password")
        assert trail(beside)["outcome"] == "refused"
        assert client.post("/api/v1/login", json={"name": "erin", "password": PASSWORD}).status_code == 200
        assert me(client)["role"] == "viewer"


def test_an_address_that_begins_again_and_again_must_wait(provider: OidcProvider, beside: Stack) -> None:
    with httpx2.Client(base_url=beside.address) as client:
        statuses = [client.get("/login/oidc").status_code for _ in range(110)]
        assert (statuses[0], statuses[-1]) == (302, 429)
        refuse(client, client.get("/login/oidc"), 429, "too many attempts to sign in")


def test_a_session_ends_when_who_may_sign_in_changes(client: httpx2.Client, provider: OidcProvider, stack: Stack) -> None:
    sign_in(client)
    kept, changed = stack.settings, stack.settings.model_dump(mode="python")
    changed["dashboard"]["oidc"]["operators"] = ("others",)
    try:
        for settings, status in ((kept, 200), (Settings.model_validate(changed), 401)):
            stack.stop()
            stack.settings = settings
            stack.start()
            assert client.get("/api/v1/me").status_code == status
    finally:
        stack.stop()
        stack.settings = kept
        stack.start()


@pytest.mark.skipif(not CHROMIUM.exists(), reason=f"no {CHROMIUM}: install Debian's package chromium")
def test_the_button_leads_through_the_provider_to_where_one_was(provider: OidcProvider, stack: Stack) -> None:
    from playwright.sync_api import expect, sync_playwright

    asked: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda said: asked.append(said.text) if "Content Security" in said.text else None)
        page.goto(f"{stack.address}/#/system")
        button = page.get_by_role("link", name="Sign in with Example AG")
        expect(button).to_be_visible()
        expect(page.get_by_label("Password")).to_have_count(0)
        assert {urlsplit(url).netloc for url in asked} == {urlsplit(stack.address).netloc}
        button.click()
        expect(page.get_by_role("heading", level=1)).to_have_text("System")
        expect(page.locator(".who")).to_contain_text("erin")
        page.get_by_role("button", name="Log out").click()
        expect(button).to_be_visible()
        provider.claims["groups"] = []
        button.click()
        expect(page.get_by_role("alert")).to_contain_text("erin has no role here")
        page.get_by_role("link", name="Back to Oddsight").click()
        expect(button).to_be_visible()
        browser.close()
    assert json.dumps([url for url in asked if not url.startswith("http")]) == "[]"
