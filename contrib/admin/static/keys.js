// The key-value browser, where the application is the key-value store.

import { byId, count, el, keep, say } from "./dom.js";

const PAGE = 50;

export class KeysPage {
  #asked = 0;

  constructor(api) {
    this.api = api;
    // Where each page so far begins; the last one is shown.
    this.starts = [];
    this.following = null;
    byId("keys-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#load([""]);
    });
    byId("keys-back").addEventListener("click", () => this.#load(this.starts.slice(0, -1)));
    byId("keys-next").addEventListener("click", () => this.#load([...this.starts, this.following]));
  }

  /** Say whether there is a key-value store, and show the way to it. */
  async exists() {
    const answer = await this.api.get("kv/keys?limit=1");
    byId("keys-link").hidden = !Array.isArray(answer.items);
  }

  open() {
    this.#load(this.starts.length ? this.starts : [""]);
  }

  async #load(starts) {
    const number = ++this.#asked;
    const query = new URLSearchParams({ prefix: byId("keys-prefix").value, limit: PAGE });
    if (starts.at(-1) !== "") query.set("after", starts.at(-1));
    try {
      const page = await this.api.get(`kv/keys?${query}`);
      if (number !== this.#asked) return;
      this.starts = starts;
      this.#draw(page);
      say(byId("keys-error"), "");
    } catch (error) {
      if (number === this.#asked) say(byId("keys-error"), error.message);
    }
  }

  #draw({ items, next, revision }) {
    this.following = next;
    say(byId("keys-range"), `revision ${count(revision)}`);
    say(byId("keys-note"), items.length ? "" : "There is no such key.");
    byId("keys-back").disabled = this.starts.length < 2;
    byId("keys-next").disabled = next === null;
    keep(
      byId("items"),
      items,
      (item) => `${item.revision} ${item.id}`,
      (item) => this.#row(item),
    );
  }

  #row(item) {
    const value = el("td", { class: "code" });
    shown(value, item.value, item.value_base64);
    if (item.is_cut) {
      value.append(
        " ",
        el("button", { type: "button", class: "link", onclick: () => this.#whole(item, value) }, "Show all"),
      );
    }
    return el(
      "tr",
      {},
      el("th", { scope: "row", class: "code" }, item.key ?? `base64:${item.key_base64}`),
      value,
      el("td", { class: "number" }, count(item.bytes)),
      el("td", { class: "number" }, count(item.revision)),
    );
  }

  async #whole(item, cell) {
    try {
      const found = await this.api.get(`kv/key?${new URLSearchParams({ id: item.id })}`);
      shown(cell, found.value, found.value_base64);
    } catch (error) {
      say(byId("keys-error"), error.message);
    }
  }
}

function shown(cell, text, base64) {
  say(cell, text ?? `base64:${base64}`);
}
