/** What a camera's profile holds for usual, as maps over its picture, each with a switch. */

import { address, get } from "./api.js";
import { h } from "./dom.js";
import { number } from "./format.js";

export class MapsView {
  #shown = new Map();

  constructor(cameraId) {
    this.id = cameraId;
    this.layer = h("div", { class: "maps", "aria-hidden": "true" });
    this.list = h("ul", { class: "short-list" });
  }

  async load() {
    const found = await get("/camera/maps", { camera_id: this.id }).catch((error) => ({ maps: [], missing: error.message }));
    const rows = found.maps.map((map) => this.#row(map, found.profile_id));
    this.list.replaceChildren(...(rows.length ? rows : [h("li", { class: "dim" }, `There are none: ${found.missing}.`)]));
    const kinds = found.maps.map((map) => map.kind);
    for (const kind of this.#shown.keys()) if (!kinds.includes(kind)) this.#hide(kind);
  }

  #row(map, profileId) {
    const toggle = ({ currentTarget: button }) => {
      if (this.#shown.has(map.kind)) this.#hide(map.kind);
      else this.#show(map.kind, profileId);
      button.setAttribute("aria-pressed", String(this.#shown.has(map.kind)));
    };
    const pressed = String(this.#shown.has(map.kind));
    const isEmpty = map.high <= 0;
    const range = isEmpty ? "nowhere" : `${map.high > map.low ? `${number(map.low)} to ` : ""}${number(map.high)} ${map.unit}`;
    return h(
      "li",
      {},
      h("button", { class: "button small", "aria-pressed": pressed, disabled: isEmpty, onclick: toggle }, map.title),
      h("span", { class: "dim" }, range),
      h("p", { class: "note" }, map.text),
    );
  }

  #show(kind, profileId) {
    const image = h("img", { src: address("/camera/map", { camera_id: this.id, kind, profile_id: profileId }), alt: "" });
    this.#shown.set(kind, image);
    this.layer.append(image);
  }

  #hide(kind) {
    this.#shown.get(kind).remove();
    this.#shown.delete(kind);
  }
}
