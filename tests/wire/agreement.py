"""Runs the C codec and the model side by side."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from wire.model import Refused

REFUSED = object()


def outcome(function: Callable[..., Any], *arguments: Any) -> Any:
    """The result, or REFUSED."""
    try:
        return function(*arguments)
    except Refused:
        return REFUSED


def agree(codec: Callable[..., Any], model: Callable[..., Any], *arguments: Any) -> Any:
    """What both say of the same arguments; an assertion fails if they differ."""
    answer = outcome(codec, *arguments)
    assert answer == outcome(model, *arguments)
    return answer
