/** The wall: all cameras; those that need a person come first. */

import { h } from "./dom.js";
import { live } from "./live.js";
import { Tile } from "./tile.js";

const GROUPS = [
  ["alarm", "alarms"],
  ["problem", "problems"],
  ["silent", "silent"],
  ["learning", "learning"],
  ["watching", "watching"],
];
const NEAR = "300px";

export class WallPage {
  title = "Wall";
  tab = "Wall";
  shortcuts = [
    ["j / k", "Next or previous camera"],
    ["Enter", "Open the camera, or its alarm"],
    ["/", "Find a camera"],
  ];
  #tiles = new Map();
  #tileOf = new WeakMap();
  #listeners = [];
  #frame = null;

  constructor() {
    this.summary = h("div", { class: "summary", role: "status", "aria-label": "State of all cameras" });
    const options = { type: "search", placeholder: "Find a camera", "aria-label": "Find a camera" };
    this.find = h("input", { class: "find", ...options, oninput: () => this.#arrange() });
    this.grid = h("ul", { class: "wall" });
    const head = h("div", { class: "page-head" }, h("h1", {}, "Cameras"), this.summary, this.find);
    this.element = h("section", { class: "page" }, head, this.grid);
    this.keys = { j: () => this.#move(1), k: () => this.#move(-1), "/": () => this.find.focus() };
    this.visibility = new IntersectionObserver((seen) => seen.forEach((each) => this.#onVisible(each)), { rootMargin: NEAR });
    this.sizes = new ResizeObserver((seen) => seen.forEach(({ target, contentRect }) => this.#onResize(target, contentRect)));
  }

  open() {
    const listen = (name, handler) => {
      live.addEventListener(name, handler);
      this.#listeners.push([name, handler]);
    };
    for (const name of ["snapshot", "cameras", "event", "second"]) listen(name, () => this.#arrangeSoon());
    listen("scores", ({ detail }) => this.#scores(detail));
    this.#arrange();
  }

  close() {
    for (const [name, handler] of this.#listeners) live.removeEventListener(name, handler);
    cancelAnimationFrame(this.#frame);
    this.visibility.disconnect();
    this.sizes.disconnect();
  }

  connection() {
    this.#arrangeSoon();
  }

  #scores(rows) {
    if (rows.some((row) => !this.#tiles.has(row.camera_id))) this.#arrangeSoon();
    for (const row of rows) this.#tiles.get(row.camera_id)?.score(live.cameras.get(row.camera_id));
  }

  #onVisible({ target, isIntersecting }) {
    const tile = this.#tileOf.get(target);
    tile.isVisible = isIntersecting;
    if (isIntersecting) this.#refresh(tile);
  }

  #onResize(canvas, { width, height }) {
    const tile = this.#tileOf.get(canvas);
    tile.sparkSize = { width, height };
    tile.score(live.cameras.get(tile.id));
  }

  #refresh(tile) {
    const camera = live.cameras.get(tile.id);
    if (!camera) return;
    tile.show(camera, live.stateOf(camera));
    tile.score(camera);
  }

  /** Once a frame, however many reasons there are. */
  #arrangeSoon() {
    this.#frame ??= requestAnimationFrame(() => this.#arrange());
  }

  #arrange() {
    this.#frame = null;
    const wanted = this.find.value.trim().toLowerCase();
    const all = [...live.cameras.values()].map((camera) => ({ camera, state: live.stateOf(camera) }));
    this.#summarize(all);
    const shown = all.filter(({ camera }) => camera.camera_id.toLowerCase().includes(wanted)).sort(byUrgency);
    this.#dropOthers(new Set(shown.map(({ camera }) => camera.camera_id)));
    shown.forEach(({ camera, state }, place) => {
      const tile = this.#tile(camera.camera_id);
      if (this.grid.children[place] !== tile.element) this.#place(tile.element, place);
      tile.show(camera, state);
    });
    this.#showNothing(all.length === 0);
  }

  #tile(id) {
    if (!this.#tiles.has(id)) {
      const tile = new Tile(id);
      this.#tiles.set(id, tile);
      for (const element of [tile.element, tile.spark]) this.#tileOf.set(element, tile);
      this.visibility.observe(tile.element);
      this.sizes.observe(tile.spark);
    }
    return this.#tiles.get(id);
  }

  #dropOthers(kept) {
    for (const [id, tile] of this.#tiles) {
      if (kept.has(id)) continue;
      this.visibility.unobserve(tile.element);
      this.sizes.unobserve(tile.spark);
      tile.element.remove();
      this.#tiles.delete(id);
    }
  }

  /** Only what is out of place is moved: moving an element takes the focus away from it. */
  #place(element, place) {
    const focused = element.contains(document.activeElement) ? document.activeElement : null;
    this.grid.insertBefore(element, this.grid.children[place] ?? null);
    focused?.focus({ preventScroll: true });
  }

  #showNothing(isEmpty) {
    this.grid.classList.toggle("nothing-yet", isEmpty);
    const shown = this.grid.querySelector(".nothing");
    if (!isEmpty) shown?.remove();
    if (!isEmpty || shown) return;
    const text = "They appear here as soon as a service has scored their first frames, or says what is wrong with them.";
    this.grid.append(h("li", { class: "nothing" }, h("h2", {}, "No cameras yet"), h("p", {}, text)));
  }

  #summarize(all) {
    const counts = GROUPS.map(([name, many]) => [name, many, all.filter(({ state }) => state.name === name).length]);
    const key = JSON.stringify(counts);
    if (key === this.summaryKey) return;
    this.summaryKey = key;
    const chip = ([name, many, count]) => h("span", { class: `chip ${name}` }, `${count} ${count === 1 ? name : many}`);
    this.summary.replaceChildren(...counts.filter(([, , count]) => count > 0).map(chip));
  }

  #move(step) {
    const links = [...this.grid.querySelectorAll(".tile-link")];
    const place = links.indexOf(document.activeElement);
    links[Math.min(links.length - 1, Math.max(0, place + step))]?.focus();
  }
}

const names = new Intl.Collator(undefined, { numeric: true });

function byUrgency(one, other) {
  return one.state.rank - other.state.rank || names.compare(one.camera.camera_id, other.camera.camera_id);
}
