// The table of flows, newest first. Only the rows in sight are elements, so that thousands cost nothing.
import { clock, colourOf, count, fill, h } from "./dom.js";

const narrow = matchMedia("(max-width: 900px)");
const AHEAD = 8;

export class FlowTable {
  constructor(root, store, choose, emptyFor) {
    this.store = store;
    this.choose = choose;
    this.emptyFor = emptyFor;
    this.chosen = null;
    this.focused = null;
    this.rows = [];
    this.body = h("div", { role: "rowgroup" });
    const heads = ["Time (UTC)", "Source", "", "Destination", "Verdict", "Seen as", "Details"];
    this.grid = h("div", { class: "grid", role: "grid", "aria-label": "Flows, newest first", "aria-colcount": 7, tabindex: 0, onkeydown: (event) => this.key(event), onscroll: () => this.draw() },
      h("div", { role: "rowgroup" }, h("div", { class: "grid-head", role: "row" }, heads.map((text) => h("span", { role: "columnheader" }, text || h("span", { class: "skip" }, "Direction"))))),
      this.body);
    this.empty = h("div", { hidden: true, class: "page" });
    this.counts = h("div", { class: "counts" });
    fill(root, h("h1", { class: "skip" }, "Flows"), this.grid, this.empty, this.counts);
    this.forget = store.watch(() => this.update());
    this.resized = new ResizeObserver(() => this.draw());
    this.resized.observe(this.grid);
    this.update();
  }

  leave() { this.forget(); this.resized.disconnect(); }

  get height() { return narrow.matches ? 60 : 36; }
  get top() { return narrow.matches ? 0 : 34; }

  update() {
    const { flows } = this.store;
    const before = this.rows;
    this.rows = flows;
    // who reads further down keeps what is read in sight
    const first = this.grid.scrollTop > this.height && before.length ? this.newestShown : null;
    if (first) {
      const moved = flows.length - 1 - flows.indexOf(first) - (this.shownFrom ?? 0);
      if (moved > 0 && moved < flows.length) this.grid.scrollTop += moved * this.height;
    }
    const isEmpty = !flows.length;
    this.grid.hidden = isEmpty;
    this.empty.hidden = !isEmpty;
    if (isEmpty) fill(this.empty, this.emptyFor());
    this.draw();
    const dropped = flows.reduce((sum, row) => sum + (row.verdict === "DROPPED"), 0);
    fill(this.counts, h("span", {}, `${count(flows.length)} flows shown`), h("span", {}, `${count(dropped)} dropped`),
      this.store.total > flows.length && h("span", {}, `${count(this.store.total)} came; the newest ${count(flows.length)} are kept`),
      this.store.lost > 0 && h("span", { class: "verdict ERROR" }, `${count(this.store.lost)} events lost`));
  }

  draw() {
    const { height, rows } = this;
    const size = rows.length;
    const from = Math.max(0, Math.floor(this.grid.scrollTop / height) - AHEAD);
    const to = Math.min(size, Math.ceil((this.grid.scrollTop + this.grid.clientHeight) / height) + AHEAD);
    this.shownFrom = Math.floor(this.grid.scrollTop / height);
    this.newestShown = rows[size - 1 - this.shownFrom];
    this.grid.setAttribute("aria-rowcount", size + 1);
    this.body.style.height = `${size * height}px`;
    const drawn = [];
    for (let place = from; place < to; place += 1) drawn.push(this.row(rows[size - 1 - place], place));
    fill(this.body, drawn.length ? drawn : h("div", { role: "row" }, h("span", { role: "gridcell" })));
  }

  row(flow, place) {
    const isChosen = `${flow.node} ${flow.id}` === this.chosen;
    const details = flow.http ? `${flow.http.method} ${flow.http.path}${flow.http.code ? ` → ${flow.http.code}` : ""}` : flow.dns || flow.summary || "";
    const end = (side) => h("span", { class: "end", role: "gridcell", title: `${side.name}${side.cluster ? ` in ${side.cluster}` : ""} (${side["identity-name"] ?? ""})` },
      h("span", { class: `cl ${colourOf(side.cluster)}` }, side.cluster ?? ""), h("b", {}, side.name), side.port ? h("small", {}, `:${side.port}`) : null);
    const arrow = flow.reply === true ? "←" : flow.reply === false ? "→" : "↔";
    const [left, right] = flow.reply === true ? [flow.destination, flow.source] : [flow.source, flow.destination];
    const row = h("div", { class: `row ${flow.verdict === "DROPPED" ? "dropped" : ""}`, role: "row", id: `row-${place}`, "aria-rowindex": place + 2, "aria-selected": isChosen, onclick: () => this.pick(flow) },
      h("span", { class: "time", role: "gridcell" }, clock(flow.time)), end(left),
      h("span", { class: "arrow", role: "gridcell", "aria-label": flow.reply === true ? "answers" : "to" }, arrow), end(right),
      h("span", { class: `verdict ${flow.verdict}`, role: "gridcell" }, flow.verdict,
        flow.staged ? h("small", { class: `verdict ${flow.staged}`, title: "With the staged policies in force" }, ` staged: ${flow.staged}`) : null),
      h("span", { class: "type dim", role: "gridcell", title: flow.reason || flow.type }, flow.reason || flow.type),
      h("span", { class: "info dim mono", role: "gridcell", title: details }, details));
    row.style.top = `${this.top + place * this.height}px`;
    return row;
  }

  pick(flow) {
    this.chosen = `${flow.node} ${flow.id}`;
    this.choose(flow);
    this.draw();
  }

  key(event) {
    const size = this.rows.length;
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: 15, PageUp: -15, Home: -size, End: size };
    if (!(event.key in steps)) return;
    event.preventDefault();
    const at = this.rows.findIndex((row) => `${row.node} ${row.id}` === this.chosen);
    const place = (at < 0 ? -Math.sign(steps[event.key]) : size - 1 - at) + steps[event.key];
    const next = Math.max(0, Math.min(size - 1, place));
    const top = next * this.height;
    if (top < this.grid.scrollTop) this.grid.scrollTop = top;
    if (top + this.height + this.top > this.grid.scrollTop + this.grid.clientHeight) this.grid.scrollTop = top + this.height + this.top - this.grid.clientHeight;
    this.pick(this.rows[size - 1 - next]);
    this.grid.setAttribute("aria-activedescendant", `row-${next}`);
  }
}
