// Faults on purpose: there only where the server offers some.

import { announce, byId, el, keep, mark, say } from "./dom.js";

export class Faults {
  constructor(api) {
    this.api = api;
  }

  /** Show *faults*: a row for each, a button for each server. */
  draw(faults) {
    byId("faults-panel").hidden = faults.length === 0;
    const servers = [...new Set(faults.flatMap((fault) => fault.servers))].sort();
    keep(
      byId("faults-head"),
      ["Fault", ...servers],
      (name) => name,
      (name) => el("th", { scope: "col" }, name),
    );
    keep(
      byId("faults"),
      faults,
      (fault) => fault.name,
      (fault) => el("tr", {}, el("th", { scope: "row" }, fault.title)),
      (row, fault) => this.#fill(row, fault, servers),
    );
  }

  #fill(row, fault, servers) {
    const cells = [...row.children].slice(1);
    for (const cell of cells.slice(servers.length)) cell.remove();
    servers.forEach((server, number) => {
      const cell = cells[number] ?? row.appendChild(el("td"));
      keep(
        cell,
        fault.servers.includes(server) ? [server] : [],
        (name) => name,
        () => this.#button(fault, server),
        (button) => {
          const isOn = (fault.active ?? []).includes(server);
          mark(button, "aria-pressed", isOn ? "true" : "false");
          say(button, isOn ? "on" : "off");
        },
      );
    });
  }

  #button(fault, server) {
    const button = el("button", {
      type: "button",
      class: "switch",
      "aria-label": `${fault.title}: ${server}`,
    });
    button.addEventListener("click", async () => {
      const on = button.getAttribute("aria-pressed") !== "true";
      button.disabled = true;
      try {
        await this.api.post(`api/v1/faults/${encodeURIComponent(fault.name)}`, { server, on });
        mark(button, "aria-pressed", on ? "true" : "false");
        say(button, on ? "on" : "off");
        say(byId("faults-error"), "");
        announce(`${fault.title} is ${on ? "on" : "off"} for ${server}`);
      } catch (error) {
        say(byId("faults-error"), error.message);
      } finally {
        button.disabled = false;
      }
    });
    return button;
  }
}
