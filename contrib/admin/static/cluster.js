// The cluster's page: its figures, its picture, its members and what to do to them.

import { ask } from "./dialog.js";
import { Latency, Spark, Timeline, figures } from "./charts.js";
import { announce, byId, count, el, keep, mark, say, span } from "./dom.js";
import { Picture, roleOf, wordOf } from "./picture.js";

const REMEMBERED = 60;
const EVENTS = 500;

export class ClusterPage {
  constructor(api) {
    this.api = api;
    this.picture = new Picture(byId("picture"));
    this.latency = new Latency(byId("latency"));
    this.timeline = new Timeline(byId("timeline"));
    this.census = null;
    this.peers = new Map();
    this.events = [];
    this.lags = new Map();
    byId("add").addEventListener("click", () => this.#add());
    byId("hand-over").addEventListener("click", () => this.#handOver());
    byId("snapshot-all").addEventListener("click", () => this.#snapshot());
  }

  // --- what the server says ----------------------------------------------------

  /** Take in what /members says. */
  count(census) {
    const before = this.census?.leader;
    this.census = census;
    this.draw();
    if (before !== undefined && before !== census.leader) {
      announce(census.leader ? `${census.leader} leads now` : "Nobody leads");
    }
  }

  /** Take in what /peers says; nothing if nobody who leads can be asked. */
  follow(peers) {
    this.peers = new Map(peers.map((peer) => [peer.server, peer]));
    if (this.census === null) return;
    this.#remember();
    this.draw();
  }

  /** Take in what /events says. */
  happened(events) {
    this.events = [...this.events, ...events].slice(-EVENTS);
    this.drawTimeline();
  }

  /** Forget all events: the server is another one, or began anew. */
  forget() {
    this.events = [];
  }

  /** Take in what /latency says. */
  took(seconds) {
    this.latency.draw(seconds);
  }

  #remember() {
    for (const { server, behind } of this.#members()) {
      const known = this.lags.get(server) ?? [];
      if (behind !== undefined) this.lags.set(server, [...known, behind].slice(-REMEMBERED));
    }
  }

  // --- what is shown -----------------------------------------------------------

  #members() {
    const { members, leader } = this.census;
    const end = this.#end();
    return members.map((member) => {
      const peer = member.server === leader ? undefined : this.peers.get(member.server);
      return {
        ...member,
        applied: member.last_applied,
        next: peer?.next_index,
        match: peer?.match_index ?? (member.server === leader ? member.last_index : undefined),
        inFlight: peer?.in_flight,
        behind: peer?.lag ?? lagOf(member, end),
        heard: peer?.silent_for,
      };
    });
  }

  #end() {
    return Math.max(0, ...this.census.members.map((each) => each.commit_index ?? 0));
  }

  draw() {
    if (this.census === null) return;
    const { leader } = this.census;
    const term = Math.max(0, ...this.census.members.map((each) => each.term ?? 0));
    const members = this.#members();
    const end = this.#end();
    this.picture.draw({ members, leader, term, end });
    const voters = members.filter((each) => each.standing === "voter");
    const reached = voters.filter((each) => each.reachable).length;
    figures(byId("figures"), [
      ["Leader", leader ?? "nobody"],
      ["Term", count(term)],
      ["Committed", count(end)],
      ["Voters that answer", `${reached} of ${voters.length}`],
      ["Can lose", losses(voters.length, reached)],
    ]);
    mark(byId("figures"), "data-state", leader ? null : "leaderless");
    this.#drawMembers(members, leader);
    byId("hand-over").disabled = leader === null || voters.length < 2;
    this.drawTimeline();
  }

  drawTimeline() {
    const names = (this.census?.members ?? []).map((each) => each.server);
    this.timeline.draw(this.events, Date.now() / 1000, names);
  }

