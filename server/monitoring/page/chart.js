// A chart of the rounds: the error as a line, the bytes as bars below it, and a cursor over both.

import { draw, setText } from "./dom.js";
import { bytes, count, number, seconds, timestamp } from "./format.js";

const LEFT = 52, RIGHT = 12, TOP = 10, BOTTOM = 22, GAP = 20, BARS = 56;
const LOGARITHMIC_RATIO = 20;  // ratio of the largest to the smallest error above which the scale is logarithmic

/** A chart in `box`; describes the round under its cursor in `readout`. */
export class Chart {
  constructor(box, readout) {
    this.box = box;
    this.readout = readout;
    this.rounds = [];
    this.at = null;  // index of the round under the cursor; null for the newest
    new ResizeObserver(() => this.redraw()).observe(box);
    box.addEventListener("pointermove", (event) => this.point(event));
    box.addEventListener("pointerleave", () => this.move(null));
    box.addEventListener("keydown", (event) => this.key(event));
  }

  set(rounds) {
    if (this.at >= rounds.length) this.at = null;
    this.rounds = rounds;
    if (!rounds.length) setText(this.readout, "No round has ended yet.");
    this.redraw();
  }

  redraw() {
    this.box.classList.toggle("empty", !this.rounds.length);
    const { width, height } = this.box.getBoundingClientRect();
    if (width < 100 || !this.rounds.length) return this.box.replaceChildren();
    this.width = width;
    this.bottom = height - BOTTOM;
    this.floor = this.bottom - BARS - GAP;
    const last = this.rounds.length - 1;
    this.x = (i) => LEFT + (last ? i / last : 0.5) * (width - LEFT - RIGHT);
    this.cursor = draw("line", { class: "cursor", y1: TOP, y2: this.bottom });
    this.mark = draw("circle", { class: "mark", r: 4 });
    this.box.replaceChildren(
      draw("svg", { width, height, viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" },
        ...this.errors(), ...this.traffic(), ...this.labels(), this.cursor, this.mark));
    this.describe();
  }

  errors() {
    const known = this.rounds.map((r) => r.error).filter((e) => e !== null);
    if (!known.length) return [];
    const low = Math.min(...known), high = Math.max(...known);
    const logarithmic = low > 0 && high / low > LOGARITHMIC_RATIO;
    const at = logarithmic ? Math.log10 : (e) => e;
    const bottom = logarithmic ? at(low) : 0, top = at(high) === bottom ? bottom + 1 : at(high);
    this.y = (e) => this.floor - ((at(e) - bottom) / (top - bottom)) * (this.floor - TOP - 6);
    const shapes = (logarithmic ? decades(low, high) : ticks(0, high)).flatMap((value) => [
      draw("line", { class: "grid", x1: LEFT, x2: this.width - RIGHT, y1: this.y(value), y2: this.y(value) }),
      draw("text", { class: "tick", x: LEFT - 8, y: this.y(value) + 4, "text-anchor": "end" }, number(value, 3)),
    ]);
    const points = this.rounds.flatMap((r, i) => r.error === null ? [] : [[this.x(i), this.y(r.error)]]);
    const line = points.map(([x, y]) => `${x.toFixed(1)},${y.toFixed(1)}`).join(" L");
    const [[first], [final]] = [points[0], points[points.length - 1]];
    shapes.push(
      draw("path", { class: "area", d: `M${first},${this.floor} L${line} L${final},${this.floor}Z` }),
      draw("path", { class: "line", d: `M${line}` }));
    this.rounds.forEach((r, i) => {
      if (r.error === null) shapes.push(draw("rect", { class: "failed", x: this.x(i) - 1, y: TOP, width: 2, height: this.floor - TOP }));
    });
    return shapes;
  }

  traffic() {
    const highest = Math.max(1, ...this.rounds.map((r) => r.bytes_up + r.bytes_down));
    const spacing = (this.width - LEFT - RIGHT) / this.rounds.length;
    const width = Math.max(0.5, Math.min(10, spacing * 0.7));
    const height = (value) => (value / highest) * BARS;
    const bars = { up: "", down: "" };
    this.rounds.forEach((r, i) => {
      const x = (this.x(i) - width / 2).toFixed(1), up = height(r.bytes_up), down = height(r.bytes_down);
      bars.up += `M${x},${this.bottom}h${width}v${-up}h${-width}z`;
      bars.down += `M${x},${this.bottom - up}h${width}v${-down}h${-width}z`;
    });
    return [
      draw("line", { class: "grid", x1: LEFT, x2: this.width - RIGHT, y1: this.bottom, y2: this.bottom }),
      draw("text", { class: "tick", x: LEFT - 8, y: this.bottom - BARS + 9, "text-anchor": "end" }, bytes(highest)),
      draw("path", { class: "up", d: bars.up }), draw("path", { class: "down", d: bars.down }),
    ];
  }

  labels() {
    const minStep = Math.max(1, Math.ceil(this.rounds.length / Math.max(2, Math.floor(this.width / 70))));
    const step = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000].find((s) => s >= minStep) ?? 2000;
    const shapes = [];
    this.rounds.forEach((r, i) => {
      if (i % step === 0) shapes.push(draw("text", { class: "tick", x: this.x(i), y: this.bottom + 16, "text-anchor": "middle" }, String(r.number)));
    });
    return shapes;
  }

