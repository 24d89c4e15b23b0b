"""The dashboard in a real browser, on a real Redis, over real HTTP."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from typer.testing import CliRunner

from deploy.calibration import Calibration
from deploy.decision import DecisionTimes
from deploy.profile import read_profile
from streamer.areas import CameraAreas, Quieted
from streamer.cli import app
from streamer.demo.run import DEMO_PROFILES
from streamer.interfaces import CameraState, Step
from streamer.minutes import MINUTE_MS, ScoreMinute
from streamer.redis.areas import RedisAreaStore
from streamer.redis.client import RedisProgressStore
from streamer.redis.profiles import RedisProfileStore
from streamer.settings_file import settings_toml
from streamer.types import Partition
from tests.harness.browser import CHROMIUM, HOSTILE, PASSWORD, Stack, answers, free_port, now_ms, running_stack, write_evidence
from tests.harness.dashboard import wait_for

if not CHROMIUM.exists():
    pytest.skip(f"no {CHROMIUM}: install Debian's package chromium", allow_module_level=True)

from playwright.sync_api import Browser, Page, expect, sync_playwright

AXE = Path(__file__).parents[1] / "vendor" / "axe.min.js"
HOUR_MS = 3_600_000
ENDED, OPEN = "00000000000000aa", "00000000000000bb"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("dashboard")
    with running_stack(folder) as running:
        started_at_ms = now_ms() - 600_000
        write_evidence(folder / "evidence", ENDED, started_at_ms)
        running.event(ENDED, "start", "gate", started_at_ms)
        running.event(ENDED, "end", "gate", started_at_ms)
        for camera_id in ("gate", "park", HOSTILE):
            running.score(camera_id, 0.5)
            running.picture(camera_id, now_ms())
        running.score("yard", 0.4, learning=0.25, learning_left_s=300)
        running.health("park", "start")
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-gpu"])
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def open_as(stack: Stack, browser: Browser) -> Iterator[Callable[[str], Page]]:
    """One page of each user, logged in; ends with a check that none complained or asked anybody else for anything."""
    pages: dict[str, Page] = {}
    complaints: list[str] = []
    asked: set[str] = set()

    def of(name: str) -> Page:
        if name not in pages:
            page = pages[name] = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
            page.on("pageerror", lambda error: complaints.append(str(error)))
            page.on("console", lambda said: complaints.append(said.text) if "Content Security" in said.text else None)
            page.on("dialog", lambda dialog: complaints.append(f"dialog {dialog.message}"))
            page.on("request", lambda request: asked.add(urlsplit(request.url).netloc))
            page.goto(stack.address)
            page.get_by_label("Name").fill(name)
            page.get_by_label("Password").fill(PASSWORD)
            page.get_by_role("button", name="Log in").click()
            expect(page.get_by_text("Live", exact=True)).to_be_visible()
        return pages[name]

    yield of
    assert complaints == []
    assert asked == {urlsplit(stack.address).netloc}


@pytest.fixture
def page(open_as: Callable[[str], Page]) -> Page:
    return open_as("ada")


def go(page: Page, stack: Stack, place: str) -> None:
    page.goto(f"{stack.address}/#/{place}")


def test_the_wall_shows_scores_as_they_change_and_who_needs_a_person_first(page: Page, stack: Stack) -> None:
    stack.score("yard", 0.4, learning=0.25, learning_left_s=300)  # again: a browser that starts slowly finds the first one old
    go(page, stack, "")
    expect(page.locator(".tile h2").first).to_have_text("park")  # its lens is covered
    expect(page.locator(".tile").first).to_contain_text("Covered")
    expect(page.locator(".tile", has_text="yard")).to_contain_text("25 % learned, 5 min left")
    for score in ("0.61", "1.23"):
        stack.score("gate", float(score))
        expect(page.locator(".tile", has_text="gate").locator(".value")).to_have_text(f"{score} / 1.5")
    bar = page.locator(".tile", has_text="gate").locator(".fill")
    assert bar.evaluate("element => element.style.transform") == "scaleX(0.512)"
    stack.score("gate", -0.3)
    expect(page.locator(".tile", has_text="gate").locator(".value")).to_have_text("-0.3 / 1.5")
    assert bar.evaluate("element => element.style.transform") == "scaleX(0)"


def test_a_camera_with_a_script_for_a_name_is_only_a_name(page: Page, stack: Stack) -> None:
    go(page, stack, "")
    expect(page.get_by_role("heading", name=HOSTILE, exact=True)).to_be_visible()
    page.get_by_role("link", name=HOSTILE).click()
    expect(page.get_by_role("heading", level=1)).to_have_text(HOSTILE)
    assert page.locator("main script, #top script").count() == 0
    go(page, stack, "events")
    expect(page.locator("datalist option", has_text="")).not_to_have_count(0)


def test_a_stale_picture_looks_stale(page: Page, stack: Stack) -> None:
    go(page, stack, "")
    stack.picture("gate", now_ms() - 180_000)
    expect(page.locator(".tile.stale", has_text="gate").locator(".age")).to_have_text("last picture 3 min ago")
    stack.picture("gate", now_ms())
    expect(page.locator(".tile.stale", has_text="gate")).to_have_count(0)


def test_an_event_appears_and_ends_while_one_watches(page: Page, stack: Stack) -> None:
    go(page, stack, "events")
    expect(page.locator(".event")).to_have_count(1)
    started_at_ms = now_ms()
    stack.event(OPEN, "start", "gate", started_at_ms)
    expect(page.locator(".event").first).to_contain_text("going on")
    expect(page.locator("#alarm-count")).to_have_text("1")
    go(page, stack, "")
    expect(page.locator(".tile").first).to_contain_text("moves faster than things do there")
    expect(page.locator(".tile[data-state=alarm] h2")).to_have_text("gate")
    stack.event(OPEN, "end", "gate", started_at_ms)
    expect(page.locator("#alarm-count")).to_be_hidden()
    expect(page.locator(".tile").first).to_contain_text("park")


def test_an_acknowledgement_and_a_comment_survive_a_reload(open_as: Callable[[str], Page], stack: Stack) -> None:
    page = open_as("olga")
    go(page, stack, f"event/{ENDED}")
    page.get_by_role("button", name="Acknowledge").click()
    page.get_by_role("button", name="False alarm").click()
    page.get_by_label("Comments").fill("<b>a dog</b>")
    page.get_by_role("button", name="Add").click()
    expect(page.locator(".comments")).to_contain_text("<b>a dog</b>")
    page.reload()
    expect(page.get_by_text("Acknowledged by olga")).to_be_visible()
    expect(page.get_by_role("button", name="False alarm")).to_have_attribute("aria-pressed", "true")
    expect(page.locator(".comments")).to_contain_text("<b>a dog</b>")
    marks = stack.redis.xrange(stack.settings.redis.marks_key)
    assert [fields["kind"] for _, fields in marks] == ["acknowledge", "false", "comment"]
    assert {fields["user"] for _, fields in stack.redis.xrange(stack.settings.redis.audit_key)} == {"ada", "olga"}


def test_the_evidence_is_shown_and_the_clip_plays(page: Page, stack: Stack) -> None:
    go(page, stack, f"event/{ENDED}")
    expect(page.locator(".stage > img").first).to_be_visible()
    expect(page.locator(".stage rect")).to_have_attribute("x", "60")
    heat, usual = page.locator(".stage .heat"), page.locator(".stage .usual")
    expect(heat).to_be_visible()
    page.keyboard.press("h")
    expect(heat).to_be_hidden()
    page.keyboard.down("u")
    expect(usual).to_be_visible()
    page.keyboard.up("u")
    expect(usual).to_be_hidden()
    page.keyboard.press("p")
    wait_for(lambda: page.locator("video").evaluate("video => video.currentTime") > 0.1)
    expect(page.locator(".chart canvas")).to_be_visible()


def test_the_keys_alone_lead_through_events(page: Page, stack: Stack) -> None:
    go(page, stack, "")
    page.keyboard.press("e")
    expect(page.locator(".event")).to_have_count(2)
    page.keyboard.press("j")
    page.keyboard.press("t")
    expect(page.locator(".event.selected")).to_contain_text("True alarm")
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="True alarm")).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_contain_text("Hold: what the camera usually shows")
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    expect(page.get_by_role("heading", level=1)).to_have_text("Events")


def test_an_operator_changes_what_a_camera_is_served_with(open_as: Callable[[str], Page], stack: Stack) -> None:
    profiles = RedisProfileStore(stack.redis, stack.settings.redis)
    profile = read_profile(DEMO_PROFILES[0])
    camera_id = profile.info.camera_id
    profiles.put(profile)
    stack.score(camera_id, 0.4)
    page = open_as("olga")
    go(page, stack, f"camera/{camera_id}")
    page.get_by_role("button", name="Freeze").click()
    expect(page.get_by_role("button", name="Unfreeze")).to_be_visible()
    assert profiles.frozen() == {camera_id}
    page.get_by_role("button", name="Relearn").click()
    page.get_by_role("dialog").get_by_role("button", name="Relearn").click()
    expect(page.locator(".facts").first).to_contain_text("the default of the network")
    assert camera_id not in profiles.current()
    page.get_by_role("button", name="Serve this").click()
    page.get_by_role("dialog").get_by_role("button", name="Serve it").click()
    expect(page.locator("td .chip")).to_have_text("in force")
    assert profiles.current()[camera_id] == profile.profile_id


def test_what_is_called_normal_is_quiet_until_it_is_taken_back(page: Page, stack: Stack) -> None:
    areas = RedisAreaStore(stack.redis, stack.settings.redis)
    go(page, stack, f"event/{ENDED}")
    page.get_by_role("button", name="Normal here").click()
    expect(page.locator(".actions")).to_contain_text("raises no event any more, up to a score of 2.75")
    assert [quiet.event_id for quiet in areas.read()["gate"].quiet] == [ENDED]
    expect(page.locator(".actions")).to_contain_text("No later event was quieted by it so far. Its clip is not kept")
    at_ms = now_ms() - 60_000
    state = CameraState(quieted={ENDED: Quieted(events=3, began_ms=(at_ms,))})
    progress = RedisProgressStore(stack.redis, stack.settings.redis, stack.settings.kafka.consumer_group)
    progress.apply(Step(Partition(stack.settings.kafka.topic, 0), None, 1, {"gate": state}))
    feedback = stack.settings.evidence.dir / "feedback"
    feedback.mkdir()
    (feedback / f"{ENDED}.mp4").write_bytes(b"")
    expect(page.locator(".actions")).to_contain_text("3 later events were quieted by it, the newest at", timeout=10_000)
    expect(page.locator(".actions")).to_contain_text("Its clip is kept for training")
    page.locator(".actions a").click()
    expect(page).to_have_url(f"{stack.address}/#/camera/gate?at={at_ms}")
    expect(page.locator(".timeline-span")).to_contain_text("(2 min)")
    go(page, stack, "camera/gate")
    expect(page.locator(".areas .quiet")).to_have_count(1)
    page.get_by_role("button", name="Take back").click()
    expect(page.locator(".areas .quiet")).to_have_count(0)
    assert areas.read()["gate"].quiet == ()


def corners_of(page: Page, *places: tuple[float, float]) -> list[tuple[float, float]]:
    """Where places of the camera's picture, as shares of it, are on the page."""
    box = page.locator(".edit-layer").bounding_box()
    assert box is not None
    return [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in places]


