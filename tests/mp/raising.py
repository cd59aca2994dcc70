"""An L2 adapter that raises where it is told to, and is empty otherwise."""

from __future__ import annotations

from typing import Any

from lmcache.lmcache_native import Bitmap
from lmcache.v1.distributed.internal_api import L2StoreResult
from lmcache.v1.distributed.l2_adapters.base import L2AdapterInterface

from memkv_lmcache.l2.tasks import Results


class RaisingAdapter(L2AdapterInterface):  # type: ignore[misc]
    """``where`` is "store", "lookup" or "load"; for "load" it claims to have all."""

    def __init__(self, params: dict[str, Any], **_: Any) -> None:
        super().__init__()
        self._where = params["where"]
        self._stores: Results[L2StoreResult] = Results()
        self._lookups: Results[Bitmap] = Results()
        self._loads: Results[Bitmap] = Results()
        self._task = 0

    def get_store_event_fd(self) -> int:
        return self._stores.fileno()

    def get_lookup_and_lock_event_fd(self) -> int:
        return self._lookups.fileno()

    def get_load_event_fd(self) -> int:
        return self._loads.fileno()

    def submit_store_task(self, keys: list[Any], objects: list[Any]) -> int:
        return self._submit("store", self._stores, L2StoreResult(True, 0))

    def pop_completed_store_tasks(self) -> dict[int, L2StoreResult]:
        return self._stores.take_all()

    def submit_lookup_and_lock_task(self, keys: list[Any], *_: Any) -> int:
        found = Bitmap(len(keys))
        if self._where == "load":
            for i in range(0, len(keys), 2):
                found.set(i)
        return self._submit("lookup", self._lookups, found)

    def query_lookup_and_lock_result(self, task_id: int) -> Bitmap | None:
        return self._lookups.take(task_id)

    def submit_unlock(self, keys: list[Any]) -> None:
        pass

    def submit_load_task(self, keys: list[Any], objects: list[Any]) -> int:
        return self._submit("load", self._loads, Bitmap(len(keys)))

    def query_load_result(self, task_id: int) -> Bitmap | None:
        return self._loads.take(task_id)

    def close(self) -> None:
        for results in (self._stores, self._lookups, self._loads):
            results.close()

    def _submit(self, what: str, results: Results[Any], result: Any) -> int:
        if what == self._where:
            raise RuntimeError(f"no {what} today")
        self._task += 1
        results.post(self._task, result)
        return self._task
