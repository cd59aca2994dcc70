# SPDX-License-Identifier: Apache-2.0
"""The metrics of this process' clients for Prometheus, on ``MEMKV_PROMETHEUS_BIND``.

One HTTP listener a process, whatever the number of its clients; it ends with the
process.  The processes of one host (an engine's ranks) share the setting: each takes
the first free port from there on.  No failure here ever reaches the engine.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import NamedTuple, Protocol

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

_log = logging.getLogger(__name__)

_PORTS = 64
_LABELS = ("server", "namespace")
_MISS = "miss_"
# A counter of the library -> the metric it is, and the label that tells it apart; all
# others are events.
_METRICS = {
    **{f"{op}_ops": ("ops", op) for op in ("stat", "get", "put", "delete")},
    "stat_hits": ("hits", "stat"),
    "get_hits": ("hits", "get"),
    "put_stored": ("stored", ""),
    "get_bytes": ("read_bytes", ""),
    "put_bytes": ("written_bytes", ""),
    "bytes_remote": ("moved_bytes", "rdma"),
    "bytes_inline": ("moved_bytes", "stream"),
}
_HELP = {
    "ops": ("op", "Items asked of the server."),
    "hits": ("op", "Items that were there."),
    "misses": ("reason", "Lookups and gets that failed, by reason."),
    "stored": ("", "Items stored."),
    "read_bytes": ("", "Bytes of values read."),
    "written_bytes": ("", "Bytes of values stored."),
    "moved_bytes": ("way", "Bytes of values read and stored, by rdma or stream."),
    "events": ("event", "What went otherwise than smoothly, and dials."),
}


class Snapshot(NamedTuple):
    """A client's figures: for each server whether it is live, and its counters."""

    namespace: str
    servers: Mapping[str, tuple[bool, Mapping[str, int]]]
    plugin: Mapping[str, int]
    """What the plugin in front of the client has counted, with its miss reasons."""
    registered_bytes: int
    """Memory that the RDMA devices have."""


class Source(Protocol):
    """Whose figures are exported; asked from the listener's threads."""

    def snapshot(self) -> Snapshot:
        """Now; MemKVError once the client is closed."""


class Exporter(Collector):
    """The figures of many sources as metrics.  Any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sources: list[Source] = []

    def add(self, source: Source) -> None:
        with self._lock:
            self._sources.append(source)

    def remove(self, source: Source) -> None:
        with self._lock:
            if source in self._sources:
                self._sources.remove(source)

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        """All metrics; clients of one server and namespace are summed."""
        with self._lock:
            snapshots = [source.snapshot() for source in self._sources]
        live: dict[tuple[str, str], bool] = {}
        counted: Counter[tuple[str, tuple[str, ...]]] = Counter()
        plugin: Counter[tuple[str, str]] = Counter()
        registered: Counter[str] = Counter()
        for snapshot in snapshots:
            registered[snapshot.namespace] += snapshot.registered_bytes
            for name, (is_live, counters) in snapshot.servers.items():
                place = (name, snapshot.namespace)
                live[place] = live.get(place, True) and is_live
                for counter, value in counters.items():
                    metric, label = _metric(counter)
                    labels = (*place, label) if label else place
                    counted[metric, labels] += value
            for counter, value in snapshot.plugin.items():
                plugin[snapshot.namespace, counter] += value
        up = GaugeMetricFamily(
            "memkv_client_server_up", "1: asked; 0: known to be down.", labels=_LABELS
        )
        for place, is_live in live.items():
            up.add_metric(place, float(is_live))
        yield up
        yield _registered_family(registered)
        yield from _families(counted)
        yield from _plugin_families(plugin)


def _metric(counter: str) -> tuple[str, str]:
    if counter.startswith(_MISS):
        return "misses", counter.removeprefix(_MISS)
    return _METRICS.get(counter, ("events", counter))


def _families(
    counted: Mapping[tuple[str, tuple[str, ...]], int],
) -> Iterator[CounterMetricFamily]:
    for metric, (label, text) in _HELP.items():
        labels = (*_LABELS, label) if label else _LABELS
        family = CounterMetricFamily(f"memkv_client_{metric}", text, labels=labels)
        for (name, values), value in counted.items():
            if name == metric:
                family.add_metric(values, value)
        yield family


def _registered_family(registered: Mapping[str, int]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(
        "memkv_client_registered_bytes",
        "Memory that is registered with the RDMA devices now.",
        labels=("namespace",),
    )
    for namespace, value in registered.items():
        family.add_metric((namespace,), value)
    return family


def _plugin_families(
    counted: Mapping[tuple[str, str], int],
) -> Iterator[CounterMetricFamily]:
    events = CounterMetricFamily(
        "memkv_plugin_events",
        "What the LMCache plugin has done, in chunks or bytes as the name says.",
        labels=("namespace", "event"),
    )
    misses = CounterMetricFamily(
        "memkv_plugin_misses",
        "Chunks that the LMCache plugin did not give, by reason.",
        labels=("namespace", "reason"),
    )
    for (namespace, name), value in counted.items():
        if name.startswith(_MISS):
            misses.add_metric((namespace, name.removeprefix(_MISS)), value)
        else:
            events.add_metric((namespace, name), value)
    yield events
    yield misses


class _Listener(NamedTuple):
    pid: int
    exporter: Exporter


_lock = threading.Lock()
_listeners: dict[str, _Listener] = {}


def exporter_at(bind: str) -> Exporter:
    """The exporter that listens on ``host:port``; the first call starts it.

    A port in use: the next one, up to 63 further on; the log says which it was.  When
    nothing can be bound a warning says so, and nothing is exported.
    """
    with _lock:
        found = _listeners.get(bind)
        # a forked child has its parent's table, but not its threads
        if found is None or found.pid != os.getpid():
            found = _Listener(os.getpid(), Exporter())
            _listeners[bind] = found
            _listen(bind, found.exporter)
        return found.exporter


def _listen(bind: str, exporter: Exporter) -> None:
    registry = CollectorRegistry()
    registry.register(exporter)
    host, _, first = bind.rpartition(":")
    last = min(int(first) + _PORTS, 65536)
    for port in range(int(first), last):
        try:
            server, _ = start_http_server(port, host.strip("[]"), registry)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                _log.warning("no client metrics: %s: %s", bind, error.strerror or error)
                return
        else:
            text = "client metrics are on http://%s:%d/metrics"
            _log.info(text, host, server.server_port)
            return
    _log.warning("no client metrics: every port from %s to %d is taken", bind, last - 1)
