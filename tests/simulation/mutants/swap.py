# SPDX-License-Identifier: Apache-2.0
"""How a wrong decision is put in the place of the product's."""

from __future__ import annotations


def swap(where: object, name: str, wrong: object) -> None:
    """`where` has this attribute, and now it is `wrong`. Raises: AttributeError where the product moved it away."""
    getattr(where, name)
    setattr(where, name, wrong)
