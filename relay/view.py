# SPDX-License-Identifier: Apache-2.0
"""What the page, and whoever else serves people, may ask of the relay."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Final, Protocol

from flows.proto import observer_pb2 as observer
from meshkit.errors import TransientError

OWN: Final[tuple[str, ...]] = ()
"""The clusters of a request that names none: this one."""
ALL: Final = ("all",)
"""This one, and every peer that granted it."""


class NotAskedError(TransientError):
    """A program did not answer; the text says which, and why."""


class MeshView(Protocol):
    """One cluster's relay. All of it runs on the program's event loop."""

    @property
    def cluster(self) -> str:
        """The name of this cluster."""

    def flows(
        self, request: observer.GetFlowsRequest, clusters: Sequence[str] = OWN
    ) -> AsyncGenerator[observer.GetFlowsResponse, None]:
        """Flows, lost events and changes of nodes' states as they come, until there are no more; a request that follows never
        ends. Close it (`aclose`) to stop.

        `clusters` are names, or ALL. Raises: FilterError, RequestError at the first step.
        """

    async def nodes(self) -> Sequence[observer.Node]:
        """Every node of this cluster by name, those that do not answer too."""

    async def namespaces(self) -> Sequence[tuple[str, str]]:
        """Cluster and namespace of the flows of the last hour, in this order."""

    async def ask_apiserver(self, path: str) -> bytes:
        """The JSON that this cluster's apiserver answers: `v1/status`, `v1/clusters`, `v1/services`, `v1/certs`.

        Raises: NotAskedError.
        """

    async def ask_agent(self, node: str, path: str) -> bytes:
        """The JSON that the agent of a node of this cluster answers: `v1/services/{namespace}/{name}`, `v1/policy/...`.

        Raises: NotAskedError.
        """
