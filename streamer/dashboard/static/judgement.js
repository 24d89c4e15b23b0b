/** What follows from what was said of an event, in plain words. */

import { h } from "./dom.js";
import { moment, number } from "./format.js";

/** What follows from the judgement of an event, and how it is taken back: texts and links. */
export function consequences({ event, evidence, quiet, quieted, kept }) {
  const { kind } = event.verdict;
  return [
    ...(kind === "normal" ? place(event, quiet, quieted) : []),
    training(kind, kept, evidence),
    ` Press again to take it back${quiet ? ": then the same raises events again" : ""}${undone(quiet, kept)}.`,
  ];
}

function place(event, quiet, quieted) {
  if (!quiet) return [" Nothing is known of the place, so the same may raise events again."];
  const now = ` The same at this place raises no event any more, up to a score of ${number(quiet.up_to)}.`;
  return [now, ...laterEvents(event.camera_id, quieted)];
}

/** How many later events were quieted, with links to when they would have been. */
function laterEvents(camera, quieted) {
  if (!quieted) return [];
  if (!quieted.events) return [" No later event was quieted by it so far."];
  const times = quieted.began_ms.map((at) => h("a", { href: `#/camera/${encodeURIComponent(camera)}?at=${at}` }, moment(at)));
  const many = quieted.events === 1 ? "1 later event was" : `${quieted.events} later events were`;
  const newest = quieted.events > times.length ? ", the newest at " : ", at ";
  return [` ${many} quieted by it${newest}`, ...times.flatMap((link) => [", ", link]).slice(1), "."];
}

function training(kind, kept, evidence) {
  const hasClip = evidence?.files?.["clip.mp4"];
  if (!kept) return hasClip ? " Its clip is not kept for training yet." : " There is no clip to train with yet.";
  const learned = kind === "true" ? "looks whether such an event is found" : "learns that this is normal";
  return ` Its clip is kept for training: the next enrol --feedback ${learned}.`;
}

function undone(quiet, kept) {
  if (!kept) return "";
  return quiet ? ", and its clip is no longer kept" : ": then its clip is no longer kept";
}
