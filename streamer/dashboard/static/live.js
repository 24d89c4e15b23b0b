/** The live state: cameras and open events, from one stream of server-sent events that connects again by itself. */

import { get } from "./api.js";
import { isOn } from "./sound.js";

const SILENCE_MS = 6000; // the server gives a sign of life every two seconds
const RETRY_MS = 1000;
const STALE_SCORE_MS = 10_000;
const STALE_PICTURE_MS = 15_000;
const RECENT = 120;
const PAUSE_MS = 60_000;

class Live extends EventTarget {
  cameras = new Map();
  events = new Map(); // all that were told, open or just ended
  link = { reachable: true, since_ms: 0, problem: null };
  lostAt = null; // since when there is no connection
  #source = null;
  #heardAt = 0;
  #offset = 0; // of the server's clock
  #timer = null;
  #hadSnapshot = false;
  #isPaused = false;
  #pausing = null;

  constructor() {
    super();
    document.addEventListener("visibilitychange", () => this.#onVisibility());
  }

  start() {
    this.#connect();
    this.#timer ??= setInterval(() => this.#check(), 1000);
  }

  /** A page that nobody sees or hears lets its connection go: browsers have only six for all pages of a server. */
  #onVisibility() {
    clearTimeout(this.#pausing);
    if (document.hidden) {
      this.#pausing = setTimeout(() => {
        if (isOn() || !this.#source) return;
        this.#isPaused = true;
        this.#source.close();
        this.#source = null;
      }, PAUSE_MS);
    } else if (this.#isPaused) {
      this.#isPaused = false;
      if (this.#timer !== null) this.#connect();
    }
  }

  stop() {
    clearInterval(this.#timer);
    this.#timer = null;
    this.#source?.close();
    this.#source = null;
  }

  /** The server's time. */
  now() {
    return Date.now() + this.#offset;
  }

  /** Whether all that is shown is up to date. */
  get isFresh() {
    return this.lostAt === null && this.link.reachable;
  }

  #connect() {
    this.#source?.close();
    const source = new EventSource("/api/v1/stream");
    this.#source = source;
    this.#heardAt = Date.now();
    for (const name of ["snapshot", "scores", "cameras", "event", "link", "tick", "bye"]) {
      source.addEventListener(name, (message) => this.#take(source, name, JSON.parse(message.data)));
    }
    source.addEventListener("error", () => this.#lose(source));
  }

  #lose(source) {
    if (source !== this.#source) return;
    source.close();
    this.#source = null;
    if (this.lostAt === null) {
      this.lostAt = Date.now();
      this.#tell("connection");
    }
    setTimeout(() => this.#retry(), RETRY_MS + Math.random() * RETRY_MS);
  }

  async #retry() {
    if (this.#timer === null || this.#source !== null || this.#isPaused) return;
    try {
      await get("/me"); // tells that nobody is logged in any more, which an EventSource does not
    } catch (error) {
      if (error.status === 401) return;
    }
    if (this.#timer !== null && this.#source === null) this.#connect();
  }

  #check() {
    if (this.#source && Date.now() - this.#heardAt > SILENCE_MS) this.#lose(this.#source);
    this.#tell("second");
  }

  #take(source, name, content) {
    if (source !== this.#source) return;
    this.#heardAt = Date.now();
    this[`_${name}`](content);
  }

  _snapshot({ now_ms, link, cameras, events }) {
    this.#offset = now_ms - Date.now();
    this.link = link;
    this.cameras = new Map(cameras.map((camera) => [camera.camera_id, { ...camera, recent: [...camera.recent] }]));
    this.events = new Map(events.map((event) => [event.event_id, event]));
    const wasLost = this.lostAt !== null;
    const again = this.#hadSnapshot;
    this.#hadSnapshot = true;
    this.lostAt = null;
    this.#tell("connection");
    this.#tell("snapshot", { wasLost, again });
  }

  _scores(rows) {
    for (const row of rows) {
      const camera = this.#camera(row.camera_id);
      camera.newest = row;
      camera.recent.push([row.captured_at_ms, row.highest]);
      if (camera.recent.length > RECENT) camera.recent.shift();
    }
    this.#tell("scores", rows);
  }

  _cameras(rows) {
    for (const row of rows) Object.assign(this.#camera(row.camera_id), row);
    this.#tell("cameras", rows);
  }

  _event(row) {
    const isNew = row.open && !this.events.has(row.event_id);
    this.events.set(row.event_id, row);
    if (this.events.size > 500) this.events.delete(this.events.keys().next().value);
    this.#tell("event", { row, isNew });
  }

  _link(link) {
    this.link = link;
    this.#tell("connection");
  }

  _tick({ now_ms }) {
    this.#offset = now_ms - Date.now();
  }

  _bye() {
    this.#lose(this.#source);
  }

  #camera(id) {
    if (!this.cameras.has(id))
      this.cameras.set(id, { camera_id: id, newest: null, problem: null, alarm: null, picture_at_ms: null, recent: [] });
    return this.cameras.get(id);
  }

  #tell(name, detail = null) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }

  /** What a camera is in: its state, how urgent it is, and in words. */
  stateOf(camera) {
    const silentMs = camera.newest ? this.now() - camera.newest.scored_at_ms : null;
    if (camera.alarm) {
      const event = this.events.get(camera.alarm);
      return {
        name: "alarm",
        rank: event?.acknowledged ? 1 : 0,
        label: event?.acknowledged ? "Alarm, acknowledged" : "Alarm",
        event,
      };
    }
    if (camera.problem)
      return { name: "problem", rank: 2, label: problemName(camera.problem.problem), detail: camera.problem.text };
    if (silentMs === null || silentMs > STALE_SCORE_MS) return { name: "silent", rank: 3, label: "No scores", silentMs };
    if (camera.newest.learning) return { name: "learning", rank: 4, label: "Learning", learning: camera.newest.learning };
    return { name: "watching", rank: 5, label: "Watching" };
  }

  /** How old a camera's picture is, if it is too old to be taken for what is going on; null if it is not. */
  staleFor(camera) {
    if (!camera.picture_at_ms) return null;
    const age = this.now() - camera.picture_at_ms;
    return age > STALE_PICTURE_MS || !this.isFresh ? Math.max(age, 0) : null;
  }
}

const PROBLEMS = {
  other_view: "Other view",
  unknown_light: "Unknown light",
  overexposed: "Over-exposed",
  defocused: "Out of focus",
  rate: "Frame rate",
  clock: "Clock",
  exposure: "Light changes",
};

/** A problem's name for a label. */
export const problemName = (problem) => PROBLEMS[problem] ?? problem.charAt(0).toUpperCase() + problem.slice(1);

export const live = new Live();
