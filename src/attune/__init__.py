"""Fine-tune Whisper, and know what each way of fine-tuning bought."""

import os

# torch asks for it once, when it first takes memory on a CPU: then blocks of 2 MB and more lie in large pages, which
# Linux fetches in one go. A step of a cached decoder takes a tenth less (docs/log.md).
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

# oneDNN keeps a kernel for each shape that it has multiplied in 16 bits, up to 1,024 of them, each with memory of its
# own; batches have many shapes. With 64 a run of nano takes a third of a GB less, for 2 % of its time (docs/log.md).
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
