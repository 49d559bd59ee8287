# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import re

import httpx
import msgspec
from fastapi import Query, Response
from fastapi.responses import PlainTextResponse

from meshkit.clock import ManualClock
from meshkit.health import Health
from meshkit.http import make_app
from meshkit.metrics import Registry
from meshkit.refusal import read_refusal
from meshkit.rest import NotAnswered, Rest
from tests.support.openapi import check_typed


class Ewok(msgspec.Struct, rename="kebab"):
    tree_house: str
    spears: dict[str, int]


def client() -> httpx.AsyncClient:
    app = make_app("test", "1.0", Health(ManualClock()), Registry("mesh", process=False))
    rest = Rest(app)

    @rest.get("/v1/ewoks", list[Ewok], tag="ewoks", errors={404: "no such tree"})
    async def ewoks(tree: str = "", limit: int = Query(5, ge=1)) -> list[Ewok]:
        """Everybody in a tree."""
        if tree == "none":
            raise NotAnswered(404, "no tree none")
        return [Ewok(tree or "oak", {"b": limit, "a": 0})]

    @rest.get_stream("/v1/drums", Ewok, "application/x-ndjson", tag="ewoks")
    async def drums() -> Response:
        """What is heard."""
        return PlainTextResponse("boom\n")

    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")


async def test_an_answer_is_the_struct_with_sorted_maps() -> None:
    async with client() as http:
        assert (await http.get("/v1/ewoks")).text == '[{"tree-house":"oak","spears":{"a":0,"b":5}}]'


async def test_unknown_query_parameters_are_refused_with_the_known_ones() -> None:
    async with client() as http:
        refused = await http.get("/v1/ewoks?limits=3&z=1")
        assert refused.status_code == 400
        assert read_refusal(refused.content) == "unknown query parameter limits, z; there are: limit, tree"
        assert read_refusal((await http.get("/v1/drums?x=1")).content).endswith("this path has none")
        assert (await http.get("/readyz?verbos")).status_code == 400


async def test_a_query_parameter_given_twice_is_refused_and_not_half_of_it_taken() -> None:
    async with client() as http:
        refused = await http.get("/v1/ewoks?limit=3&tree=oak&limit=4")
        assert refused.status_code == 400
        assert read_refusal(refused.content) == "query parameter limit is given more than once"
        assert (await http.get("/readyz?verbose&verbose")).status_code == 400


async def test_every_error_is_a_refusal() -> None:
    async with client() as http:
        invalid = await http.get("/v1/ewoks?limit=0")
        assert (invalid.status_code, read_refusal(invalid.content)[:6]) == (400, "limit:")
        raised = await http.get("/v1/ewoks?tree=none")
        assert (raised.status_code, read_refusal(raised.content)) == (404, "no tree none")
        assert read_refusal((await http.get("/v1/wookiees")).content) == "Not Found"
        assert read_refusal((await http.post("/v1/ewoks")).content) == "Method Not Allowed"


async def test_a_method_that_a_path_lacks_is_refused_with_those_that_it_has() -> None:
    async with client() as http:
        for answer in (await http.post("/v1/ewoks"), await http.delete("/metrics")):
            assert (answer.status_code, answer.headers["allow"]) == (405, "GET")


async def test_a_path_with_a_slash_too_many_is_no_path() -> None:
    async with client() as http:
        for path in ("/v1/ewoks/", "/healthz/", "/docs/"):
            refused = await http.get(path)
            assert (refused.status_code, read_refusal(refused.content)) == (404, "Not Found")


async def test_the_document_says_what_is_answered_and_what_is_refused() -> None:
    async with client() as http:
        document = (await http.get("/openapi.json")).json()
        check_typed(document)
        ewoks = document["paths"]["/v1/ewoks"]["get"]
        content = ewoks["responses"]["200"]["content"]["application/json"]
        assert content == {"schema": {"type": "array", "items": {"$ref": "#/components/schemas/Ewok"}}}
        assert sorted(ewoks["responses"]) == ["200", "400", "404"]
        refusal = ewoks["responses"]["404"]["content"]["application/json"]["schema"]
        assert refusal == {"$ref": "#/components/schemas/Refusal"}
        assert set(document["components"]["schemas"]) == {"Ewok", "Refusal"}
        assert set(document["components"]["schemas"]["Ewok"]["properties"]) == {"tree-house", "spears"}
        stream = document["paths"]["/v1/drums"]["get"]["responses"]["200"]["content"]
        assert stream == {"application/x-ndjson": {"schema": {"$ref": "#/components/schemas/Ewok"}}}


async def test_the_page_for_people_names_every_path_and_fetches_nothing() -> None:
    async with client() as http:
        answer = await http.get("/docs")
        assert answer.headers["content-type"].startswith("text/html")
        document = (await http.get("/openapi.json")).json()
        for path in document["paths"]:
            assert f"<code>GET {path}</code>" in answer.text
        for text in ("Everybody in a tree.", "no such tree", 'id="Ewok"', "integer from 1", "tree-house"):
            assert text in answer.text
        assert not re.search(r"<script|<link|<img|https?:|@import|url\(", answer.text)
        assert (await http.get("/redoc")).status_code == 404


async def test_health_and_metrics_are_documented_as_they_answer() -> None:
    async with client() as http:
        paths = (await http.get("/openapi.json")).json()["paths"]
        for path in ("/healthz", "/readyz", "/metrics"):
            answer = await http.get(path)
            documented = paths[path]["get"]["responses"][str(answer.status_code)]["content"]
            assert answer.headers["content-type"].partition(";")[0] in documented, path
            assert (await http.get(path, params={"nonsense": 1})).status_code == 400
            assert "400" in paths[path]["get"]["responses"]
