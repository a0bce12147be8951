// Events in words.

import { count } from "./dom.js";

/**
 * Return *event*, which happened to *server*, as the timeline shows it.
 *
 * Its `leader` is who led from then on, null for nobody; undefined if the event
 * says nothing about that.
 */
export function wordsOf(event, server) {
  return { key: String(event.seq), time: event.time, ...said(event, server) };
}

function said(event, server) {
  switch (event.what) {
    case "started":
      return { words: `${server} has started` };
    case "role":
      return changed(event, server);
    case "membership":
      return { words: membership(event) };
    case "transfer_failed":
      return { words: `${event.target} did not take over` };
    case "snapshot":
      return { words: `${server} took a snapshot at entry ${count(event.index)}` };
    case "restored":
      return { words: `${server} was sent a snapshot at entry ${count(event.index)}` };
    case "compacted":
      return { words: `${server} dropped the entries before ${count(event.first_index)}` };
    default:
      return { words: `${server}: ${event.what.replaceAll("-", " ")}` };
  }
}

function membership({ voters, learners, outgoing, index }) {
  const parts = [`voters ${(voters ?? []).join(", ")}`];
  if (learners?.length) parts.push(`learners ${learners.join(", ")}`);
  if (outgoing?.length) parts.push(`before ${outgoing.join(", ")}`);
  return `${parts.join("; ")} (entry ${count(index)})`;
}

function changed({ role, term, leader }, server) {
  const where = `in term ${count(term)}`;
  if (leader) return { words: `${leader} leads ${where}`, leader };
  return { words: `${server} is ${role} ${where}, nobody leads`, leader: null };
}
