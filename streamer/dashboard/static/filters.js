/** The filters of the list of events: what is asked for, as a form, and whether an event matches. */

import { h } from "./dom.js";
import { live } from "./live.js";

const NAMES = ["camera_id", "channel", "open", "verdict", "acknowledged", "from_ms", "to_ms"];
const WIDE = "(min-width: 721px)";

export class EventFilters {
  constructor(query, onChange) {
    this.values = Object.fromEntries(NAMES.map((name) => [name, query.get(name) ?? ""]));
    this.onChange = onChange;
    this.element = this.#form();
  }

  get isSet() {
    return NAMES.some((name) => this.values[name]);
  }

  /** The values as the query of an address. */
  get query() {
    return new URLSearchParams(Object.entries(this.values).filter(([, value]) => value)).toString();
  }

  matches(row) {
    const wanted = this.values;
    const is = (name, value) => !wanted[name] || wanted[name] === String(value);
    return (
      is("camera_id", row.camera_id) &&
      is("channel", row.channel) &&
      is("open", row.open) &&
      is("acknowledged", row.acknowledged !== null) &&
      is("verdict", row.verdict?.kind ?? "none") &&
      (!wanted.from_ms || row.started_at_ms >= Number(wanted.from_ms)) &&
      (!wanted.to_ms || row.started_at_ms <= Number(wanted.to_ms))
    );
  }

  clear() {
    for (const name of NAMES) this.#control(name).value = "";
    this.#apply();
  }

  focus() {
    this.element.open = true;
    this.#control("camera_id").focus();
  }

  #control(name) {
    return this.element.querySelector(`#f-${name}`);
  }

  #apply() {
    for (const name of NAMES) {
      const { value } = this.#control(name);
      this.values[name] = name.endsWith("_ms") && value ? String(new Date(value).getTime()) : value;
    }
    this.onChange();
  }

  #form() {
    const submit = (event) => {
      event.preventDefault();
      this.#apply();
    };
    const verdicts = { none: "none", true: "true alarm", false: "false alarm", normal: "normal here" };
    const form = h(
      "form",
      { class: "filters", "aria-label": "Filters", onsubmit: submit },
      this.#camera(),
      this.#choice("open", "State", { true: "open", false: "ended" }),
      this.#choice("channel", "What", { speed: "speed", appearance: "appearance", dwell: "dwell" }),
      this.#choice("verdict", "Mark", verdicts),
      this.#choice("acknowledged", "Acknowledged", { true: "yes", false: "no" }),
      this.#time("from_ms", "From"),
      this.#time("to_ms", "To"),
      h("button", { type: "button", class: "button quiet", onclick: () => this.clear() }, "Clear"),
    );
    const isOpen = this.isSet || window.matchMedia(WIDE).matches;
    return h("details", { class: "filter-box", open: isOpen }, h("summary", {}, "Filters"), form);
  }

  #field(name, label, tag, options, ...children) {
    const control = h(tag, { id: `f-${name}`, onchange: () => this.#apply(), ...options }, ...children);
    return h("div", { class: `field field-${name}` }, h("label", { for: `f-${name}` }, label), control);
  }

  #camera() {
    const known = [...live.cameras.keys()].sort().map((id) => h("option", { value: id }));
    const options = { list: "cameras", value: this.values.camera_id, placeholder: "any", autocomplete: "off" };
    return [this.#field("camera_id", "Camera", "input", options), h("datalist", { id: "cameras" }, known)];
  }

  #choice(name, label, choices) {
    const option = ([value, text]) => h("option", { value, selected: this.values[name] === value }, text);
    return this.#field(name, label, "select", {}, [["", "any"], ...Object.entries(choices)].map(option));
  }

  #time(name, label) {
    return this.#field(name, label, "input", { type: "datetime-local", value: localTime(this.values[name]) });
  }
}

/** Milliseconds as the value of a datetime-local input. */
function localTime(ms) {
  if (!ms) return "";
  const date = new Date(Number(ms));
  return new Date(date.getTime() - date.getTimezoneOffset() * 60_000).toISOString().slice(0, 16);
}