def test_a_zone_drawn_with_the_mouse_is_in_force(open_as: Callable[[str], Page], stack: Stack) -> None:
    areas, page = RedisAreaStore(stack.redis, stack.settings.redis), open_as("olga")
    stack.score("gate", 0.5)  # when the newest is old, a line appears above the picture, and moves it away from the mouse
    go(page, stack, "camera/gate")
    expect(page.locator(".page-head .chip")).to_have_text("Watching")
    page.get_by_role("button", name="Draw a zone").click()
    for x, y in corners_of(page, (0.25, 0.25), (0.75, 0.25), (0.5, 0.75), (0.1, 0.9)):
        page.mouse.click(x, y)
    page.keyboard.press("Backspace")
    expect(page.locator(".corner")).to_have_count(3)
    page.get_by_role("button", name="Corner 1,").click()
    expect(page.get_by_label("Name of the zone")).to_be_focused()
    page.get_by_role("button", name="Corner 3,").hover()
    [(right, low)] = corners_of(page, (0.6, 0.8))
    page.mouse.down()
    page.mouse.move(right, low, steps=3)
    page.mouse.up()
    page.get_by_label("Name of the zone").fill("till <b>")
    page.get_by_label("allowed there").fill("10")
    page.get_by_role("button", name="Save").click()
    expect(page.locator(".short-list")).to_contain_text(["till <b>10 false events a day allowed"])
    expect(page.locator(".areas .zone")).to_have_count(1)
    (zone,) = areas.read()["gate"].zones
    assert (zone.name, zone.false_events_per_camera_day) == ("till <b>", 10)
    wanted = ((0.25, 0.25), (0.75, 0.25), (0.6, 0.8))
    assert [side for corner in zone.polygon for side in corner] == pytest.approx([s for c in wanted for s in c], abs=0.01)
    page.get_by_role("button", name="Remove till <b>").click()
    expect(page.locator(".areas .zone")).to_have_count(0)
    assert areas.read()["gate"].zones == ()


