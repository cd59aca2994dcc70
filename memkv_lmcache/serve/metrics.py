# SPDX-License-Identifier: Apache-2.0
"""A server's counters as Prometheus metrics.

The first seven names are those that users of MemKV's dashboards know.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.registry import Collector

_KNOWN_GAUGES = {
    "blocks_total": ("values", "Values held."),
    "storage_usable_bytes": ("capacity_bytes", "What values may take, all counted."),
    "storage_used_bytes": ("used_bytes", "What values take, all counted."),
}
_KNOWN_COUNTERS = {
    "read": ("get_hits", "Values sent."),
    "read_bytes": ("get_bytes", "Bytes of values sent."),
    "write": ("put_stored", "Values stored."),
    "write_bytes": ("put_bytes", "Bytes of values stored."),
}
_GAUGES = {
    "connections": "Connections now.",
    "workers": "Network workers now.",
    "payload_bytes": "Bytes of values held, without what surrounds them.",
    "leased_bytes": "Bytes of values that may not be evicted just now.",
    "referenced_bytes": "Bytes of values being sent.",
    "arriving_bytes": "Bytes taken by puts on their way.",
    "table_bytes": "Bytes of requests being read.",
    "answer_bytes": "Bytes of replies not sent yet.",
}
_RENAMED = {"connections_total": "connections_accepted"}  # beside the gauge
_KINDS = ("stat", "get", "put", "delete")
_SHOWN_OTHERWISE = {
    *(source for source, _ in _KNOWN_GAUGES.values()),
    *(source for source, _ in _KNOWN_COUNTERS.values()),
    *_GAUGES,
}


class Metrics(Collector):
    """Collects from ``stats`` at each scrape."""

    def __init__(
        self,
        stats: Callable[[], Mapping[str, int]],
        uptime_s: Callable[[], float],
        is_draining: Callable[[], bool],
        info: Mapping[str, str],
    ) -> None:
        self._stats = stats
        self._uptime_s = uptime_s
        self._is_draining = is_draining
        self._info = dict(info)
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def text(self) -> bytes:
        """All of them, as Prometheus reads it."""
        return generate_latest(self._registry)

    def collect(
        self,
    ) -> Iterator[GaugeMetricFamily | CounterMetricFamily | InfoMetricFamily]:
        stats = self._stats()
        yield InfoMetricFamily("memkv", "The server.", value=self._info)
        uptime = self._uptime_s()
        yield GaugeMetricFamily(
            "memkv_uptime_seconds", "Since its start.", value=uptime
        )
        draining = float(self._is_draining())
        yield GaugeMetricFamily(
            "memkv_draining", "1: about to leave, refuses requests.", value=draining
        )
        for name, (source, text) in _KNOWN_GAUGES.items():
            yield GaugeMetricFamily(f"memkv_{name}", text, value=stats[source])
        for name, (source, text) in _KNOWN_COUNTERS.items():
            yield CounterMetricFamily(f"memkv_{name}", text, value=stats[source])
        for name, text in _GAUGES.items():
            yield GaugeMetricFamily(f"memkv_{name}", text, value=stats[name])
        yield from _others(stats)


def _others(stats: Mapping[str, int]) -> Iterator[CounterMetricFamily]:
    """Requests, items and hits by kind; then all that is left, under its own name."""
    left = {k: v for k, v in stats.items() if k not in _SHOWN_OTHERWISE}
    for what, text in (
        ("requests", "Requests."),
        ("items", "Items asked for or sent in requests."),
        ("hits", "Items found."),
    ):
        family = CounterMetricFamily(f"memkv_{what}", text, labels=("kind",))
        for kind in (*_KINDS, "list", "other"):
            name = f"{kind}_{what}"
            if name in stats:
                family.add_metric((kind,), stats[name])
                left.pop(name, None)
        yield family
    for name, value in left.items():
        plain = _RENAMED.get(name, name)
        text = plain.replace("_", " ").capitalize() + "."
        yield CounterMetricFamily(f"memkv_{plain}", text, value=value)
