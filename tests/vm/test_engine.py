"""A real LMCache engine on real verbs starts warm, and no CPU copies a value for it.

By the counters of the clients in both engines' processes, and by the server's own.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from cli.commands import run

CHUNKS, TOKENS = 4, 32
TOKEN_BYTES = 16 * 1024  # of the demo's model; what has under 64 KiB goes inline
PROMPT_BYTES = CHUNKS * TOKENS * TOKEN_BYTES
#: Both processes import torch and LMCache, which takes an emulated machine minutes.
PATIENCE_S = 900


@pytest.mark.timeout(PATIENCE_S + 60)
def test_an_engine_warm_starts_without_a_copy(tmp_path: Path) -> None:
    """What a killed process stored by RDMA lands in a fresh one's arena, all of it."""
    outcome = run(
        *("demo", "--transport", "rdma", "--json"),
        *("--chunks", str(CHUNKS), "--chunk-size", str(TOKENS)),
        folder=tmp_path,
        timeout=PATIENCE_S,
    ).json
    assert outcome["verified"] is True
    assert outcome["stored_chunks"] == outcome["warm_hit_chunks"] == CHUNKS
    assert outcome["bytes"] == outcome["server_get_bytes"] == PROMPT_BYTES
    assert outcome["bytes_remote"] == outcome["put_bytes_remote"] == PROMPT_BYTES
    assert outcome["bytes_inline"] == outcome["put_bytes_inline"] == 0
    assert outcome["server_bytes_remote"] == 2 * PROMPT_BYTES
    assert outcome["server_bytes_inline"] == 0


def test_plain_values_are_not_copied_either(tmp_path: Path) -> None:
    """A client with memory of its own, without torch and LMCache."""
    outcome = run(
        *("demo", "--bytes", "--transport", "rdma", "--json", "--chunks", "20"),
        folder=tmp_path,
        timeout=200,
    ).json
    assert outcome["verified"] is True
    assert outcome["bytes_remote"] == outcome["put_bytes_remote"] == outcome["bytes"]
    assert outcome["bytes_inline"] == outcome["server_bytes_inline"] == 0
    assert outcome["server_bytes_remote"] == 2 * outcome["bytes"]