def test_a_mask_is_drawn_with_the_keyboard_alone(page: Page, stack: Stack) -> None:
    areas = RedisAreaStore(stack.redis, stack.settings.redis)
    go(page, stack, "camera/gate")
    expect(page.get_by_role("button", name="Draw a mask")).to_be_enabled()
    page.get_by_role("button", name="Draw a mask").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_text("nothing there raises an event")).to_be_visible()
    for key in ("c", "Shift+ArrowLeft", "ArrowUp", "c", "c", "Enter"):
        page.keyboard.press(key)
    expect(page.get_by_role("button", name="Save")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator(".areas .mask")).to_have_count(1)
    assert areas.read()["gate"].masks == (((0.35, 0.39), (0.6, 0.4), (0.6, 0.6)),)
    assert not stack.redis.exists(stack.settings.redis.picture_key("gate"))
    stack.picture("gate", now_ms())
    page.get_by_role("button", name="Draw a mask").click()
    page.keyboard.press("c")
    page.keyboard.press("Escape")
    expect(page.locator(".edit-layer")).to_be_hidden()
    expect(page.get_by_role("heading", level=1)).to_have_text("gate")
    page.get_by_role("button", name="Remove mask 1").click()
    page.get_by_role("dialog").get_by_role("button", name="Remove").click()
    expect(page.locator(".areas .mask")).to_have_count(0)


