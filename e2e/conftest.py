# SPDX-License-Identifier: Apache-2.0
"""Scenarios need root and a lab of their own, which is removed whatever happens."""

from __future__ import annotations

import os

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.lab)
        if os.geteuid() != 0:
            item.add_marker(pytest.mark.skip(reason="a lab needs root"))
