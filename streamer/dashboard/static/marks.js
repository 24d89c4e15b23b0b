/** Marks of events above a timeline: each leads to its event; what lies too close together is one mark that zooms in. */

import { h, setAttribute, setText } from "./dom.js";
import { lasted, words } from "./eventview.js";
import { moment, number } from "./format.js";

const APART = 26; // pixels

export class EventMarks {
  #elements = new Map();

  /** `onMany(from, to)`: a mark of several events was chosen. */
  constructor(onMany) {
    this.onMany = onMany;
    this.element = h("ul", { class: "marks", "aria-label": "Events of this time" });
  }

  /** Elements that stay are moved and not made again: they may have the focus. */
  show(rows, from, to, area) {
    const groups = grouped(rows, (ms) => area.left + ((ms - from) / (to - from)) * area.width);
    const before = this.#elements;
    this.#elements = new Map();
    for (const group of groups) {
      const key = group.rows.map((row) => row.event_id).join();
      const item = before.get(key) ?? h("li", {}, group.rows.length === 1 ? h("a") : h("button", { class: "many" }));
      before.delete(key);
      this.#elements.set(key, item);
      item.style.left = `${Math.min(Math.max(group.x, area.left), area.left + area.width)}px`;
      this.#fill(item.firstElementChild, group.rows);
    }
    for (const item of before.values()) item.remove();
    [...this.#elements.values()].forEach((item, place) => {
      if (this.element.children[place] !== item) this.element.insertBefore(item, this.element.children[place] ?? null);
    });
  }

  #fill(mark, rows) {
    const [first, last] = [rows[0], rows[rows.length - 1]];
    const [from, to] = [first.started_at_ms, last.ended_at_ms ?? last.captured_at_ms];
    const what = rows.length === 1 ? one(first) : `${rows.length} events from ${moment(from)} to ${moment(to)}: zoom in`;
    setAttribute(mark, "aria-label", what);
    setAttribute(mark, "title", what);
    mark.classList.toggle("is-open", last.open);
    if (rows.length === 1) {
      setAttribute(mark, "href", `#/event/${first.event_id}`);
    } else {
      setText(mark, String(rows.length));
      const more = Math.max(2000, (to - from) * 0.15);
      mark.onclick = () => this.onMany(from - more, to + more);
    }
  }
}

const one = (row) => `Event ${moment(row.started_at_ms)}: ${words(row)}, ${lasted(row)}, highest score ${number(row.peak_score)}`;

/** Rows in order of time, those together that are too close to the first of them. */
function grouped(rows, xOf) {
  const groups = [];
  for (const row of [...rows].sort((a, b) => a.started_at_ms - b.started_at_ms)) {
    const x = xOf(row.started_at_ms);
    const last = groups[groups.length - 1];
    if (last && x - last.x < APART) last.rows.push(row);
    else groups.push({ x, rows: [row] });
  }
  return groups;
}
