"""Pages of mapped rows, given back as soon as they were read.

A recording in a mapped file is read through pages that stay counted as this process's until the kernel wants them:
after one pass over a corpus of 100 GB a process seems to hold 100 GB, and whoever watches it, or limits it, believes
so. What is given back stays in the kernel's cache of the disk, and comes again at once when it is asked for.
"""

import ctypes
import sys
from collections.abc import Iterator

ROWS = "rows.arrow"
DONTNEED = 4  # of madvise(2), on Linux


def let_go() -> int:
    """Give back the pages of all files ROWS that this process has mapped; their bytes. Nothing but on Linux.

    Whoever reads in them meanwhile, in this or another thread, reads the same as before: the mapping stays.
    """
    if not sys.platform.startswith("linux"):
        return 0
    libc, size = ctypes.CDLL(None), 0
    for first, last in _find_mapped():
        libc.madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), DONTNEED)
        size += last - first
    return size


def _find_mapped() -> Iterator[tuple[int, int]]:
    """First address, and the one behind the last, of each mapping that cannot be written to: of no other may pages be
    given back, for their content would be lost."""
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as file:
        for line in file:
            if line.rstrip("\n").endswith("/" + ROWS):
                addresses, rights, *_ = line.split()
                first, last = (int(address, 16) for address in addresses.split("-"))
                if "w" not in rights:
                    yield first, last
