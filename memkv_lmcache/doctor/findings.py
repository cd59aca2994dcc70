# SPDX-License-Identifier: Apache-2.0
"""A finding: what was looked at, how it is, and what mends it.  Imports nothing."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import NamedTuple


class Level(enum.IntEnum):
    """How bad it is: with a FAIL there is no RDMA, with a WARN it may be worse."""

    OK = 0
    NOTE = 1
    WARN = 2
    FAIL = 3


class Finding(NamedTuple):
    """One thing that was looked at.

    ``mend`` holds commands or settings, one a line; empty only where all is well.
    """

    level: Level
    subject: str
    text: str
    mend: str = ""

    def as_json(self) -> dict[str, str]:
        """As ``memkv doctor --json`` shows it."""
        level = self.level.name.lower()
        return {**self._asdict(), "level": level}


def ok(subject: str, text: str) -> Finding:
    """All is well."""
    return Finding(Level.OK, subject, text)


def trouble(level: Level, subject: str, text: str, mends: Iterable[str]) -> Finding:
    """Something to be mended, or to be known."""
    return Finding(level, subject, text, "\n".join(mends))


def has_failed(findings: Iterable[Finding]) -> bool:
    """Whether one of them means that there is no RDMA."""
    return any(finding.level is Level.FAIL for finding in findings)
