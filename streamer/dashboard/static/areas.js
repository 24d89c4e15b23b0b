/** The zones and masks of a camera, and what was called normal there: as boxes over its picture, and as a list. */

import { get, may } from "./api.js";
import { h, svg } from "./dom.js";
import { channelNames, moment, number } from "./format.js";
import { act } from "./profile.js";

export class AreasView {
  constructor(cameraId) {
    this.id = cameraId;
    this.overlay = svg("svg", { class: "areas", viewBox: "0 0 1 1", preserveAspectRatio: "none", "aria-hidden": "true" });
    this.list = h("ul", { class: "short-list" });
  }

  async load() {
    const areas = await get("/camera/areas", { camera_id: this.id }).catch(() => null);
    if (!areas) return;
    const corners = (polygon) => polygon.map((corner) => corner.join(",")).join(" ");
    this.overlay.replaceChildren(
      ...areas.zones.map((zone) => svg("polygon", { class: "zone", points: corners(zone.polygon) })),
      ...areas.quiet.map(({ box: [x, y, width, height] }) => svg("rect", { class: "quiet", x, y, width, height })),
    );
    const rows = [...areas.zones.map(zoneRow), ...maskRows(areas.masks), ...areas.quiet.map((quiet) => this.#quietRow(quiet))];
    const none = h("li", { class: "dim" }, "None. Call an event normal to keep the same from raising another one.");
    this.list.replaceChildren(...(rows.length ? rows : [none]));
  }

  #quietRow(quiet) {
    const takeBack = async () => {
      if (await act(this.id, "unquiet", { event_id: quiet.event_id })) await this.load();
    };
    return h(
      "li",
      {},
      h("span", { class: "chip watching" }, "normal"),
      h("a", { href: `#/event/${quiet.event_id}` }, quiet.channel ? channelNames[quiet.channel] : "Anything"),
      h("span", {}, `up to ${number(quiet.up_to)}, says ${quiet.user}, ${moment(quiet.at_ms)}`),
      may("operator") && h("button", { class: "button small", onclick: takeBack }, "Take back"),
    );
  }
}

function zoneRow(zone) {
  const budget = zone.false_events_per_camera_day;
  const allowed = budget && h("span", { class: "dim" }, `${number(budget)} false events a day allowed`);
  return h("li", {}, h("span", { class: "chip learning" }, "zone"), h("span", {}, zone.name), allowed);
}

function maskRows(masks) {
  if (!masks.length) return [];
  return [
    h("li", {}, h("span", { class: "chip" }, "masks"), h("span", {}, `${masks.length}: black in all that is stored or shown`)),
  ];
}
