// Lines and strips: write latency, replication lag, who led when.

import { el, keep, mark, say, span, svg } from "./dom.js";

const WIDTH = 400;

/** Return the points of a line through *values*, the largest of which is at the top. */
function points(values, width, height, top) {
  const step = width / Math.max(1, values.length - 1);
  return values.map((value, number) => {
    const y = height - 2 - (height - 4) * Math.min(1, value / top);
    return `${(number * step).toFixed(1)},${y.toFixed(1)}`;
  });
}

/** A small line without axes, for a cell. */
export class Spark {
  constructor(label, width = 48, height = 18) {
    this.size = [width, height];
    this.label = label;
    this.line = svg("polyline", { class: "spark-line" });
    this.root = svg(
      "svg",
      { class: "spark", width, height, viewBox: `0 0 ${width} ${height}`, role: "img" },
      this.line,
    );
  }

  draw(values) {
    const top = Math.max(1, ...values);
    mark(this.line, "points", points(values, ...this.size, top).join(" "));
    mark(this.root, "aria-label", `${this.label}, at most ${Math.max(0, ...values)}`);
  }
}

/** The latest writes, as a line, with what most of them took. */
export class Latency {
  constructor(parent) {
    this.figures = el("dl", { class: "small figures" });
    this.area = svg("polygon", { class: "area" });
    this.line = svg("polyline", { class: "spark-line" });
    this.chart = svg(
      "svg",
      { class: "chart", viewBox: `0 0 ${WIDTH} 70`, preserveAspectRatio: "none", role: "img" },
      this.area,
      this.line,
    );
    this.note = el("p", { class: "note" });
    parent.append(this.figures, this.chart, this.note);
  }

  /** Show *seconds*, the oldest first. */
  draw(seconds) {
    const isEmpty = seconds.length === 0;
    this.chart.classList.toggle("empty", isEmpty);
    const sorted = [...seconds].sort((one, other) => one - other);
    const at = (share) => sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))];
    figures(this.figures, [
      ["half within", span(at(0.5))],
      ["99 % within", span(at(0.99))],
      ["slowest", span(at(1))],
    ]);
    const drawn = seconds.length === 1 ? [seconds[0], seconds[0]] : seconds;
    const line = isEmpty ? [] : points(drawn, WIDTH, 70, 1.1 * at(1) || 1);
    mark(this.line, "points", line.join(" "));
    mark(this.area, "points", isEmpty ? "" : [`0,70`, ...line, `${WIDTH},70`].join(" "));
    mark(this.chart, "aria-label", `The latest ${seconds.length} writes; half took ${span(at(0.5))} or less`);
    say(this.note, isEmpty ? "The leader has answered no write yet." : "");
  }
}

/** Let *list* have these terms and values. */
export function figures(list, pairs) {
  keep(
    list,
    pairs,
    ([name]) => name,
    ([name]) => el("div", {}, el("dt", {}, name), el("dd")),
    (item, [, value]) => say(item.lastElementChild, value),
  );
}

const SHOWN = 30;

/** Who led when, as a strip, and what happened, as a list. */
export class Timeline {
  constructor(parent) {
    this.strip = el("div", { class: "strip", role: "img" });
    this.ends = el("div", { class: "ends" }, el("span"), el("span", {}, "now"));
    this.list = el("ol", { class: "events", tabindex: "0", "aria-label": "What happened, the latest first" });
    parent.append(this.strip, this.ends, this.list);
  }

  /** Show *events* (time, words, and where it is known the leader), the oldest first. */
  draw(events, now, names) {
    const reigns = reignsOf(events, now);
    this.#drawStrip(reigns, now, names);
    const latest = events.slice(-SHOWN).reverse();
    keep(
      this.list,
      latest,
      (event) => event.key,
      (event) => el("li", {}, el("time"), el("span", {}, event.words)),
      (item, event) => {
        const time = new Date(1000 * event.time);
        mark(item.firstElementChild, "datetime", time.toISOString());
        say(item.firstElementChild, time.toLocaleTimeString([], { hour12: false }));
      },
    );
  }

  #drawStrip(reigns, now, names) {
    const begin = reigns[0]?.from ?? now;
    const whole = Math.max(1, now - begin);
    keep(
      this.strip,
      reigns,
      (reign) => reign.key,
      () => el("span", { class: "reign" }),
      (item, reign) => {
        item.style.flexGrow = String(Math.max(0.002, (reign.to - reign.from) / whole));
        mark(item, "data-colour", reign.leader ? names.indexOf(reign.leader) % 7 : "none");
        mark(item, "title", `${reign.leader ?? "nobody"} · ${span(reign.to - reign.from)}`);
        say(item, reign.leader ?? "");
      },
    );
    say(this.ends.firstElementChild, reigns.length ? `${span(now - begin)} ago` : "");
    const words = reigns.map((reign) => `${reign.leader ?? "nobody"} for ${span(reign.to - reign.from)}`);
    mark(this.strip, "aria-label", `Who led: ${words.join(", ") || "not known yet"}`);
  }
}

/** Return the latest stretches of time, each with who led or null. */
function reignsOf(events, now) {
  const reigns = [];
  for (const event of events) {
    if (event.leader === undefined) continue;
    const before = reigns.at(-1);
    if (before && before.leader === event.leader) continue;
    if (before) before.to = event.time;
    reigns.push({ key: event.key, leader: event.leader, from: event.time, to: now });
  }
  return reigns.slice(-12);
}
