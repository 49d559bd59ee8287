# SPDX-License-Identifier: Apache-2.0
"""The mesh's programs are asked with a token that they take, also after the account it belongs to was made anew."""

from __future__ import annotations

from typing import cast

import orjson
import pytest

from clustermesh_cli.program_client import ProgramClient
from kube.client import KubeClient
from kube.errors import Unauthorized
from kube.transport import LineStream, Transport
from meshapi.installed import TOKEN_HEADER


class Api:
    """An API server with one program behind it, which takes the newest token only, or none."""

    server = "https://scripted"

    def __init__(self) -> None:
        self.made, self.asked, self.takes_any = 0, 0, True

    def request(
        self, method: str, path: str, *, headers: dict[str, str] | None = None, **_: object
    ) -> tuple[int, bytes]:
        if path.endswith("/token"):
            self.made += 1
            return 201, orjson.dumps({"status": {"token": f"t{self.made}"}})
        self.asked += 1
        return (200, b"{}") if self._takes(headers or {}) else (401, b'{"message":"not valid"}')

    def stream(self, path: str, *, headers: dict[str, str], **_: object) -> LineStream:
        if not self._takes(headers):
            raise Unauthorized("GET", detail="not valid")
        return cast(LineStream, "lines")

    def _takes(self, headers: dict[str, str]) -> bool:
        return self.takes_any and headers[TOKEN_HEADER] == f"t{self.made}"


@pytest.fixture
def api() -> Api:
    return Api()


@pytest.fixture
def programs(api: Api) -> ProgramClient:
    return ProgramClient(KubeClient(cast(Transport, api), context="kind-north"), "kube-system")


def test_one_token_is_enough_for_all_questions(api: Api, programs: ProgramClient) -> None:
    assert [programs.get_apiserver("v1/status")[0], programs.get_agent("agent-1", "v1/status")[0]] == [200, 200]
    assert api.made == 1


def test_a_token_that_is_refused_is_made_anew(api: Api, programs: ProgramClient) -> None:
    programs.get_apiserver("v1/status")
    for remade in range(2, 5):
        api.made += 1  # the account is another one now
        assert programs.get_apiserver("v1/status")[0] == 200
        api.made += 1
        assert programs.get_agent("agent-1", "v1/status")[0] == 200
        api.made += 1
        assert programs.follow_apiserver("v1/kv/watch", {}, 1.0) == "lines"
        assert api.made == 1 + (remade - 1) * 6


def test_a_program_that_takes_no_token_is_asked_twice_and_no_more(api: Api, programs: ProgramClient) -> None:
    api.takes_any = False
    assert programs.get_apiserver("v1/status")[0] == 401
    assert (api.asked, api.made) == (2, 2)
    with pytest.raises(Unauthorized):
        programs.follow_apiserver("v1/kv/watch", {}, 1.0)
