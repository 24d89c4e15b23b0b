/** The frame of the page: navigation, connection, keys, and which page is shown. */

import { post, session, whoAmI } from "./api.js";
import { h, setText, svg, toast } from "./dom.js";
import { clockTime } from "./format.js";
import { live } from "./live.js";
import { isOn, ring, setSound } from "./sound.js";
import { WallPage } from "./wall.js";
import { EventsPage } from "./events.js";
import { EventPage } from "./event.js";
import { CameraPage } from "./camera.js";
import { SystemPage } from "./system.js";
import { LoginPage } from "./login.js";

const main = document.getElementById("main");
const banner = document.getElementById("banner");
const TABS = [
  ["Wall", "#/", "w"],
  ["Events", "#/events", "e"],
  ["System", "#/system", "s"],
];
const GLOBAL_KEYS = [
  ["w", "Wall"],
  ["e", "Events"],
  ["s", "System"],
  ["m", "Sound on alarm on or off"],
  ["?", "This list"],
  ["Escape", "Back, or close"],
];
let page = null;

/** The page of an address: "#/", "#/events?open=true", "#/event/ID", "#/camera/NAME?at=MS", "#/system". */
function pageOf(hash) {
  const [path, query = ""] = hash.replace(/^#\/?/, "").split("?");
  const [name, ...rest] = path.split("/");
  const argument = decodeURIComponent(rest.join("/"));
  if (name === "events") return new EventsPage(new URLSearchParams(query));
  if (name === "event") return new EventPage(argument);
  if (name === "camera") return new CameraPage(argument, Number(new URLSearchParams(query).get("at")) || null);
  if (name === "system") return new SystemPage();
  return new WallPage();
}

function show(next) {
  page?.close();
  page = next;
  main.replaceChildren(page.element);
  document.title = `${page.title} · Oddsight`;
  for (const tab of document.querySelectorAll(".tab")) {
    if (tab.dataset.tab === page.tab) tab.setAttribute("aria-current", "page");
    else tab.removeAttribute("aria-current");
  }
  window.scrollTo(0, page.scrollTop ?? 0);
  page.open?.();
}

function route() {
  if (session.me) show(pageOf(location.hash));
}

function top() {
  const sound = h("button", { class: "icon-button", id: "sound", onclick: () => toggleSound() });
  const skip = h("button", { class: "skip", onclick: () => main.focus() }, "Skip to the content");
  const tabs = TABS.map(([name, hash]) =>
    h(
      "a",
      { class: "tab", href: hash, dataset: { tab: name } },
      name,
      name === "Wall" ? h("span", { class: "count", id: "alarm-count", hidden: true }) : null,
    ),
  );
  const me = session.me;
  document
    .getElementById("top")
    .replaceChildren(
      skip,
      h(
        "a",
        { class: "brand", href: "#/", "aria-label": "Oddsight, wall" },
        h("span", { class: "brand-mark", "aria-hidden": "true" }),
        h("span", { class: "brand-name" }, "Oddsight"),
      ),
      h("nav", { "aria-label": "Pages" }, tabs),
      h(
        "div",
        { class: "top-right" },
        h("span", { id: "link", class: "pill" }),
        sound,
        h(
          "button",
          { class: "icon-button", onclick: () => help(), "aria-label": "Keyboard shortcuts", title: "Keyboard shortcuts (?)" },
          "?",
        ),
        h("span", { class: "who" }, `${me.user}`, h("span", { class: "role" }, me.role)),
        me.can_log_out ? h("button", { class: "button quiet", onclick: logOut }, "Log out") : null,
      ),
    );
  showSound();
  showConnection();
}

function toggleSound() {
  setSound(!isOn());
  showSound();
  toast(isOn() ? "Sound on alarm is on" : "Sound on alarm is off");
}

function showSound() {
  const button = document.getElementById("sound");
  if (!button) return;
  const bell = svg("path", { d: "M6 16V11a6 6 0 0 1 12 0v5l1.5 2h-15zM10 21h4" });
  button.replaceChildren(
    svg("svg", { viewBox: "0 0 24 24", "aria-hidden": "true" }, bell, isOn() ? null : svg("path", { d: "M4 4l16 17" })),
  );
  button.setAttribute("aria-pressed", String(isOn()));
  button.setAttribute("aria-label", "Sound on alarm");
  button.title = `Sound on alarm is ${isOn() ? "on" : "off"} (m)`;
}

function showConnection() {
  const pill = document.getElementById("link");
  const lost = live.lostAt !== null;
  const away = !lost && !live.link.reachable;
  document.body.classList.toggle("stale", lost || away);
  if (pill) {
    setText(pill, lost ? "No connection" : away ? "Redis away" : "Live");
    pill.className = `pill ${lost || away ? "bad" : "good"}`;
  }
  if (lost) setText(banner, `No connection since ${clockTime(live.lostAt)}. What you see is as of then; trying again …`);
  else if (away)
    setText(
      banner,
      `Redis cannot be read since ${clockTime(live.link.since_ms)}: ${live.link.problem}. What you see is as of then.`,
    );
  banner.hidden = !(lost || away);
  if (page?.connection) page.connection();
}

function showAlarmCount() {
  const element = document.getElementById("alarm-count");
  if (!element) return;
  const count = [...live.cameras.values()].filter((camera) => camera.alarm).length;
  element.hidden = count === 0;
  setText(element, String(count));
  element.setAttribute("aria-label", `${count} alarms`);
}

function help() {
  if (document.querySelector("dialog.help")) return;
  const lists = [
    ["Everywhere", GLOBAL_KEYS],
    [page.title, page.shortcuts ?? []],
  ].filter(([, keys]) => keys.length);
  const dialog = h(
    "dialog",
    { class: "dialog help", "aria-labelledby": "help-title", onclose: () => dialog.remove() },
    h(
      "form",
      { method: "dialog" },
      h("h2", { id: "help-title" }, "Keyboard shortcuts"),
      lists.map(([title, keys]) => [
        h("h3", {}, title),
        h(
          "dl",
          { class: "keys" },
          keys.map(([key, text]) => [h("dt", {}, h("kbd", {}, key)), h("dd", {}, text)]),
        ),
      ]),
      h("div", { class: "buttons" }, h("button", { class: "button", value: "close" }, "Close")),
    ),
  );
  document.body.append(dialog);
  dialog.showModal();
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || !session.me || document.querySelector("dialog[open]")) return;
  const isTyping = event.target.matches("input, textarea, select");
  if (isTyping) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  if (event.key === "Enter" && event.target.matches("a, button, summary, video")) return;
  const globals = { w: () => go("#/"), e: () => go("#/events"), s: () => go("#/system"), m: toggleSound, "?": help };
  const action = page?.keys?.[event.key] ?? globals[event.key];
  if (!action) return;
  event.preventDefault();
  action(event);
}

const go = (hash) => {
  location.hash = hash;
};

async function logOut() {
  await post("/logout").catch(() => null);
  session.me = null;
  logIn();
}

function logIn() {
  live.stop();
  session.me = null;
  document.getElementById("top").replaceChildren();
  banner.hidden = true;
  if (!(page instanceof LoginPage)) show(new LoginPage(begin));
}

async function begin() {
  try {
    await whoAmI();
  } catch (error) {
    if (error.status === 401) return;
    main.replaceChildren(h("div", { class: "nothing" }, h("h1", {}, "Oddsight cannot be reached"), h("p", {}, error.message)));
    setTimeout(begin, 2000);
    return;
  }
  top();
  live.start();
  route();
}

live.addEventListener("connection", showConnection);
live.addEventListener("snapshot", showAlarmCount);
live.addEventListener("cameras", showAlarmCount);
live.addEventListener("event", ({ detail }) => {
  if (detail.isNew) ring();
});
live.addEventListener("snapshot", ({ detail }) => {
  if (detail.wasLost) whoAmI().catch(() => null);
});
document.addEventListener("logged-out", logIn);
document.addEventListener("keydown", onKey);
window.addEventListener("hashchange", route);
begin();
