/** A camera's scores over minutes, hours or days, with the events of that time. */

import { get } from "./api.js";
import { h, setText } from "./dom.js";
import { moment, span } from "./format.js";
import { live } from "./live.js";
import { EventMarks } from "./marks.js";
import { TimelineChart } from "./timelinechart.js";

const MINUTE = 60_000;
const RANGES = [
  ["15 min", 15 * MINUTE],
  ["1 h", 60 * MINUTE],
  ["6 h", 360 * MINUTE],
  ["24 h", 1440 * MINUTE],
  ["7 days", 10_080 * MINUTE],
];
const LEAST = 4000;
const MOST_EVENTS = 200;
const STALE = MINUTE;
const EVERY = 3000;
const EVERY_IF_LONG = 30_000;
const WITHHELD = "Grey: no event could start, because the camera was learned or showed nothing.";

export class TimelineView {
  #range = 0;
  #window = null; // what was zoomed or moved to; null: the range up to the newest score
  #shown = null;
  #asked = 0;
  #askedAt = 0;

  constructor(cameraId, at = null) {
    this.id = cameraId;
    if (at !== null) this.#window = [at - MINUTE, at + MINUTE];
    this.chart = new TimelineChart(280, {
      onZoom: (from, to) => this.#show([from, to]),
      onReset: () => this.choose(this.#range),
      onLayout: () => this.#place(),
    });
    this.marks = new EventMarks((from, to) => this.#show([from, to]));
    const range = ([text], place) => h("button", { class: "button small", onclick: () => this.choose(place) }, text);
    this.ranges = h("div", { class: "ranges", role: "group", "aria-label": "How long" }, RANGES.map(range));
    const step = (sign, text, action) =>
      h("button", { class: "icon-button", "aria-label": text, title: text, onclick: () => action.call(this) }, sign);
    const steps = h("div", { class: "ranges", role: "group", "aria-label": "Which part" }, [
      step("‹", "Earlier", this.earlier),
      step("›", "Later", this.later),
      step("+", "Zoom in", this.zoomIn),
      step("−", "Zoom out", this.zoomOut),
    ]);
    this.shownTime = h("p", { class: "timeline-span" });
    this.note = h("p", { class: "note" });
    this.element = h(
      "section",
      { class: "panel timeline" },
      h("div", { class: "panel-head" }, h("h2", {}, "Scores"), this.ranges, steps),
      this.shownTime,
      this.marks.element,
      this.chart.element,
      this.note,
    );
    this.#press();
  }

  /** Called every second: asks again when it is time. */
  refresh() {
    const every = this.#window === null && RANGES[this.#range][1] <= 60 * MINUTE ? EVERY : EVERY_IF_LONG;
    if (Date.now() - this.#askedAt >= every) this.load();
  }

  async load() {
    const [from, to] = this.#wanted();
    const number = ++this.#asked;
    this.#askedAt = Date.now();
    const times = { camera_id: this.id, from_ms: Math.max(0, Math.floor(from)), to_ms: Math.ceil(to) };
    try {
      const [timeline, events] = await Promise.all([
        get("/camera/timeline", times),
        get("/events", { ...times, limit: MOST_EVENTS }),
      ]);
      if (number === this.#asked) this.#draw({ from, to, timeline, events });
    } catch (error) {
      if (number === this.#asked) setText(this.note, error.message);
    }
  }

  close() {
    this.#asked++;
    this.chart.destroy();
  }

  choose(place) {
    this.#range = place;
    this.#show(null);
  }

  earlier() {
    this.#move(-0.5);
  }

  later() {
    this.#move(0.5);
  }

  zoomIn() {
    this.#zoom(0.5);
  }

  zoomOut() {
    this.#zoom(2);
  }

  /** No further than to the newest score; what arrives there with the length of a range follows the newest again. */
  #move(share) {
    const [from, to] = this.#wanted();
    const by = Math.min(share * (to - from), this.#end() - to);
    const isRange = Math.abs(to - from - RANGES[this.#range][1]) < 1;
    this.#show(share > 0 && isRange && to + by >= this.#end() ? null : [from + by, to + by]);
  }

  #zoom(factor) {
    const [from, to] = this.#wanted();
    const length = Math.min((to - from) * factor, RANGES[RANGES.length - 1][1]);
    if (factor > 1 && this.#window === null) return this.choose(Math.min(this.#range + 1, RANGES.length - 1));
    const until = Math.min((from + to + length) / 2, this.#end());
    return this.#show([until - length, until]);
  }

  #show(window) {
    if (window !== null && window[1] - window[0] < LEAST) {
      const middle = (window[0] + window[1]) / 2;
      window = [middle - LEAST / 2, middle + LEAST / 2];
    }
    this.#window = window;
    this.#press();
    this.load();
  }

  #press() {
    const pressed = this.#window === null ? this.#range : -1;
    [...this.ranges.children].forEach((button, each) => button.setAttribute("aria-pressed", String(each === pressed)));
  }

  /** Where the time ends: at the newest score, because recorded footage is older than now. */
  #end() {
    return live.cameras.get(this.id)?.newest?.captured_at_ms ?? live.now();
  }

  #wanted() {
    if (this.#window !== null) return this.#window;
    const end = this.#end();
    return [end - RANGES[this.#range][1], end];
  }

  #draw({ from, to, timeline, events }) {
    const rows = events.events.map((item) => item.event);
    this.#shown = { from, to, rows };
    this.chart.show(from, to, timeline, rows);
    this.#place();
    setText(this.shownTime, this.#time(from, to));
    setText(this.note, notes(from, timeline, events));
  }

  #place() {
    if (this.#shown) this.marks.show(this.#shown.rows, this.#shown.from, this.#shown.to, this.chart.plotArea());
  }

  #time(from, to) {
    const times = `${moment(from)} to ${moment(to)} (${span(to - from)})`;
    const newest = live.cameras.get(this.id)?.newest;
    const silent = newest ? live.now() - newest.scored_at_ms : 0;
    return silent > STALE ? `${times}. No score for ${span(silent)}: this is as of then.` : `${times}.`;
  }
}

function notes(from, { parts, points, part_ms: length, minutes_since_ms: since }, events) {
  const said = [];
  if (parts.length) said.push(`One point ${partName(length)}: its highest score, shaded down to its mean.`);
  if (parts.some((part) => part[7] === part[5])) said.push(WITHHELD);
  if (!parts.length && !points.length) said.push("No scores of this time are kept.");
  if (since === null) said.push("No minutes are kept of this camera yet, only its newest scores.");
  else if (from < since - MINUTE) said.push(`Minutes are kept since ${moment(since)}.`);
  return [...said, eventsNote(events)].join(" ");
}

function eventsNote({ total, next }) {
  if (next) return `Only the newest ${MOST_EVENTS} of ${total} events are marked.`;
  return `${total || "No"} event${total === 1 ? "" : "s"} in this time.`;
}

const partName = (length) => (length === MINUTE ? "a minute" : `for each ${span(length)}`);
