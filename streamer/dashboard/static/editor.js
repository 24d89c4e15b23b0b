/** Draws a mask or a zone on a camera's picture: with the mouse, a finger, or the keyboard alone. */

import { may, put } from "./api.js";
import { h, setText, svg, toast } from "./dom.js";

const DOES = {
  mask:
    "A mask hides a part of the picture from everybody: it is black in all pictures and clips that are stored or shown " +
    "from now on, and nothing there raises an event. What is stored already stays as it is. Only an admin can remove it.",
  zone:
    "Events tell the zones that they lie in. With a budget of its own, a zone finds more (a higher one) or less than the " +
    "rest of the picture; without one it changes no score.",
};
const STEP = 0.01;
const LARGE_STEP = 0.05;
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const FIRST_PLACES = [
  [0.4, 0.4],
  [0.6, 0.4],
  [0.6, 0.6],
  [0.4, 0.6],
];
const DRAG_PX = 4;

const within = (share) => Math.round(Math.min(1, Math.max(0, share)) * 10_000) / 10_000;

export class AreaEditor {
  #kind = null;
  #corners = [];
  #isClosed = false;
  #drag = null;
  #wasDragged = false;

  /** `onSaved` gets the areas that are in force then. */
  constructor(cameraId, onSaved) {
    this.id = cameraId;
    this.onSaved = onSaved;
    this.shape = svg("polygon");
    const picture = svg("svg", { viewBox: "0 0 1 1", preserveAspectRatio: "none", "aria-hidden": "true" }, this.shape);
    this.handles = h("div", { role: "group", "aria-label": "Corners" });
    this.layer = h("div", { class: "edit-layer", hidden: true, onclick: (event) => this.#clicked(event) }, picture, this.handles);
    this.layer.addEventListener("keydown", (event) => this.#key(event));
    this.buttons = h("div", { class: "actions" }, may("operator") ? this.#makeButtons() : null);
    this.form = this.#makeForm();
  }

  get isOpen() {
    return this.#kind !== null;
  }

  /** Whether there is a picture to draw on. */
  allow(hasPicture) {
    for (const button of this.buttons.children) button.disabled = !hasPicture;
  }

  /** Begin to draw, or to change a zone. */
  begin(kind, zone = null) {
    this.#kind = kind;
    this.#corners = zone ? zone.polygon.map((corner) => [...corner]) : [];
    this.#isClosed = zone !== null;
    setText(this.does, DOES[kind]);
    setText(this.heading, zone ? `Change the zone ${zone.name}` : `New ${kind}`);
    this.fields.hidden = kind !== "zone";
    this.name.disabled = kind !== "zone";
    this.name.readOnly = zone !== null;
    this.name.value = zone?.name ?? "";
    this.budget.value = zone?.false_events_per_camera_day ?? "";
    this.layer.hidden = this.form.hidden = false;
    this.buttons.hidden = true;
    this.#draw();
    this.add.focus({ preventScroll: true });
    this.layer.scrollIntoView({ block: "nearest" });
  }

  /** Drop what is drawn; whether anything was. */
  cancel() {
    const wasOpen = this.isOpen;
    this.#kind = null;
    this.layer.hidden = this.form.hidden = true;
    this.buttons.hidden = false;
    return wasOpen;
  }

  /** Close the polygon. */
  close() {
    if (!this.isOpen || this.#corners.length < 3) return;
    this.#isClosed = true;
    this.#draw();
    (this.#kind === "zone" && !this.name.value ? this.name : this.save).focus();
  }

  /** Add a corner where the mouse did not say: the first ones around the middle, others between the last one and the first. */
  addCorner() {
    if (!this.isOpen) return;
    const [first, last] = [this.#corners[0], this.#corners.at(-1)];
    const between = () => [(first[0] + last[0]) / 2, (first[1] + last[1]) / 2];
    this.#add(FIRST_PLACES[this.#corners.length] ?? between());
  }

  removeLast() {
    if (this.isOpen) this.#remove(this.#corners.length - 1);
  }

  #makeButtons() {
    const button = (kind) =>
      h("button", { class: "button small", disabled: true, onclick: () => this.begin(kind) }, `Draw a ${kind}`);
    return [button("zone"), button("mask")];
  }

  #makeForm() {
    this.heading = h("h2", {});
    this.does = h("p", { class: "edit-does" });
    this.state = h("p", { class: "note", role: "status" });
    this.name = h("input", { id: "zone-name", required: true, maxlength: 64, pattern: "[^,]*[^,\\s][^,]*", autocomplete: "off" });
    this.budget = h("input", { id: "zone-budget", type: "number", min: 0, max: 1e6, step: "any", placeholder: "as elsewhere" });
    const field = (input, text) => h("div", { class: "field" }, h("label", { for: input.id }, text), input);
    this.fields = h(
      "div",
      { class: "filters" },
      field(this.name, "Name of the zone, without commas"),
      field(this.budget, "False events a day allowed there"),
    );
    this.add = h("button", { type: "button", class: "button small", onclick: () => this.addCorner() }, "Add a corner");
    this.save = h("button", { class: "button small primary" }, "Save");
    const drop = h("button", { type: "button", class: "button small", onclick: () => this.cancel() }, "Drop it");
    const submit = (event) => {
      event.preventDefault();
      this.#save();
    };
    const buttons = h("div", { class: "actions" }, this.add, this.save, drop);
    return h(
      "form",
      { class: "panel edit-form", hidden: true, onsubmit: submit },
      this.heading,
      this.does,
      this.fields,
      this.state,
      buttons,
    );
  }

  #clicked(event) {
    if (this.#isClosed) return;
    const box = this.layer.getBoundingClientRect();
    this.#add([(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height]);
  }

  #add(corner) {
    this.#corners.push(corner.map(within));
    this.#draw(this.#corners.length - 1);
  }

  #remove(place) {
    this.#corners.splice(place, 1);
    if (this.#corners.length < 3) this.#isClosed = false;
    this.#draw(Math.min(place, this.#corners.length - 1));
  }

  /** Corners and lines anew; one corner gets the focus. */
  #draw(focused = null) {
    this.handles.replaceChildren(...this.#corners.map((_, place) => this.#handle(place)));
    this.#corners.forEach((_, place) => this.#place(place));
    this.layer.classList.toggle("closed", this.#isClosed);
    this.save.disabled = !this.#isClosed;
    const count = `${this.#corners.length} corner${this.#corners.length === 1 ? "" : "s"}. `;
    const open =
      "Click corners on the picture, or add them by key (c). A click on the first one, or Enter, closes it; " +
      "Backspace removes the last one, Escape drops all.";
    setText(this.state, count + (this.#isClosed ? "Drag corners, or move the focused one with the arrow keys." : open));
    if (focused === null) return;
    (this.handles.children[focused] ?? this.add).focus();
  }

  #handle(place) {
    const down = (event) => {
      event.currentTarget.setPointerCapture(event.pointerId);
      this.#drag = { place, x: event.clientX, y: event.clientY };
      this.#wasDragged = false;
    };
    const move = (event) => this.#drag && this.#dragTo(event);
    const up = () => void (this.#drag = null);
    const click = (event) => {
      event.stopPropagation();
      if (!this.#wasDragged && place === 0) this.close();
      this.#wasDragged = false;
    };
    const on = { onpointerdown: down, onpointermove: move, onpointerup: up, onpointercancel: up, onclick: click };
    return h("button", { type: "button", class: "corner", ...on });
  }

  #dragTo(event) {
    const { place, x, y } = this.#drag;
    if (!this.#wasDragged && Math.hypot(event.clientX - x, event.clientY - y) < DRAG_PX) return;
    this.#wasDragged = true;
    const box = this.layer.getBoundingClientRect();
    this.#move(place, [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height]);
  }

  #move(place, corner) {
    this.#corners[place] = corner.map(within);
    this.#place(place);
  }

  #place(place) {
    const [x, y] = this.#corners[place];
    const handle = this.handles.children[place];
    handle.style.left = `${x * 100}%`;
    handle.style.top = `${y * 100}%`;
    const where = `${Math.round(x * 100)} % from the left, ${Math.round(y * 100)} % from the top`;
    handle.setAttribute("aria-label", `Corner ${place + 1}, ${where}`);
    this.shape.setAttribute("points", this.#corners.map((corner) => corner.join(",")).join(" "));
  }

  #key(event) {
    const place = [...this.handles.children].indexOf(event.target);
    const arrow = ARROWS[event.key];
    if (event.ctrlKey || event.metaKey || event.altKey || place < 0) return;
    if (arrow) {
      const step = event.shiftKey ? LARGE_STEP : STEP;
      const [x, y] = this.#corners[place];
      this.#move(place, [x + arrow[0] * step, y + arrow[1] * step]);
    } else if (event.key === "Enter") this.close();
    else if (event.key === "Delete") this.#remove(place);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  async #save() {
    const kind = this.#kind;
    const drawn = { camera_id: this.id, polygon: this.#corners };
    const named = { name: this.name.value.trim(), false_events_per_camera_day: this.budget.valueAsNumber || null };
    try {
      const areas = await put(`/camera/${kind}`, kind === "zone" ? { ...drawn, ...named } : drawn);
      this.cancel();
      this.onSaved(areas);
      toast(`The ${kind} is in force within a second`);
    } catch (error) {
      toast(error.message, "error");
    }
  }
}
