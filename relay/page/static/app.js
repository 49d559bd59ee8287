// The page: which view is shown, what is asked for, and what is said when there is nothing to show.
import { ask, byId, emptyState, fill, h } from "./dom.js";
import { closeDetail, showDetail } from "./detail.js";
import { address, drawFilters, readAddress, setNamespaces, showFilters } from "./filters.js";
import { FlowTable } from "./flowtable.js";
import { MeshView } from "./meshview.js";
import { ServiceMap } from "./servicemap.js";
import { ServicesView } from "./services.js";
import { Store } from "./store.js";
import { Stream } from "./stream.js";

const VIEWS = { map: "Service map", flows: "Flows", services: "Services", mesh: "Mesh" };
const store = new Store();
const stream = new Stream(store, hear);
const nodes = new Map();
let at = readAddress();
let shown = null;
let asked = null;
let live = { state: "connecting", message: "" };
let mesh = null;
let isPaused = false;

function hear(told) {
  if (told.nodes) {
    for (const name of told.nodes.nodes) nodes.set(name, told.nodes);
  } else {
    if (told.state === "live" && live.state !== "live") look();
    live = { message: "", ...told };
  }
  showLive();
  store.changed();
}

function showLive() {
  const state = isPaused ? "paused" : live.state;
  byId("live").dataset.state = state === "refused" ? "lost" : state;
  byId("live-text").textContent = { live: "live", lost: "reconnecting", connecting: "connecting", refused: "filter refused", paused: "paused" }[state];
  const away = [...nodes].filter(([, told]) => told.state === "unavailable" || told.state === "gone");
  const said = [];
  if (live.message && !isPaused) said.push(h("div", { class: "notice bad" }, live.message));
  if (away.length) said.push(h("div", { class: "notice" }, `No flows of ${away.map(([name]) => name).join(", ")}: ${away.length === 1 ? "the node does" : "the nodes do"} not answer.${away[0][1].message ? ` ${away[0][1].message}` : ""}`));
  fill(byId("notices"), said);
}

async function look() {
  try {
    mesh = await ask("state");
    byId("cluster").textContent = mesh.cluster;
    setNamespaces([...new Set(mesh.namespaces.map((row) => row.namespace))].filter(Boolean).sort());
    for (const node of mesh.nodes) if (node.state === "connected") nodes.delete(node.name); else if (!nodes.has(node.name)) nodes.set(node.name, { state: node.state, message: "" });
    showLive();
    if (!store.flows.length) store.changed();
  } catch { /* the stream says what is wrong */ }
}

/** Why nothing is shown. */
function emptyFor() {
  const filters = Object.entries(at.filters).filter(([name]) => name !== "clusters");
  if (live.state === "refused") return emptyState("This filter means nothing", [live.message]);
  if (live.state === "lost") return emptyState("No connection to the relay", [live.message]);
  if (!mesh || live.state === "connecting") return emptyState("Waiting for the relay", ["The page asks it for flows."]);
  const connected = mesh.nodes.filter((node) => node.state === "connected");
  if (!mesh.nodes.length) return emptyState("No node is known", [`The relay of ${mesh.cluster} has heard of no agent yet.`], h("code", {}, "clustermesh status"));
  if (!connected.length) return emptyState("No node answers", [`None of the ${mesh.nodes.length} nodes of ${mesh.cluster} can be asked for flows: ${mesh.nodes.map((node) => node.name).join(", ")}.`], h("code", {}, "clustermesh flows list"));
  const kept = connected.reduce((sum, node) => sum + node.flows, 0);
  if (filters.length) return emptyState("No flow matches the filters", [`${kept.toLocaleString("en")} flows are kept on ${connected.length} node${connected.length === 1 ? "" : "s"}; none of them has ${filters.map(([name, value]) => `${name} ${value}`).join(" and ")}. New ones appear here as they come.`], h("button", { type: "button", class: "button", onclick: () => change(null) }, "Clear the filters"));
  if (kept) return emptyState("Nothing to show yet", ["There are flows, but none that this view shows: answers and traces are in the table."], h("a", { href: address("flows", at.filters) }, "Show the table"));
  return emptyState("No flows yet", [`${connected.length} node${connected.length === 1 ? " answers" : "s answer"}, and no packet of a pod was seen. Flows appear here as soon as there is traffic.`]);
}

