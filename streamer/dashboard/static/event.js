/** One event: what was seen, why, and what people say of it. */

import { get, may } from "./api.js";
import { ScoreChart } from "./chart.js";
import { facts, h, setText, toast } from "./dom.js";
import { listed } from "./events.js";
import { EvidenceView } from "./evidenceview.js";
import { labels, lasted, mark, words } from "./eventview.js";
import { moment, number, promise, ratio, verdictNames } from "./format.js";
import { consequences } from "./judgement.js";
import { live } from "./live.js";

const EVIDENCE_EVERY_MS = 3000;
const AROUND_MS = 15_000;
const KEPT_WITHIN_MS = 60_000;

export class EventPage {
  title = "Event";
  tab = "Events";
  shortcuts = [
    ["j / k", "Next or previous event of the list"],
    ["a", "Acknowledge"],
    ["t", "True alarm"],
    ["f", "False alarm"],
    ["n", "Normal here"],
    ["c", "Comment"],
    ["h", "Heat map on or off"],
    ["u", "Hold: what the camera usually shows"],
    ["p", "Play or pause the clip"],
    ["Escape", "Back to the list"],
  ];
  #timer = null;
  #changes = 0;

  constructor(id) {
    this.id = id;
    this.evidence = new EvidenceView();
    this.element = h("section", { class: "page event-page" }, h("p", { class: "nothing" }, "Loading …"));
    const act = (kind) => () => this.#mark(kind);
    this.keys = {
      j: () => this.#step(1),
      k: () => this.#step(-1),
      a: act("acknowledge"),
      t: act("true"),
      f: act("false"),
      n: act("normal"),
      c: () => this.comment?.focus(),
      h: () => this.evidence.toggleHeat(),
      u: () => this.evidence.showUsual(true),
      p: () => this.evidence.playPause(),
      Escape: () => void (location.hash = "#/events"),
    };
  }

