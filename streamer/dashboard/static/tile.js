/** One camera on the wall: its last picture, its score against the threshold and over the last minute, and its state. */

import { address } from "./api.js";
import { drawSpark } from "./chart.js";
import { h, setAttribute, setText } from "./dom.js";
import { words } from "./eventview.js";
import { number, span, stopwatch } from "./format.js";
import { live } from "./live.js";

const THRESHOLD_PLACE = 0.625; // of the bar; the same for all cameras, so that bars compare
const COLORS = { alarm: "#ff7a70", problem: "#e3b341", silent: "#7d8896", learning: "#8ec7ff", watching: "#7fd1a8" };
const LIVE_EVENT_MS = 60_000;

export class Tile {
  /** Whether it is on the screen; elsewhere nothing is drawn or loaded. */
  isVisible = false;
  /** Size of the small curve, told by whoever watches it. */
  sparkSize = { width: 0, height: 0 };
  #pictureAt = null;
  #state = null;

  constructor(id) {
    this.id = id;
    const shown = (is) => () => void (this.image.hidden = !is);
    this.image = h("img", { alt: "", decoding: "async", hidden: true, onerror: shown(false), onload: shown(true) });
    this.age = h("span", { class: "age" });
    this.state = h("span", { class: "state" });
    this.detail = h("span", { class: "detail" });
    this.fill = h("div", { class: "fill" });
    this.value = h("span", { class: "value" });
    this.meter = h("div", { class: "bar", role: "img" }, this.fill, h("div", { class: "mark" }));
    this.spark = h("canvas", { class: "spark", "aria-hidden": "true" });
    this.link = h("a", { class: "tile-link" }, h("h2", { title: id }, id));
    const none = h("span", { class: "no-picture" }, "no picture");
    const picture = h("div", { class: "picture" }, none, this.image, this.age, this.state);
    const text = h("div", { class: "tile-text" }, this.link, this.value);
    this.element = h("li", { class: "tile" }, picture, text, this.meter, this.spark, this.detail);
  }

  /** Show what a camera is in. */
  show(camera, state) {
    const colorChanged = this.#state?.name !== state.name;
    this.#state = state;
    const isAcknowledged = Boolean(state.event?.acknowledged);
    setAttribute(this.element, "data-state", state.name);
    this.element.classList.toggle("acknowledged", isAcknowledged);
    const place = state.name === "alarm" ? `#/event/${camera.alarm}` : `#/camera/${encodeURIComponent(camera.camera_id)}`;
    setAttribute(this.link, "href", place);
    setText(this.state, label(state));
    setText(this.detail, detail(state));
    this.#showPicture(camera);
    if (colorChanged) this.score(camera);
  }

  /** Show a camera's newest score. */
  score(camera) {
    const newest = camera?.newest;
    if (!newest || !this.isVisible) return;
    const share = newest.threshold > 0 ? (newest.highest / newest.threshold) * THRESHOLD_PLACE : 0;
    this.fill.style.transform = `scaleX(${Math.max(0, Math.min(1, share)).toFixed(3)})`;
    const score = number(newest.highest);
    setText(this.value, newest.learning ? score : `${score} / ${number(newest.threshold)}`);
    setAttribute(this.meter, "aria-label", `Score ${score}, threshold ${number(newest.threshold)}`);
    const color = COLORS[this.#state?.name ?? "watching"];
    drawSpark(this.spark, this.sparkSize, camera.recent, newest.threshold, newest.captured_at_ms, color);
  }

  #showPicture(camera) {
    const at = camera.picture_at_ms;
    if (at && at !== this.#pictureAt && this.isVisible) {
      this.#pictureAt = at;
      this.image.src = address("/camera/picture", { camera_id: camera.camera_id, at });
    }
    const stale = live.staleFor(camera);
    this.element.classList.toggle("stale", stale !== null);
    setText(this.age, stale === null ? "" : `last picture ${span(stale)} ago`);
  }
}

function label(state) {
  if (state.name !== "alarm" || !state.event) return state.label;
  const { started_at_ms: from, captured_at_ms: to } = state.event;
  const now = live.now();
  return `${state.label} ${stopwatch((Math.abs(now - to) < LIVE_EVENT_MS ? now : to) - from)}`;
}

function detail(state) {
  if (state.name === "alarm") return words(state.event ?? {});
  if (state.name === "silent")
    return state.silentMs === null ? "no score yet" : `no score for ${span(state.silentMs)}: does the service run?`;
  if (state.name === "learning") {
    const { share, left_s: left } = state.learning;
    return `${Math.floor(share * 100)} % learned, ${left ? `${span(left * 1000)} left` : "until it is certain"}`;
  }
  return state.detail ?? "";
}