  #drawMembers(members, leader) {
    keep(
      byId("members"),
      members,
      (member) => member.server,
      (member) => this.#row(member.server),
      (row, member) => this.#fill(row, member, leader),
    );
  }

  #row(server) {
    const button = (label, name, does) =>
      el(
        "button",
        { type: "button", "data-action": name, "aria-label": `${label}: ${server}`, onclick: does },
        label,
      );
    const spark = new Spark(`How far ${server} has been behind`);
    const cells = ["Member", "Role", "Term", "Applied", "Next", "Match", "In flight", "Behind", "Heard before"];
    const row = el(
      "tr",
      {},
      el("th", { scope: "row", "data-label": "Server" }, server, el("span", { class: "address" })),
      ...cells.map((label) => el("td", { "data-label": label })),
      el(
        "td",
        {},
        el(
          "div",
          { class: "actions" },
          button("Promote", "promote", () => this.#promote(server)),
          button("Transfer", "transfer", () => this.#transfer(server)),
          button("Snapshot", "snapshot", () => this.#snapshot(server)),
          button("Remove", "remove", () => this.#remove(server)),
        ),
      ),
    );
    for (const number of [3, 4, 5, 6, 7, 8, 9]) row.children[number].classList.add("number");
    row.children[2].append(el("span", { class: "role" }));
    row.children[8].append(spark.root, el("span"));
    row.spark = spark;
    return row;
  }

  #fill(row, member, leader) {
    const cells = row.children;
    mark(row, "data-role", roleOf(member));
    say(cells[1], member.standing);
    const role = cells[2].firstElementChild;
    say(role, wordOf(member));
    mark(role, "data-role", roleOf(member));
    mark(role, "title", member.error || null);
    const numbers = [member.term, member.applied, member.next, member.match, member.inFlight];
    numbers.forEach((number, place) => say(cells[3 + place], count(number)));
    row.spark.draw(this.lags.get(member.server) ?? []);
    say(cells[8].lastElementChild, count(member.behind));
    say(cells[9], span(member.heard));
    say(cells[0].lastElementChild, member.address);
    const isLeader = member.server === leader;
    for (const button of cells[10].firstElementChild.children) {
      const offered = {
        promote: member.standing === "learner",
        transfer: !isLeader && member.standing === "voter" && leader !== null,
        snapshot: member.reachable,
        remove: true,
      };
      button.hidden = !offered[button.dataset.action];
    }
  }

  // --- what can be done --------------------------------------------------------

  #ask(question) {
    ask({ refocus: byId("members-title"), ...question });
  }

  #add() {
    this.#ask({
      title: "Add a member",
      text: "It gets the log first, and votes as soon as it has caught up. It has to run already, or to be started soon, with a config that says join.",
      fields: [
        { name: "server", label: "Name" },
        { name: "address", label: "Address", hint: "for instance tcp:10.0.0.4:9101" },
        { name: "learner", label: "It never votes", type: "checkbox" },
      ],
      confirm: "Add",
      work: async ({ server, address, learner }) => {
        await this.api.post("api/v1/members", { server, address, learner });
        return `${server} is added`;
      },
    });
  }

  #promote(server) {
    this.#ask({
      title: `Promote ${server}?`,
      text: "It votes as soon as it has caught up.",
      confirm: "Promote",
      work: async () => {
        await this.api.post(`api/v1/members/${encodeURIComponent(server)}/promote`);
        return `${server} will vote`;
      },
    });
  }

  #remove(server) {
    this.#ask({
      title: `Remove ${server}?`,
      text: "It takes no part in the cluster any more. Stop its process afterwards.",
      confirm: "Remove",
      isDangerous: true,
      work: async () => {
        await this.api.delete(`api/v1/members/${encodeURIComponent(server)}`);
        return `${server} is removed`;
      },
    });
  }

  #transfer(server) {
    this.#ask({
      title: `Let ${server} lead?`,
      text: "The leader brings it up to date, and hands over. Writes wait for a moment.",
      confirm: "Transfer",
      work: async () => {
        await this.api.post("api/v1/transfer", { server });
        return `${server} leads now`;
      },
    });
  }

  #handOver() {
    this.#ask({
      title: "Hand over leadership?",
      text: "The leader chooses who leads next: who is furthest with the log. Writes wait for a moment.",
      confirm: "Hand over",
      work: async () => {
        await this.api.post("api/v1/transfer");
        return "Another server leads now";
      },
    });
  }

  #snapshot(server) {
    const whose = server === undefined ? "every member that answers" : server;
    this.#ask({
      title: server === undefined ? "Snapshot all?" : `Snapshot ${server}?`,
      text: `A snapshot is taken of the state of ${whose}, and what it covers of the log may be dropped.`,
      confirm: "Take a snapshot",
      work: async () => {
        const answer = await this.api.post("api/v1/snapshot", server === undefined ? {} : { servers: [server] });
        const failed = answer.filter((each) => each.error);
        if (failed.length) {
          throw new Error(failed.map((each) => `${each.server}: ${each.error}`).join("; "));
        }
        return "The snapshots are taken";
      },
    });
  }
}

/** Return how far *member* is behind, as far as it says so itself. */
function lagOf({ last_index: last }, end) {
  return typeof last === "number" ? Math.max(0, end - last) : undefined;
}

/** Say how many more voters may fail before the cluster stops. */
function losses(voters, reached) {
  const left = reached - (Math.floor(voters / 2) + 1);
  if (left < 0) return "stopped";
  return left === 0 ? "none" : `${left} more`;
}
