// The service map: cards and arrows of the flows that are kept, laid out by dagre. It is laid out anew only when a card or an arrow came or went.
import { graphlib, layout } from "./dagre.js";
import { colourOf, count, fill, h, s } from "./dom.js";

const WIDTH = 236;
const LINE = 17;
const MOST_CALLS = 5;
const MOST_CARDS = 120;

/** Cards and arrows of flows: Map by card, Map by arrow and verdict. */
export function gather(flows, namespace) {
  const cards = new Map();
  const links = new Map();
  const card = (side) => {
    const found = cards.get(side.card) ?? { key: side.card, title: side.title, namespace: side.namespace ?? "", cluster: side.cluster ?? "", identity: side["identity-name"] ?? "", pods: new Set(), flows: 0, calls: new Map() };
    cards.set(side.card, found);
    if (side.pod) found.pods.add(side.pod);
    found.flows += 1;
    return found;
  };
  for (const flow of flows) {
    if (flow.http) note(cards, flow);
    if (!flow.link) continue;
    if (namespace && flow.source.namespace !== namespace && flow.destination.namespace !== namespace) continue;
    card(flow.source);
    const target = card(flow.destination);
    const kind = flow.verdict === "TRANSLATED" || flow.verdict === "TRACED" ? "FORWARDED" : flow.verdict;
    const key = `${flow.link} ${kind}`;
    const link = links.get(key) ?? { key, source: flow.source.card, target: target.key, verdict: kind, port: flow.destination.port ?? 0, protocol: flow.protocol ?? "", count: 0, newest: flow };
    link.count += 1;
    link.newest = flow;
    links.set(key, link);
    if (flow.http) call(target, flow.http);
  }
  return { cards, links };
}

function note(cards, flow) { if (flow.reply === true && flow.http.code && cards.has(flow.source.card)) call(cards.get(flow.source.card), flow.http); }

function call(card, http) {
  const key = `${http.method} ${http.path}`;
  const found = card.calls.get(key) ?? { key, codes: new Map(), count: 0 };
  found.count += 1;
  if (http.code) found.codes.set(http.code, (found.codes.get(http.code) ?? 0) + 1);
  card.calls.set(key, found);
}

export class ServiceMap {
  constructor(root, store, filters, { chooseFlow, chooseCard, emptyFor }) {
    Object.assign(this, { store, filters, chooseFlow, chooseCard, emptyFor, shape: "", view: { x: 0, y: 0, scale: 1 }, isOwnView: false });
    this.layer = s("g", {});
    this.svg = s("svg", { role: "group", "aria-label": "Service map" }, s("defs", {}, s("marker", { id: "tip", viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 7, markerHeight: 7, orient: "auto-start-reverse", markerUnits: "userSpaceOnUse" }, s("path", { class: "tip", d: "M0 0.5 8 4 0 7.5z" }))), this.layer);
    const tool = (text, label, act) => h("button", { type: "button", class: "quiet", "aria-label": label, onclick: act }, text);
    this.legend = h("div", { class: "legend" });
    this.frame = h("div", { class: "map" }, this.svg, this.legend, h("div", { class: "map-tools" }, tool("−", "Smaller", () => this.zoom(0.8)), tool("+", "Larger", () => this.zoom(1.25)), tool("Fit", "Fit the map into the window", () => { this.isOwnView = false; this.fit(); })));
    this.empty = h("div", { class: "page", hidden: true });
    this.counts = h("div", { class: "counts" });
    fill(root, h("h1", { class: "skip" }, "Service map"), this.frame, this.empty, this.counts);
    this.drag();
    this.forget = store.watch(() => this.later());
    this.resized = new ResizeObserver(() => { if (!this.isOwnView) this.fit(); });
    this.resized.observe(this.frame);
    this.update();
  }

  leave() { this.forget(); this.resized.disconnect(); clearTimeout(this.timer); this.timer = null; }

  /** A map that moves with every flow cannot be read: four times a second is enough. */
  later() { this.timer ??= setTimeout(() => { this.timer = null; this.update(); }, 250); }

