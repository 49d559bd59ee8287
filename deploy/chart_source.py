# SPDX-License-Identifier: Apache-2.0
"""The Helm chart under deploy/chart, written from the manifests and deploy/settings.yaml, which `clustermesh enable` reads too.

`python -m deploy.chart_source` writes it; a test compares both. Its CRDs are those of deploy/crds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

FOLDER: Final = Path(__file__).parent
CHART: Final = FOLDER / "chart"
LICENCE: Final = "# SPDX-License-Identifier: Apache-2.0\n"
HEAD: Final = f"{LICENCE}# Written by python -m deploy.chart_source: change deploy/manifests instead.\n"
_IMAGE: Final = '{{{{ .Values.images.{0} | default (printf "clustermesh/clustermesh-{0}:%s" .Chart.AppVersion) }}}}'
MARKS: Final = {
    "NAMESPACE": "{{ .Release.Namespace }}",
    "SERVICE_TYPE": "{{ .Values.serviceType }}",
    "CLUSTER_NAME": "{{ .Values.clusterName }}",
    "CLUSTER_ID": "{{ .Values.clusterId }}",
    "MAX_CONNECTED_CLUSTERS": "{{ .Values.maxConnectedClusters }}",
    "POLICY_DEFAULT_LOCAL_CLUSTER": "{{ .Values.policyDefaultLocalCluster }}",
    "APISERVER_IMAGE": _IMAGE.format("apiserver"),
    "AGENT_IMAGE": _IMAGE.format("agent"),
    "RELAY_IMAGE": _IMAGE.format("relay"),
    "CERTIFICATE_LIFETIME_S": "{{ int64 .Values.certificateLifetimeSeconds }}",
    "MIRROR": '{{ ternary "--mirror" "--no-mirror" .Values.mirror }}',
}
"""What each mark of the manifests is in a template."""
TYPES: Final = {"int": "integer", "float": "number", "bool": "boolean", "str": "string", "path": "string"}
HELPERS: Final = """\
{{- /* one setting as a flag takes it: lists by commas, whole numbers without an exponent */ -}}
{{- define "clustermesh.value" -}}
{{- if kindIs "slice" . }}{{ range $i, $one := . }}{{ if $i }},{{ end }}{{ include "clustermesh.value" $one }}{{ end }}
{{- else if and (kindIs "float64" .) (eq (floor .) .) }}{{ int64 . }}
{{- else }}{{ . }}{{ end }}
{{- end }}

{{- /* the flags of a program for its settings, by name */ -}}
{{- define "clustermesh.flags" -}}
{{- range $name, $value := . }}
{{- if kindIs "bool" $value }}
- {{ printf "--%s%s" (ternary "" "no-" $value) $name | quote }}
{{- else }}
- {{ printf "--%s=%s" $name (include "clustermesh.value" $value) | quote }}
{{- end }}
{{- end }}
{{- end }}
"""
CONFIG: Final = """\
# what the command reads of the cluster, and what `clustermesh enable` would keep
apiVersion: v1
kind: ConfigMap
metadata:
  name: clustermesh-config
  namespace: {{ .Release.Namespace }}
  labels:
    app.kubernetes.io/part-of: clustermesh
data:
  cluster-name: {{ .Values.clusterName | quote }}
  cluster-id: {{ .Values.clusterId | quote }}
  max-connected-clusters: {{ .Values.maxConnectedClusters | quote }}
  policy-default-local-cluster: {{ .Values.policyDefaultLocalCluster | quote }}
  enable-kvstoremesh: {{ .Values.mirror | quote }}
  enable-relay: {{ .Values.relay.enabled | quote }}
  certificate-lifetime-s: {{ int64 .Values.certificateLifetimeSeconds | quote }}
  {{- range $program := list "agent" "apiserver" "relay" }}
  {{- range $name, $value := omit (index $.Values $program) "enabled" }}
  {{ $program }}.{{ $name }}: {{ include "clustermesh.value" $value | quote }}
  {{- end }}
  {{- end }}
"""
VALUES: Final = """\
# Each is a flag of `clustermesh enable`; values.schema.json says what is allowed.
# the name of this cluster in the mesh (--cluster-name); required
clusterName: ""
# its number, 1 to 255 (or 511), which no other cluster of the mesh has (--cluster-id); required
clusterId: 0
# 255 or 511, the same in every cluster
maxConnectedClusters: 255
# how peers reach this cluster's store (--service-type)
serviceType: NodePort
# the port on every node (--node-port); with NodePort 32379 if not given
nodePort: null
# whether policies mean the own cluster where they name none
policyDefaultLocalCluster: true
# copies of peers' records in this cluster's own store, for its agents (--enable-kvstoremesh)
mirror: true
# how long a new certificate lasts (--certificate-lifetime)
certificateLifetimeSeconds: 31536000
relay:
  # merges the flows of all nodes and serves the page (--with-relay); its settings stand beside it
  enabled: false
images:
  # clustermesh/clustermesh-... of the chart's version if not given (--agent-image, --apiserver-image, --relay-image)
  agent: ""
  apiserver: ""
  relay: ""
