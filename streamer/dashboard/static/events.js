/** The list of events, newest first, with filters. */

import { get, may } from "./api.js";
import { h, setText, toast } from "./dom.js";
import { EventRow } from "./eventrow.js";
import { mark } from "./eventview.js";
import { EventFilters } from "./filters.js";
import { live } from "./live.js";

const LIVE_REFRESH_MS = 600;

/** The events that were listed last, in order, so that the page of one can go to the next. */
export const listed = { ids: [], selected: null };

export class EventsPage {
  title = "Events";
  tab = "Events";
  shortcuts = [
    ["j / k", "Next or previous event"],
    ["Enter", "Open the event"],
    ["a", "Acknowledge"],
    ["t", "True alarm"],
    ["f", "False alarm"],
    ["n", "Normal here"],
    ["/", "Filter by camera"],
  ];
  #rows = new Map();
  #count = 0;
  #next = null;
  #selected = null;
  #wanted = new Map();
  #timer = null;
  #onEvent = ({ detail }) => this.#changed(detail.row);
  #onSnapshot = ({ detail }) => {
    if (detail.again) this.#load();
  };

  constructor(query) {
    this.filters = new EventFilters(query, () => this.#applied());
    this.total = h("span", { class: "total", role: "status" });
    this.list = h("ul", { class: "events" });
    this.more = h("button", { class: "button more", hidden: true, onclick: () => this.#load(this.#next) }, "Show more");
    this.element = h(
      "section",
      { class: "page" },
      h("div", { class: "page-head" }, h("h1", {}, "Events"), this.total),
      this.filters.element,
      this.list,
      this.more,
    );
    const act = (kind) => () => this.#mark(kind);
    this.keys = {
      j: () => this.#move(1),
      k: () => this.#move(-1),
      Enter: () => this.#openSelected(),
      a: act("acknowledge"),
      t: act("true"),
      f: act("false"),
      n: act("normal"),
      "/": () => this.filters.focus(),
      Escape: () => this.filters.clear(),
    };
  }

  open() {
    live.addEventListener("event", this.#onEvent);
    live.addEventListener("snapshot", this.#onSnapshot);
    this.watcher = new IntersectionObserver(
      (seen) => {
        if (seen.some((each) => each.isIntersecting) && this.#next) this.#load(this.#next);
      },
      { rootMargin: "600px" },
    );
    this.watcher.observe(this.more);
    this.#load();
  }

  close() {
    live.removeEventListener("event", this.#onEvent);
    live.removeEventListener("snapshot", this.#onSnapshot);
    this.watcher?.disconnect();
    clearTimeout(this.#timer);
  }

  #applied() {
    const { query } = this.filters;
    history.replaceState(null, "", query ? `#/events?${query}` : "#/events");
    this.#load();
  }

  async #load(cursor = null) {
    this.loading = cursor ?? "first";
    const asked = this.loading;
    try {
      const page = await get("/events", { ...this.filters.values, cursor });
      if (this.loading !== asked) return;
      if (cursor === null) this.#reset(page.total);
      for (const item of page.events) this.#put(item, "end");
      this.#next = page.next;
      this.more.hidden = page.next === null;
      this.#remember();
      if (cursor === null) this.#select(this.#rows.has(listed.selected) ? listed.selected : null, { quiet: true });
    } catch (error) {
      toast(error.message, "error");
    }
  }

  #reset(total) {
    this.#rows.clear();
    this.#count = total;
    this.list.replaceChildren();
    if (total === 0) {
      const why = this.filters.isSet ? "None match the filters." : "Nothing out of the ordinary has been seen yet.";
      this.list.append(h("li", { class: "nothing" }, h("h2", {}, "No events"), h("p", {}, why)));
    }
    this.#showCount();
  }

  #showCount() {
    setText(this.total, this.#count === 1 ? "1 event" : `${this.#count.toLocaleString("en")} events`);
  }

  /** An event began, went on, ended or was marked: fetch it with its evidence, a few at a time. */
  #changed(row) {
    if (!this.filters.matches(row) && !this.#rows.has(row.event_id)) return;
    this.#wanted.set(row.event_id, row);
    const known = this.#rows.get(row.event_id);
    if (known) known.update({ ...known.item, event: row });
    this.#timer ??= setTimeout(() => this.#fetchWanted(), LIVE_REFRESH_MS);
  }

  async #fetchWanted() {
    this.#timer = null;
    const ids = [...this.#wanted.keys()].slice(-20);
    this.#wanted.clear();
    for (const id of ids) {
      const item = await get(`/events/${id}`).catch(() => null);
      if (item && (this.#rows.has(id) || this.filters.matches(item.event))) this.#put(item, "start");
    }
    this.#remember();
  }

  #put(item, where) {
    const id = item.event.event_id;
    const known = this.#rows.get(id);
    if (known) return known.update(item);
    const select = () => this.#select(id, { quiet: true }); // what has the focus keeps it
    const row = new EventRow(item, select, () => this.#mark("acknowledge", id));
    this.#rows.set(id, row);
    if (where === "end") this.list.append(row.element);
    else {
      this.list.querySelector(".nothing")?.remove();
      const later = [...this.list.children].find((each) => Number(each.dataset.start) <= item.event.started_at_ms);
      this.list.insertBefore(row.element, later ?? null);
      this.#count += 1;
      this.#showCount();
    }
    return row;
  }

  #remember() {
    listed.ids = [...this.list.children].map((each) => each.dataset.id).filter(Boolean);
  }

  #select(id, { quiet = false } = {}) {
    this.#rows.get(this.#selected)?.element.classList.remove("selected");
    this.#selected = id;
    listed.selected = id;
    const row = this.#rows.get(id);
    row?.element.classList.add("selected");
    if (row && !quiet) row.link.focus({ preventScroll: true });
    if (row) row.element.scrollIntoView({ block: "nearest" });
  }

  #move(step) {
    const place = listed.ids.indexOf(this.#selected);
    const id = listed.ids[Math.min(listed.ids.length - 1, Math.max(0, place + step))];
    if (id) this.#select(id);
  }

  #openSelected() {
    if (this.#selected) location.hash = `#/event/${this.#selected}`;
  }

  async #mark(kind, id = this.#selected) {
    const row = this.#rows.get(id);
    if (!row || !may("operator")) return;
    const changed = await mark(row.item.event, kind);
    if (changed) row.update({ ...row.item, event: changed });
  }
}