def test_what_if_shows_what_the_command_finds(page: Page, stack: Stack, tmp_path: Path) -> None:
    known = read_profile(DEMO_PROFILES[1])
    times = DecisionTimes(min_duration_ms=300, merge_gap_ms=1000)
    peaks = tuple(2.0 - 0.1 * number for number in range(10))
    calibration = Calibration(median=0.1, peaks=peaks, observed_s=86_400, times=times)
    profile = replace(known, info=known.info.model_copy(update={"camera_id": "dock", "calibration": calibration}))
    RedisProfileStore(stack.redis, stack.settings.redis).put(profile)
    for number in range(300):
        score = {50: 2.5, 51: 2.4, 150: 1.5, 151: 1.4, 250: 1.2, 251: 1.2}.get(number, 0.1)
        stack.score("dock", score, captured_at_ms=1_764_374_400_000 + number * 1000, profile_id=profile.profile_id)
    before = (minute(1_764_374_000_000, highest=2.5), minute(1_764_374_100_000, highest=0.4))
    stack.minutes("dock", *(each.model_copy(update={"profile_id": profile.profile_id}) for each in before))
    config = tmp_path / "oddsight.toml"
    config.write_text(settings_toml(stack.settings))

    def events(*budget: str) -> list[object]:
        ran = CliRunner().invoke(app, ["replay", "--config", str(config), "--camera", "dock", "--json", *budget])
        assert ran.exit_code == 0, ran.output
        found: list[object] = json.loads(ran.output)["events"]
        return found

    go(page, stack, "camera/dock")
    count, slider = page.locator(".what-if-count"), page.get_by_label("False events a day that are allowed")
    expect(count).to_have_text(f"{len(events())} event in 5 min, at 1 a day")
    slider.press("End")
    expect(count).to_have_text(f"{len(events('--budget', '100'))} events in 5 min, at 100 a day")
    expect(page.get_by_text("it changes nothing")).to_be_visible()
    expect(page.get_by_text("In 1 of 2 a score reached this threshold")).to_be_visible()
    shown = page.evaluate("async () => (await (await fetch('/api/v1/camera/what-if?camera_id=dock&budget=7')).json()).events")
    assert shown == events("--budget", "7")
    assert [len(events()), len(shown), len(events("--budget", "100"))] == [1, 2, 3]


