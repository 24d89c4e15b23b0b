/** The zones and masks of a camera, and what was called normal there: as shapes over its picture, and as a list. */

import { get, may, remove } from "./api.js";
import { confirmed, h, svg, toast } from "./dom.js";
import { AreaEditor } from "./editor.js";
import { channelNames, moment, number } from "./format.js";
import { act } from "./profile.js";

const UNMASK = {
  question: "Remove this mask?",
  detail: "What it hides will be seen, stored and scored again from now on. What was stored meanwhile stays black.",
};

export class AreasView {
  constructor(cameraId) {
    this.id = cameraId;
    this.overlay = svg("svg", { class: "areas", viewBox: "0 0 1 1", preserveAspectRatio: "none", "aria-hidden": "true" });
    this.list = h("ul", { class: "short-list" });
    this.editor = new AreaEditor(cameraId, (areas) => this.#show(areas));
  }

  async load() {
    const areas = await get("/camera/areas", { camera_id: this.id }).catch(() => null);
    if (areas) this.#show(areas);
  }

  #show({ zones, masks, quiet }) {
    const shapes = [
      ...zones.map((zone) => polygon("zone", zone.polygon)),
      ...masks.map((mask) => polygon("mask", mask.polygon)),
      ...quiet.map(({ box: [x, y, width, height] }) => svg("rect", { class: "quiet", x, y, width, height })),
    ];
    const rows = [
      ...zones.map((zone) => this.#zoneRow(zone)),
      ...masks.map((mask, place) => this.#maskRow(mask, place + 1)),
      ...quiet.map((each) => this.#quietRow(each)),
    ].map((cells, place) => h("li", shownWith(shapes[place]), cells));
    const none = h("li", { class: "dim" }, "None. Call an event normal to keep the same from raising another one.");
    this.overlay.replaceChildren(...shapes);
    this.list.replaceChildren(...(rows.length ? rows : [none]));
  }

  #zoneRow(zone) {
    const budget = zone.false_events_per_camera_day;
    const drop = () => this.#remove("zone", { name: zone.name });
    return [
      h("span", { class: "chip learning" }, "zone"),
      h("span", {}, zone.name),
      budget && h("span", { class: "dim" }, `${number(budget)} false events a day allowed`),
      may("operator") && button("Change", () => this.editor.begin("zone", zone), zone.name),
      zone.in_settings ? ofSettings() : may("operator") && button("Remove", drop, zone.name),
    ];
  }

  #maskRow(mask, place) {
    const drop = async () => {
      if (await confirmed(UNMASK.question, UNMASK.detail, "Remove")) await this.#remove("mask", { mask_id: mask.mask_id });
    };
    return [
      h("span", { class: "chip" }, "mask"),
      h("span", {}, `${place}: black in all that is stored or shown`),
      mask.in_settings ? ofSettings() : may("admin") ? button("Remove", drop, `mask ${place}`) : note("admins may remove it"),
    ];
  }

  #quietRow(quiet) {
    const takeBack = async () => {
      if (await act(this.id, "unquiet", { event_id: quiet.event_id })) await this.load();
    };
    return [
      h("span", { class: "chip watching" }, "normal"),
      h("a", { href: `#/event/${quiet.event_id}` }, quiet.channel ? channelNames[quiet.channel] : "Anything"),
      h("span", {}, `up to ${number(quiet.up_to)}, says ${quiet.user}, ${moment(quiet.at_ms)}`),
      may("operator") && h("button", { class: "button small", onclick: takeBack }, "Take back"),
    ];
  }

  async #remove(kind, which) {
    try {
      this.#show(await remove(`/camera/${kind}`, { camera_id: this.id, ...which }));
      toast(`The ${kind} is removed`);
    } catch (error) {
      toast(error.message, "error");
    }
  }
}

const polygon = (name, corners) => svg("polygon", { class: name, points: corners.map((corner) => corner.join(",")).join(" ") });

const note = (text) => h("span", { class: "dim" }, text);

const ofSettings = () => note("of the settings, and cannot be removed here");

const button = (text, onclick, what) => h("button", { class: "button small", "aria-label": `${text} ${what}`, onclick }, text);

/** What shows a shape of the picture while its row is looked at. */
function shownWith(shape) {
  const show = (is) => () => shape.classList.toggle("shown", is);
  return { onpointerenter: show(true), onpointerleave: show(false), onfocusin: show(true), onfocusout: show(false) };
}