  #onEvent = ({ detail }) => {
    if (detail.row.event_id === this.id) this.#changed(detail.row);
  };
  #onKeyUp = ({ key }) => {
    if (key === "u") this.evidence.showUsual(false);
  };

  async open() {
    live.addEventListener("event", this.#onEvent);
    document.addEventListener("keyup", this.#onKeyUp);
    listed.selected = this.id;
    try {
      this.item = await get(`/events/${this.id}`);
    } catch (error) {
      const back = h("a", { href: "#/events" }, "All events");
      this.element.replaceChildren(h("div", { class: "nothing" }, h("h1", {}, "No such event"), h("p", {}, error.message), back));
      return;
    }
    this.#build();
    this.#show();
    this.#scores();
    this.#timer = setInterval(() => this.#refresh(), EVIDENCE_EVERY_MS);
  }

  close() {
    live.removeEventListener("event", this.#onEvent);
    document.removeEventListener("keyup", this.#onKeyUp);
    clearInterval(this.#timer);
    this.chart?.destroy();
    this.evidence.close();
  }

  #build() {
    this.heading = h("p", { class: "lead" });
    this.facts = h("dl", { class: "facts" });
    this.actions = h("div", { class: "actions", role: "group", "aria-label": "Marks" });
    this.comments = h("ol", { class: "comments" });
    this.chart = new ScoreChart(200);
    const known = h("div", { class: "known" }, this.actions, this.facts, this.#commentForm(), this.comments);
    const clip = h("section", { class: "panel" }, h("h2", {}, "Clip"), this.evidence.clip);
    const curve = h("section", { class: "panel" }, h("h2", {}, "Score around it"), this.chart.element);
    this.element.replaceChildren(
      this.#head(),
      this.heading,
      h("div", { class: "event-columns" }, this.evidence.figure, known),
      h("div", { class: "event-columns second" }, clip, curve),
    );
  }

  #head() {
    const { camera_id: camera } = this.item.event;
    document.title = `${camera} · Oddsight`;
    this.chips = h("div", { class: "chips" });
    const step = (by, title, text) => h("button", { class: "button small", onclick: () => this.#step(by), title }, text);
    return h(
      "div",
      { class: "page-head" },
      h("a", { class: "back", href: "#/events" }, "Events"),
      h("h1", {}, h("a", { href: `#/camera/${encodeURIComponent(camera)}` }, camera)),
      this.chips,
      h(
        "div",
        { class: "step" },
        step(-1, "The event above in the list (k)", "↑ Newer"),
        step(1, "The event below (j)", "↓ Older"),
      ),
    );
  }

  #commentForm() {
    if (!may("operator")) return h("h2", {}, "Comments");
    this.comment = h("input", { id: "comment", maxlength: 1000, placeholder: "Write a comment", autocomplete: "off" });
    const send = async (submit) => {
      submit.preventDefault();
      const text = this.comment.value.trim();
      const changed = text && (await mark(this.item.event, "comment", text));
      if (!changed) return;
      this.comment.value = "";
      this.#changed(changed);
    };
    const line = h("div", { class: "comment-line" }, this.comment, h("button", { class: "button small" }, "Add"));
    return h("form", { class: "comment-form", onsubmit: send }, h("label", { for: "comment" }, "Comments"), line);
  }

  #show() {
    const { event, evidence } = this.item;
    this.chips.replaceChildren(...labels(event));
    setText(this.heading, `${capital(words(event))}.`);
    this.facts.replaceChildren(...facts(this.#known(event)));
    this.#showActions(event);
    this.#showComments(event);
    this.evidence.show(event, evidence);
  }

  #known(event) {
    return [
      ["Began", moment(event.started_at_ms)],
      ["Lasted", lasted(event)],
      ["Peak", `${number(event.peak_score)}, ${ratio(event.peak_score, event.threshold)} (${number(event.threshold)})`],
      ["False events", promise(event.bound, event.budget, event.observed_s)],
      ["Profile", event.profile_id ?? "the default of the network"],
      ["Network", `${event.model_id}, by ${event.engine}`],
      ["Event", event.event_id],
    ];
  }

  #showComments(event) {
    const said = (each) => h("li", {}, h("p", {}, each.text), h("p", { class: "by" }, `${each.user}, ${moment(each.at_ms)}`));
    this.comments.replaceChildren(...[...event.comments].reverse().map(said));
  }

  #showActions(event) {
    // The focus stays on the button that was pressed.
    const focused = [...this.actions.querySelectorAll("button")].indexOf(document.activeElement);
    const verdicts = [
      ["true", "t"],
      ["false", "f"],
      ["normal", "n"],
    ].map(([kind, key]) => this.#verdictButton(event, kind, key));
    const { verdict } = event;
    const judged = verdict ? `${verdictNames[verdict.kind]}, says ${verdict.user}.` : "";
    this.actions.replaceChildren(
      this.#acknowledgement(event),
      h("div", { class: "verdicts" }, verdicts),
      ...(judged ? [h("p", { class: "note" }, judged, consequences(this.item))] : []),
    );
    if (focused >= 0) this.actions.querySelectorAll("button")[focused]?.focus();
  }

  #acknowledgement({ acknowledged }) {
    if (acknowledged) return h("p", { class: "note" }, `Acknowledged by ${acknowledged.user} at ${moment(acknowledged.at_ms)}`);
    const options = { disabled: !may("operator"), onclick: () => this.#mark("acknowledge"), title: "Acknowledge (a)" };
    return h("button", { class: "button primary", ...options }, "Acknowledge");
  }

  #verdictButton(event, kind, key) {
    const options = { disabled: !may("operator"), onclick: () => this.#mark(kind), title: `${verdictNames[kind]} (${key})` };
    return h("button", { class: "button", "aria-pressed": String(event.verdict?.kind === kind), ...options }, verdictNames[kind]);
  }

  #changed(row) {
    if (!this.item || !this.chips) return;
    this.#changes += 1;
    this.item = { ...this.item, event: row };
    this.#show();
  }

  async #refresh() {
    const { event, evidence } = this.item;
    const clip = evidence?.files?.["clip.mp4"];
    const isKeptSoon = event.verdict && clip && !this.item.kept && live.now() - event.verdict.at_ms < KEPT_WITHIN_MS;
    if (event.open || isKeptSoon || (EvidenceView.isRecent(event) && !clip)) {
      if (await this.#fetch()) this.#scores();
    }
  }

  /** Fetch the event with its evidence; of what has changed meanwhile, what came last holds. */
  async #fetch() {
    const before = this.#changes;
    const item = await get(`/events/${this.id}`).catch(() => null);
    if (!item) return false;
    this.item = before === this.#changes ? item : { ...item, event: this.item.event };
    this.#show();
    return true;
  }

  async #scores() {
    const { event, evidence } = this.item;
    const until = event.ended_at_ms ?? event.captured_at_ms;
    let points = evidence?.scores ?? [];
    if (!points.length || event.open) {
      const wanted = { camera_id: event.camera_id, from_ms: event.started_at_ms - AROUND_MS, to_ms: until + AROUND_MS };
      const found = await get("/camera/scores", wanted).catch(() => null);
      if (found?.points.length) points = found.points;
    }
    this.chart.show(points, [[event.started_at_ms, until]]);
  }

  #step(by) {
    const place = listed.ids.indexOf(this.id);
    const next = place < 0 ? listed.ids[0] : listed.ids[place + by];
    if (next) location.hash = `#/event/${next}`;
    else toast(by > 0 ? "This is the last event of the list" : "This is the first event of the list");
  }

  async #mark(kind) {
    if (!this.item || !may("operator")) return;
    if (kind === "acknowledge" && this.item.event.acknowledged) return;
    const changed = await mark(this.item.event, kind);
    if (!changed) return;
    this.#changed(changed);
    await this.#fetch();
  }
}

const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);
