"""A fresh vLLM starts warm from what another one stored, in both of LMCache's modes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest
from support import wait_until

from .conftest import TOLERANCE, Prompts, Reference, add_row, distance
from .deployments import CHUNK, Site, in_process, multi_process
from .failures import kill_server
from .relay import Moment
from .stack import Engine, Run

pytestmark = pytest.mark.timeout(900)

Deploy = Callable[..., contextlib.AbstractContextManager[Engine]]
DEPLOYMENTS: dict[str, Deploy] = {
    "in-process": in_process,
    "multi-process": multi_process,
}


@pytest.fixture(scope="module", params=DEPLOYMENTS)
def mode(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture(scope="module")
def site(mode: str, make_site: Callable[[], Site]) -> Site:
    """One for each mode."""
    return make_site()


@pytest.fixture(scope="module")
def warm(mode: str, site: Site, prompts: Prompts) -> Run:
    """What a warm cache says about the first prompt, in the deployment that stored all.

    Of that one nothing is left but what the MemKV server has.
    """
    stored = [prompts.first, *prompts.others]
    with DEPLOYMENTS[mode](site, f"{mode}-1") as engine:
        for prompt in stored:
            assert engine.generate(prompt).answers[0].cached == 0
        wait_until(lambda: site.memkv.counters()["values"] == len(stored) * site.chunks)
        return engine.generate(prompts.first)


@pytest.fixture(scope="module")
def engine(mode: str, site: Site, warm: Run) -> Iterator[Engine]:
    """A deployment that has seen nothing yet, and that asks the server for all."""
    with DEPLOYMENTS[mode](site, f"{mode}-2", keeps=False) as engine:
        yield engine


def test_logprobs_tell_what_a_model_has_read(
    reference: Reference, prompts: Prompts
) -> None:
    """One token changed, 599 tokens before the end, is seen: so wrong KV would be."""
    difference = distance(reference[prompts.first], reference[prompts.changed])
    add_row("no cache: one token of the prompt changed", 0, "-", "-", difference, "-")
    assert difference > 100 * TOLERANCE


def test_the_first_request_after_a_restart_is_a_hit(
    mode: str,
    site: Site,
    engine: Engine,
    warm: Run,
    prompts: Prompts,
    reference: Reference,
) -> None:
    """As much is cached as by a warm cache, the server counted it, and the output is
    that of a run without a cache."""
    before = site.memkv.counters()
    run = engine.generate(prompts.first)
    after = site.memkv.counters()
    gets = after["get_hits"] - before["get_hits"]
    size = after["get_bytes"] - before["get_bytes"]
    difference = reference.distance(run, prompts.first)
    hit = run.answers[0].cached
    add_row(f"{mode}: restarted", hit, gets, size / 2**20, difference, run.seconds)
    assert hit == warm.answers[0].cached == len(prompts.first) // CHUNK * CHUNK
    assert gets == site.chunks
    assert size == gets * before["payload_bytes"] // before["values"]
    assert difference < TOLERANCE


def test_a_server_that_is_killed_in_the_middle_of_loads(
    mode: str, site: Site, engine: Engine, prompts: Prompts, reference: Reference
) -> None:
    """See ``kill_server``."""
    name = f"{mode}: killed in a load"
    moment = Moment.PAYLOAD
    kill_server(name, moment, engine, site, prompts.others, reference)


def test_a_server_that_is_killed_between_lookup_and_load(
    mode: str, site: Site, engine: Engine, prompts: Prompts, reference: Reference
) -> None:
    """See ``kill_server``."""
    name = f"{mode}: killed before a load"
    moment = Moment.REQUEST
    kill_server(name, moment, engine, site, prompts.others, reference)
