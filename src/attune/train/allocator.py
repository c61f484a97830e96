"""Memory that a CPU run no longer uses goes back to the system: what the process holds is then what the run needs.

Blocks of 2 MB and more lie in large pages where Linux has them for the asking (`attune/__init__.py`): a step takes and
gives back hundreds of MB, and with small pages a tenth of its time goes into fetching them.
"""

import ctypes
import sys

M_MMAP_THRESHOLD = -3  # glibc's name of the setting
RETURNED_BYTES = 1 << 22


def return_freed_memory() -> bool:
    """Let glibc hand back blocks of 4 MB and more as soon as they are freed; whether it will.

    By itself it raises that limit to 32 MB as such blocks come and go, and keeps what lies below. A step's activations
    are such blocks, of other sizes in each batch, so that the gaps between them are held and never filled again: a
    quarter of a GB of whisper-tiny's two. Fetching pages anew costs some 3 % of a step's time.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        return bool(ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, RETURNED_BYTES))
    except (OSError, AttributeError):  # another C library
        return False


def return_gaps() -> bool:
    """Hand back whole pages between the blocks of the heap that are in use; whether there were any.

    A few hundred MB of a step's smaller blocks would be held there. It takes some 20 ms.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        return bool(ctypes.CDLL(None).malloc_trim(0))
    except (OSError, AttributeError):
        return False
