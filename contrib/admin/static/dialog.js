// The one dialog: it asks before something is done, and for who one is.

import { announce, byId, el, say } from "./dom.js";

const dialog = byId("dialog");
let current = null;

/**
 * Ask whether to go on; then do it.
 *
 * *question* has a title, a text, fields (name, label, type, value, optional,
 * choices), the word of the button, and `work`, which gets the fields' values
 * and returns what to announce.  What it throws is shown, and the dialog stays.
 */
export function ask(question) {
  current = question;
  say(byId("dialog-title"), question.title);
  say(byId("dialog-text"), question.text ?? "");
  say(byId("dialog-error"), "");
  say(byId("dialog-confirm"), question.confirm);
  byId("dialog-confirm").classList.toggle("danger", Boolean(question.isDangerous));
  byId("dialog-confirm").disabled = false;
  byId("dialog-cancel").hidden = Boolean(question.mustAnswer);
  byId("dialog-fields").replaceChildren(...(question.fields ?? []).map(field));
  if (!dialog.open) dialog.showModal();
  const first = byId("dialog-fields").querySelector("input, select");
  (first ?? byId(question.isDangerous ? "dialog-cancel" : "dialog-confirm")).focus();
}

function field({ name, label, type = "text", value = "", choices, hint }) {
  const id = `field-${name}`;
  const described = hint ? { "aria-describedby": `${id}-hint` } : {};
  if (type === "checkbox") {
    const box = el("input", { id, name, type, checked: Boolean(value) });
    return el("div", { class: "check" }, box, el("label", { for: id }, label));
  }
  const input = choices
    ? el("select", { id, name }, ...choices.map(option))
    : el("input", { id, name, type, value, autocomplete: "off", spellcheck: "false", ...described });
  const notes = hint ? [el("p", { class: "note", id: `${id}-hint` }, hint)] : [];
  return el("div", { class: "field" }, el("label", { for: id }, label), input, ...notes);
}

function option({ value, label }) {
  return el("option", { value }, label);
}

function values() {
  const found = {};
  for (const input of byId("dialog-fields").querySelectorAll("input, select")) {
    found[input.name] = input.type === "checkbox" ? input.checked : input.value.trim();
  }
  return found;
}

function missing(given) {
  return (current.fields ?? []).find(
    ({ name, type, optional, choices }) =>
      type !== "checkbox" && !optional && !choices && given[name] === "",
  );
}

async function confirm() {
  const question = current;
  const given = values();
  const lacking = missing(given);
  if (lacking) {
    say(byId("dialog-error"), `${lacking.label} is missing.`);
    byId(`field-${lacking.name}`).focus();
    return;
  }
  byId("dialog-confirm").disabled = true;
  say(byId("dialog-error"), "");
  try {
    const done = await question.work(given);
    question.isAnswered = true;
    if (question === current) dialog.close();
    if (done) announce(done);
  } catch (error) {
    if (question === current) say(byId("dialog-error"), error.message);
  } finally {
    if (question === current) byId("dialog-confirm").disabled = false;
  }
}

byId("dialog-form").addEventListener("submit", (event) => {
  event.preventDefault();
  confirm();
});
byId("dialog-cancel").addEventListener("click", () => dialog.close());
dialog.addEventListener("cancel", (event) => {
  if (current?.mustAnswer) event.preventDefault();
});
dialog.addEventListener("close", () => {
  const question = current;
  current = null;
  // A browser lets nobody be caught: a second Escape closes it all the same.
  if (question?.mustAnswer && !question.isAnswered) {
    ask(question);
    return;
  }
  // The row whose button was pressed may be gone by now.
  if (document.activeElement === document.body || document.activeElement === null) {
    (question?.refocus ?? byId("main")).focus();
  }
});
