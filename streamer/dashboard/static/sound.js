/** A short tone when an alarm begins; off until somebody switches it on, as browsers demand a click for it anyway. */

const KEY = "oddsight-sound";
let context = null;

export const isOn = () => localStorage.getItem(KEY) === "on";

export function setSound(on) {
  localStorage.setItem(KEY, on ? "on" : "off");
  if (on) ring();
}

/** Two notes, half a second. */
export function ring() {
  if (!isOn()) return;
  context ??= new AudioContext();
  context.resume();
  [880, 1175].forEach((frequency, place) => {
    const tone = context.createOscillator();
    const volume = context.createGain();
    const from = context.currentTime + place * 0.18;
    tone.frequency.value = frequency;
    volume.gain.setValueAtTime(0, from);
    volume.gain.linearRampToValueAtTime(0.2, from + 0.02);
    volume.gain.exponentialRampToValueAtTime(0.001, from + 0.3);
    tone.connect(volume).connect(context.destination);
    tone.start(from);
    tone.stop(from + 0.32);
  });
}