def minute(at_ms: int, highest: float = 0.9, threshold: float = 1.5) -> ScoreMinute:
    at_ms = at_ms // MINUTE_MS * MINUTE_MS
    return ScoreMinute(minute_at_ms=at_ms, frames=600, total=180, highest=highest, highest_at_ms=at_ms + 50, threshold=threshold)


CURVE = """canvas => { const {data} = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
    const seen = new Set();
    for (let at = 0; at < data.length; at += 4) if (data[at + 2] === 255 && data[at] === 142) seen.add((at / 4) % canvas.width);
    return seen.size / canvas.width; }"""
"""Over which share of its width a chart has a curve."""


def test_a_day_of_scores_is_drawn_zoomed_and_leads_to_its_events(page: Page, stack: Stack) -> None:
    noon_ms, dusk_ms = now_ms() - 12 * HOUR_MS, now_ms() - 6 * HOUR_MS
    times = range(now_ms() - 26 * HOUR_MS, now_ms() - MINUTE_MS, MINUTE_MS)
    stack.minutes("shore", *(minute(at_ms, threshold=1.5 if at_ms < noon_ms else 1.2) for at_ms in times))
    for number, at_ms in enumerate((noon_ms, dusk_ms, dusk_ms + 40_000)):
        stack.event(f"{number:014x}cc", "start", "shore", at_ms, captured_at_ms=at_ms)
        stack.event(f"{number:014x}cc", "end", "shore", at_ms, captured_at_ms=at_ms + 20_000, ended_at_ms=at_ms + 9_000)
    stack.score("shore", 0.5)
    go(page, stack, "camera/shore")
    shown, marks, curve = page.locator(".timeline-span"), page.locator(".marks"), page.locator(".timeline canvas")
    expect(shown).to_contain_text("(15 min)")
    expect(page.get_by_text("One point a minute")).to_be_visible()
    page.keyboard.press("4")
    expect(shown).to_contain_text("(24 h)")
    expect(page.get_by_role("button", name="24 h")).to_have_attribute("aria-pressed", "true")
    expect(page.get_by_text("3 events in this time.")).to_be_visible()
    assert curve.evaluate(CURVE) > 0.85
    box = page.locator(".timeline .u-over").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 0.4 * box["width"], box["y"] + 50)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.6 * box["width"], box["y"] + 60, steps=3)
    page.mouse.up()
    expect(shown).to_contain_text("(5 h)")
    expect(marks.get_by_role("listitem")).to_have_count(1)
    page.keyboard.press("+")
    expect(shown).to_contain_text("(2 h)")
    page.keyboard.press("4")
    marks.get_by_role("button", name="2 events").click()
    expect(marks.get_by_role("link")).to_have_count(2)
    page.get_by_role("button", name="24 h").press("Enter")
    expect(marks.get_by_role("link")).to_have_count(1)
    marks.get_by_role("link", name="Event").press("Enter")
    expect(page).to_have_url(f"{stack.address}/#/event/{0:014x}cc")