  update() {
    const { cards, links } = gather(this.store.flows, this.filters.namespace);
    const shown = new Set([...cards.values()].sort((one, other) => other.flows - one.flows).slice(0, MOST_CARDS).map((card) => card.key));
    const arrows = [...links.values()].filter((link) => shown.has(link.source) && shown.has(link.target));
    const isEmpty = !cards.size;
    this.frame.hidden = isEmpty;
    this.empty.hidden = !isEmpty;
    if (isEmpty) { fill(this.empty, this.emptyFor()); fill(this.counts); return; }
    const nodes = [...shown].sort().map((key) => cards.get(key));
    const shape = nodes.map((card) => `${card.key}|${Math.min(card.calls.size, MOST_CALLS)}`).join("\n") + arrows.map((link) => link.key).sort().join("\n");
    if (shape !== this.shape) { this.shape = shape; this.place(nodes, arrows); }
    this.draw(nodes, arrows);
    if (!this.isOwnView) this.fit();
    const clusters = [...new Set(nodes.map((card) => card.cluster).filter(Boolean))].sort();
    fill(this.legend, h("span", { class: "ln FORWARDED" }, "forwarded"), h("span", { class: "ln DROPPED" }, "dropped"), clusters.map((name) => h("span", { class: `cl ${colourOf(name)}` }, name)));
    const hidden = cards.size - shown.size;
    fill(this.counts, h("span", {}, `${nodes.length} cards`), h("span", {}, `${arrows.length} arrows`), h("span", {}, `from ${count(this.store.flows.length)} flows`), hidden > 0 && h("span", {}, `${hidden} cards with the fewest flows are left out: choose a namespace`));
  }

  place(nodes, arrows) {
    const graph = new graphlib.Graph({ multigraph: true });
    const isNarrow = this.frame.clientWidth < 700;
    graph.setGraph({ rankdir: isNarrow ? "TB" : "LR", nodesep: 28, ranksep: isNarrow ? 64 : 130, edgesep: 18, marginx: 24, marginy: 24 });
    graph.setDefaultEdgeLabel(() => ({}));
    for (const card of nodes) graph.setNode(card.key, { width: WIDTH, height: this.heightOf(card) });
    for (const link of arrows) graph.setEdge(link.source, link.target, { width: 70, height: 16, labelpos: "c" }, link.key);
    layout(graph);
    this.at = new Map(nodes.map((card) => [card.key, graph.node(card.key)]));
    this.paths = new Map(arrows.map((link) => [link.key, graph.edge(link.source, link.target, link.key)]));
    this.size = graph.graph();
  }

  heightOf(card) { const calls = Math.min(card.calls.size, MOST_CALLS); return 74 + (calls ? 10 + calls * LINE : 0); }

  draw(nodes, arrows) {
    const focused = document.activeElement?.dataset?.key;
    this.titles = new Map(nodes.map((card) => [card.key, card.title]));
    const lines = arrows.map((link) => this.arrow(link));
    fill(this.layer, lines, nodes.map((card) => this.card(card)));
    if (focused) [...this.layer.children].find((element) => element.dataset.key === focused)?.focus();
  }

  arrow(link) {
    const path = this.paths.get(link.key);
    const points = path.points;
    const d = points.map((point, n) => (n === 0 ? `M${point.x} ${point.y}` : n === points.length - 1 ? `L${point.x} ${point.y}` : `Q${point.x} ${point.y} ${(point.x + points[n + 1].x) / 2} ${(point.y + points[n + 1].y) / 2}`)).join("");
    const port = link.port ? `${link.port}/${link.protocol}` : link.protocol;
    const name = `${link.verdict.toLowerCase()}: ${this.titleOf(link.source)} to ${this.titleOf(link.target)}, ${port}, ${link.count} flows`;
    const act = () => this.chooseFlow(link.newest);
    return s("g", { class: `link ${link.verdict}`, tabindex: 0, role: "button", "aria-label": name, "data-key": link.key, onclick: act, onkeydown: (event) => { if (event.key === "Enter") act(); } },
      s("title", {}, name), s("path", { class: "hit", d }), s("path", { class: "line", d, "marker-end": "url(#tip)" }),
      path.x === undefined ? null : s("text", { x: path.x, y: path.y + 4 }, `${port} · ${count(link.count)}`));
  }

