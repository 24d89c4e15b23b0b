/** What if: the events that a camera's stored scores give at another budget of false events. It changes nothing. */

import { get } from "./api.js";
import { facts, h, setText } from "./dom.js";
import { moment, number, span, whole } from "./format.js";

const [LEAST, MOST] = [0.1, 100];
const PAUSE_MS = 250;
const MOST_ROWS = 8;
const DAY_MS = 86_400_000;
const CHANGES_NOTHING =
  "The slider only shows what would have been: it changes nothing. The budget in force is the setting " +
  "decision.false_events_per_camera_day.";

const budgetAt = (place) => Number((10 ** place).toPrecision(2));

const events = (count) => `${whole(count)} event${count === 1 ? "" : "s"}`;

export class WhatIfView {
  #timer = null;
  #asked = 0;
  #inForce = null;

  constructor(cameraId) {
    this.id = cameraId;
    const [min, max] = [LEAST, MOST].map(Math.log10);
    this.slider = h("input", { id: "budget", type: "range", min, max, step: 0.05, oninput: () => this.#moved() });
    this.shown = h("output", { for: "budget" });
    this.count = h("p", { class: "what-if-count", role: "status" });
    this.facts = h("dl", { class: "facts" });
    this.list = h("ul", { class: "short-list" });
    const label = h("label", { for: "budget" }, "False events a day that are allowed");
    const line = h("div", { class: "what-if-line" }, this.slider, this.shown);
    this.elements = [label, line, this.count, this.facts, this.list, h("p", { class: "note" }, CHANGES_NOTHING)];
  }

  /** What the budget in force gives; the slider begins there. */
  async load() {
    try {
      const found = await get("/camera/what-if", { camera_id: this.id });
      const isFirst = this.#inForce === null;
      this.#inForce = found;
      if (!isFirst) return this.#ask();
      this.slider.value = Math.log10(Math.min(MOST, Math.max(LEAST, found.budget_in_force)));
      this.#tell(found.budget_in_force);
      this.#show(found);
    } catch (error) {
      setText(this.count, error.message);
    }
  }

  close() {
    clearTimeout(this.#timer);
  }

  #moved() {
    clearTimeout(this.#timer);
    this.#tell(budgetAt(this.slider.value));
    this.#timer = setTimeout(() => this.#ask(), PAUSE_MS);
  }

  #tell(budget) {
    this.budget = budget;
    setText(this.shown, number(budget));
    this.slider.setAttribute("aria-valuetext", `${number(budget)} a day`);
  }

  async #ask() {
    const number = ++this.#asked;
    try {
      const found = await get("/camera/what-if", { camera_id: this.id, budget: this.budget });
      if (number === this.#asked) this.#show(found);
    } catch (error) {
      if (number === this.#asked) setText(this.count, error.message);
    }
  }

  #show(found) {
    const inForce = this.#inForce;
    setText(this.count, found.scores ? headline(found) : "No scores are kept to decide again.");
    this.facts.replaceChildren(
      ...facts([
        ["In force", `${number(found.budget_in_force)} a day, which gives ${events(inForce.events.length)}`],
        ["Threshold", found.enter === null ? "not known" : number(found.enter)],
        ["False a day", found.bound === null ? "no promise" : `at most ${number(found.bound)}, with 95 % confidence`],
        ["Decided", decided(found)],
        ["Before that", before(found)],
        ...found.notes.map((note) => ["Note", note]),
      ]),
    );
    const newest = found.events.slice(-MOST_ROWS).reverse();
    this.list.replaceChildren(...newest.map(row));
  }
}

const headline = ({ events: found, budget, from_ms: from, until_ms: until }) =>
  `${events(found.length)} in ${span(until - from)}, at ${number(budget)} a day`;

function decided({ scores, from_ms: from, until_ms: until }) {
  return scores ? `${whole(scores)} scores from ${moment(from)} to ${moment(until)}` : "none";
}

/** What is known of the rest of the last day. */
function before({ earlier, scores, from_ms: from, until_ms: until }) {
  if (earlier === null) {
    return scores && until - from >= DAY_MS ? "more than a day was decided" : "nothing is kept of the rest of the last day";
  }
  const { reached, minutes, from_ms: since } = earlier;
  return (
    `Since ${moment(since)} only minutes are kept. In ${whole(reached)} of ${whole(minutes)} a score reached this threshold: ` +
    "events may have begun in these, and in no other. How many cannot be told."
  );
}

function row(event) {
  const lasted = event.ended_at_ms === null ? "goes on" : span(event.ended_at_ms - event.started_at_ms);
  return h(
    "li",
    {},
    h("span", {}, moment(event.started_at_ms)),
    h("span", { class: "dim" }, `${lasted}, highest score ${number(event.peak_score)}`),
  );
}
