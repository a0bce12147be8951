// The log browser: entries with their commands as text.

import { byId, count, el, keep, mark, say } from "./dom.js";

const PAGE = 50;
// So many entries are looked through for a filter before somebody is asked to go on.
const SEARCH = 500;
const SEARCHES = 10;

export class LogPage {
  #asked = 0;

  constructor(api) {
    this.api = api;
    this.from = null;
    this.first = 1;
    this.last = 0;
    this.next = 1;
    byId("log-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.show(Number(byId("log-from").value) || this.first);
    });
    byId("log-first").addEventListener("click", () => this.show(this.first));
    byId("log-older").addEventListener("click", () => this.show(Math.max(this.first, this.from - PAGE)));
    byId("log-newer").addEventListener("click", () => this.show(this.next));
    byId("log-last").addEventListener("click", () => this.latest());
    byId("log-follow").addEventListener("change", () => this.tick());
  }

  /** The page is looked at now. */
  open() {
    if (this.from === null) this.latest();
  }

  /** A second has passed while the page is looked at. */
  tick() {
    if (byId("log-follow").checked && byId("log-filter").value.trim() === "") return this.latest();
    return undefined;
  }

  async latest() {
    await this.#load(async () => {
      const { entries, first } = await this.#fetch(null, PAGE);
      return this.#whole(entries, first);
    });
  }

  async show(from) {
    byId("log-follow").checked = false;
    await this.#load(() => this.#page(from, byId("log-filter").value.trim().toLowerCase()));
  }

  async #load(work) {
    const number = ++this.#asked;
    byId("log-form").setAttribute("aria-busy", "true");
    try {
      const page = await work();
      if (number === this.#asked) this.#draw(page);
      say(byId("log-error"), "");
    } catch (error) {
      if (number === this.#asked) say(byId("log-error"), error.message);
    } finally {
      if (number === this.#asked) byId("log-form").setAttribute("aria-busy", "false");
    }
  }

  async #fetch(from, limit) {
    const where = from === null ? "" : `from=${from}&`;
    const answer = await this.api.get(`api/v1/log?${where}limit=${limit}`);
    this.first = answer.first_index;
    this.last = answer.last_index;
    return { entries: answer.entries, first: this.first, last: this.last };
  }

  /** Return the page that begins at *from*; of a *filter*, what is found from there. */
  async #page(from, filter) {
    if (filter === "") {
      const { entries, first } = await this.#fetch(Math.max(1, from), PAGE);
      return this.#whole(entries, Math.max(first, from));
    }
    const found = [];
    let next = Math.max(this.first, from);
    for (let search = 0; search < SEARCHES && found.length < PAGE; search++) {
      const { entries } = await this.#fetch(next, SEARCH);
      for (const entry of entries) {
        if (found.length === PAGE) break;
        next = entry.index + 1;
        if (matches(entry, filter)) found.push(entry);
      }
      if (entries.length === 0 || next > this.last) break;
    }
    const more = next <= this.last ? "; Newer goes on" : "";
    return { from, entries: found, next, note: `Looked through ${count(from)} to ${count(next - 1)}${more}.` };
  }

  #whole(entries, from) {
    const next = entries.length ? entries.at(-1).index + 1 : from;
    return { from: entries[0]?.index ?? from, entries, next, note: "" };
  }

  #draw({ from, entries, next, note }) {
    this.from = from;
    this.next = next;
    byId("log-from").value = String(from);
    say(byId("log-range"), `entries ${count(this.first)} to ${count(this.last)} are in the log of this server`);
    say(byId("log-note"), note || (entries.length ? "" : "There is no entry here."));
    byId("log-older").disabled = byId("log-first").disabled = from <= this.first;
    byId("log-newer").disabled = next > this.last;
    keep(
      byId("entries"),
      entries,
      (entry) => `${entry.term}.${entry.index}`,
      row,
      (item, entry) => mark(item, "data-kind", entry.kind),
    );
  }
}

function matches(entry, filter) {
  return `${entry.kind} ${entry.command ?? ""}`.toLowerCase().includes(filter);
}

function row(entry) {
  return el(
    "tr",
    {},
    el("td", { class: "number" }, count(entry.index)),
    el("td", { class: "number" }, count(entry.term)),
    el("td", {}, el("span", { class: "kind" }, entry.kind)),
    el("td", { class: "code" }, entry.command ?? ""),
  );
}
