// The side panel: one flow as a whole, and why it was decided so.
import { ask, badge, byId, clock, cluster, fill, h } from "./dom.js";

let latest = 0;
let before = null;

export function closeDetail() {
  const panel = byId("detail");
  if (panel.hidden) return;
  latest += 1;
  panel.hidden = true;
  fill(panel);
  before?.focus?.();
}

export async function showDetail(flow) {
  const panel = byId("detail");
  const mine = (latest += 1);
  if (panel.hidden) before = document.activeElement;
  panel.hidden = false;
  draw(panel, flow, null, "");
  try {
    const whole = await ask(`flow?${new URLSearchParams({ uuid: flow.id, node: flow.node })}`);
    if (mine === latest) draw(panel, flow, whole, "");
  } catch (error) {
    if (mine === latest) draw(panel, flow, null, error.message);
  }
}

function draw(panel, flow, whole, problem) {
  const why = whole?.why ?? [flow.reason ? `Dropped: ${flow.reason}.` : flow.summary || flow.type];
  const kind = { DROPPED: "bad", ERROR: "bad", FORWARDED: "good" }[flow.verdict] ?? "warn";
  const fields = [
    ["Time", `${new Date(flow.time).toISOString().slice(0, 10)} ${clock(flow.time)} UTC`], ["Node", flow.node], ["Seen as", flow.type],
    ["Direction", flow.direction], ["Protocol", flow.protocol], ["Service", flow.service], ["Summary", flow.summary],
    ["HTTP", flow.http && `${flow.http.method} ${flow.http.path}${flow.http.code ? ` → ${flow.http.code} in ${flow.http["latency-ms"] ?? 0} ms` : ""}`], ["DNS", flow.dns],
  ];
  fill(panel,
    h("header", {}, h("h1", {}, `${flow.source.title} → ${flow.destination.title}`), h("button", { type: "button", class: "quiet", onclick: closeDetail, "aria-label": "Close the flow" }, "Close")),
    h("div", {}, badge(flow.verdict, kind), flow.staged ? [" ", badge(`staged: ${flow.staged}`, flow.staged === "DROPPED" ? "bad" : "good")] : null),
    h("section", { "aria-label": "Why" }, h("h2", {}, "Why"), h("div", { class: `why ${flow.verdict}` }, why.map((line) => h("p", {}, line)), problem && h("p", {}, problem))),
    flow.rules?.length ? h("section", {}, h("h2", {}, "Rules that decided"), h("div", { class: "labels" }, flow.rules.map((rule) => h("code", {}, rule)))) : null,
    whole?.command ? h("section", {}, h("h2", {}, "Explain it in a terminal"), command(whole.command)) : null,
    whole?.suggestion ? h("section", {}, h("h2", {}, "A policy that would allow it"), h("pre", { tabindex: 0 }, whole.suggestion)) : null,
    side("Source", flow.source), side("Destination", flow.destination),
    h("section", {}, h("h2", {}, "Flow"), h("dl", {}, fields.filter(([, value]) => value).map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]))),
    whole ? h("section", {}, h("h2", {}, "Whole message"), h("pre", { tabindex: 0 }, JSON.stringify(whole.flow, null, 2))) : null);
}

function side(title, end) {
  return h("section", {}, h("h2", {}, title), h("dl", {},
    h("dt", {}, "Name"), h("dd", {}, end.name), end.cluster && [h("dt", {}, "Cluster"), h("dd", {}, cluster(end.cluster))],
    h("dt", {}, "Identity"), h("dd", {}, end["identity-name"] ?? String(end.identity ?? "")), end.ip && [h("dt", {}, "Address"), h("dd", { class: "mono" }, `${end.ip}${end.port ? ` port ${end.port}` : ""}`)],
    end.names?.length ? [h("dt", {}, "DNS names"), h("dd", {}, end.names.join(", "))] : null,
    end.labels?.length ? [h("dt", {}, "Labels"), h("dd", {}, h("div", { class: "labels" }, end.labels.map((label) => h("code", {}, label))))] : null));
}

function command(text) {
  const button = h("button", { type: "button", class: "button", onclick: async () => { await navigator.clipboard?.writeText(text); button.textContent = "Copied"; } }, "Copy");
  return h("div", { class: "command" }, h("pre", {}, text), button);
}
