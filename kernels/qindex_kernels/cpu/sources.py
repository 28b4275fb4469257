"""A checksum of the kernels' sources, for the key under which numba caches them.

numba checks a cached kernel against the file that defines it, not against the files it is built from: after an upgrade
that changes only a word of `simd`, it would go on using the old one. Kernels therefore close over this number.
"""

import zlib
from pathlib import Path

SOURCES = zlib.crc32(b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py"))))
