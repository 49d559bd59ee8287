// Elements made of values. Text is only ever set as text: what a cluster says can be no markup.
const SVG = "http://www.w3.org/2000/svg";

function build(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true && !name.startsWith("aria-") ? "" : String(value));
  }
  element.append(...children.flat(3).filter((child) => child !== null && child !== undefined && child !== false).map((child) => (child instanceof Node ? child : String(child))));
  return element;
}

export const h = (tag, attributes, ...children) => build(document.createElement(tag), attributes, children);
export const s = (tag, attributes, ...children) => build(document.createElementNS(SVG, tag), attributes, children);
export const byId = (id) => document.getElementById(id);

export function fill(element, ...children) {
  element.replaceChildren(...children.flat(3).filter(Boolean));
  return element;
}

/** A number that people read: 1,234 or 12.3k. */
export function count(number) {
  return number < 10_000 ? number.toLocaleString("en") : `${(number / 1000).toFixed(number < 100_000 ? 1 : 0)}k`;
}

/** How long ago or how far ahead, in the largest unit that fits. */
export function span(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 100) return `${whole} s`;
  if (whole < 6000) return `${Math.round(whole / 60)} min`;
  if (whole < 172_800) return `${Math.round(whole / 3600)} h`;
  return `${Math.round(whole / 86_400)} days`;
}

export function clock(milliseconds) {
  return new Date(milliseconds).toISOString().slice(11, 23);
}

/** The same cluster has the same colour everywhere. */
const seen = new Map();
export function colourOf(cluster) {
  if (!cluster) return "";
  if (!seen.has(cluster)) seen.set(cluster, seen.size % 6);
  return `k${seen.get(cluster)}`;
}

export const cluster = (name) => (name ? h("span", { class: `cl ${colourOf(name)}`, title: `cluster ${name}` }, name) : null);
export const badge = (text, kind = "") => h("span", { class: `badge ${kind}` }, text);

export async function ask(path) {
  const answer = await fetch(path, { headers: { accept: "application/json" } });
  if (!answer.ok) {
    const text = await answer.text();
    let message = text.slice(0, 300);
    try { message = JSON.parse(text).message ?? JSON.parse(text).error ?? message; } catch { /* said as it is */ }
    throw Object.assign(new Error(message || `status ${answer.status}`), { status: answer.status });
  }
  return answer.json();
}

export function emptyState(title, lines, ...more) {
  const ring = s("svg", { viewBox: "0 0 48 48", fill: "none", stroke: "currentColor", "stroke-width": 2, "aria-hidden": "true" },
    s("circle", { cx: 11, cy: 17, r: 5 }), s("circle", { cx: 36, cy: 12, r: 5 }), s("circle", { cx: 25, cy: 36, r: 5 }),
    s("path", { d: "M16 16l15-3M14 21l8 11M34 17l-7 14", "stroke-dasharray": "3 4" }));
  return h("div", { class: "empty" }, ring, h("h1", {}, title), lines.map((line) => h("p", {}, line)), more);
}
