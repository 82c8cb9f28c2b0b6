// Figures as people read them, and the few things that are done to the page.

/** @param {string} id */
export const by = (id) => document.getElementById(id);

/** Set a text only where it changed: a reader of the screen is not told twice, and a selection stays. */
export function say(element, text, level) {
  if (element.textContent !== text) element.textContent = text;
  if (element.dataset.level !== level) level ? (element.dataset.level = level) : delete element.dataset.level;
}

/** Whether a button does something. One that does not keeps the focus: it may do so again in a moment. */
export const allow = (button, is) => button.setAttribute("aria-disabled", String(!is));

/** Do it when a button is pressed that does something. */
export function pressed(button, then) {
  button.addEventListener("click", () => {
    if (button.getAttribute("aria-disabled") !== "true") then();
  });
}

/** An element with a text and children. */
export function make(name, { text, kind, children = [] } = {}) {
  const element = document.createElement(name);
  if (text !== undefined) element.textContent = text;
  if (kind) element.className = kind;
  element.append(...children);
  return element;
}

/** Replace the children of a list, only if what they say changed. */
export function list(element, things, row) {
  const known = JSON.stringify(things);
  if (element.known === known) return;
  element.known = known;
  element.replaceChildren(...things.map(row));
}

export const whole = (number) => Math.round(number).toLocaleString("en");

export function seconds(value) {
  if (value < 0.0995) return `${Math.round(value * 1000)} ms`;
  if (value < 9.95) return `${value.toFixed(1)} s`;
  if (value < 120) return `${Math.round(value)} s`;
  return value < 7200 ? `${Math.round(value / 60)} min` : `${(value / 3600).toFixed(1)} h`;
}

export const millis = (value) => (value < 9.95 ? `${value.toFixed(1)} ms` : seconds(value / 1000));

export function bytes(value) {
  const units = ["B", "KB", "MB", "GB", "TB"];
  let at = 0;
  for (; value >= 999.5 && at < units.length - 1; at += 1) value /= 1000;
  return `${value < 9.95 && at > 0 ? value.toFixed(1) : Math.round(value)} ${units[at]}`;
}

export const perSecond = (words) => (value) => `${words(value)}/s`;

export const counted = (count, one, many) => `${whole(count)} ${count === 1 ? one : many}`;

/** The other side. */
export const other = (side) => (side === "origin" ? "target" : "origin");
