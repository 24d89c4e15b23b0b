/** One event in the list: its picture with the region, in words, and its marks. */

import { may } from "./api.js";
import { h, setText } from "./dom.js";
import { fileOf, labels, lasted, regionBox, words } from "./eventview.js";
import { moment, ratio } from "./format.js";

export class EventRow {
  #key = "";
  #picture = undefined;

  constructor(item, onSelect, onAcknowledge) {
    const { event } = item;
    this.onAcknowledge = onAcknowledge;
    this.words = h("span", { class: "event-words" });
    const camera = h("span", { class: "event-camera" }, event.camera_id);
    this.link = h("a", { class: "event-link", href: `#/event/${event.event_id}` }, camera, this.words);
    this.thumb = h("div", { class: "thumb" });
    this.meta = h("div", { class: "event-meta" });
    this.chips = h("div", { class: "chips" });
    this.side = h("div", { class: "event-side" });
    const place = { id: event.event_id, start: event.started_at_ms };
    const text = h("div", { class: "event-text" }, this.link, this.meta, this.chips);
    this.element = h("li", { class: "event", dataset: place, onfocusin: onSelect }, this.thumb, text, this.side);
    this.update(item);
  }

  update(item) {
    const key = JSON.stringify(item);
    if (key === this.#key) return;
    this.#key = key;
    this.item = item;
    const { event, evidence } = item;
    this.element.classList.toggle("is-open", event.open);
    setText(this.words, words(event));
    this.#showPicture(event, evidence);
    const began = h("time", { datetime: new Date(event.started_at_ms).toISOString() }, moment(event.started_at_ms));
    this.meta.replaceChildren(began, h("span", {}, lasted(event)), h("span", {}, ratio(event.peak_score, event.threshold)));
    this.chips.replaceChildren(...labels(event));
    this.side.replaceChildren(...(may("operator") && !event.acknowledged ? [this.#button(event)] : []));
  }

  #showPicture(event, evidence) {
    const src = fileOf(event, evidence, "picture.jpg");
    if (src === this.#picture) return;
    this.#picture = src;
    const image = src && h("img", { src, alt: "", loading: "lazy", decoding: "async" });
    const layers = image ? [image, regionBox(evidence)] : [h("span", {}, "no picture")];
    this.thumb.replaceChildren(...layers.filter(Boolean));
  }

  #button(event) {
    const label = `Acknowledge the event of ${event.camera_id}`;
    return h("button", { class: "button small", onclick: this.onAcknowledge, "aria-label": label }, "Acknowledge");
  }
}