function change(name, value) {
  const filters = name === null ? {} : { ...at.filters, [name]: value };
  location.hash = address(at.view, filters);
}

function open() {
  if (isPaused) return;
  const query = new URLSearchParams(Object.entries(at.filters));
  if (asked === query.toString()) return;
  asked = query.toString();
  nodes.clear();
  store.clear();
  live = { state: "connecting", message: "" };
  showLive();
  stream.open(query);
}

function draw() {
  const before = at;
  at = readAddress();
  if (!(at.view in VIEWS)) at.view = "map";
  showFilters(at.filters);
  const isOfFlows = at.view === "map" || at.view === "flows";
  byId("filters").hidden = !isOfFlows;
  byId("pause").hidden = !isOfFlows;
  document.title = `${VIEWS[at.view]} · Clustermesh`;
  fill(byId("tabs"), Object.entries(VIEWS).map(([name, text]) => h("a", { href: address(name, name === "map" || name === "flows" ? at.filters : {}), "aria-current": name === at.view ? "page" : false }, text)));
  if (isOfFlows || !asked) open();
  const isSame = shown && before.view === at.view && before.rest.join("/") === at.rest.join("/");
  if (isSame && at.view === "flows") return;
  if (isSame && at.view === "map") { shown.filters = at.filters; shown.isOwnView = false; shown.update(); return; }
  shown?.leave();
  closeDetail();
  const view = byId("view");
  fill(view);
  view.scrollTop = 0;
  if (at.view === "flows") shown = new FlowTable(view, store, showDetail, emptyFor);
  else if (at.view === "mesh") shown = new MeshView(view);
  else if (at.view === "services") shown = new ServicesView(view, at.rest);
  else shown = new ServiceMap(view, store, at.filters, { chooseFlow: showDetail, chooseCard: (card) => { location.hash = address("flows", card.namespace && card.pods.size ? { ...at.filters, namespace: "", pod: `${card.namespace}/${[...card.pods].sort()[0]}` } : at.filters); }, emptyFor });
}

const THEMES = { auto: ["Auto", "as the system"], light: ["Light", "light"], dark: ["Dark", "dark"] };
function setTheme(name) {
  if (name === "auto") delete document.documentElement.dataset.theme; else document.documentElement.dataset.theme = name;
  byId("theme").textContent = THEMES[name][0];
  byId("theme").setAttribute("aria-label", `Colour scheme: ${THEMES[name][1]}`);
  byId("theme").value = name;
  try { localStorage.setItem("theme", name); } catch { /* a browser that keeps nothing */ }
}

byId("theme").addEventListener("click", () => { const names = Object.keys(THEMES); setTheme(names[(names.indexOf(byId("theme").value || "auto") + 1) % names.length]); });
byId("pause").addEventListener("click", () => {
  isPaused = !isPaused;
  byId("pause").setAttribute("aria-pressed", String(isPaused));
  byId("pause").textContent = isPaused ? "Resume" : "Pause";
  if (isPaused) stream.close(); else { asked = null; open(); }
  showLive();
});
addEventListener("keydown", (event) => {
  if (event.key === "Escape") closeDetail();
  const isTyping = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName) || event.ctrlKey || event.metaKey || event.altKey;
  if (isTyping) return;
  if (event.key === "/") { event.preventDefault(); byId("filter-pod").focus(); }
  const place = "1234".indexOf(event.key);
  if (place >= 0 && event.key.length === 1) location.hash = address(Object.keys(VIEWS)[place], at.filters);
});
addEventListener("hashchange", draw);
let theme = "auto";
try { theme = localStorage.getItem("theme") ?? "auto"; } catch { /* the same */ }
setTheme(theme in THEMES ? theme : "auto");
drawFilters(at.filters, change);
draw();
look();
setInterval(look, 10_000);
