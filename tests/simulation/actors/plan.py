# SPDX-License-Identifier: Apache-2.0
"""What actors know: names that may exist, and steps that are due later, such as the end of a fault."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from tests.simulation.steps import Step
from tests.simulation.world import CLUSTER_NAMES, Shape

NAMESPACES: Final = ("default", "shop")
SERVICES: Final = ("web", "db")
TENANT: Final = "aaa"
"""A Service whose name comes before the others'."""
PODS: Final = ("web-1", "web-2", "db-1", "db-2")
FOCUS_SHARE: Final = 0.6
"""How often what is done is done to the one application that the history is about."""


@dataclass(slots=True)
class Plan:
    """One history in the making. `focus` is the namespace and name of the Service that most of it is about."""

    rng: random.Random
    shape: Shape
    focus: tuple[str, str] = ("default", "web")
    later: list[tuple[int, Step]] = field(default_factory=list)
    length: int = 0

    @property
    def clusters(self) -> tuple[str, ...]:
        return CLUSTER_NAMES[: self.shape.clusters]

    def cluster(self) -> str:
        return self.rng.choice(self.clusters)

    def pair(self) -> tuple[str, str]:
        a, b = self.rng.sample(self.clusters, 2)
        return a, b

    def node(self, cluster: str) -> str:
        return f"{cluster}-{self.rng.randrange(self.shape.nodes)}"

    def process(self) -> str:
        cluster = self.cluster()
        return f"{cluster}-apiserver" if self.rng.random() < 0.4 else self.node(cluster)

    def service(self) -> tuple[str, str]:
        """Namespace and name."""
        if self.rng.random() < FOCUS_SHARE:
            return self.focus
        return self.rng.choice(NAMESPACES), self.rng.choice(SERVICES)

    def pod(self) -> tuple[str, str]:
        """Namespace and name."""
        namespace, app = self.service()
        return namespace, self.rng.choice([name for name in PODS if name.startswith(app)])

    def after(self, steps: int, what: Step) -> None:
        """The step is taken so many steps from now."""
        self.later.append((self.length + steps, what))

    def due(self) -> Iterator[Step]:
        now = [each for each in self.later if each[0] <= self.length]
        self.later = [each for each in self.later if each[0] > self.length]
        for _, what in now:
            yield what
