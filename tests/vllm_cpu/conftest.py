"""What the tests with a real vLLM share.  ``make test-vllm`` runs them, in an
environment that has it; elsewhere they are not collected."""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest

if find_spec("vllm") is None:
    collect_ignore_glob = ["test_*.py"]
else:
    from .deployments import CHUNK, Site
    from .stack import Answer, Engine, MemKV, Prompt, Run

GRACE_S = 5.0
PROMPT = 600  # tokens
#: Logprobs that differ by less are the same but for the order of additions.
TOLERANCE = 1e-3

rows: list[tuple[str, ...]] = []
HEADINGS = ("scenario", "cached", "GETs", "MiB", "differs by", "seconds")


def make_prompt(seed: int) -> Prompt:
    generator = random.Random(seed)  # noqa: S311
    return [generator.randrange(3, 128) for _ in range(PROMPT)]


class Reference:
    """What vLLM says without any cache."""

    def __init__(self, engine: Engine, prompts: list[Prompt]) -> None:
        self._runs = {tuple(prompt): engine.generate(prompt) for prompt in prompts}

    def __getitem__(self, prompt: Prompt) -> Answer:
        return self._runs[tuple(prompt)].answers[0]

    def distance(self, run: Run, *prompts: Prompt) -> float:
        """How far the logprobs of a run are from these; its tokens have to be equal."""
        assert len(run.answers) == len(prompts)
        pairs = [(x, self[p]) for x, p in zip(run.answers, prompts, strict=True)]
        for answer, expected in pairs:
            assert answer.finished == "length"
            assert answer.tokens == expected.tokens
        return max(distance(answer, expected) for answer, expected in pairs)


def distance(one: Answer, other: Answer) -> float:
    """The largest difference of any logprob."""
    return max(
        abs(x - y)
        for row, row_of_other in zip(one.logprobs, other.logprobs, strict=True)
        for x, y in zip(row, row_of_other, strict=True)
    )


def add_row(scenario: str, *figures: object) -> None:
    """Adds a line to the table at the end."""
    texts = [f"{x:.2g}" if isinstance(x, float) else str(x) for x in figures]
    rows.append((scenario, *texts))


class Prompts(NamedTuple):
    first: Prompt
    others: list[Prompt]
    changed: Prompt
    """The first one but for one token at its beginning."""


@pytest.fixture(scope="session")
def prompts() -> Prompts:
    first, *others = (make_prompt(seed) for seed in range(4))
    changed = [first[0] - 1, *first[1:]]
    return Prompts(first, others, changed)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    program = Path(__file__).with_name("model.py")
    subprocess.run([sys.executable, program, folder], check=True)
    return folder


@pytest.fixture(scope="session")
def reference(
    model: Path, prompts: Prompts, tmp_path_factory: pytest.TempPathFactory
) -> Reference:
    folder = tmp_path_factory.mktemp("reference")
    with Engine("reference", model, folder) as engine:
        wanted = [prompts.first, *prompts.others, prompts.changed]
        return Reference(engine, wanted)


@pytest.fixture(scope="module")
def make_site(
    model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[], Site]]:
    """Makes an empty MemKV server for one deployment after the other."""
    with contextlib.ExitStack() as stack:

        def make() -> Site:
            folder = tmp_path_factory.mktemp("site")
            memkv = stack.enter_context(MemKV(folder))
            return Site(model, folder, memkv, GRACE_S, PROMPT // CHUNK)

        yield make


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not rows:
        return
    terminalreporter.section("a real vLLM")
    table = [HEADINGS, *rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        cells = [text.rjust(width) for text, width in zip(row, widths, strict=True)]
        terminalreporter.line("  ".join([row[0].ljust(widths[0]), *cells[1:]]))
