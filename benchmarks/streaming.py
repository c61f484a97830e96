"""Memory and time of a streamed corpus, from 1,000 to 100,000 rows: python benchmarks/streaming.py

Each size is read in a process of its own, from parquet that this program writes. `anonymous` is what the process holds
itself; `resident` counts the pages of mapped files as well, which the kernel takes back when it needs them.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

SIZES = (1_000, 10_000, 100_000)
ROWS_A_FILE = 1_000
SECONDS = 0.25  # a short recording: 8 kB a row


def write_source(folder: Path, rows: int) -> None:
    import pyarrow
    import pyarrow.parquet
    import torch

    from attune.audio.waveform import SAMPLE_RATE_HZ, encode_wav

    wav = encode_wav(0.1 * torch.randn(int(SECONDS * SAMPLE_RATE_HZ)))
    for split, count in {"train": rows, "validation": 10, "test": 10}.items():
        for first in range(0, count, ROWS_A_FILE):
            numbers = range(first, min(count, first + ROWS_A_FILE))
            made = [{"audio": {"bytes": wav, "path": None}, "text": f"row {number}"} for number in numbers]
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(made), folder / f"{split}-{first:06d}.parquet")


def read(source: str, cache: str) -> None:
    """Read it streamed, and print what it took."""
    from attune.data.corpora.hub import HubCorpus

    started, before = time.perf_counter(), read_memory_mb()
    splits = HubCorpus(source, language="en", streaming=True, cache_dir=cache).splits()
    after = read_memory_mb()
    print(
        f"{len(splits['train']):>8} rows  {time.perf_counter() - started:6.1f} s  "
        + "  ".join(f"{kind} {before[kind]:.0f} -> {after[kind]:.0f} MB" for kind in after)
    )


def read_memory_mb() -> dict[str, float]:
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    names = {"anonymous": "RssAnon", "resident": "VmRSS"}
    return {kind: int(lines[name].split()[0]) / 1024 for kind, name in names.items()}


if __name__ == "__main__":
    if len(sys.argv) == 3:
        read(*sys.argv[1:])
        sys.exit()
    for rows in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            (source := Path(folder, "source")).mkdir()
            write_source(source, rows)
            subprocess.run([sys.executable, __file__, str(source), folder], check=True)