def test_a_timeline_says_what_is_old_and_what_is_not_kept(page: Page, stack: Stack) -> None:
    stack.score("quay", 0.5, captured_at_ms=now_ms() - 3 * HOUR_MS, scored_at_ms=now_ms() - 3 * HOUR_MS)
    go(page, stack, "camera/quay")
    expect(page.locator(".timeline-span")).to_contain_text("No score for 3 h: this is as of then.")
    expect(page.get_by_text("No minutes are kept of this camera yet")).to_be_visible()
    for _ in range(3):
        page.keyboard.press("ArrowLeft")
    expect(page.locator(".chart.empty")).to_have_count(1)
    expect(page.get_by_text("No scores of this time are kept.")).to_be_visible()
    stack.minutes("quay", minute(now_ms() - 4 * HOUR_MS))
    page.get_by_role("button", name="24 h").click()
    expect(page.get_by_text("Minutes are kept since")).to_be_visible()


def test_what_a_profile_learned_is_laid_over_the_picture(page: Page, stack: Stack) -> None:
    profile = read_profile(DEMO_PROFILES[2])
    RedisProfileStore(stack.redis, stack.settings.redis).put(profile)
    stack.score(profile.info.camera_id, 0.4)
    stack.picture(profile.info.camera_id, now_ms())
    go(page, stack, f"camera/{profile.info.camera_id}")
    for title in ("Usual speed", "Usually stays"):
        page.get_by_role("button", name=title).click()
    maps = page.locator(".maps img")
    wait_for(lambda: maps.evaluate_all("maps => maps.map((map) => map.naturalWidth)") == [90, 90])
    page.get_by_role("button", name="Usual speed").click()
    expect(maps).to_have_count(1)
    expect(page.get_by_role("button", name="Usually looks odd")).to_be_disabled()  # nothing does at this camera
    go(page, stack, "camera/park")
    expect(page.get_by_text("There are none: camera 'park' has no profile of its own")).to_be_visible()


def test_what_services_say_of_themselves_is_shown(page: Page, stack: Stack) -> None:
    said = {"host": "nvr-1", "ready": "Kafka does not answer", "shed_total": '{"late": 5, "over_rate": 0}'}
    stack.redis.hset(f"{stack.settings.redis.prefix}:service:a", mapping=said)
    go(page, stack, "system")
    panel = page.locator(".panel", has_text="nvr-1")
    expect(panel).to_contain_text("not ready")
    expect(panel).to_contain_text("Kafka does not answer")
    expect(panel).to_contain_text("5 late")
    expect(page.get_by_text("Another bundle")).to_have_count(0)
    stack.redis.hset(f"{stack.settings.redis.prefix}:service:a", "model_id", "video-ede-0123456789ab")
    expect(page.get_by_text("Another bundle: a running service serves the network video-ede-0123456789ab")).to_be_visible()
    go(page, stack, "camera/gate")
    expect(page.locator(".facts").first).to_contain_text("a running service serves the network video-ede-0123456789ab")
    assert "video-ede-0123456789ab" in str(
        page.evaluate("async () => (await fetch('/api/v1/camera/what-if?camera_id=gate')).text()")
    )
    stack.redis.hdel(f"{stack.settings.redis.prefix}:service:a", "model_id")
    go(page, stack, "system")
    expect(page.locator("table")).to_contain_text("freeze")


def test_a_viewer_looks_and_changes_nothing(open_as: Callable[[str], Page], stack: Stack) -> None:
    page = open_as("vic")
    go(page, stack, f"event/{OPEN}")
    expect(page.get_by_role("button", name="Acknowledge")).to_be_disabled()
    page.keyboard.press("a")
    go(page, stack, "camera/gate")
    expect(page.get_by_text("Operators and admins may change it.")).to_be_visible()
    expect(page.get_by_role("button", name="Draw a")).to_have_count(0)
    asked = """async (path) => { const me = await (await fetch('/api/v1/me')).json();
        const headers = {'Content-Type': 'application/json', 'X-CSRF-Token': me.csrf};
        const body = JSON.stringify(path.includes('marks') ? {kind: 'true'} : {camera_id: 'gate', action: 'relearn'});
        return (await fetch('/api/v1' + path, {method: 'POST', headers, body})).status; }"""
    assert page.evaluate(asked, f"/events/{OPEN}/marks") == 403
    assert page.evaluate(asked, "/camera/actions") == 403
    drawn = """async () => { const me = await (await fetch('/api/v1/me')).json();
        const headers = {'Content-Type': 'application/json', 'X-CSRF-Token': me.csrf};
        const body = JSON.stringify({camera_id: 'gate', name: 'till', polygon: [[0, 0], [1, 0], [1, 1]]});
        return (await fetch('/api/v1/camera/zone', {method: 'PUT', headers, body})).status; }"""
    assert page.evaluate(drawn) == 403
    assert RedisAreaStore(stack.redis, stack.settings.redis).read().get("gate", CameraAreas()).zones == ()
    assert not any(fields["user"] == "vic" for _, fields in stack.redis.xrange(stack.settings.redis.marks_key))


