/** Score curves: a camera's scores against its threshold. */

import uPlot from "./vendor/uPlot.esm.js";
import { h } from "./dom.js";
import { clockTime, number } from "./format.js";

export const COLORS = {
  score: "#8ec7ff",
  mean: "rgba(142,199,255,.55)",
  band: "rgba(142,199,255,.16)",
  threshold: "#e3b341",
  grid: "#1d242e",
  text: "#9ba6b5",
  event: "rgba(255,93,82,.16)",
  now: "rgba(255,93,82,.7)",
  withheld: "rgba(155,166,181,.13)",
};
export const AXIS = {
  stroke: COLORS.text,
  grid: { stroke: COLORS.grid, width: 1 },
  ticks: { stroke: COLORS.grid, width: 1 },
  font: "12px system-ui, sans-serif",
};

/** Of the scores: from zero, with room above the highest. */
export const SCORE_SCALE = { range: (_plot, low, high) => [Math.min(0, low ?? 0), Math.max((high ?? 1) * 1.12, 0.1)] };

/** An element whose plot is as wide as it; the plot is made with the first data. */
export class Chart {
  constructor(element, height, onResize = () => {}) {
    this.element = element;
    this.height = height;
    this.plot = null;
    this.observer = new ResizeObserver(() => {
      this.plot?.setSize(this.size());
      onResize();
    });
    this.observer.observe(element);
  }

  size() {
    return { width: Math.max(200, this.element.clientWidth), height: this.height };
  }

  destroy() {
    this.observer.disconnect();
    this.plot?.destroy();
  }
}

/** Points (capture time, score, threshold) with shaded stretches [from_ms, to_ms]; drag to zoom, double click for all. */
export class ScoreChart extends Chart {
  constructor(height) {
    super(h("div", { class: "chart", role: "img", "aria-label": "Scores against the threshold over time" }), height);
    this.stretches = [];
    this.isZoomed = false;
  }

  show(points, stretches = []) {
    this.stretches = stretches;
    const data = [points.map((p) => p[0] / 1000), points.map((p) => p[1]), points.map((p) => p[2])];
    if (this.plot) {
      this.plot.setData(data, !this.isZoomed);
    } else {
      this.plot = new uPlot(this.#options(), data, this.element);
    }
    this.element.classList.toggle("empty", points.length === 0);
  }

  #options() {
    const values = (_plot, value) => (value === null || value === undefined ? "–" : number(value));
    return {
      ...this.size(),
      cursor: { drag: { x: true, y: false, setScale: true } },
      scales: {
        x: { time: true },
        y: SCORE_SCALE,
      },
      axes: [
        { ...AXIS, space: 80, values: (_plot, splits) => splits.map((s) => clockTime(s * 1000)) },
        { ...AXIS, size: 46 },
      ],
      series: [
        { label: "Time", value: (_plot, value) => (value === null || value === undefined ? "–" : clockTime(value * 1000)) },
        { label: "Score", stroke: COLORS.score, width: 1.5, points: { show: false }, value: values },
        { label: "Threshold", stroke: COLORS.threshold, width: 1.5, dash: [6, 4], points: { show: false }, value: values },
      ],
      hooks: {
        drawClear: [(plot) => this.#shade(plot)],
        setSelect: [(plot) => void (this.isZoomed ||= plot.select.width > 0)],
        ready: [(plot) => plot.over.addEventListener("dblclick", () => void (this.isZoomed = false))],
      },
    };
  }

  #shade(plot) {
    const { ctx, bbox } = plot;
    ctx.save();
    ctx.beginPath();
    ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
    ctx.clip();
    for (const [from, to] of this.stretches) {
      const left = plot.valToPos(from / 1000, "x", true);
      const width = Math.max(2, plot.valToPos(to / 1000, "x", true) - left);
      ctx.fillStyle = COLORS.event;
      ctx.fillRect(left, bbox.top, width, bbox.height);
      ctx.fillStyle = COLORS.now;
      ctx.fillRect(left, bbox.top, 2, bbox.height);
    }
    ctx.restore();
  }
}

/**
 * Draw the last minute of scores onto a small canvas; the threshold lies at the same height on all of them.
 * Its size is told, because asking for it costs a layout.
 */
export function drawSpark(canvas, size, recent, threshold, nowMs, color) {
  const scale = window.devicePixelRatio || 1;
  const { width, height } = size;
  if (!width) return;
  if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
  }
  const context = canvas.getContext("2d");
  context.setTransform(scale, 0, 0, scale, 0, 0);
  context.clearRect(0, 0, width, height);
  const top = threshold > 0 ? threshold * 1.6 : 1;
  const x = (ms) => width - ((nowMs - ms) / 60_000) * width;
  const y = (score) => height - 1 - (Math.max(0, Math.min(score, top)) / top) * (height - 2);
  context.strokeStyle = "rgba(227,179,65,.55)";
  context.setLineDash([3, 3]);
  context.beginPath();
  context.moveTo(0, y(threshold));
  context.lineTo(width, y(threshold));
  context.stroke();
  context.setLineDash([]);
  context.strokeStyle = color;
  context.lineWidth = 1.25;
  context.beginPath();
  let last = null;
  for (const [ms, score] of recent) {
    if (last !== null && ms - last < 3000) context.lineTo(x(ms), y(score));
    else context.moveTo(x(ms), y(score));
    last = ms;
  }
  context.stroke();
}
