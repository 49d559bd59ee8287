// The mesh: this cluster, the peers with their sessions, certificates, and the nodes whose flows are asked for.
import { ask, badge, cluster, count, fill, h, span } from "./dom.js";

const STATES = { ready: "good", syncing: "warn", connecting: "warn", waiting: "warn", disconnected: "bad", refused: "bad", withdrawn: "warn" };
const NODES = { connected: "good", unavailable: "bad", gone: "bad", error: "bad" };

export class MeshView {
  constructor(root) {
    this.root = root;
    this.update();
    this.timer = setInterval(() => this.update(), 5000);
  }

  leave() { clearInterval(this.timer); this.isLeft = true; }

  async update() {
    let mesh, state;
    try {
      [mesh, state] = await Promise.all([ask("mesh"), ask("state")]);
    } catch (error) {
      if (!this.isLeft && !this.drawn) fill(this.root, h("div", { class: "page" }, h("h1", {}, "Mesh"), h("p", {}, `The relay cannot answer: ${error.message}`)));
      return;
    }
    if (this.isLeft) return;
    this.drawn = true;
    const status = mesh.status ?? {};
    const now = Date.now() / 1000;
    const peers = status.peers ?? [];
    const certificates = mesh.certificates ?? [];
    const scroll = this.root.scrollTop;
    fill(this.root, h("div", { class: "page" },
      h("div", { class: "page-head" }, h("h1", {}, "Mesh"), h("p", {}, `${state.cluster} and ${peers.length} peer${peers.length === 1 ? "" : "s"}`)),
      mesh.problem && h("p", { class: "notice bad" }, `The publisher of ${state.cluster} did not answer: ${mesh.problem}`),
      h("section", { class: "cards", "aria-label": "Clusters" }, own(state, status), peers.map((peer) => card(peer, now))),
      h("section", { class: "page-section" }, h("h2", {}, "Nodes that are asked for flows"), nodes(state.nodes)),
      certificates.length ? h("section", {}, h("h2", {}, "Certificates"), certificateTable(certificates, now)) : null));
    this.root.scrollTop = scroll;
  }
}

function facts(rows) { return h("dl", {}, rows.filter(([, value]) => value !== undefined && value !== null && value !== "").map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])); }

function own(state, status) {
  const published = Object.entries(status.published ?? {}).filter(([, number]) => number).map(([kind, number]) => `${count(number)} ${kind}`).join(", ");
  return h("article", { class: "panel" }, h("header", {}, h("h2", {}, cluster(status.cluster || state.cluster)), status.cluster ? badge(status.ready ? "ready" : "not ready", status.ready ? "good" : "bad") : badge("unknown", "warn")),
    facts([["Role", "this cluster"], ["Id", status["cluster-id"]], ["Publishes", published], ["Read by", readers(status.sessions ?? []) || (status.cluster ? "nobody now" : "")], ["Version", status.version], ["etcd", status["etcd-version"]]]),
    (status.problems ?? []).map((problem) => h("p", { class: "problem" }, problem)));
}

// Who holds sessions, each name once.
function readers(sessions) {
  const held = new Map();
  for (const { name } of sessions) held.set(name, (held.get(name) ?? 0) + 1);
  return [...held].map(([name, number]) => number > 1 ? `${name} (${number} sessions)` : name).join(", ");
}

function some(number, one, many) {
  return `${count(number)} ${number === 1 ? one : many}`;
}

function card(peer, now) {
  const services = [some(peer["num-shared-services"], "service", "services"), some(peer["num-nodes"], "node", "nodes"), some(peer["num-endpoints"], "address", "addresses"), some(peer["num-identities"], "identity", "identities")].join(", ");
  const left = peer["cert-not-after"] ? peer["cert-not-after"] - now : null;
  return h("article", { class: "panel" }, h("header", {}, h("h2", {}, cluster(peer.name)), badge(peer.state, STATES[peer.state] ?? "warn")),
    facts([["Session", peer["session-since"] ? `for ${span(now - peer["session-since"])}` : "none"], ["Data", peer.age === null || peer.age === undefined ? "" : `${span(peer.age)} old`], ["Publishes", services],
      ["Round trip", peer.rtt ? `${(peer.rtt * 1000).toFixed(1)} ms` : ""], ["Certificate", left === null ? "" : left > 0 ? `valid for ${span(left)}` : "expired"], ["Failures", peer["num-failures"] ? count(peer["num-failures"]) : ""]]),
    peer.state !== "ready" && (peer.reason || peer["last-error"]) ? h("p", { class: "problem" }, peer.reason || peer["last-error"]) : null, (peer.warnings ?? []).map((warning) => h("p", {}, warning)));
}

function nodes(rows) {
  if (!rows.length) return h("p", { class: "dim" }, "No node is known: the relay has not heard of any agent.");
  return scrolled("Nodes", ["Node", "State", "Flows kept", "Seen"], rows.map((row) => [row.name, badge(row.state, NODES[row.state] ?? "warn"), row.capacity ? `${count(row.flows)} of ${count(row.capacity)}` : "–", row.capacity ? count(row.seen) : "–"]));
}

function certificateTable(rows, now) {
  return scrolled("Certificates", ["Role", "Subject", "Issuer", "Ends"], rows.map((row) => [row.role, row["subject-cn"], row.issuer, row["not-after"] > now ? badge(`in ${span(row["not-after"] - now)}`, row["not-after"] - now < 604_800 ? "warn" : "") : badge("expired", "bad")]));
}

export function scrolled(label, heads, rows) {
  return h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": label }, h("table", {}, h("thead", {}, h("tr", {}, heads.map((head) => h("th", { scope: "col" }, head)))), h("tbody", {}, rows.map((cells) => h("tr", {}, cells.map((cell) => h("td", {}, cell)))))));
}
