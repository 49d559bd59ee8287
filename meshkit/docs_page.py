# SPDX-License-Identifier: Apache-2.0
"""A program's OpenAPI document as one page for people: no script, nothing fetched from elsewhere, readable offline."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any, Final

_STYLE: Final = (
    "body{font:15px/1.5 sans-serif;max-width:62em;margin:2em auto;padding:0 1em;color:#222}"
    "code{background:#f2f2f2;padding:0 .3em}h3{margin:1.6em 0 .2em}table{border-collapse:collapse;margin:.4em 0}"
    "td,th{border:1px solid #ddd;padding:.2em .6em;text-align:left;vertical-align:top}"
)


def render_docs(document: Mapping[str, Any]) -> str:
    """The page. Everything that comes from the document is escaped."""
    info = document["info"]
    title = escape(f"{info['title']} {info['version']}")
    body = "".join([*_paths(document["paths"]), *_schemas(document.get("components", {}).get("schemas", {}))])
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
        f'<h1>{title}</h1><p>For programs: <a href="openapi.json">openapi.json</a>.</p>{body}</html>\n'
    )


def _paths(paths: Mapping[str, Any]) -> Iterable[str]:
    by_tag: dict[str, list[str]] = {}
    for path, item in paths.items():
        for method, operation in item.items():
            tag = (operation.get("tags") or ["other"])[0]
            by_tag.setdefault(tag, []).append(_operation(method, path, operation))
    for tag, found in sorted(by_tag.items()):
        yield f"<h2>{escape(tag)}</h2>"
        yield from found


def _operation(method: str, path: str, operation: Mapping[str, Any]) -> str:
    parameters = [
        (f"{p['name']}{'' if p.get('required') else '?'}", p["in"], _type(p.get("schema") or {}))
        for p in operation.get("parameters") or ()
    ]
    answers = [
        (code, escape(answer.get("description", "")), _content(answer.get("content") or {}))
        for code, answer in operation["responses"].items()
    ]
    return (
        f"<h3><code>{escape(method.upper())} {escape(path)}</code></h3>"
        f"<p>{escape(operation.get('description', ''))}</p>"
        + _table(("parameter", "in", "type"), [(escape(name), where, kind) for name, where, kind in parameters])
        + _table(("code", "when", "answer"), answers)
    )


def _schemas(schemas: Mapping[str, Any]) -> Iterable[str]:
    if schemas:
        yield "<h2>Shapes</h2>"
    for name, schema in schemas.items():
        required = schema.get("required") or ()
        rows = [
            (escape(field + ("" if field in required else "?")), _type(found))
            for field, found in (schema.get("properties") or {}).items()
        ]
        words = escape(schema.get("description", ""))
        kind = "" if rows else _type(schema)
        yield f'<h3 id="{escape(name)}"><code>{escape(name)}</code></h3><p>{words} {kind}</p>{_table(("field", "type"), rows)}'


def _content(content: Mapping[str, Any]) -> str:
    return "; ".join(f"{escape(media)}: {_type(found.get('schema') or {})}" for media, found in content.items())


def _type(schema: Mapping[str, Any]) -> str:
    if "$ref" in schema:
        name = escape(str(schema["$ref"]).rpartition("/")[2])
        return f'<a href="#{name}">{name}</a>'
    if "anyOf" in schema:
        return " or ".join(_type(inner) for inner in schema["anyOf"])
    if "enum" in schema:
        return " or ".join(escape(repr(value)) for value in schema["enum"])
    kind = escape(str(schema.get("type", "anything")))
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items') or {})}"
    if isinstance(schema.get("additionalProperties"), Mapping):
        return f"{kind} of {_type(schema['additionalProperties'])}"
    bounds = [f"{word} {schema[key]}" for key, word in (("minimum", "from"), ("maximum", "to")) if key in schema]
    return " ".join([kind, *bounds])


def _table(head: Iterable[str], rows: Sequence[tuple[str, ...]]) -> str:
    if not rows:
        return ""
    lines = [
        "".join(f"<th>{name}</th>" for name in head),
        *("".join(f"<td>{cell}</td>" for cell in row) for row in rows),
    ]
    return "<table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"
