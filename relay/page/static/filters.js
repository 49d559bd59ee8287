// The filters, in the address of the page, so that a view can be kept and sent.
import { byId, fill, h } from "./dom.js";

const FIELDS = [
  { name: "verdict", label: "Verdict", options: [["", "any"], ["DROPPED", "dropped"], ["FORWARDED", "forwarded"], ["REDIRECTED", "redirected"], ["AUDIT", "audited"], ["TRANSLATED", "translated"]] },
  { name: "staged", label: "Staged", options: [["", "any"], ["DROPPED", "would drop"], ["FORWARDED", "would forward"], ["REDIRECTED", "would redirect"]] },
  { name: "namespace", label: "Namespace", options: [["", "all"]] },
  { name: "clusters", label: "Flows of", options: [["", "this cluster"], ["all", "all clusters"]] },
  { name: "pod", label: "Pod", hint: "default/x-wing", wide: true },
  { name: "label", label: "Label", hint: "app=web", wide: true },
  { name: "cluster", label: "Cluster", hint: "name" },
  { name: "port", label: "Port", hint: "80" },
  { name: "status", label: "HTTP", hint: "5+" },
  { name: "dns", label: "DNS", hint: "*.example.com", wide: true },
];
const NAMES = FIELDS.map((field) => field.name);

export function readAddress() {
  const [view = "map", query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const [name, ...rest] = view.split("/");
  const all = new URLSearchParams(query);
  const filters = Object.fromEntries(NAMES.filter((key) => all.get(key)).map((key) => [key, all.get(key)]));
  return { view: name || "map", rest: rest.map(decodeURIComponent), filters };
}

export function address(view, filters = {}) {
  const query = new URLSearchParams(Object.entries(filters).filter(([, value]) => value)).toString();
  return `#/${view}${query ? `?${query}` : ""}`;
}

export function drawFilters(filters, change) {
  let timer;
  const controls = FIELDS.map((field) => {
    const id = `filter-${field.name}`;
    const read = () => change(field.name, byId(id).value.trim());
    const later = () => { clearTimeout(timer); timer = setTimeout(read, 400); };
    const control = field.options
      ? h("select", { id, onchange: read }, field.options.map(([value, text]) => h("option", { value }, text)))
      : h("input", { id, type: "text", placeholder: field.hint, autocomplete: "off", spellcheck: "false", maxlength: 253, oninput: later });
    return h("div", { class: `field ${field.wide ? "wide" : ""}` }, h("label", { for: id }, field.label), control);
  });
  const clear = h("button", { type: "button", class: "quiet", id: "clear", onclick: () => change(null) }, "Clear");
  fill(byId("filters"), controls, clear);
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  showFilters(filters);
}

export function showFilters(filters) {
  for (const name of NAMES) {
    const control = byId(`filter-${name}`);
    const value = filters[name] ?? "";
    if (control.tagName === "SELECT" && ![...control.options].some((option) => option.value === value)) control.append(h("option", { value }, value));
    if (control !== document.activeElement || control.tagName === "SELECT") control.value = value;
    control.parentElement.classList.toggle("used", value !== "");
  }
  byId("clear").hidden = !Object.keys(filters).length;
}

export function setNamespaces(names) {
  const control = byId("filter-namespace");
  const known = new Set([...control.options].map((option) => option.value));
  for (const name of names) if (!known.has(name)) control.append(h("option", { value: name }, name));
}
