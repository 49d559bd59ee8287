# SPDX-License-Identifier: Apache-2.0
"""The walkthrough's application as manifests, and whether it runs."""

from __future__ import annotations

from tests.integration.devkube.harness import Served

CONFIG_MAP = """
apiVersion: v1
kind: ConfigMap
metadata:
  name: rebel-base-response
data:
  message: '{"Cluster": "Koornacht", "Planet": "N''Zoth"}'
"""
DEPLOYMENT = """
apiVersion: apps/v1
kind: Deployment
metadata:
  name: rebel-base
spec:
  selector:
    matchLabels: {name: rebel-base}
  replicas: 2
  template:
    metadata:
      labels: {name: rebel-base}
    spec:
      containers:
      - name: rebel-base
        image: docker.io/nginx:1.15.8
        ports: [{containerPort: 80}]
        env: [{name: COLOUR, value: red}]
        volumeMounts: [{name: html, mountPath: /usr/share/nginx/html/}]
        readinessProbe: {httpGet: {path: /, port: 80}}
      volumes:
      - name: html
        configMap: {name: rebel-base-response, items: [{key: message, path: index.html}]}
"""
SERVICE = """
apiVersion: v1
kind: Service
metadata:
  name: rebel-base
spec:
  type: ClusterIP
  ports: [{port: 80}]
  selector: {name: rebel-base}
"""


def is_rolled_out(served: Served, namespace: str) -> bool:
    deployment = served.cluster.get("deployments", "rebel-base", namespace, "apps")
    if deployment is None:
        return False
    status, spec = deployment.get("status", {}), deployment["spec"]
    done = status.get("observedGeneration") == deployment["metadata"]["generation"]
    pods = served.cluster.list("pods", namespace=namespace, label_selector="name=rebel-base")
    return bool(done and status.get("readyReplicas") == spec["replicas"] == len(pods))
