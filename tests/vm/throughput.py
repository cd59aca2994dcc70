#!/usr/bin/env python3
"""Sets what a link moves beside what perftest's tools get from the same device.

    tests/vm/throughput.py RDMA_LOOP [--least 0.85] [--rounds 5] [--most 15]

Runs in the machine of tests/vm/run, the two in turns; prints the best round of each in
MiB/s, and their ratio, as JSON.  The best, because a busy host only ever takes away,
most from who sleeps, which the tools never do; as long as a ratio is below --least
there are more rounds.  The exit status is 1 when it still is after --most of them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

DEVICES = Path("/sys/class/infiniband")
MIB = 1 << 20
SIZES = (MIB, 4 * MIB)
MOVED = 128 * MIB  # a round
IPV4_GID = "0000:0000:0000:0000:0000:ffff:"
PORT = 18515


def gid_index(device: str) -> str:
    """Returns the place of the device's IPv4 address in its table."""
    for gid in sorted((DEVICES / device / "ports/1/gids").iterdir()):
        if gid.read_text().startswith(IPV4_GID):
            return gid.name
    raise SystemExit(f"{device} has no IPv4 address")


def perftest(operation: str, size: int) -> float:
    """Measures one way with perftest: MiB/s on average."""
    device = min(path.name for path in DEVICES.iterdir())
    command = [f"ib_{operation}_bw", "-F", "-s", str(size), "-n", str(MOVED // size)]
    command += ["-p", str(PORT), "-d", device, "-x", gid_index(device), "-m", "4096"]
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as server:
        for _ in range(50):
            client = subprocess.run(
                [*command, "127.0.0.1"], capture_output=True, text=True
            )
            if client.returncode == 0:
                break
        else:
            server.kill()
            raise SystemExit(f"{command[0]}: {client.stderr}")
    rows = [line.split() for line in client.stdout.splitlines()]
    (row,) = [row for row in rows if row[:1] == [str(size)]]
    return float(row[3])


def ours(loop: str, operation: str, size: int) -> float:
    """Measures one way with a link: MiB/s."""
    command = [loop, "libibverbs.so.1", operation, str(size), str(MOVED // size)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout)


def measure(options: argparse.Namespace, operation: str, size: int) -> dict[str, Any]:
    """Measures one way with both, in turns."""
    tool = link = 0.0
    rounds = 0
    while rounds < options.rounds or (
        rounds < options.most and link < options.least * tool
    ):
        tool = max(tool, perftest(operation, size))
        link = max(link, ours(options.loop, operation, size))
        rounds += 1
    return {
        "operation": operation,
        "bytes": size,
        "rounds": rounds,
        "perftest_mib_s": round(tool, 1),
        "link_mib_s": round(link, 1),
        "ratio": round(link / tool, 3),
    }


def main() -> int:
    """Measures, prints and judges."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("loop")
    parser.add_argument("--least", type=float, default=0.85)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--most", type=int, default=15)
    options = parser.parse_args()
    found = [
        measure(options, operation, size)
        for operation in ("write", "read")
        for size in SIZES
    ]
    json.dump(found, sys.stdout, indent=2)
    print()
    return int(any(each["ratio"] < options.least for each in found))


if __name__ == "__main__":
    sys.exit(main())
