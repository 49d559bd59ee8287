// Global services: which backends a client on one node is led to, in which cluster, and why not to the others.
import { ask, badge, cluster, emptyState, fill, h } from "./dom.js";
import { scrolled } from "./meshview.js";

export class ServicesView {
  constructor(root, [namespace, name]) {
    Object.assign(this, { root, namespace, name });
    this.update();
    this.timer = setInterval(() => this.update(), 5000);
  }

  leave() { clearInterval(this.timer); this.isLeft = true; }

  async update() {
    let answer, service, problem = "";
    try {
      answer = await ask("services");
      problem = answer.problem;
      const first = globals(answer.services ?? [])[0];
      if (!this.name && first) [this.namespace, this.name] = split(first[0]);
      if (this.name) service = await ask(`services/${encodeURIComponent(this.namespace)}/${encodeURIComponent(this.name)}`);
    } catch (error) { problem = error.message; }
    if (this.isLeft) return;
    const rows = globals(answer?.services ?? []);
    const at = this.root.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
    if (!rows.length && !service) {
      fill(this.root, h("div", { class: "page" }, problem ? emptyState("Services cannot be shown", [problem]) : emptyState("No global service", ["A Service that has the annotation below in several clusters is answered by the pods of all of them."], h("code", {}, "service.cilium.io/global: \"true\""))));
      return;
    }
    const list = h("nav", { class: "list", "aria-label": "Global services" }, rows.map(([full, frontends]) => {
      const [namespace, name] = split(full);
      return h("a", { href: `#/services/${encodeURIComponent(namespace)}/${encodeURIComponent(name)}`, "aria-current": namespace === this.namespace && name === this.name ? "true" : false }, full, badge(`${new Set(frontends.flatMap((row) => row.backends.map((backend) => backend.cluster))).size} clusters`));
    }));
    fill(this.root, h("div", { class: "page" }, h("div", { class: "page-head" }, h("h1", {}, "Global services"), h("p", {}, answer?.node ? `as node ${answer.node} leads its clients` : "")),
      h("div", { class: "split" }, list, h("div", { class: "page-section" }, service ? explain(service) : null, problem && h("p", { class: "notice bad" }, problem)))));
    if (at) this.root.querySelector(`[href="${CSS.escape(at)}"]`)?.focus();
  }
}

function globals(services) {
  const found = new Map();
  for (const row of services) if (row.global && row.name) found.set(row.name, [...(found.get(row.name) ?? []), row]);
  return [...found].sort(([one], [other]) => one.localeCompare(other));
}

function split(full) { const at = full.indexOf("/"); return [full.slice(0, at), full.slice(at + 1)]; }

function explain(service) {
  return h("article", { class: "panel" }, h("header", {}, h("h2", {}, service.name), h("span", { class: "labels" }, badge(service.shared ? "shared" : "not shared", service.shared ? "good" : "warn"), badge(`affinity ${service.affinity}`))),
    h("p", {}, service.rule), (service.problems ?? []).map((problem) => h("p", { class: "problem" }, problem)),
    service.frontends.map((front) => h("section", {}, h("h3", {}, `${front.frontend} · ${front.type}`), scrolled(`Candidates of ${front.frontend}`, ["Backend", "Cluster", "Health", "New connections", "Why"],
      front.backends.map((backend) => [h("span", { class: "mono" }, `${backend.address}:${backend.port}`), cluster(backend.cluster), badge(backend.state, backend.state === "active" ? "good" : "warn"), share(backend), backend.reason || (backend.chosen ? "chosen" : "not chosen")])))));
}

function share(backend) {
  if (!backend.chosen) return badge("none");
  return h("span", {}, h("meter", { class: "share", min: 0, max: 1, value: backend.share, "aria-label": "share of new connections" }), `${Math.round(backend.share * 100)} %`);
}
