# SPDX-License-Identifier: Apache-2.0
"""Which cluster holds which id: one id belongs to one cluster, and ours to us. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from meshmodel.cluster_config import DEFAULT_MAXIMUM, VXLAN_PORT, ClusterConfig, check_peer_config
from meshmodel.errors import ModelError
from meshmodel.names import ClusterId, ClusterName


@dataclass(frozen=True, slots=True)
class Own:
    """The cluster this program belongs to; `maximum` is how many clusters its mesh may have, `vxlan_port` its overlay's."""

    name: ClusterName
    id: ClusterId
    maximum: int = DEFAULT_MAXIMUM
    vxlan_port: int = VXLAN_PORT


class Reservations:
    """Judges a cluster's configuration against ours and every other cluster's."""

    def __init__(self, own: Own) -> None:
        self._own = own
        self._taken: dict[ClusterId, ClusterName] = {}

    def accept(self, name: ClusterName, config: ClusterConfig) -> tuple[str, ...]:
        """The id is the cluster's from here on, its former one is free; returns warnings.

        Raises: ModelError saying what is wrong and what to change. The cluster keeps the id then if it held that one, because
        its records under it stay known; any other is free.
        """
        held = self._taken.get(config.id)
        self.release(name)
        try:
            return self._judge(name, config)
        except ModelError:
            if held == name:
                self._taken[config.id] = name
            raise

    def _judge(self, name: ClusterName, config: ClusterConfig) -> tuple[str, ...]:
        if name == self._own.name:
            if config.id != self._own.id:
                raise ModelError(f"{name}: our own store says cluster id {config.id}, we are set to {self._own.id}")
            if config.vxlan_port != self._own.vxlan_port:
                said = f"our own apiserver says VXLAN port {config.vxlan_port}, we are set to {self._own.vxlan_port}"
                return (f"{said}: peers go by the first; enable --set gives both programs the same",)
            return ()
        warnings = check_peer_config(
            config,
            peer=name,
            local_id=self._own.id,
            local_maximum=self._own.maximum,
            local_vxlan_port=self._own.vxlan_port,
            taken=self._taken,
        )
        self._taken[config.id] = name
        return warnings

    def release(self, name: ClusterName) -> None:
        """The cluster holds no id."""
        for cluster_id in [found for found, owner in self._taken.items() if owner == name]:
            del self._taken[cluster_id]