@pytest.mark.parametrize("place", ["", "events", f"event/{ENDED}", "camera/gate", "system"])
def test_people_who_see_or_hear_little_are_not_shut_out(page: Page, stack: Stack, place: str) -> None:
    go(page, stack, place)
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    page.wait_for_timeout(700)
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
    serious = [each for each in found if each["impact"] in {"serious", "critical"}]
    assert [(each["id"], each["nodes"][0]["html"], each["nodes"][0]["failureSummary"]) for each in serious] == []


def test_a_new_alarm_sounds_for_those_who_switched_it_on(browser: Browser, stack: Stack) -> None:
    page = browser.new_context().new_page()
    page.add_init_script("""window.tones = 0; const start = OscillatorNode.prototype.start;
        OscillatorNode.prototype.start = function (...at) { window.tones += 1; return start.apply(this, at); };""")
    page.goto(stack.address)
    page.get_by_label("Name").fill("vic")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    sound = page.locator("#sound")
    expect(sound).to_have_attribute("aria-pressed", "false")
    alarm = page.locator(".tile[data-state=alarm]", has_text="belfry")
    for number, tones in enumerate([0, 2]):
        started_at_ms, event_id = now_ms(), f"{0xB311 + number:016x}"
        stack.event(event_id, "start", "belfry", started_at_ms)
        expect(alarm).to_be_visible()
        wait_for(lambda tones=tones: page.evaluate("tones") == tones)  # type: ignore[misc]  # it has a default
        stack.event(event_id, "end", "belfry", started_at_ms)
        expect(alarm).to_have_count(0)
        if number == 0:
            sound.click()
            expect(sound).to_have_attribute("aria-pressed", "true")
            page.reload()
            expect(sound).to_have_attribute("aria-pressed", "true")
            assert page.evaluate("tones") == 0
    page.context.close()


def test_the_page_says_that_the_server_is_gone_and_goes_on_when_it_is_back(page: Page, stack: Stack) -> None:
    go(page, stack, "")
    stack.stop()
    expect(page.get_by_role("alert")).to_contain_text("No connection since")
    expect(page.locator("body.stale")).to_have_count(1)
    stack.start()
    expect(page.get_by_text("Live", exact=True)).to_be_visible(timeout=15_000)
    expect(page.get_by_role("alert")).to_be_hidden()
    stack.score("gate", 0.77)
    expect(page.locator(".tile", has_text="gate").locator(".value")).to_have_text("0.77 / 1.5")


def test_logging_out_leaves_nothing_to_see(page: Page, stack: Stack) -> None:
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_role("button", name="Log in")).to_be_visible()
    expect(page.locator(".tile")).to_have_count(0)


def test_the_command_serves_until_it_is_told_to_stop(tmp_path: Path) -> None:
    config, port = tmp_path / "oddsight.toml", free_port()
    config.write_text(f'[redis]\nurl = "redis://127.0.0.1:1"\n[dashboard]\nport = {port}\n')
    command = [str(Path(sys.executable).with_name("oddsight-stream")), "dashboard", "--config", str(config)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=os.environ)
    try:
        wait_for(lambda: answers(f"http://127.0.0.1:{port}/"), 20)
    finally:
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=20)
    assert process.returncode == 0, output
    assert b"Redis cannot be read" in output
