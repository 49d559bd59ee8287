# SPDX-License-Identifier: Apache-2.0
"""The body of every answer that is not a success. Pure."""

from __future__ import annotations

import msgspec

from meshkit.decoding import decode_as
from meshkit.errors import MAXIMUM_TEXT


class Refusal(msgspec.Struct):
    """Why a request was not answered: what is wrong and, where there is one, the way out."""

    message: str


def read_refusal(body: bytes) -> str:
    """The message of a refusal; what stands there if it is none."""
    try:
        return decode_as(body, Refusal).message
    except msgspec.DecodeError:
        return body.decode("utf-8", "replace").strip()[:MAXIMUM_TEXT]
