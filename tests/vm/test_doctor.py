"""``memkv doctor`` is right about real devices."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from .ends import CLIENT, SERVER, Server


def doctor(server: Server, **settings: str) -> tuple[int, dict[str, Any]]:
    """Its exit code, and what it says."""
    given = {**server.settings, **settings}
    variables = {f"MEMKV_{name.upper()}": text for name, text in given.items()}
    done = subprocess.run(
        [
            *(sys.executable, "-m", "memkv_lmcache", "doctor"),
            *("--json", "--timeout", "60"),
        ],
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        check=False,
        timeout=120,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return done.returncode, found


def test_the_doctor_proves_what_works(server: Server) -> None:
    """Every device is listed, the one of the near address chosen, and it works."""
    code, found = doctor(server)
    assert (code, found["rdma"]) == (0, True)
    assert {device["name"] for device in found["devices"]} == {CLIENT, SERVER}
    [one] = found["servers"]
    assert one["chosen"]["device"] == CLIENT
    assert one["proof"]["bytes_remote"] == 2 * 64 * 1024


def test_the_doctor_finds_a_device_that_is_not_there(server: Server) -> None:
    """And says which there are."""
    code, found = doctor(server, rdma_devices="mlx5_7")
    assert (code, found["rdma"]) == (1, False)
    [failed] = [each for each in found["findings"] if "mlx5_7" in each["text"]]
    assert failed["level"] == "fail"
    assert CLIENT in failed["text"]
