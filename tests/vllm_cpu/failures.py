"""The MemKV server is killed while it is needed, at a chosen moment."""

from __future__ import annotations

from support import wait_until

from .conftest import TOLERANCE, Reference, add_row
from .deployments import Site
from .relay import Moment
from .stack import Engine, Prompt


def store_again(engine: Engine, site: Site, prompts: list[Prompt]) -> None:
    """Sees to it that the server runs and has the prompts."""
    if not site.memkv.is_running():
        site.memkv.start()

    def is_stored() -> bool:
        values = site.memkv.counters()["values"]
        if values < len(prompts) * site.chunks:
            engine.forget()
            engine.generate(*prompts)
            return False
        return True

    # not at once: a server that was down is tried again in the background
    wait_until(is_stored, timeout=60)
    engine.forget()


def kill_server(
    scenario: str,
    moment: Moment,
    engine: Engine,
    site: Site,
    prompts: list[Prompt],
    reference: Reference,
) -> None:
    """Every request is answered, right, and sooner than the longest that a load may
    take, although what was found for them cannot be loaded."""
    store_again(engine, site, prompts)
    relay = site.memkv.relay
    relay.arm(moment, site.memkv.kill)
    run = engine.generate(*prompts)
    assert relay.fired, "no load was under way"
    difference = reference.distance(run, *prompts)
    cached = "/".join(str(answer.cached) for answer in run.answers)
    add_row(scenario, cached, "-", "-", difference, run.seconds)
    assert difference < TOLERANCE
    assert run.seconds < site.grace
