// Making and changing elements.  Whatever comes from a server goes into text
// nodes and attributes only: nothing is ever parsed as HTML.

const SVG = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);

/** Return a new element with these attributes and children. */
export function el(tag, attributes = {}, ...children) {
  return dress(document.createElement(tag), attributes, children);
}

/** Return a new element of a drawing. */
export function svg(tag, attributes = {}, ...children) {
  return dress(document.createElementNS(SVG, tag), attributes, children);
}

function dress(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

/** Let *element* say *text*, and touch nothing if it does already. */
export function say(element, text) {
  const wanted = text == null ? "" : String(text);
  if (element.textContent !== wanted) element.textContent = wanted;
}

/** Set an attribute, or drop it, if that changes anything. */
export function mark(element, name, value) {
  if (value === false || value == null) {
    element.removeAttribute(name);
    return;
  }
  const wanted = value === true ? "" : String(value);
  if (element.getAttribute(name) !== wanted) element.setAttribute(name, wanted);
}

/**
 * Let *parent* have one child for each item, in order.
 *
 * A child stays the same element as long as its item is there, so that
 * whoever has the focus in it keeps it.
 */
export function keep(parent, items, keyOf, make, update) {
  const known = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  let place = parent.firstElementChild;
  for (const item of items) {
    const key = String(keyOf(item));
    let child = known.get(key);
    if (child === undefined) {
      child = make(item);
      child.dataset.key = key;
    }
    known.delete(key);
    if (child === place) place = place.nextElementSibling;
    else parent.insertBefore(child, place);
    update?.(child, item);
  }
  for (const child of known.values()) {
    const hadFocus = child.contains(document.activeElement);
    child.remove();
    // Whoever works by keyboard goes on nearby, not at the top of the page.
    if (hadFocus) parent.closest("section")?.querySelector("[tabindex='-1']")?.focus();
  }
}

const numbers = new Intl.NumberFormat("en-US");

/** Return *number* for people; a dash if there is none. */
export function count(number) {
  return typeof number === "number" ? numbers.format(number) : "–";
}

/** Return a time span in a unit that suits it. */
export function span(seconds) {
  if (typeof seconds !== "number") return "–";
  if (seconds === 0) return "0 s";
  if (seconds < 0.001) return `${Math.round(seconds * 1e6)} µs`;
  if (seconds < 0.1) return `${(seconds * 1e3).toFixed(1)} ms`;
  if (seconds < 1) return `${Math.round(seconds * 1e3)} ms`;
  if (seconds < 100) return `${seconds.toFixed(1)} s`;
  if (seconds < 6000) return `${Math.round(seconds / 60)} min`;
  return `${Math.round(seconds / 3600)} h`;
}

let last = "";

/** Tell those who listen instead of looking. */
export function announce(text) {
  if (text === last) return;
  last = text;
  say(byId("said"), text);
}
