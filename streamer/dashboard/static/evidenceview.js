/** The evidence of an event: the picture with its region and heat map, what is usual there, and the clip. */

import { h, setText } from "./dom.js";
import { fileOf, regionBox } from "./eventview.js";
import { clockTime } from "./format.js";
import { live } from "./live.js";

const RECENT_MS = 120_000;

export class EvidenceView {
  #key = "";
  #heat = null;
  #usual = null;
  #video = null;

  constructor() {
    this.stage = h("div", { class: "stage" });
    this.heatButton = h(
      "button",
      { class: "button small", "aria-pressed": "true", onclick: () => this.toggleHeat() },
      "Heat map",
    );
    this.usualButton = h("button", { class: "button small", ...this.#holding() }, "Hold for the usual picture");
    this.note = h("p", { class: "note" });
    const tools = h("figcaption", { class: "stage-tools" }, this.heatButton, this.usualButton, this.note);
    this.figure = h("figure", { class: "seen" }, this.stage, tools);
    this.clip = h("div", { class: "clip" });
  }

  /** Whether an event is so new that its evidence may still be made. */
  static isRecent(event) {
    return event.open || live.now() - event.scored_at_ms < RECENT_MS;
  }

  show(event, evidence) {
    const key = JSON.stringify([evidence?.files, evidence?.region, evidence?.missing, EvidenceView.isRecent(event)]);
    if (key === this.#key) return;
    this.#key = key;
    this.#showPictures(event, evidence);
    this.#showClip(event, evidence);
  }

  close() {
    this.#video?.pause();
  }

  toggleHeat() {
    if (!this.#heat) return;
    this.#heat.hidden = !this.#heat.hidden;
    this.heatButton.setAttribute("aria-pressed", String(!this.#heat.hidden));
  }

  showUsual(shown) {
    if (!this.#usual) return;
    this.#usual.hidden = !shown;
    this.stage.querySelector(".stage-label").hidden = !shown;
  }

  playPause() {
    if (this.#video?.paused) this.#video.play();
    else this.#video?.pause();
  }

  /** What makes a button show the usual picture while it is held, by pointer or by key. */
  #holding() {
    const end = () => this.showUsual(false);
    const begin = (event) => {
      if (event.type === "keydown" && event.key !== " " && event.key !== "Enter") return;
      if (event.type === "keydown") event.preventDefault();
      this.showUsual(true);
    };
    return { onpointerdown: begin, onkeydown: begin, onpointerup: end, onpointerleave: end, onkeyup: end, onblur: end };
  }

  #showPictures(event, evidence) {
    const [picture, heat, usual] = ["picture.jpg", "heatmap.png", "usual.jpg"].map((name) => fileOf(event, evidence, name));
    this.#heat = heat && h("img", { class: "heat", src: heat, alt: "" });
    this.#usual = usual && h("img", { class: "usual", src: usual, alt: "What the camera usually shows", hidden: true });
    this.heatButton.disabled = !heat;
    this.usualButton.disabled = !usual;
    if (this.#heat) this.#heat.hidden = this.heatButton.getAttribute("aria-pressed") !== "true";
    this.stage.replaceChildren(
      ...(picture ? this.#layers(event, evidence, picture) : [this.#whyNot(event, evidence, "picture.jpg")]),
    );
    if (evidence?.width_px) this.stage.style.aspectRatio = `${evidence.width_px} / ${evidence.height_px}`;
    setText(this.note, evidence?.captured_at_ms ? `Picture of ${clockTime(evidence.captured_at_ms)}` : "");
  }

  #layers(event, evidence, picture) {
    const shown = h("img", { src: picture, alt: `Camera ${event.camera_id} at the event's highest heat` });
    const label = h("span", { class: "stage-label", hidden: true }, "usual");
    return [shown, this.#heat, regionBox(evidence), this.#usual, label].filter(Boolean);
  }

  #showClip(event, evidence) {
    const src = fileOf(event, evidence, "clip.mp4");
    const options = { controls: true, preload: "metadata", loop: true, playsinline: true, "aria-label": "Clip of the event" };
    this.#video = src && h("video", { src, ...options });
    if (this.#video) this.#video.muted = true;
    this.clip.replaceChildren(this.#video ?? this.#whyNot(event, evidence, "clip.mp4"));
  }

  #whyNot(event, evidence, name) {
    const what = name === "clip.mp4" ? "clip" : "picture";
    const reason = evidence?.missing?.[name];
    const otherwise = EvidenceView.isRecent(event)
      ? `The ${what} is still being made.`
      : `No ${what} was kept: evidence is off, or it was deleted by its age or size.`;
    return h("p", { class: "nothing" }, reason ? `No ${what}: ${reason}.` : otherwise);
  }
}
