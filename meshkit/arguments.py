# SPDX-License-Identifier: Apache-2.0
"""Flags of a program: wrong use is one line on standard error that names what is wrong and where the flags are listed."""

from __future__ import annotations

import argparse
from typing import Final, NoReturn

WRONG_USE: Final = 2


class Arguments(argparse.ArgumentParser):
    """A parser that does not print every flag there is when one is wrong."""

    def error(self, message: str) -> NoReturn:
        """End the process."""
        text = " ".join(message.split()).rstrip(".")
        self.exit(WRONG_USE, f"Error: {text}. See {self.prog} --help.\n")
