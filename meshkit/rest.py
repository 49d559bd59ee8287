# SPDX-License-Identifier: Apache-2.0
"""Typed routes: what a handler returns is what the OpenAPI document says, errors and query parameters included."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from functools import wraps
from http import HTTPStatus
from typing import Any, Final, ParamSpec, TypeVar

import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import StreamingResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from meshkit.refusal import Refusal

JSON: Final = "application/json"
_P = ParamSpec("_P")
_T = TypeVar("_T")


class NotAnswered(HTTPException):
    """Raised by a handler to refuse: the status code and a message for a person."""

    def __init__(self, status_code: int, message: str) -> None:
        super().__init__(status_code, message)


class StrictRoute(APIRoute):
    """A route that refuses query parameters it does not know, naming those it knows, and one that is given twice."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler of FastAPI, asked only when every query parameter is known, and given once."""
        answer = super().get_route_handler()
        known = sorted(field.alias for field in self.dependant.query_params)

        async def answer_known(request: Request) -> Response:
            unknown = sorted(set(request.query_params) - set(known))
            if unknown:
                may = f"there are: {', '.join(known)}" if known else "this path has none"
                return refuse(HTTPStatus.BAD_REQUEST, f"unknown query parameter {', '.join(unknown)}; {may}")
            counts = Counter(name for name, _ in request.query_params.multi_items())
            if doubled := sorted(name for name, count in counts.items() if count > 1):
                return refuse(HTTPStatus.BAD_REQUEST, f"query parameter {', '.join(doubled)} is given more than once")
            return await answer(request)

        return answer_known


class Rest:
    """Adds typed routes to an application and writes its OpenAPI document from their types."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        self._answers: dict[str, tuple[Any, str]] = {}
        self._errors: dict[str, Mapping[int, str]] = {}
        app.add_exception_handler(RequestValidationError, _refuse_invalid)
        app.add_exception_handler(HTTPException, _refuse_raised)
        app.openapi = self.document  # type: ignore[method-assign]

    def get(
        self, path: str, answer: type[_T], *, tag: str, errors: Mapping[int, str] | None = None
    ) -> Callable[[Callable[_P, Awaitable[_T]]], Callable[_P, Awaitable[Response]]]:
        """The decorated handler answers GET `path` with JSON of `answer`, or raises NotAnswered with one of `errors`."""
        return self._register("get", path, answer, tag, errors)

    def post(
        self, path: str, answer: type[_T], *, tag: str, errors: Mapping[int, str] | None = None
    ) -> Callable[[Callable[_P, Awaitable[_T]]], Callable[_P, Awaitable[Response]]]:
        """The same for POST `path`, which is nowhere also read: the handler changes something. Guard lets none through."""
        return self._register("post", path, answer, tag, errors)

    def _register(
        self, method: str, path: str, answer: type[_T], tag: str, errors: Mapping[int, str] | None
    ) -> Callable[[Callable[_P, Awaitable[_T]]], Callable[_P, Awaitable[Response]]]:
        self._answers[path], self._errors[path] = (answer, JSON), errors or {}

        def register(handler: Callable[_P, Awaitable[_T]]) -> Callable[_P, Awaitable[Response]]:
            @wraps(handler)
            async def encoded(*args: _P.args, **kwargs: _P.kwargs) -> Response:
                return json_response(await handler(*args, **kwargs))

            encoded.__signature__ = _resolved(handler)  # type: ignore[attr-defined]
            self._app.api_route(path, methods=[method.upper()], tags=[tag], response_model=None)(encoded)
            return encoded

        return register

    def get_stream(
        self, path: str, line: Any, media: str, *, tag: str, errors: Mapping[int, str] | None = None
    ) -> Callable[[Callable[_P, Awaitable[Response]]], Callable[_P, Awaitable[Response]]]:
        """The decorated handler makes its own response to GET `path`: lines (or events) of `line`, of type `media`."""
        self._answers[path], self._errors[path] = (line, media), errors or {}

        def register(handler: Callable[_P, Awaitable[Response]]) -> Callable[_P, Awaitable[Response]]:
            self._app.get(path, tags=[tag], response_model=None, response_class=StreamingResponse)(handler)
            return handler

        return register

    def document(self) -> dict[str, Any]:
        """The OpenAPI document; equal programs give equal documents."""
        if self._app.openapi_schema:
            return self._app.openapi_schema
        found = get_openapi(title=self._app.title, version=self._app.version, routes=self._app.routes)
        paths = sorted(self._answers)
        types = [*(self._answers[path][0] for path in paths), Refusal]
        schemas, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
        refusal = {JSON: {"schema": schemas[-1]}}
        for path, schema in zip(paths, schemas[:-1], strict=True):
            (operation,) = found["paths"][path].values()
            media = self._answers[path][1]
            responses: dict[str, Any] = {
                "200": {"description": "Successful Response", "content": {media: {"schema": schema}}}
            }
            texts = dict(self._errors[path])
            if operation.get("parameters"):
                texts.setdefault(400, "a parameter cannot be read")
            texts.setdefault(400, "a query parameter is not known")
            for code in sorted(texts):
                responses[str(code)] = {"description": texts[code], "content": refusal}
            operation["responses"] = responses
        for path in set(found["paths"]) - set(paths):  # health and metrics: FastAPI has another idea of a refusal
            answers = found["paths"][path]["get"]["responses"]
            answers.pop("422", None)
            answers["400"] = {
                "description": "a query parameter is not known, is given twice, or cannot be read",
                "content": refusal,
            }
        found["components"] = {"schemas": dict(sorted(components.items()))}
        self._app.openapi_schema = found
        return found


def json_response(value: object, status_code: int = 200) -> Response:
    """A msgspec struct (or plain data) as JSON, without passing through pydantic; equal values give equal bytes."""
    body = msgspec.json.encode(value, order="deterministic")
    return Response(body, status_code=status_code, media_type=JSON)


def refuse(status_code: int, message: str) -> Response:
    """An answer that says no."""
    return json_response(Refusal(message), status_code)


def _resolved(handler: Callable[..., Any]) -> inspect.Signature:
    """The parameters with their types; what the handler returns is no business of FastAPI."""
    signature = inspect.signature(handler, eval_str=True)
    return signature.replace(return_annotation=inspect.Signature.empty)


async def _refuse_invalid(_request: Request, exc: Exception) -> Response:
    assert isinstance(exc, RequestValidationError)
    problems = (f"{'.'.join(str(part) for part in error['loc'][1:])}: {error['msg']}" for error in exc.errors())
    return refuse(HTTPStatus.BAD_REQUEST, "; ".join(problems))


async def _refuse_raised(_request: Request, exc: Exception) -> Response:
    assert isinstance(exc, HTTPException)
    answer = refuse(exc.status_code, str(exc.detail))
    answer.headers.update(exc.headers or {})  # Allow, of a method that a path does not have
    return answer
