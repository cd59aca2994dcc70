"""LMCache's asynchronous loading, under vLLM's default policy for loads that fail."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from .conftest import Prompts, Reference
from .failures import kill_server
from .relay import Moment
from .stack import Engine, Site, in_process

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def site(make_site: Callable[[], Site]) -> Site:
    return make_site()


@pytest.fixture(scope="module")
def engine(site: Site) -> Iterator[Engine]:
    """Its hashes are random: nobody else reads what it stores."""
    options = {"policy": None, "seed": None, "enable_async_loading": True}
    with in_process(site, "async", keeps=False, **options) as engine:
        yield engine


@pytest.mark.parametrize(
    ("name", "moment"),
    [
        ("async loading: killed in a load", Moment.PAYLOAD),
        ("async loading: killed before a load", Moment.REQUEST),
    ],
    ids=["in a load", "before a load"],
)
def test_a_server_that_is_killed(
    name: str,
    moment: Moment,
    site: Site,
    engine: Engine,
    prompts: Prompts,
    reference: Reference,
) -> None:
    """See ``kill_server``."""
    kill_server(name, moment, engine, site, prompts.others, reference)


def test_a_process_with_random_hashes_is_warned(engine: Engine) -> None:
    """It says so before the first request is answered."""
    said = engine.said_at_start
    assert "LMCache's hashes are RANDOM in this process" in said
    assert "PYTHONHASHSEED=0" in said
