/** The whole: services, Redis, this dashboard, and what people did. */

import { get, may } from "./api.js";
import { facts, h, setText, table } from "./dom.js";
import { moment, number, span, whole } from "./format.js";

const EVERY_MS = 2000;

export class SystemPage {
  title = "System";
  tab = "System";
  #timer = null;

  constructor() {
    this.services = h("div", { class: "panels" });
    this.redis = h("dl", { class: "facts" });
    this.streams = h("dl", { class: "facts" });
    this.dashboard = h("dl", { class: "facts" });
    this.audit = h("div", { class: "table-wrap" });
    this.problem = h("p", { class: "form-problem", role: "alert" });
    this.element = h(
      "section",
      { class: "page" },
      h("div", { class: "page-head" }, h("h1", {}, "System")),
      this.problem,
      h("h2", { class: "section" }, "Services"),
      this.services,
      h("h2", { class: "section" }, "Storage and dashboard"),
      h(
        "div",
        { class: "panels" },
        h("section", { class: "panel" }, h("h3", {}, "Redis"), this.redis),
        h("section", { class: "panel" }, h("h3", {}, "Streams"), this.streams),
        h("section", { class: "panel" }, h("h3", {}, "Dashboard"), this.dashboard),
      ),
      may("admin") ? [h("h2", { class: "section" }, "What people did"), h("section", { class: "panel" }, this.audit)] : null,
    );
  }

  open() {
    this.#load();
    this.#loadAudit();
    this.#timer = setInterval(() => this.#load(), EVERY_MS);
  }

  close() {
    clearInterval(this.#timer);
  }

  async #load() {
    try {
      this.#show(await get("/system"));
    } catch (error) {
      this.problem.textContent = error.message;
    }
  }

  #show({ now_ms: now, link, dashboard, services, streams, server, other_bundle: otherBundle }) {
    setText(this.problem, otherBundle ? `Another bundle: ${otherBundle}.` : "");
    const entries = Object.entries(services);
    this.services.replaceChildren(...(entries.length ? entries.map(([name, said]) => service(name, said, now)) : [noService()]));
    const limit = server.maxmemory_human && server.maxmemory_human !== "0B" ? ` of ${server.maxmemory_human}` : "";
    const redis = [
      ["Reachable", link.reachable ? `yes, since ${moment(link.since_ms)}` : `no: ${link.problem}`],
      ["Server", `${server.server_name ?? "Redis"} ${server.valkey_version ?? server.redis_version ?? "of unknown version"}`],
      ["Memory", `${server.used_memory_human ?? "?"}${limit}`],
      ["Up for", server.uptime_in_seconds ? span(Number(server.uptime_in_seconds) * 1000) : "?"],
    ];
    const lengths = Object.entries(streams).map(([name, length]) => [name, `${whole(length)} entries`]);
    const own = [
      ["Version", dashboard.version],
      ["Started", moment(dashboard.started_at_ms)],
      ["Open pages", whole(dashboard.pages)],
      ["Cameras", whole(dashboard.cameras)],
      ["Events listed", whole(dashboard.events)],
      ["Evidence", evidenceState(dashboard)],
    ];
    this.redis.replaceChildren(...facts(redis));
    this.streams.replaceChildren(...facts(lengths));
    this.dashboard.replaceChildren(...facts(own));
  }

  async #loadAudit() {
    if (!may("admin")) return;
    const entries = await get("/audit", { limit: 50 }).catch(() => []);
    const row = (each) => [moment(each.at_ms), each.user, each.role, each.action, each.target, each.address, each.outcome];
    const headings = ["When", "Who", "Role", "What", "Of what", "From", "Outcome"];
    this.audit.replaceChildren(entries.length ? table(headings, entries.map(row)) : h("p", { class: "dim" }, "Nothing yet."));
  }
}

/** Whether pictures and clips can be read. */
function evidenceState({ evidence, evidence_problem: problem, evidence_failures: failures }) {
  if (!evidence) return "off: evidence.dir is not set";
  const since = failures ? `, ${whole(failures)} requests failed since the start` : "";
  return `${problem ? `cannot be read: ${problem}` : "on"}${since}`;
}

const NAMES = {
  host: "Host",
  pid: "Process",
  started_at_ms: "Started",
  version: "Version",
  model_id: "Network",
  engine: "Engine",
  precision: "Precision",
  cameras: "Cameras",
  partitions: "Partitions",
  lag: "Messages waiting",
  frames_total: "Frames",
  scored_total: "Scored",
  rejected_total: "Rejected",
  shed_total: "Not looked at",
  batch_clips_mean: "Clips a batch",
  frames_per_s: "Frames a second",
};

function service(name, said, now) {
  const isReady = said.ready === "" || said.ready === undefined;
  const known = Object.entries(said).filter(([key]) => key !== "ready" && key !== "schema");
  const list = facts(known.map(([key, value]) => [NAMES[key] ?? readable(key), saidValue(key, value, now)]));
  const state = h("span", { class: `chip ${isReady ? "watching" : "problem"}` }, isReady ? "ready" : "not ready");
  const head = h("div", { class: "panel-head" }, h("h3", {}, name), state);
  return h("section", { class: "panel" }, head, !isReady && h("p", {}, said.ready), h("dl", { class: "facts" }, list));
}

function noService() {
  const text = "No service says that it runs. Events and scores are written by oddsight-stream run.";
  return h("section", { class: "panel" }, h("p", { class: "dim" }, text));
}

function saidValue(key, value, now) {
  if (key === "started_at_ms") return `${moment(Number(value))}, ${span(now - Number(value))} ago`;
  if (key.endsWith("_total") && value.startsWith("{")) return reasons(value);
  if (key === "batch_clips_mean" || key === "frames_per_s") return number(value);
  return /^\d+$/.test(value) && key !== "pid" ? whole(value) : value;
}

/** A name that this page does not know: "open_events" is "Open events". */
function readable(key) {
  const text = key.replaceAll("_", " ");
  return text.charAt(0).toUpperCase() + text.slice(1);
}

function reasons(text) {
  try {
    const parts = Object.entries(JSON.parse(text)).filter(([, count]) => count > 0);
    return parts.length ? parts.map(([reason, count]) => `${whole(count)} ${reason}`).join(", ") : "none";
  } catch {
    return text;
  }
}