# settings of the programs by the names of their flags (--set agent.NAME=VALUE), for example vxlan-port: 8473
agent: {}
apiserver: {}
"""
_LAST_ARGUMENT: Final = {
    "agent": "        - --local-etcd=https://clustermesh-apiserver.${NAMESPACE}.svc:2379\n",
    "apiserver": "        - --mirror-config-dir=/var/lib/cilium/clustermesh\n",
    "relay": "        - --namespace=${NAMESPACE}\n",
    "proxies": "        - --proxy-directory=/run/clustermesh\n",
}
_SETTINGS: Final = {
    "agent": ".Values.agent",
    "apiserver": ".Values.apiserver",
    # its own, and what it must know as the programs that it asks do
    "relay": (
        'merge (omit .Values.relay "enabled") (pick .Values.apiserver "default-global-namespace") '
        '(pick .Values.agent "flow-port")'
    ),
    # which Envoy, and what is logged, as the agent's
    "proxies": 'pick .Values.agent "envoy" "log-format" "log-level"',
}
_FLAGS: Final = """\
        {{{{- with {} }}}}
        {{{{- include "clustermesh.flags" . | trim | nindent 8 }}}}
        {{{{- end }}}}
"""
_STORE_PORT: Final = "  - name: etcd\n    port: 2379\n    targetPort: 2379\n    protocol: TCP\n"
_NODE_PORT: Final = """\
    {{- with .Values.nodePort | default (ternary 32379 nil (eq .Values.serviceType "NodePort")) }}
    nodePort: {{ . }}
    {{- end }}
"""


def write(version: str, fixed: Mapping[str, frozenset[str]]) -> dict[str, str]:
    """Every file of the chart by its path in it, but the CRDs. `fixed` are the settings by program that cannot be chosen."""
    chart = {
        "apiVersion": "v2",
        "name": "clustermesh",
        "type": "application",
        "version": version,
        "appVersion": version,
        "kubeVersion": ">=1.30.0-0",
        "description": "A multi-cluster service mesh for Kubernetes, wire-compatible with Cilium Cluster Mesh, beside any CNI",
    }
    templates = {path.stem: path.read_text(encoding="utf-8") for path in sorted((FOLDER / "manifests").glob("*.yaml"))}
    schema = values_schema(yaml.safe_load((FOLDER / "settings.yaml").read_text(encoding="utf-8")), fixed)
    return {
        "Chart.yaml": HEAD + yaml.safe_dump(chart, sort_keys=False, width=130),
        "values.yaml": HEAD + VALUES,
        "values.schema.json": json.dumps(schema, indent=1) + "\n",
        "templates/_flags.tpl": HELPERS,
        "templates/config.yaml": HEAD + CONFIG,
        **{f"templates/{name}.yaml": HEAD + template(name, text) for name, text in templates.items()},
    }


def template(name: str, manifest: str) -> str:
    """A manifest with its marks, its program's settings and the choices of values as Helm writes them."""
    text = manifest.removeprefix(LICENCE)
    if last := _LAST_ARGUMENT.get(name):
        before, found, after = text.rpartition(last)
        if not found:
            raise ValueError(f"deploy/manifests/{name}.yaml: the last argument is not {last.strip()}")
        text = f"{before}{last}{_FLAGS.format(_SETTINGS[name])}{after}"
    if name == "apiserver":
        text = text.replace(_STORE_PORT, _STORE_PORT + _NODE_PORT, 1)
    text = re.sub(r"\$\{(\w+)\}", lambda mark: MARKS[mark[1]], text)
    return f"{{{{- if .Values.relay.enabled }}}}\n{text}{{{{- end }}}}\n" if name == "relay" else text


def values_schema(settings: Mapping[str, Mapping[str, Any]], fixed: Mapping[str, frozenset[str]]) -> dict[str, Any]:
    """JSON schema of values.yaml; the programs' part is their settings."""
    programs = {
        program: _closed({name: _setting(known) for name, known in sorted(names.items()) if name not in fixed[program]})
        for program, names in settings.items()
    }
    programs["relay"]["properties"]["enabled"] = {"type": "boolean"}
    image = {"type": "string"}
    own = {
        "clusterName": {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", "maxLength": 32},
        "clusterId": {"type": "integer", "minimum": 1, "maximum": 511},
        "maxConnectedClusters": {"enum": [255, 511]},
        "serviceType": {"enum": ["NodePort", "LoadBalancer", "ClusterIP"]},
        "nodePort": {"type": ["integer", "null"], "minimum": 1, "maximum": 65535},
        "policyDefaultLocalCluster": {"type": "boolean"},
        "mirror": {"type": "boolean"},
        "certificateLifetimeSeconds": {"type": "integer", "minimum": 10},
        "images": _closed({"agent": image, "apiserver": image, "relay": image}),
        "global": {"type": "object"},
    }
    required = ["clusterName", "clusterId"]
    return {"$schema": "http://json-schema.org/draft-07/schema#", **_closed({**own, **programs}), "required": required}


def _closed(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "properties": dict(properties)}


def _setting(known: Mapping[str, Any]) -> dict[str, Any]:
    one = {"enum": known["choices"]} if "choices" in known else {"type": TYPES[known["type"]]}
    return {"type": "array", "items": one} if known.get("list") else one


def main() -> None:
    """Write the chart."""
    from clustermesh_cli.plan.program_settings import FIXED, OF_ENABLE
    from meshkit.version import program_version

    fixed = {program: FIXED[program] | OF_ENABLE[program] for program in FIXED}
    for name, text in write(program_version(), fixed).items():
        (CHART / name).parent.mkdir(parents=True, exist_ok=True)
        (CHART / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
