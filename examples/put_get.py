# SPDX-License-Identifier: Apache-2.0
"""Stores values on MemKV servers and reads them back, in batches.

python put_get.py 127.0.0.1:9900
"""

import sys

from memkv_lmcache import Client
from memkv_lmcache.client import Get, Put

chunks = {b"chunk-%d" % i: bytes([i]) * 100_000 for i in range(8)}

# without an argument: MEMKV_SERVERS, the yaml of MEMKV_CONFIG, or 127.0.0.1:9900
with Client(sys.argv[1] if len(sys.argv) > 1 else None) as client:
    # one round trip each, straight from and into the buffers
    client.put_many([Put(key, data) for key, data in chunks.items()])
    rooms = [bytearray(100_000) for _ in chunks]
    results = client.get_many_into(
        [Get(key, room) for key, room in zip(chunks, rooms, strict=True)]
    )

for (key, data), room, result in zip(chunks.items(), rooms, results, strict=True):
    print(key.decode(), result.status.name, "equal" if room == data else "DIFFERENT")
