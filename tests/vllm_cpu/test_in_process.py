"""What concerns LMCache's in-process mode alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from .conftest import Prompts, Reference, add_row
from .deployments import Site, in_process
from .failures import kill_server
from .relay import Moment
from .stack import Engine

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def site(make_site: Callable[[], Site]) -> Site:
    return make_site()


@pytest.fixture(scope="module")
def engine(site: Site) -> Iterator[Engine]:
    """LMCache loads asynchronously, and vLLM has its default policy for failures."""
    with in_process(
        site, "async", keeps=False, policy=None, enable_async_loading=True
    ) as engine:
        yield engine


@pytest.mark.parametrize(
    ("name", "moment"),
    [
        ("async loading: killed in a load", Moment.PAYLOAD),
        ("async loading: killed before a load", Moment.REQUEST),
    ],
    ids=["in a load", "before a load"],
)
def test_async_loading_and_a_server_that_is_killed(
    name: str,
    moment: Moment,
    site: Site,
    engine: Engine,
    prompts: Prompts,
    reference: Reference,
) -> None:
    """See ``kill_server``."""
    kill_server(name, moment, engine, site, prompts.others, reference)


def test_random_hashes_are_warned_of(site: Site, prompts: Prompts) -> None:
    """Before the first request: without PYTHONHASHSEED vLLM's own processes disagree
    about the keys already, and not even the same prompt again is a hit.  So is the
    default policy, that would end a request with an error."""
    with in_process(site, "random", seed=None, policy=None) as engine:
        said = engine.said()
        engine.generate(prompts.first)
        [again] = engine.generate(prompts.first).answers
    add_row("in-process: PYTHONHASHSEED not set", again.cached, "-", "-", "-", "-")
    assert "LMCache's hashes are RANDOM in this process" in said
    assert "PYTHONHASHSEED=0" in said
    assert 'kv_load_failure_policy is "fail"' in said
    assert again.cached == 0
