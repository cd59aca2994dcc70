# SPDX-License-Identifier: Apache-2.0
"""LMCache's in-process storage plugin.

Turns LMCache's calls into batches of the client and gives back what LMCache expects.
On the read path nothing of the store ever raises: a failure is a miss, counted with its
reason.  Memory is the affair of ``landing``, and when to send that of ``puts``.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from asyncio import wrap_future
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from lmcache.observability import LMCStatsMonitor
from lmcache.utils import LayerCacheEngineKey
from lmcache.v1.storage_backend.abstract_backend import StoragePluginInterface

from memkv_lmcache.arena import ArenaGuard, arena_of
from memkv_lmcache.client import Client
from memkv_lmcache.config import ClientConfig, load
from memkv_lmcache.errors import MemKVError, Status
from memkv_lmcache.header import HeaderError, pack
from memkv_lmcache.hints import Depths
from memkv_lmcache.keys import group_hash, wire_key
from memkv_lmcache.landing import Landing, Load, release, view
from memkv_lmcache.lookups import Lookups
from memkv_lmcache.metrics import Counters
from memkv_lmcache.puts import PutQueue, PutTask
from memkv_lmcache.startup import (
    plugin_settings,
    reads_rank0,
    sees_whole_prefixes,
    warn_about_keys,
    warn_about_lost_loads,
)
from memkv_lmcache.tensors import Layouts, header_of
from memkv_lmcache.workers import Workers

logger = logging.getLogger(__name__)

MAX_PUTS = 4096
#: Seconds a close gives the puts that are queued, and then the calls that are running.
DRAIN_TIMEOUT = 5.0
QUIET_TIMEOUT = 5.0
#: Seconds for a removal, which a user asked for.
REMOVE_TIMEOUT = 1.0
CLEAR_BATCH = 1024


class LayerLost(RuntimeError):
    """A layer that was promised cannot be loaded.

    LMCache has no miss here: less than it asked for would become wrong KV.
    """


class MemKVStorageBackend(StoragePluginInterface):  # type: ignore[misc]  # untyped
    """The fleet as one of LMCache's storage backends.  Any thread may use it.

    Made by LMCache with keywords.  It waits for nobody and allocates nothing: a fleet
    that is down makes misses, not a failed start.
    """

    def __init__(
        self,
        config: Any = None,
        dst_device: str = "cpu",
        metadata: Any = None,
        local_cpu_backend: Any = None,
        loop: Any = None,
        **_: Any,
    ) -> None:
        super().__init__(
            dst_device=dst_device,
            config=config,
            metadata=metadata,
            local_cpu_backend=local_cpu_backend,
            loop=loop,
        )
        self.counters = Counters()
        try:
            settings = plugin_settings(config, type(self).__name__)
            self._open(load(lmcache=settings))
        except Exception as error:
            # LMCache goes on without us, and would say so less clearly.
            logger.error("MemKV is not used: %s", error)
            raise

    def _open(self, settings: ClientConfig) -> None:
        self._settings = settings
        patience = getattr(
            self.config, "blocking_timeout_secs", settings.load_timeout_s
        )
        self._load_timeout = min(float(patience), settings.load_timeout_s)
        self._reads_rank0 = reads_rank0(self.config, self.metadata)
        self._whole_prefixes = sees_whole_prefixes(self.config)
        layouts = Layouts(self.metadata, self.config)
        self._depths = Depths()
        self._stats = LMCStatsMonitor.GetOrCreate()
        self._quiet = threading.Lock()
        self._client = Client(config=settings, counters=self.counters)
        self._background = Workers("memkv-lookup", 2)
        self._loads = Landing(
            self._client,
            self.local_cpu_backend,
            layouts,
            self.counters,
            on_landed=self._note_landed,
        )
        self._puts = PutQueue(
            self._client,
            self.counters,
            view,
            max_bytes=settings.put_queue_size,
            max_count=MAX_PUTS,
            timeout=settings.load_timeout_s,
            on_stored=self._stats.update_interval_remote_write_metrics,
        )
        self._lookups = Lookups(
            self._client,
            layouts,
            self._puts,
            self._depths,
            self.counters,
            budget_ms=settings.lookup_timeout_ms,
            lease_ms=settings.lease_ms,
        )
        allocator = getattr(self.local_cpu_backend, "memory_allocator", None)
        self._guard = None if allocator is None else ArenaGuard.of(allocator)
        if self._guard is not None:
            self._guard.add(self)
            self._register(allocator)
        warn_about_keys(self.config, self.metadata, settings.namespace)
        warn_about_lost_loads(self.config)

    def _register(self, allocator: Any) -> None:
        """Has the client register the arena with the RDMA devices, later and elsewhere;
        its end releases it, before the arena goes."""
        try:
            arena = arena_of(allocator)
            if arena is not None:
                self._client.register(arena)
        except Exception as error:
            logger.warning("MemKV: values will be copied by the CPU: %s", error)

    def __str__(self) -> str:
        return type(self).__name__

    @property
    def client(self) -> Client:
        """Its own: to see states and counters."""
        return self._client

    # ---- lookups ---------------------------------------------------------------------

    def contains(self, key: Any, pin: bool = False) -> bool:
        """Whether the fleet has ``key`` in a layout that this engine can use.

        LMCache asks for the first layer only and then takes all of them for granted, so
        the first layer counts with its siblings.
        """
        keys = [key]
        if getattr(key, "layer_id", None) == 0 and self.metadata is not None:
            keys = key.split_layers(self.metadata.kv_shape[0])
        return self._lookup(keys, pin) == len(keys)

    def batched_contains(self, keys: list[Any], pin: bool = False) -> int:
        """How many of ``keys`` from the first on are there; one round trip."""
        return self._lookup(keys, pin)

    async def batched_async_contains(
        self, lookup_id: str, keys: list[Any], pin: bool = False
    ) -> int:
        found: int = await wrap_future(
            self._background.call(lambda: self._lookup(keys, pin))
        )
        return found

    def exists_in_put_tasks(self, key: Any) -> bool:
        return self._puts.pending(self._wire_key(key)) is not None

    def pin(self, key: Any) -> bool:
        """Leases the value for a while; True: it is there."""
        return self.contains(key, pin=True)

    def unpin(self, key: Any) -> bool:
        """Does nothing: a lease runs out by itself."""
        return True

    def touch_cache(self) -> None:
        """Does nothing: the servers see every access."""

    def cancel_request(self, req_id: str) -> None:
        """Does nothing: no state is kept per request."""

    def _lookup(self, keys: Sequence[Any], pin: bool) -> int:
        if self._layers_are_off(keys):
            self.counters.miss("layerwise_disabled")
            return 0
        hot = getattr(self.local_cpu_backend, "use_hot", False)
        layered = _layered(keys)
        return self._lookups.count(
            [self._wire_key(key) for key in keys],
            layered=layered,
            pin=pin,
            # only the engine's lookup pins, and that begins with the first chunk
            whole=pin and not layered and not hot and self._whole_prefixes,
        )

    def _layers_are_off(self, keys: Sequence[Any]) -> bool:
        return _layered(keys) and not self._settings.layerwise

    # ---- gets ------------------------------------------------------------------------

    def get_blocking(self, key: Any) -> Any:
        return self.batched_get_blocking([key])[0]

    def batched_get_blocking(self, keys: list[Any]) -> list[Any]:
        """Exactly ``len(keys)`` entries: the objects of a prefix, then None."""
        begin = time.monotonic()
        objects = self._load(keys).claim()
        waited = (time.monotonic() - begin) * 1000
        self._stats.update_interval_remote_time_to_get_sync(waited)
        return objects + [None] * (len(keys) - len(objects))

    async def batched_get_non_blocking(
        self, lookup_id: str, keys: list[Any], transfer_spec: Any = None
    ) -> list[Any]:
        """The objects of a prefix of ``keys``, never None.

        LayerLost: LMCache retrieves layer by layer (it has no ``transfer_spec`` then),
        and one of them is missing.
        """
        objects = await self._load(keys).claim_async()
        if _layered(keys) and transfer_spec is None and len(objects) < len(keys):
            for obj in objects:
                release(obj)
            raise LayerLost(
                f"{len(keys) - len(objects)} of {len(keys)} chunks of layer "
                f"{keys[0].layer_id} could not be loaded from MemKV"
            )
        return objects

    def get_non_blocking(self, key: Any, location: str | None = None) -> Any:
        """A future of what ``get_blocking`` returns."""
        return self._background.call(lambda: self.get_blocking(key))

    def _load(self, keys: Sequence[Any]) -> Load:
        if self._layers_are_off(keys):
            self.counters.miss("layerwise_disabled")
            keys = ()
        wire_keys = [self._wire_key(key) for key in keys]
        return self._loads.start(wire_keys, _layered(keys), self._load_timeout)

    def _note_landed(self, count: int, size: int) -> None:
        self._stats.update_interval_remote_read_metrics(size)

    # ---- puts and removals -----------------------------------------------------------

    def batched_submit_put_task(
        self,
        keys: Sequence[Any],
        objs: list[Any],
        transfer_spec: Any = None,
        on_complete_callback: Callable[[Any], None] | None = None,
    ) -> list[Future[bool]] | None:
        """Queues the objects and returns at once; a full queue drops them.

        Each future tells whether the fleet has the value; ``on_complete_callback`` is
        called for the keys that it has.
        """
        if self._reads_rank0 or self._layers_are_off(keys):
            return None
        try:
            pairs = [
                (key, task)
                for key, obj in zip(keys, objs, strict=True)
                if (task := self._put_task(key, obj)) is not None
            ]
            futures = self._puts.submit([task for _, task in pairs])
        except Exception:
            self.counters.count("put_failed", len(keys))
            logger.exception("MemKV: %d puts could not be queued", len(keys))
            return None
        if on_complete_callback is not None:
            for (key, _), future in zip(pairs, futures, strict=True):
                future.add_done_callback(_completion(on_complete_callback, key))
        return futures

    async def async_batched_submit_put_task(
        self,
        keys: Sequence[Any],
        objs: list[Any],
        transfer_spec: Any = None,
        on_complete_callback: Callable[[Any], None] | None = None,
    ) -> None:
        self.batched_submit_put_task(keys, objs, transfer_spec, on_complete_callback)

    def remove(self, key: Any, force: bool = True) -> bool:
        return self.batched_remove([key], force) == 1

    def batched_remove(self, keys: list[Any], force: bool = True) -> int:
        """Deletes ``keys`` on the servers, for everybody; returns how many it found."""
        try:
            results = self._client.delete_many(
                [self._wire_key(key) for key in keys], timeout=REMOVE_TIMEOUT
            )
        except Exception as error:
            logger.warning("MemKV: %d keys could not be removed: %s", len(keys), error)
            return 0
        return sum(result.status == Status.OK for result in results)

    def clear(self) -> int:
        """Empties the namespace on all servers if ``allow_clear`` is set.

        Returns the tokens that were stored there, as far as chunks were full.
        """
        if not self._settings.allow_clear:
            logger.info(
                "MemKV: not cleared: the fleet is shared and allow_clear is off"
            )
            return 0
        removed = 0
        try:
            keys = [entry.key for entry in self._client.list()]
            for begin in range(0, len(keys), CLEAR_BATCH):
                results = self._client.delete_many(keys[begin : begin + CLEAR_BATCH])
                removed += sum(result.status == Status.OK for result in results)
        except MemKVError as error:
            logger.warning("MemKV: cleared %d values only: %s", removed, error)
        return removed * int(self.config.chunk_size)

    def _put_task(self, key: Any, obj: Any) -> PutTask | None:
        text, wire = self._text(key), self._wire_key(key)
        try:
            header = pack(header_of(obj, text), wire)
        except HeaderError as error:
            self.counters.count("put_unsupported")
            logger.debug("MemKV: %s is not stored: %s", text, error)
            return None
        return PutTask(
            key=wire,
            header=header,
            obj=obj,
            size=obj.get_size(),
            depth=self._depths.of(wire),
            group=group_hash(
                key.model_name, key.world_size, key.chunk_hash, str(key.dtype)
            ),
        )

    # ---- the end ---------------------------------------------------------------------

    def get_allocator_backend(self) -> Any:
        """The CPU backend, so that LMCache hands over its objects uncopied."""
        if self.local_cpu_backend is None:
            raise RuntimeError(
                "MemKV needs LMCache's CPU backend: set max_local_cpu_size above 0"
            )
        return self.local_cpu_backend

    def quiesce(self) -> bool:
        """Sends what is queued, within a bound, and stops.  True: nothing runs on."""
        with self._quiet:
            self._loads.close()
            self._background.close()
            drained = self._puts.close(DRAIN_TIMEOUT)
            is_closed = self._client.close()
            deadline = time.monotonic() + QUIET_TIMEOUT
            quiet = all(
                part.wait_idle(max(0.0, deadline - time.monotonic()))
                for part in (self._puts, self._loads, self._background)
            )
        if not drained:
            logger.warning("MemKV: puts were still queued at the end and are dropped")
        return is_closed and quiet

    def close(self) -> None:
        """Ends it within a bound.  Later calls are misses."""
        if not self.quiesce():
            logger.warning("MemKV: a transfer is still running; it is left behind")
        elif self._guard is not None:
            self._guard.remove(self)

    # ---- keys ------------------------------------------------------------------------

    def _text(self, key: Any) -> str:
        """The key's text, the same for all ranks where they hold the same bytes."""
        if self._reads_rank0:
            # not with_new_worker_id: it forgets the layer
            key = dataclasses.replace(key, worker_id=0)
        text: str = key.to_string()
        return text

    def _wire_key(self, key: Any) -> bytes:
        return wire_key(self._text(key))


def _layered(keys: Sequence[Any]) -> bool:
    return bool(keys) and isinstance(keys[0], LayerCacheEngineKey)


def _completion(
    callback: Callable[[Any], None], key: Any
) -> Callable[[Future[bool]], None]:
    def complete(stored: Future[bool]) -> None:
        if not stored.result():
            return
        try:
            callback(key)
        except Exception:
            logger.exception("MemKV: the completion callback of a put failed")

    return complete
