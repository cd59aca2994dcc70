# SPDX-License-Identifier: Apache-2.0
"""LMCache's L2 adapter: the fleet behind its multi-process mode.

Turns tasks into work of ``memkv_lmcache.l2`` and results into what LMCache expects.
Its controllers have no time-out of their own, and an exception makes them free memory
that is in use elsewhere: so every task is answered in time, and nothing raises from a
submit or a query.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lmcache.v1.distributed.api import KeyEntry, KeyListPage, ObjectKey
from lmcache.v1.distributed.internal_api import L2StoreResult
from lmcache.v1.distributed.l2_adapters.base import AdapterUsage, L2AdapterInterface
from lmcache.v1.distributed.l2_adapters.config import L2AdapterConfigBase

try:
    from lmcache.lmcache_native import Bitmap
except ImportError:  # before LMCache 0.5.3
    from lmcache.native_storage_ops import Bitmap

from memkv_lmcache.arena import memory_at
from memkv_lmcache.client import Client
from memkv_lmcache.errors import MemKVError, Status
from memkv_lmcache.hints import Depths
from memkv_lmcache.keys import object_key
from memkv_lmcache.l2.listing import list_page
from memkv_lmcache.l2.lookups import Lookups
from memkv_lmcache.l2.settings import HELP, L2Settings, parse
from memkv_lmcache.l2.tasks import Results
from memkv_lmcache.l2.transfers import Block, Store, Transfers
from memkv_lmcache.metrics import Counters

logger = logging.getLogger(__name__)

#: Seconds for a deletion, which somebody asked for.
DELETE_TIMEOUT = 1.0
#: Seconds in which a close waits for the calls that it ended.
QUIET_TIMEOUT = 5.0


@dataclass(frozen=True)
class MemKVL2AdapterConfig(L2AdapterConfigBase):  # type: ignore[misc]  # untyped
    """``adapter_params`` of the plugin."""

    settings: L2Settings

    @classmethod
    def from_dict(cls, d: dict[str, object]) -> MemKVL2AdapterConfig:
        """ConfigError, which is a ValueError: see ``memkv_lmcache.l2.settings``."""
        try:
            return cls(parse(d))
        except MemKVError as error:
            logger.error("MemKV is not used: %s", error)
            raise

    @classmethod
    def help(cls) -> str:
        return HELP


class MemKVL2Adapter(L2AdapterInterface):  # type: ignore[misc]  # untyped
    """The fleet as one of LMCache's L2 adapters.  Any thread may use it.

    It dials nobody at first: a fleet that is down makes misses, not a failed start.
    Locks are leases on the servers that a lookup takes and that run out by themselves.
    """

    def __init__(
        self,
        config: MemKVL2AdapterConfig | Mapping[str, object],
        l1_memory_desc: Any = None,
        **_: Any,
    ) -> None:
        # no capacity: LMCache's eviction must not empty what others use as well
        super().__init__(max_capacity_bytes=0)
        if isinstance(config, Mapping):
            config = MemKVL2AdapterConfig.from_dict(dict(config))
        settings = config.settings
        self.counters = Counters()
        self._settings = settings
        self._ids = itertools.count()
        self._store_results: Results[L2StoreResult] = Results()
        self._lookup_results: Results[Bitmap] = Results()
        self._load_results: Results[Bitmap] = Results()
        self._client = Client(config=settings.client, counters=self.counters)
        if l1_memory_desc is not None and l1_memory_desc.ptr and l1_memory_desc.size:
            # the client registers it with the RDMA devices, later and elsewhere
            self._client.register(memory_at(l1_memory_desc.ptr, l1_memory_desc.size))
        depths = Depths()
        self._lookups = Lookups(
            self._client,
            depths,
            self.counters,
            budget=settings.client.lookup_timeout_ms / 1000,
            lease_ms=settings.client.lease_ms,
        )
        self._transfers = Transfers(
            self._client,
            depths,
            self.counters,
            grace=settings.load_failure_grace_s,
            threads=settings.num_workers,
            batch=settings.blocks_per_op,
        )

    # ---- events ----------------------------------------------------------------------

    def get_store_event_fd(self) -> int:
        return self._store_results.fileno()

    def get_lookup_and_lock_event_fd(self) -> int:
        return self._lookup_results.fileno()

    def get_load_event_fd(self) -> int:
        return self._load_results.fileno()

    # ---- stores ----------------------------------------------------------------------

    def submit_store_task(self, keys: list[ObjectKey], objects: list[Any]) -> int:
        """It succeeds if the fleet has every object in the end."""
        task = next(self._ids)
        keys = list(keys)

        def done(store: Store) -> None:
            complete = len(store.sent) + len(store.present) == len(keys)
            result = L2StoreResult(complete, sum(store.sent.values()))
            self._store_results.post(task, result)
            sent = [keys[i] for i in store.sent]
            self._notify(self._notify_keys_stored, sent, list(store.sent.values()))
            present = [keys[i] for i in store.present]
            self._notify(self._notify_keys_accessed, present)

        try:
            self._transfers.store(_blocks(keys, objects), done)
        except Exception:
            logger.exception("MemKV: a store of %d keys failed", len(keys))
            self._store_results.post(task, L2StoreResult(False, 0))
        return task

    def pop_completed_store_tasks(self) -> dict[int, L2StoreResult]:
        return self._store_results.take_all()

    # ---- lookups ---------------------------------------------------------------------

    def submit_lookup_and_lock_task(
        self, keys: list[ObjectKey], group_layout_descs: Any = None, *_: Any
    ) -> int:
        """Answered within ``lookup_timeout_ms``; what is unknown by then is missed."""
        task = next(self._ids)
        count = len(keys)

        def done(found: Sequence[int]) -> None:
            self._lookup_results.post(task, _bitmap(count, found))

        try:
            self._lookups.start(list(keys), group_layout_descs, done)
        except Exception:
            logger.exception("MemKV: a lookup of %d keys failed", count)
            done(())
        return task

    def query_lookup_and_lock_result(self, task_id: int) -> Bitmap | None:
        return self._lookup_results.take(task_id)

    def submit_unlock(self, keys: list[ObjectKey]) -> None:
        """Does nothing: a lease runs out by itself, and others may have one as well."""

    # ---- loads -----------------------------------------------------------------------

    def submit_load_task(self, keys: list[ObjectKey], objects: list[Any]) -> int:
        """Values land in the objects' own memory."""
        task = next(self._ids)
        keys = list(keys)

        def done(loaded: Sequence[int]) -> None:
            self._load_results.post(task, _bitmap(len(keys), loaded))
            self._notify(self._notify_keys_accessed, [keys[i] for i in loaded])

        try:
            self._transfers.load(_blocks(keys, objects), done)
        except Exception:
            logger.exception("MemKV: a load of %d keys failed", len(keys))
            self._load_results.post(task, _bitmap(len(keys), ()))
        return task

    def query_load_result(self, task_id: int) -> Bitmap | None:
        return self._load_results.take(task_id)

    # ---- what administrators ask for -------------------------------------------------

    def delete(self, keys: list[ObjectKey]) -> None:
        """Deletes on the servers, for everybody, if ``lmcache_eviction`` says so."""
        if not self._settings.lmcache_eviction:
            logger.warning(
                "MemKV: %d keys are not deleted: the fleet is shared, and "
                "lmcache_eviction is off",
                len(keys),
            )
            return
        wire = [object_key(key) for key in keys]
        try:
            found = self._client.stat_many(wire, timeout=DELETE_TIMEOUT)
            results = self._client.delete_many(wire, timeout=DELETE_TIMEOUT)
        except MemKVError as error:
            logger.warning("MemKV: %d keys are not deleted: %s", len(keys), error)
            return
        deleted = [i for i, result in enumerate(results) if result.status == Status.OK]
        sizes = [found[i].size for i in deleted]
        self._notify(self._notify_keys_deleted, [keys[i] for i in deleted], sizes)

    def list_l2_keys(
        self,
        model_name: str | None = None,
        page_size: int = 500,
        cursor: str | None = None,
    ) -> KeyListPage:
        """What the servers hold in this namespace, whoever stored it."""
        page, token = list_page(self._client, model_name, page_size, cursor)
        entries = tuple(
            KeyEntry(ObjectKey(**name._asdict()).to_encoded_object_key(), size)
            for name, size in page
        )
        return KeyListPage(entries=entries, next_page_token=token)

    def get_usage(self) -> AdapterUsage:
        """The bytes that this process stored; not by salt, or LMCache would evict."""
        return AdapterUsage(self._total_bytes_used, self._max_capacity_bytes)

    def report_status(self) -> dict[str, Any]:
        """Healthy while any server may answer; asks nobody."""
        try:
            servers = self._client.state()
        except MemKVError as error:
            servers = dict.fromkeys(self._client.servers, f"down: {error}")
        return {
            "is_healthy": any(not s.startswith("down") for s in servers.values()),
            "type": type(self).__name__,
            "namespace": self._settings.client.namespace,
            "servers": servers,
            "counters": self.counters.snapshot(),
        }

    def close(self) -> None:
        """Ends what is under way, within a bound; again does nothing.

        LMCache has given back the objects' locks by now, so that nothing more is read
        from them; it frees their memory next.
        """
        self._lookups.close()
        self._transfers.close()
        is_closed = self._client.close()
        parts = (self._transfers, self._lookups)
        is_quiet = all(part.wait_idle(QUIET_TIMEOUT) for part in parts)
        if not (is_closed and is_quiet):
            logger.error("MemKV: a transfer is still running while its memory is freed")
        for results in (self._store_results, self._lookup_results, self._load_results):
            results.close()

    def _notify(
        self, notify: Callable[..., None], keys: list[ObjectKey], *sizes: list[int]
    ) -> None:
        """Tells LMCache's listeners, which may be anything."""
        if keys:
            try:
                notify(keys, *sizes)
            except Exception:
                logger.exception("MemKV: a listener of LMCache failed")


def _blocks(keys: Sequence[ObjectKey], objects: Sequence[Any]) -> list[Block]:
    return [Block(key, obj) for key, obj in zip(keys, objects, strict=True)]


def _bitmap(size: int, indices: Sequence[int]) -> Bitmap:
    bitmap = Bitmap(size)
    for i in indices:
        bitmap.set(i)
    return bitmap
