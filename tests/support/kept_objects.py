# SPDX-License-Identifier: Apache-2.0
"""One cluster's Secrets and ConfigMaps in a dictionary, as commands about certificates ask for them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from certs import profile
from certs.authority import Authority
from certs.store import CertFiles, encode_data, secret_data
from kube.errors import Conflict
from kube.resource import Resource
from meshapi.installed import CA_SECRET, CLUSTER_NAME_KEY, CONFIG_MAP, PART_OF


class KeptObjects:
    """`kept` is every object by name, never changed in place by a call; `on_write` hears the name of each that was written."""

    def __init__(self, name: str, on_write: Callable[[str], None] = lambda _name: None) -> None:
        self.kept: dict[str, dict[str, Any]] = {CONFIG_MAP: {"data": {CLUSTER_NAME_KEY: name}}}
        self.on_write = on_write

    def install(self, old: Authority, wall_s: float) -> None:
        """The cluster has this authority, and every certificate of its own by it."""
        self.put(CA_SECRET, encode_data({"ca.crt": old.certificate_pem, "ca.key": old.key_pem}))
        for name, shape in profile.own_shapes("north", "ns", 365 * profile.DAY_S).items():
            made = old.issue(shape, wall_s)
            self.put(name, secret_data(CertFiles(old.certificate_pem, made.cert_pem, made.key_pem)))

    def put(self, name: str, data: dict[str, str]) -> None:
        """The object was there before anybody looked."""
        metadata = {"name": name, "namespace": "ns", "labels": dict(PART_OF), "resourceVersion": "0"}
        self.kept[name] = {"metadata": metadata, "data": data}

    def answer_headers(self, _path: str) -> dict[str, str]:
        return {}

    def get(self, _resource: Resource, name: str, _namespace: str) -> dict[str, Any] | None:
        return copy.deepcopy(self.kept.get(name))

    def replace(self, _resource: Resource, obj: dict[str, Any]) -> None:
        """Raises: Conflict if the object is not the one that is there any more."""
        name, version = obj["metadata"]["name"], obj["metadata"]["resourceVersion"]
        known = self.kept[name]["metadata"]["resourceVersion"]
        if version != known:
            raise Conflict("PUT", 409, "Conflict")
        self.kept[name] = {**obj, "metadata": {**obj["metadata"], "resourceVersion": str(int(known) + 1)}}
        self.on_write(name)

    def patch_merge(self, _resource: Resource, name: str, body: dict[str, Any], _namespace: str) -> None:
        before = self.kept[name]
        self.kept[name] = {**before, "data": {**before["data"], **body["data"]}}
        self.on_write(name)
