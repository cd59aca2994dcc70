# What CFFI generates; only _ffi.py may look inside.
from typing import Any

ffi: Any
lib: Any
