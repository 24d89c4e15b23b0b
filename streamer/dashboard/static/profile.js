/** What a camera is served with: its profile, what that promises, its versions, and the buttons that change it. */

import { get, may, post } from "./api.js";
import { confirmed, facts, h, table, toast } from "./dom.js";
import { moment, number, promise, whole } from "./format.js";

const DONE = {
  relearn: "It will be learned anew",
  rollback: "Rolled back",
  freeze: "Frozen",
  unfreeze: "Follows its scores again",
  unquiet: "Raises events again",
};
const RELEARN = {
  question: "Learn this camera anew?",
  detail:
    "Its profile is taken away. Until it is learned again, which takes some minutes, no events are raised for it, " +
    "or only provisional ones. You can roll back.",
  yes: "Relearn",
};
const ROLL_BACK = {
  question: "Go back to the version before?",
  detail: "Its thresholds, and what it takes for usual, become those of the earlier version.",
  yes: "Roll back",
};

/** Have something done with a camera, after a question if there is one; resolves to its profile then, or null. */
export async function act(cameraId, action, more = {}, asked = null) {
  if (asked && !(await confirmed(asked.question, asked.detail, asked.yes))) return null;
  try {
    const profile = await post("/camera/actions", { camera_id: cameraId, action, ...more });
    toast(DONE[action]);
    return profile;
  } catch (error) {
    toast(error.message, "error");
    return null;
  }
}

export class ProfileView {
  constructor(cameraId) {
    this.id = cameraId;
    this.facts = h("dl", { class: "facts" });
    this.actions = h("div", { class: "actions" });
    this.versions = h("div", { class: "table-wrap" });
  }

  async load() {
    try {
      this.#show(await get("/camera/profile", { camera_id: this.id }));
    } catch (error) {
      this.facts.replaceChildren(...facts([["Profile", error.message]]));
    }
  }

  #show({ status, versions, other_bundle: otherBundle }) {
    const own = Boolean(status) && status.profile_id !== "default";
    this.facts.replaceChildren(
      ...facts(status ? this.#known(status, own) : [["Profile", "This camera has neither a profile nor scores."]]),
      ...facts(otherBundle ? [["Another bundle", otherBundle]] : []),
    );
    this.actions.replaceChildren(...this.#buttons(own, status?.frozen, versions.length > 1 || (!own && versions.length > 0)));
    this.versions.replaceChildren(this.#table(versions));
  }

  #known(status, own) {
    const learned = status.created_at && `${moment(Date.parse(status.created_at))}, from ${whole(status.frames)} frames`;
    return [
      ["Served with", own ? status.profile_id : "the default of the network"],
      ["Learned", learned ?? "not on its own"],
      ["Thresholds", `${number(status.enter)} to begin, ${number(status.exit)} to go on`],
      ["False events", promise(status.bound, null, status.observed_s)],
      ["Last 24 hours", `${status.events_day} event${status.events_day === 1 ? "" : "s"}`],
      ["Follows its scores", status.frozen ? "no, it is frozen" : "yes"],
      ...(status.problem ? [["Problem", status.problem]] : []),
    ];
  }

  #buttons(own, frozen, canGoBack) {
    if (!may("operator")) return [h("p", { class: "note" }, "Operators and admins may change it.")];
    const button = (text, enabled, ...what) =>
      h("button", { class: "button small", disabled: !enabled, onclick: () => this.#act(...what) }, text);
    const relearn = button("Relearn", own, "relearn", {}, RELEARN);
    relearn.classList.add("danger");
    const freeze = frozen ? button("Unfreeze", own, "unfreeze") : button("Freeze", own, "freeze");
    return [relearn, button("Roll back", canGoBack, "rollback", {}, ROLL_BACK), freeze];
  }

  #table(versions) {
    if (!versions.length) return h("p", { class: "dim" }, "It never had a profile of its own.");
    const headings = ["Version", "Learned", "Frames", "Threshold", "False a day", "Network", ""];
    return table(
      headings,
      versions.map((each) => [
        each.profile_id,
        each.created_at ? moment(Date.parse(each.created_at)) : "–",
        each.frames === null ? "–" : whole(each.frames),
        number(each.enter),
        number(each.bound),
        each.problem ?? each.model_id ?? "",
        this.#serve(each),
      ]),
    );
  }

  #serve({ profile_id: id, is_current: isCurrent, problem }) {
    if (isCurrent) return h("span", { class: "chip watching" }, "in force");
    if (problem || !may("operator")) return "";
    const asked = {
      question: `Serve the version ${id}?`,
      detail: "A running service takes it up within a second.",
      yes: "Serve it",
    };
    return h("button", { class: "button small", onclick: () => this.#act("rollback", { profile_id: id }, asked) }, "Serve this");
  }

  async #act(...what) {
    const profile = await act(this.id, ...what);
    if (profile) this.#show(profile);
  }
}
