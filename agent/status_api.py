# SPDX-License-Identifier: Apache-2.0
"""The agent's REST interface: each path typed by a struct of meshapi, OpenAPI at /openapi.json.

Here are the paths about the agent as a whole; each feature adds its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from fastapi import FastAPI, Query, Response
from fastapi.responses import PlainTextResponse

from agent.core import Core
from agent.exposition import collect_metrics
from agent.feature import Feature
from agent.reports import Reconcilers, agent_status, map_names, map_status_rows
from agent.tables import AgentDB
from agent.verification import add_verification_routes
from meshapi.agent import AgentStatus, MapEntry, MapStatus
from meshapi.installed import AGENT
from meshkit.http import make_app
from meshkit.rest import NotAnswered, Rest
from meshkit.table import snapshot
from meshkit.version import program_version

MAX_MAP_ENTRIES: Final = 100_000
SHOWN_BESIDE: Final = ("metrics", "endpoints_by_ifindex")


def make_api(core: Core, features: Sequence[Feature], reconcilers: Reconcilers) -> FastAPI:
    """The application that serves one agent's state."""
    app = make_app(AGENT, program_version(), core.health, core.registry)
    core.registry.add_source(lambda: collect_metrics(core, features, reconcilers))
    rest = Rest(app)

    @rest.get("/v1/status", AgentStatus, tag="status")
    async def status() -> AgentStatus:
        """The whole agent."""
        return agent_status(core, features, reconcilers, program_version())

    add_verification_routes(rest, core, features, reconcilers)
    _add_tables(rest, core.db)
    _add_maps(rest, core, reconcilers)
    for feature in features:
        feature.add_routes(rest)
    return app


def _add_tables(rest: Rest, db: AgentDB) -> None:
    @rest.get_stream("/v1/tables", str, "text/plain", tag="tables", errors={404: "no such table"})
    async def tables(name: str = "") -> Response:
        """Every table as deterministic text, or the one of this name."""
        found = sorted((t for t in db.tables if name in ("", t.name)), key=lambda t: t.name)
        if not found:
            raise NotAnswered(404, f"no table {name}; there are: {', '.join(sorted(t.name for t in db.tables))}")
        return PlainTextResponse(snapshot(found))


def _add_maps(rest: Rest, core: Core, reconcilers: Reconcilers) -> None:
    @rest.get("/v1/maps", list[MapStatus], tag="maps")
    async def maps() -> list[MapStatus]:
        """Entries and limits of every map."""
        return map_status_rows(core, reconcilers)

    @rest.get("/v1/maps/{name}", list[MapEntry], tag="maps", errors={404: "no such map"})
    async def entries(name: str, limit: int = Query(MAX_MAP_ENTRIES, ge=1, le=MAX_MAP_ENTRIES)) -> list[MapEntry]:
        """What the kernel holds now, as key and value."""
        shown = (*map_names(core.maps), *SHOWN_BESIDE)
        if name not in shown:
            raise NotAnswered(404, f"no map {name}; there are: {', '.join(shown)}")
        return _map_entries(getattr(core.maps, name), limit)


def _map_entries(kernel_map: Any, limit: int) -> list[MapEntry]:
    found = []
    for key, value in kernel_map.items():
        found.append(MapEntry(key._asdict(), value._asdict()))
        if len(found) >= limit:
            break
    return sorted(found, key=lambda entry: str(entry.key))
