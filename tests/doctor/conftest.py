"""The fake verbs library, and the command in this process, where its devices are."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
from fake_rdma import FakeVerbs, build_fake_verbs

from memkv_lmcache.cli.main import main


class Done(NamedTuple):
    """A command that has ended."""

    code: int
    out: str

    @property
    def json(self) -> Any:
        """What it printed with --json."""
        return json.loads(self.out)

    @property
    def words(self) -> str:
        """What it printed, whatever the width of the terminal."""
        return " ".join(self.out.split())


Doctor = Callable[..., Done]


@pytest.fixture(scope="session")
def verbs(tmp_path_factory: pytest.TempPathFactory) -> FakeVerbs:
    return FakeVerbs(build_fake_verbs(tmp_path_factory.mktemp("verbs")))


@pytest.fixture
def doctor(
    verbs: FakeVerbs,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Iterator[Doctor]:
    """Runs ``memkv doctor`` with the fake library and 1 MiB to be registered.

    Keywords are environment variables; None: not set.
    """
    log = logging.getLogger("memkv_lmcache.tending")
    level = log.level

    def doctor(*arguments: str, **environ: str | None) -> Done:
        with monkeypatch.context() as patch:
            given = {"MEMKV_VERBS_LIBRARY": verbs.path, **environ}
            for name, value in given.items():
                if value is None:
                    patch.delenv(name, raising=False)
                else:
                    patch.setenv(name, value)
            code = main(["doctor", "--memory", "1MiB", *arguments])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return Done(code, captured.out)

    yield doctor
    log.setLevel(level)
