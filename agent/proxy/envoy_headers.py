# SPDX-License-Identifier: Apache-2.0
"""Actions on headers that are not as a rule names them: filters behind the one that judges, each for one action. Pure.

A filter is skipped for requests that its rule is not about, and for those whose header is as named. What is not skipped
is noted in the request's metadata, by the header's name. Source: Envoy's matching API.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from agent.proxy.envoy_message import typed
from meshpolicy.http_rule import HeaderAction, HttpRule

MISMATCHES: Final = "clustermesh.mismatches"
"""The metadata that notes them."""
_ANYTHING: Final = "(?s).*"
_APPEND: Final = {"ADD": "APPEND_IF_EXISTS_OR_ADD", "REPLACE": "OVERWRITE_IF_EXISTS_OR_ADD"}


def header_filters(rules: Iterable[HttpRule]) -> list[dict[str, Any]]:
    """In an order that equal rules have in common."""
    ordered = sorted((rule for rule in rules if rule.actions), key=repr)
    return [made for rule in ordered for action in rule.actions for made in _filters_of(rule, action)]


def _filters_of(rule: HttpRule, action: HeaderAction) -> Iterator[dict[str, Any]]:
    if action.action == "DELETE" and not action.value:
        return  # of a header that is not there
    skip = _skip(rule, action)
    yield _unless(skip, "note", typed("extensions.filters.http.set_metadata.v3.Config", metadata=[_note(action)]))
    if (mutation := _mutation(action)) is not None:
        mutations = {"request_mutations": [mutation]}
        yield _unless(
            skip, "change", typed("extensions.filters.http.header_mutation.v3.HeaderMutation", mutations=mutations)
        )


def _note(action: HeaderAction) -> dict[str, Any]:
    return {"metadata_namespace": MISMATCHES, "value": {action.name: action.action}, "allow_overwrite": True}


def _mutation(action: HeaderAction) -> dict[str, Any] | None:
    if action.action == "DELETE":
        return {"remove": action.name}
    if action.action not in _APPEND:
        return None
    header = {"key": action.name, "value": action.value.replace("%", "%%")}  # of formats
    return {
        "append": {"header": header, "append_action": _APPEND[action.action], "keep_empty_value": True},
    }


def _skip(rule: HttpRule, action: HeaderAction) -> dict[str, Any]:
    """Whether the request is none of the rule's, or has the header as it is named. One that is to be deleted must be there."""
    parts = ((":method", rule.method), (":path", rule.path), (":authority", rule.host))
    either = [_not(_value(name, {"safe_regex": _regex(text)})) for name, text in parts if text]
    either += [_not(_has(name, value)) for name, value in rule.headers]
    either.append(_has(action.name, action.value or None))
    if action.action == "DELETE":
        either.append(_not(_has(action.name, None)))
    return either[0] if len(either) == 1 else {"or_matcher": {"predicate": either}}


def _has(name: str, value: str | None) -> dict[str, Any]:
    return _value(name, {"safe_regex": _regex(_ANYTHING)} if value is None else {"exact": value})


def _value(name: str, match: Mapping[str, Any]) -> dict[str, Any]:
    given = {"name": name, "typed_config": typed("type.matcher.v3.HttpRequestHeaderMatchInput", header_name=name)}
    return {"single_predicate": {"input": given, "value_match": match}}


def _regex(text: str) -> dict[str, Any]:
    return {"google_re2": {}, "regex": text}


def _not(predicate: Mapping[str, Any]) -> dict[str, Any]:
    return {"not_matcher": predicate}


def _unless(skip: Mapping[str, Any], name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    action = {"name": "skip", "typed_config": typed("extensions.filters.common.matcher.action.v3.SkipFilter")}
    matcher = {"matcher_list": {"matchers": [{"predicate": skip, "on_match": {"action": action}}]}}
    extension = {"name": name, "typed_config": config}
    made = typed("extensions.common.matching.v3.ExtensionWithMatcher", extension_config=extension, xds_matcher=matcher)
    return {"name": name, "typed_config": made}
