# SPDX-License-Identifier: Apache-2.0
"""Messages as lines of JSON and back, with the names that fields have in the .proto files. Pure."""

from __future__ import annotations

from typing import Any, TypeVar

from google.protobuf import json_format
from google.protobuf.message import Message

from flows.errors import RequestError

M = TypeVar("M", bound=Message)


def json_line(message: Message) -> str:
    """One line, without its end."""
    return json_format.MessageToJson(message, preserving_proto_field_name=True, indent=None, ensure_ascii=False)


def members_of(message: Message) -> dict[str, Any]:
    """The message as plain data; a member that was not set and cannot say so is there with its zero."""
    return json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


def set_members_of(message: Message) -> dict[str, Any]:
    """The message as plain data, without the members that were not set."""
    return json_format.MessageToDict(message, preserving_proto_field_name=True)


def read_json(text: str | bytes, message: M, what: str) -> M:
    """The message with what the text says. Raises: RequestError, also for a field that it does not have."""
    try:
        return json_format.Parse(text, message, max_recursion_depth=20)
    except (json_format.ParseError, ValueError, RecursionError) as exc:
        raise RequestError(f"{what}: {str(exc)[:300]}") from exc
