"""`memkv bench`: the figures are there; how large they are is not a test's affair."""

from __future__ import annotations

from pathlib import Path

from .commands import run

QUICK = ("bench", "--seconds", "0.02", "--rounds", "1")


def test_each_figure_stands_beside_the_raw_one(tmp_path: Path) -> None:
    """GET, PUT and lookups of ours, and of the bare engine in the same run."""
    report = run(*QUICK, "--sizes", "64KiB,4MiB", "--json", folder=tmp_path).json
    assert report["has_raw"] is True
    assert [one["size"] for one in report["throughput"]] == [65_536, 4 * 1024**2]
    assert report["throughput"][0]["batch"] == 64
    for one in report["throughput"]:
        for way in ("get", "put"):
            ours, raw = one[f"{way}_gbps"], one[f"raw_{way}_gbps"]
            assert ours > 0
            assert raw > 0
            assert abs(one[f"{way}_ratio"] - ours / raw) < 0.02
    looked = report["lookups"]
    assert looked["keys_per_batch"] == 1000
    assert 0 < looked["p50_ms"] <= looked["p99_ms"]
    assert looked["raw_p50_ms"] > 0
    assert looked["keys_per_s"] > 0


def test_without_a_compiler_it_measures_ours_and_says_what_is_missing(
    tmp_path: Path,
) -> None:
    """As after a plain pip install: no raw figures, and how to get them."""
    done = run(*QUICK, "--sizes", "64KiB", folder=tmp_path, CC="no-such-compiler")
    assert done.code == 0
    assert "make bench" in done.err
    assert b"64 KiB" in done.out
    quiet = run(
        *(*QUICK, "--sizes", "64KiB", "--json"), folder=tmp_path, CC="no-such-compiler"
    ).json
    assert quiet["has_raw"] is False
    assert quiet["throughput"][0]["raw_get_gbps"] is None
    assert quiet["throughput"][0]["get_gbps"] > 0
