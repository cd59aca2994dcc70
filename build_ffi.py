"""Describes the extension memkv_lmcache._memkv to CFFI.

What Python may use of the C library is what its headers mark, so that nothing is
declared twice: the text between ``/* cffi: on */`` and ``/* cffi: off */``. Of the
private headers it is what the tests need.

CMake runs this with ``python -m cffi.gen_src exec-python``; how the module is linked is
said in memkv_lmcache/CMakeLists.txt.
"""

from __future__ import annotations

import re
from pathlib import Path

from cffi import FFI

LIBRARY = Path(__file__).resolve().parent / "libmemkv"
HEADERS = {
    "memkv/memkv.h": LIBRARY / "include/memkv/memkv.h",
    "protocol/wire.h": LIBRARY / "src/protocol/wire.h",
    "protocol/checksum.h": LIBRARY / "src/protocol/checksum.h",
    "protocol/placement.h": LIBRARY / "src/protocol/placement.h",
    "protocol/auth.h": LIBRARY / "src/protocol/auth.h",
    "protocol/session.h": LIBRARY / "src/protocol/session.h",
}
# Of the system's <sys/uio.h>, which session.h names.
IOVEC = "struct iovec { void *iov_base; size_t iov_len; ...; };"
REGION = re.compile(r"/\* cffi: on \*/(.*?)/\* cffi: off \*/", re.DOTALL)
PLAIN_DEFINE = re.compile(r"#define \w+ \d+\s*(/\*.*)?")


def marked_text(header: Path) -> str:
    """Returns the declarations that a header marks for Python, as CFFI reads them."""
    text = "".join(REGION.findall(header.read_text(encoding="utf-8")))
    for line in text.splitlines():
        if line.startswith("#") and not PLAIN_DEFINE.fullmatch(line):
            raise ValueError(
                f"{header}: between the cffi marks only '#define NAME number' "
                f"may stand, not {line!r}"
            )
    return text.replace("MEMKV_API ", "")


ffibuilder = FFI()
ffibuilder.cdef("\n".join([IOVEC, *map(marked_text, HEADERS.values())]))
ffibuilder.set_source(
    "memkv_lmcache._memkv", "\n".join(f'#include "{name}"' for name in HEADERS)
)
