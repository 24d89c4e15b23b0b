/** What the list of events and the page of one event share: pictures with their region, words, and marks. */

import { address, post } from "./api.js";
import { h, svg, toast } from "./dom.js";
import { channelNames, span, verdictNames } from "./format.js";

/** Address of a file of an event's evidence; None if it is not there. */
export function fileOf(event, evidence, name) {
  const written = evidence?.files?.[name];
  return written ? address(`/events/${event.event_id}/evidence/${name}`, { v: written }) : null;
}

/** A box around the region, to be laid over the picture. */
export function regionBox(evidence) {
  if (!evidence?.region || !evidence.width_px) return null;
  const [x, y, width, height] = evidence.region;
  return svg(
    "svg",
    {
      class: "region",
      viewBox: `0 0 ${evidence.width_px} ${evidence.height_px}`,
      preserveAspectRatio: "none",
      "aria-hidden": "true",
    },
    svg("rect", { x, y, width, height, rx: 2 }),
  );
}

/** "for 12 s", "going on", or what else is known of how long it lasted. */
export function lasted(event) {
  if (event.open) return "going on";
  if (event.ended_at_ms === null) return "its end was never told";
  return `${span(event.ended_at_ms - event.started_at_ms)}`;
}

/** What happens, in words. */
export const words = (event) => event.text ?? "shows something out of the ordinary";

/** Small labels: state, channel, zones, judgement, acknowledgement, comments. */
export function labels(event) {
  const { verdict, acknowledged, comments } = event;
  const zones = (event.zones ?? "").split(",").filter(Boolean);
  const chip = (text, kind = "", title = null) => h("span", { class: `chip ${kind}`, title }, text);
  return [
    event.open && chip("open", "alarm"),
    event.provisional && chip("provisional", "learning", "The camera was still being learned"),
    event.channel && chip(channelNames[event.channel]),
    ...zones.map((zone) => chip(`in ${zone}`)),
    verdict && chip(verdictNames[verdict.kind], `verdict-${verdict.kind}`, `says ${verdict.user}`),
    acknowledged && chip("acknowledged", "", `by ${acknowledged.user}`),
    comments.length > 0 && chip(`${comments.length} comment${comments.length === 1 ? "" : "s"}`),
  ].filter(Boolean);
}

/** Send a mark; resolves to the event as it is then, or null. */
export async function mark(event, kind, text = undefined) {
  const again = event.verdict?.kind === kind;
  try {
    const changed = await post(`/events/${event.event_id}/marks`, { kind: again ? "unmark" : kind, text });
    if (kind !== "comment")
      toast(again ? "Mark taken back" : ({ acknowledge: "Acknowledged" }[kind] ?? `Marked: ${verdictNames[kind]}`));
    return changed;
  } catch (error) {
    toast(error.message, "error");
    return null;
  }
}
