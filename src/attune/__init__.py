"""Fine-tune Whisper, and know what each way of fine-tuning bought."""

import os

# torch asks for it once, when it first takes memory on a CPU: then blocks of 2 MB and more lie in large pages, which
# Linux fetches in one go. A step of a cached decoder takes a tenth less (docs/log.md).
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