  point(event) {
    if (!this.rounds.length || !this.x) return;
    const along = (event.clientX - this.box.getBoundingClientRect().left - LEFT) / (this.width - LEFT - RIGHT);
    this.move(Math.max(0, Math.min(this.rounds.length - 1, Math.round(along * (this.rounds.length - 1)))));
  }

  key(event) {
    const last = this.rounds.length - 1, here = this.at ?? last;
    const to = { ArrowLeft: here - 1, ArrowDown: here - 1, ArrowRight: here + 1, ArrowUp: here + 1,
      PageDown: here - 10, PageUp: here + 10, Home: 0, End: null, Escape: null }[event.key];
    if (to === undefined || last < 0) return;
    event.preventDefault();
    this.move(to === null || to >= last ? null : Math.max(0, to));
  }

  move(index) {
    this.at = index;
    this.describe();
  }

  describe() {
    if (!this.rounds.length) return;
    const index = this.at ?? this.rounds.length - 1, round = this.rounds[index];
    setText(this.readout, description(round));
    this.box.setAttribute("aria-valuemax", this.rounds.length - 1);
    this.box.setAttribute("aria-valuenow", index);
    this.box.setAttribute("aria-valuetext", this.readout.textContent);
    if (!this.cursor) return;
    this.cursor.setAttribute("x1", this.x(index));
    this.cursor.setAttribute("x2", this.x(index));
    this.cursor.classList.toggle("resting", this.at === null);
    this.mark.classList.toggle("none", round.error === null);
    if (round.error === null) return;
    this.mark.setAttribute("cx", this.x(index));
    this.mark.setAttribute("cy", this.y(round.error));
  }
}

function description(round) {
  const failed = Object.entries(round.failed);
  const parts = [
    round.kind === "evaluate" ? "Final evaluation" : `Round ${round.number}`,
    round.error === null ? "failed" : `error ${number(round.error)}`,
    `${round.answered} of ${round.sampled} answered`,
    seconds(round.wall_s), `${bytes(round.bytes_up)} up, ${bytes(round.bytes_down)} down`, timestamp(round.ended_at),
  ];
  return parts.join(" · ") + failed.slice(0, 3).map(([name, why]) => `; ${name.slice(0, 64)}: ${why.slice(0, 200)}`).join("")
    + (failed.length > 3 ? `; and ${count(failed.length - 3)} more` : "");
}

function ticks(low, high) {
  const rough = (high - low) / 4 || 1, power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((m) => m * power >= rough);
  const values = [];
  for (let i = Math.ceil(low / step); i * step <= high * (1 + 1e-9); i++) values.push(i * step);
  return values;
}

function decades(low, high) {
  const values = [];
  for (let p = Math.floor(Math.log10(low)); p <= Math.log10(high); p++)
    for (const m of [1, 3]) if (m * 10 ** p >= low && m * 10 ** p <= high) values.push(m * 10 ** p);
  return values;
}
