"""Memory that a CPU run no longer uses goes back to the system: what the process holds is then what the run needs."""

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
