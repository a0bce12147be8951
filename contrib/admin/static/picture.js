// The cluster as a drawing: a card for each member, and what flows between them.

import { count, keep, mark, say, svg } from "./dom.js";

const NARROW = 520;
const CARD = { wide: [190, 92], narrow: [112, 92] };
// Cards stay clear of each other, and of the edge.
const MARGIN = 6;

/** A place for each of *names* on an ellipse; the first one is at the top. */
function places(names, width, height, [cardWidth, cardHeight]) {
  const circle = names.map((_, number) => (2 * Math.PI * number) / names.length - Math.PI / 2);
  const across = stretch(circle.map(Math.cos), cardWidth / 2 + MARGIN, width);
  const down = stretch(circle.map(Math.sin), cardHeight / 2 + MARGIN, height);
  return new Map(names.map((name, number) => [name, [across[number], down[number]]]));
}

/** Spread *values* over a *length*, but for a *margin* at both ends. */
function stretch(values, margin, length) {
  const least = Math.min(...values);
  const range = Math.max(...values) - least;
  if (range < 0.01) return values.map(() => length / 2);
  return values.map((value) => margin + ((value - least) / range) * (length - 2 * margin));
}

/** Return where the line from the middle of a card to *other* leaves the card. */
function leaving([x, y], other, [cardWidth, cardHeight]) {
  const [dx, dy] = [other[0] - x, other[1] - y];
  const share = Math.min(cardWidth / 2 / Math.abs(dx), cardHeight / 2 / Math.abs(dy), 0.5);
  return [x + share * dx, y + share * dy];
}

export class Picture {
  #drawn = null;

  constructor(parent) {
    this.links = svg("g", { class: "links" });
    this.cards = svg("g", { class: "cards" });
    this.root = svg("svg", { role: "img" }, this.links, this.cards);
    parent.append(this.root);
    this.parent = parent;
    new ResizeObserver(() => this.#drawn && this.draw(this.#drawn)).observe(parent);
  }

  /** Show *cluster*: its members and, as far as its leader says, its peers. */
  draw(cluster) {
    this.#drawn = cluster;
    const width = Math.max(280, this.parent.clientWidth);
    const isNarrow = width < NARROW;
    const size = isNarrow ? CARD.narrow : CARD.wide;
    const many = cluster.members.length > 3;
    const height = cluster.members.length < 2 ? size[1] + 40 : isNarrow || many ? 400 : 320;
    mark(this.root, "viewBox", `0 0 ${width} ${height}`);
    mark(this.root, "height", height);
    mark(this.root, "aria-label", inWords(cluster));
    const at = places(cluster.members.map((each) => each.server), width, height, size);
    this.#link(cluster, at, size);
    keep(
      this.cards,
      cluster.members,
      (member) => member.server,
      () => card(),
      (group, member) => {
        const [x, y] = at.get(member.server);
        group.style.transform = `translate(${x - size[0] / 2}px, ${y - size[1] / 2}px)`;
        fill(group, member, cluster, size);
      },
    );
  }

  #link(cluster, at, size) {
    const from = at.get(cluster.leader);
    const others = from
      ? cluster.members.filter((each) => each.server !== cluster.leader)
      : [];
    keep(
      this.links,
      others,
      (member) => member.server,
      () => link(),
      (group, member) => join(group, member, from, at.get(member.server), size),
    );
  }
}

function link() {
  return svg(
    "g",
    {},
    svg("line", { class: "pipe" }),
    svg("line", { class: "flow" }),
    svg("rect", { class: "pill", rx: 11, height: 22 }),
    svg("text", { class: "pill-text", "text-anchor": "middle" }),
  );
}

function join(group, member, from, to, size) {
  const [pipe, flow, pill, text] = group.children;
  const [x1, y1] = leaving(from, to, size);
  const [x2, y2] = leaving(to, from, size);
  for (const line of [pipe, flow]) {
    for (const [name, value] of Object.entries({ x1, y1, x2, y2 })) mark(line, name, value);
  }
  mark(group, "class", !member.reachable ? "broken" : member.behind > 0 ? "late" : "even");
  // Without room, the card says it.
  const words = size === CARD.narrow ? "" : behindOf(member);
  say(text, words);
  const wide = words && 6.6 * words.length + 22;
  const [x, y] = [(x1 + x2) / 2, (y1 + y2) / 2];
  mark(pill, "x", x - wide / 2);
  mark(pill, "y", y - 11);
  mark(pill, "width", wide || 0);
  mark(text, "x", x);
  mark(text, "y", y + 4);
}

function behindOf(member) {
  return member.reachable ? `${count(member.behind)} behind` : "no answer";
}

function card() {
  return svg(
    "g",
    { class: "card" },
    svg("rect", { class: "sheet", rx: 12 }),
    svg("rect", { class: "edge", width: 6, rx: 3, x: 0 }),
    svg("text", { class: "name" }),
    svg("text", { class: "role" }),
    svg("text", { class: "more" }),
    svg("rect", { class: "bar", height: 6, rx: 3 }),
    svg("rect", { class: "done", height: 6, rx: 3 }),
  );
}

function fill(group, member, cluster, [width, height]) {
  const [sheet, edge, name, role, more, bar, done] = group.children;
  mark(group, "data-role", roleOf(member));
  mark(sheet, "width", width);
  mark(sheet, "height", height);
  mark(edge, "y", 12);
  mark(edge, "height", height - 24);
  place(name, 18, 27, shortened(member.server, width > 120 ? 15 : 9));
  place(role, 18, 46, wordOf(member));
  place(more, 18, 65, member.reachable ? details(member, width) : "");
  const share = member.reachable ? (member.applied ?? 0) / Math.max(1, cluster.end) : 0;
  mark(bar, "x", 18);
  mark(bar, "y", height - 16);
  mark(bar, "width", width - 34);
  mark(done, "x", 18);
  mark(done, "y", height - 16);
  mark(done, "width", Math.max(0, (width - 34) * Math.min(1, share)));
}

function place(text, x, y, words) {
  mark(text, "x", x);
  mark(text, "y", y);
  say(text, words);
}

function details(member, width) {
  if (width === CARD.narrow[0]) return behindOf(member);
  return `term ${count(member.term)} · applied ${count(member.applied)}`;
}

function shortened(text, most) {
  return text.length > most ? `${text.slice(0, most - 1)}…` : text;
}

export function roleOf(member) {
  if (!member.reachable) return "unreachable";
  return member.standing === "learner" || member.standing === "joining"
    ? "learner"
    : member.role;
}

export function wordOf(member) {
  return member.reachable ? roleOf(member) : "no answer";
}

function inWords({ members, leader, term }) {
  const silent = members.filter((each) => !each.reachable).map((each) => each.server);
  const lead = leader ? `${leader} leads in term ${term}` : "nobody leads";
  const rest = silent.length ? `; no answer from ${silent.join(", ")}` : "";
  return `${members.length} members: ${lead}${rest}.`;
}
