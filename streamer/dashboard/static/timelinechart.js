/** The curve of a timeline: single scores, or the highest and the mean of each minute, against the thresholds as they were. */

import uPlot from "./vendor/uPlot.esm.js";
import { AXIS, COLORS, Chart, SCORE_SCALE } from "./chart.js";
import { h } from "./dom.js";
import { clockTime, moment, number } from "./format.js";

const LEAST_DRAG = 5; // pixels
const GAP = 10_000;
const PARTS_APART = 2.5;
const DAY = 86_400;

const hours = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
const days = new Intl.DateTimeFormat(undefined, { weekday: "short", day: "numeric" });

export class TimelineChart extends Chart {
  #window = [0, 1];
  #shaded = [];

  /** `onZoom(from, to)`: a part was dragged over; `onReset`: double click; `onLayout`: the plot has another place or size. */
  constructor(height, { onZoom, onReset, onLayout }) {
    super(h("div", { class: "chart", role: "img" }), height, onLayout);
    this.on = { onZoom, onReset, onLayout };
  }

  show(from, to, timeline, events) {
    this.#window = [from / 1000, to / 1000];
    const grey = timeline.parts.filter((part) => part[7] === part[5]).map(([at]) => [at, at + timeline.part_ms, "withheld"]);
    const red = events.map((event) => [event.started_at_ms, event.ended_at_ms ?? event.captured_at_ms, "event"]);
    this.#shaded = [...grey, ...red];
    const data = columns(timeline, to - from);
    if (this.plot) this.plot.setData(data);
    else this.plot = new uPlot(this.#options(), data, this.element);
    const none = !timeline.parts.length && !timeline.points.length;
    this.element.classList.toggle("empty", none);
    const what = none ? "No scores" : "Scores against the threshold";
    this.element.setAttribute("aria-label", `${what} from ${moment(from)} to ${moment(to)}`);
  }

  /** Where the curve is within the element, in pixels. */
  plotArea() {
    const over = this.plot?.over;
    return over ? { left: over.offsetLeft, width: over.offsetWidth } : { left: 0, width: 1 };
  }

  #options() {
    const value = (_plot, each) => number(each ?? null);
    const time = (_plot, each) => (each === null || each === undefined ? "–" : moment(each * 1000));
    const points = { show: false };
    return {
      ...this.size(),
      padding: [4, null, 0, null],
      cursor: { drag: { x: true, y: false, setScale: false }, bind: { dblclick: () => () => this.on.onReset() } },
      scales: {
        x: { time: true, range: () => this.#window },
        y: SCORE_SCALE,
      },
      axes: [
        { ...AXIS, space: 80, size: 34, values: (_plot, splits, _axis, _space, step) => splits.map((each) => label(each, step)) },
        { ...AXIS, size: 46 },
      ],
      bands: [{ series: [1, 2], fill: COLORS.band }],
      series: [
        { label: "Time", value: time },
        { label: "Score", stroke: COLORS.score, width: 1.5, points, value },
        { label: "Mean", stroke: COLORS.mean, width: 1, points, value },
        {
          label: "Threshold",
          stroke: COLORS.threshold,
          width: 1.5,
          dash: [6, 4],
          points,
          value,
          paths: uPlot.paths.stepped({ align: 1 }),
        },
      ],
      hooks: { drawClear: [(plot) => this.#shade(plot)], setSelect: [(plot) => this.#select(plot)] },
    };
  }

  #select(plot) {
    const { left, width } = plot.select;
    if (width < LEAST_DRAG) return;
    const [from, to] = [left, left + width].map((x) => plot.posToVal(x, "x") * 1000);
    plot.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
    this.on.onZoom(from, to);
  }

  #shade(plot) {
    const { ctx, bbox } = plot;
    ctx.save();
    ctx.beginPath();
    ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
    ctx.clip();
    for (const [from, to, kind] of this.#shaded) {
      const left = plot.valToPos(from / 1000, "x", true);
      const width = Math.max(kind === "event" ? 2 : 0, plot.valToPos(to / 1000, "x", true) - left);
      ctx.fillStyle = COLORS[kind];
      ctx.fillRect(left, bbox.top, width, bbox.height);
    }
    ctx.restore();
  }
}

/** Time, score, mean and threshold; a column of nothing where there were no scores for a while. */
function columns({ parts, part_ms: length, points }, spanMs) {
  const end = points.length ? points[0][0] : Infinity; // the last part may not be over yet
  const minutes = parts.map(([at, mean, highest, , threshold]) => [Math.min(at + length / 2, end - 1), highest, mean, threshold]);
  const single = points.map(([at, score, threshold]) => [at, score, null, threshold]);
  const rows = [];
  const add = (own, gap) => {
    for (const row of own) {
      const before = rows[rows.length - 1];
      if (before && row[0] - before[0] > gap) rows.push([before[0] + 1, null, null, null]);
      rows.push(row);
    }
  };
  add(minutes, PARTS_APART * length);
  add(single.slice(0, 1), PARTS_APART * length);
  add(single.slice(1), Math.max(GAP, spanMs / 100));
  return [0, 1, 2, 3].map((column) => rows.map((row) => (column === 0 ? row[0] / 1000 : row[column])));
}

function label(seconds, step) {
  const at = new Date(seconds * 1000);
  if (step >= DAY || (at.getHours() === 0 && at.getMinutes() === 0 && at.getSeconds() === 0)) return days.format(at);
  return step < 60 ? clockTime(at) : hours.format(at);
}
