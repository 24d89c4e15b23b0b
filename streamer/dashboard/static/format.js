/** Times, numbers and states in words. */

const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const day = new Intl.DateTimeFormat(undefined, { weekday: "short", day: "numeric", month: "short" });

export const clockTime = (ms) => clock.format(ms);

/** "14:03:22" today, "Fri, 28 Nov 14:03:22" otherwise. */
export function moment(ms) {
  const isToday = new Date(ms).toDateString() === new Date().toDateString();
  return isToday ? clock.format(ms) : `${day.format(ms)} ${clock.format(ms)}`;
}

/** "8 s", "3 min", "2 h", "5 d". */
export function span(ms) {
  const seconds = Math.max(0, Math.round(ms / 1000));
  if (seconds < 90) return `${seconds}\u00a0s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)}\u00a0min`;
  if (seconds < 172_800) return `${Math.round(seconds / 3600)}\u00a0h`;
  return `${Math.round(seconds / 86_400)}\u00a0d`;
}

/** "0:23", "12:05", "1:02:45". */
export function stopwatch(ms) {
  const seconds = Math.max(0, Math.round(ms / 1000));
  const parts = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, seconds % 60];
  const [hours, minutes, rest] = parts;
  return hours ? `${hours}:${pad(minutes)}:${pad(rest)}` : `${minutes}:${pad(rest)}`;
}

const pad = (number) => String(number).padStart(2, "0");

const four = new Intl.NumberFormat("en", { maximumSignificantDigits: 4 });
const counted = new Intl.NumberFormat("en");

/** Four significant digits at most; "–" for none. */
export const number = (value) => (value === null || value === undefined ? "–" : four.format(value));

export const whole = (value) => (Number.isFinite(Number(value)) ? counted.format(value) : String(value));

/** How much a score exceeds its threshold: "1.57 × threshold". */
export const ratio = (score, threshold) => (threshold > 0 ? `${(score / threshold).toFixed(2)} × threshold` : "–");

/** What the thresholds promise. */
export function promise(bound, budget, observedS) {
  const asked = budget === null || budget === undefined ? "" : ` Asked for: ${number(budget)}.`;
  const after = observedS ? `, as far as ${span(observedS * 1000)} of footage can tell` : "";
  if (bound === null || bound === undefined) return `No promise of how many a day.${asked}`;
  return `At most ${number(bound)} a day${after}.${asked}`;
}

export const channelNames = { speed: "Speed", appearance: "Appearance", dwell: "Dwell" };
export const verdictNames = { true: "True alarm", false: "False alarm", normal: "Normal here" };
