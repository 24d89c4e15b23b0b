/** One camera: what it shows, its scores over time, what it is served with, its last events and its health. */

import { address, get } from "./api.js";
import { AreasView } from "./areas.js";
import { h, setText } from "./dom.js";
import { labels, lasted, words } from "./eventview.js";
import { moment, span } from "./format.js";
import { live, problemName } from "./live.js";
import { MapsView } from "./maps.js";
import { ProfileView } from "./profile.js";
import { TimelineView } from "./timeline.js";
import { WhatIfView } from "./whatif.js";

const PROFILE_EVERY_MS = 15_000;
const WHAT_IF_EVERY_MS = 60_000;
const MOST_ROWS = 8;

export class CameraPage {
  tab = "Wall";
  shortcuts = [
    ["1 … 5", "Scores of 15 minutes, 1 hour, 6 hours, 24 hours, 7 days"],
    ["← / →", "Earlier, later"],
    ["+ / −", "Zoom in, zoom out"],
    ["c", "While drawing: another corner"],
    ["Enter", "While drawing: close the shape"],
    ["Backspace", "While drawing: remove the last corner"],
    ["Escape", "Drop what is drawn, or back to the wall"],
  ];
  #listeners = [];
  #timers = [];
  #pictureAt = null;

  /** `at`: the time that its scores are shown of at first; null for the newest. */
  constructor(id, at = null) {
    this.id = id;
    this.title = id;
    this.profile = new ProfileView(id);
    this.areas = new AreasView(id);
    this.whatIf = new WhatIfView(id);
    this.maps = new MapsView(id);
    this.timeline = new TimelineView(id, at);
    this.state = h("span", { class: "chip" });
    this.detail = h("p", { class: "lead" });
    this.events = h("ul", { class: "short-list" });
    this.health = h("ul", { class: "short-list" });
    this.element = h(
      "section",
      { class: "page camera-page" },
      h("div", { class: "page-head" }, h("a", { class: "back", href: "#/" }, "Wall"), h("h1", {}, id), this.state),
      this.detail,
      h("div", { class: "camera-columns" }, this.#makePicture(), this.timeline.element),
      this.#makePanels(),
    );
    this.keys = {
      1: () => this.timeline.choose(0),
      2: () => this.timeline.choose(1),
      3: () => this.timeline.choose(2),
      4: () => this.timeline.choose(3),
      5: () => this.timeline.choose(4),
      ArrowLeft: () => this.timeline.earlier(),
      ArrowRight: () => this.timeline.later(),
      "+": () => this.timeline.zoomIn(),
      "-": () => this.timeline.zoomOut(),
      c: () => this.areas.editor.addCorner(),
      Enter: () => this.areas.editor.close(),
      Backspace: () => this.areas.editor.removeLast(),
      Escape: () => void (this.areas.editor.cancel() || (location.hash = "#/")),
    };
  }

  #makePicture() {
    const { overlay, editor } = this.areas;
    const shown = (is) => () => {
      this.image.hidden = !is;
      editor.allow(is);
    };
    this.image = h("img", { alt: `Newest picture of ${this.id}`, hidden: true, onerror: shown(false), onload: shown(true) });
    this.age = h("span", { class: "age" });
    const none = h("span", { class: "no-picture" }, "no picture");
    this.picture = h("div", { class: "picture" }, none, this.image, this.maps.layer, overlay, editor.layer, this.age);
    return h("div", { class: "picture-column" }, this.picture, editor.buttons, editor.form);
  }

  #makePanels() {
    const panel = (title, ...content) => h("section", { class: "panel" }, h("h2", {}, title), content);
    const all = h("a", { href: `#/events?camera_id=${encodeURIComponent(this.id)}` }, "all");
    const versions = panel("Versions of the profile", this.profile.versions);
    versions.classList.add("wide");
    return h(
      "div",
      { class: "panels" },
      panel("Profile", this.profile.facts, this.profile.actions),
      h("section", { class: "panel" }, h("div", { class: "panel-head" }, h("h2", {}, "Events"), all), this.events),
      panel("What if", this.whatIf.elements),
      panel("What it learned of this place", this.maps.list),
      panel("Health", this.health),
      panel("Zones, masks, and what is normal here", this.areas.list),
      versions,
    );
  }

  open() {
    const listen = (name, handler) => {
      live.addEventListener(name, handler);
      this.#listeners.push([name, handler]);
    };
    listen("cameras", () => this.#live());
    listen("second", () => {
      this.#live();
      this.timeline.refresh();
    });
    listen("snapshot", () => this.#all());
    listen("event", ({ detail }) => {
      if (detail.row.camera_id !== this.id) return;
      this.#lists();
      if (detail.isNew) this.timeline.load();
    });
    this.#timers = [
      setInterval(() => this.profile.load(), PROFILE_EVERY_MS),
      setInterval(() => this.whatIf.load(), WHAT_IF_EVERY_MS),
    ];
    this.#all();
  }

  close() {
    for (const [name, handler] of this.#listeners) live.removeEventListener(name, handler);
    this.#timers.forEach(clearInterval);
    this.timeline.close();
    this.whatIf.close();
  }

  connection() {
    this.#live();
  }

  #all() {
    this.#live();
    this.#lists();
    this.timeline.load();
    this.profile.load();
    this.areas.load();
    this.whatIf.load();
    this.maps.load();
  }

  #live() {
    const camera = live.cameras.get(this.id);
    if (!camera) {
      setText(this.detail, "Nothing is known of this camera yet.");
      return;
    }
    const state = live.stateOf(camera);
    setText(this.state, state.label);
    this.state.className = `chip ${state.name}`;
    setText(this.detail, this.#words(state));
    const at = camera.picture_at_ms;
    if (at && at !== this.#pictureAt) {
      this.#pictureAt = at;
      this.image.src = address("/camera/picture", { camera_id: this.id, at });
    }
    const stale = live.staleFor(camera);
    this.picture.classList.toggle("stale", stale !== null);
    setText(this.age, stale === null ? "" : `last picture ${span(stale)} ago`);
  }

  #words(state) {
    if (state.name === "alarm") return words(state.event ?? {});
    if (state.name === "silent") return state.silentMs === null ? "No score yet." : `No score for ${span(state.silentMs)}.`;
    if (state.name === "learning") return `${Math.floor(state.learning.share * 100)} % learned.`;
    return state.detail ?? "";
  }

  async #lists() {
    const [events, health] = await Promise.all([
      get("/events", { camera_id: this.id, limit: 50 }).catch(() => null),
      get("/camera/health", { camera_id: this.id }).catch(() => []),
    ]);
    const rows = events?.events.map((item) => item.event) ?? [];
    fill(this.events, rows.map(eventRow), "None yet.");
    fill(this.health, health.map(healthRow), "Nothing was ever wrong, as far as Redis remembers.");
  }
}

function fill(list, rows, none) {
  list.replaceChildren(...(rows.length ? rows.slice(0, MOST_ROWS) : [h("li", { class: "dim" }, none)]));
}

function eventRow(row) {
  const link = h("a", { href: `#/event/${row.event_id}` }, moment(row.started_at_ms));
  return h(
    "li",
    {},
    link,
    h("span", {}, words(row)),
    h("span", { class: "dim" }, lasted(row)),
    h("span", { class: "chips" }, labels(row)),
  );
}

function healthRow(row) {
  const what = row.kind === "start" ? row.text : "over";
  return h("li", {}, h("span", { class: "dim" }, moment(row.since_ms)), h("span", {}, `${problemName(row.problem)}: ${what}`));
}
