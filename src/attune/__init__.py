"""Fine-tune Whisper, and know what each way of fine-tuning bought."""

import os

# torch asks for it once, when it first takes memory on a CPU: then blocks of 2 MB and more lie in large pages, which
# Linux fetches in one go. A step of a cached decoder takes a tenth less (docs/log.md).
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

# oneDNN keeps a kernel for each shape that it has multiplied in 16 bits, and torch, beside it, what each was made from:
# up to 1,024 of both, half a MB a shape, and decoding has a new shape with every token. With 64 a run of nano takes two
# thirds of a GB less, and no more time (docs/log.md).
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
os.environ.setdefault("LRU_CACHE_CAPACITY", "64")