  titleOf(key) { return this.titles.get(key) ?? key; }

  card(card) {
    const { x, y, height } = this.at.get(card.key);
    const left = x - WIDTH / 2;
    const top = y - height / 2;
    const where = card.namespace ? `${card.namespace} · ${card.pods.size || 1} pod${card.pods.size > 1 ? "s" : ""}` : card.identity;
    const act = () => this.chooseCard(card);
    const calls = [...card.calls.values()].sort((one, other) => other.count - one.count).slice(0, MOST_CALLS);
    return s("g", { class: `card ${colourOf(card.cluster)}`, tabindex: 0, role: "button", "aria-label": `${card.title}, ${where}${card.cluster ? `, cluster ${card.cluster}` : ""}`, "data-key": card.key, transform: `translate(${left} ${top})`, onclick: act, onkeydown: (event) => { if (event.key === "Enter") act(); } },
      s("title", {}, `${card.title}\n${where}${card.cluster ? `\ncluster ${card.cluster}` : ""}\n${card.identity}`),
      s("rect", { class: "face", width: WIDTH, height, rx: 9 }), s("rect", { class: "stripe", x: 0, y: 12, width: 4, height: height - 24, rx: 2 }),
      s("text", { x: 16, y: 26 }, cut(card.title, 25)), s("text", { class: "sub", x: 16, y: 44 }, cut(where, 32)), s("text", { class: "cluster", x: 16, y: 62 }, cut(card.cluster || "outside", 30)),
      calls.length ? s("line", { x1: 12, x2: WIDTH - 12, y1: 74, y2: 74 }) : null,
      calls.map((each, n) => s("text", { class: "call", x: 16, y: 92 + n * LINE }, cut(`${each.key}${each.codes.size ? ` ${[...each.codes.keys()].sort().join(" ")}` : ""}`, 31))));
  }

  fit() {
    if (!this.size?.width || !this.frame.clientWidth) return;
    const { clientWidth: width, clientHeight: height } = this.frame;
    const scale = Math.max(Math.min((width - 16) / this.size.width, (height - 90) / this.size.height, 1.15), width < 700 ? 0.6 : 0.22);
    this.view = { scale, x: Math.max((width - this.size.width * scale) / 2, 8), y: Math.max((height - 60 - this.size.height * scale) / 2, 8) };
    this.move();
  }

  move() { this.layer.setAttribute("transform", `translate(${this.view.x} ${this.view.y}) scale(${this.view.scale})`); }

  zoom(factor, x = this.frame.clientWidth / 2, y = this.frame.clientHeight / 2) {
    const scale = Math.max(0.15, Math.min(2.5, this.view.scale * factor));
    const ratio = scale / this.view.scale;
    this.view = { scale, x: x - (x - this.view.x) * ratio, y: y - (y - this.view.y) * ratio };
    this.isOwnView = true;
    this.move();
  }

  drag() {
    let from = null;
    this.svg.addEventListener("wheel", (event) => { event.preventDefault(); this.zoom(event.deltaY < 0 ? 1.12 : 0.89, event.offsetX, event.offsetY); }, { passive: false });
    this.svg.addEventListener("pointerdown", (event) => { if (event.target === this.svg) { from = { x: event.clientX - this.view.x, y: event.clientY - this.view.y }; this.svg.setPointerCapture(event.pointerId); this.svg.classList.add("moving"); } });
    this.svg.addEventListener("pointermove", (event) => { if (from) { this.view = { ...this.view, x: event.clientX - from.x, y: event.clientY - from.y }; this.isOwnView = true; this.move(); } });
    this.svg.addEventListener("pointerup", () => { from = null; this.svg.classList.remove("moving"); });
  }
}

function cut(text, most) { const all = [...text]; return all.length <= most ? text : `${all.slice(0, most - 1).join("")}…`; }
