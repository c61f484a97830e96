"""What 1,000 to 100,000 rows take before the first batch, in time and memory: python benchmarks/streaming.py

Two kinds of corpus, of short recordings that this program writes: `manifest`, JSONL beside WAV files, whose rows do not
say how long they are, and `streamed`, parquet that is read as data=hub data.streaming=true reads it. Each is read,
audited with the default data.listen_up_to and asked for its first training batch, in a process of its own:

    start       seconds from the first line of that process, imports included, to the first batch
    cpu         seconds of CPU that it took; on a busy machine only this tells
    anonymous   what the process holds itself, at its most while it did so
    resident    the same, with the pages of mapped files, which the kernel takes back when it needs them

The last lines are the claims: the first batch within 10 s, and resident memory flat within 10 % from the smallest size
to the largest. Both kinds have as many scored utterances at every size.
"""

import gc
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

STARTED = time.perf_counter()
gc.disable()  # while imports are made, as train.py does
SIZES = (1_000, 10_000, 100_000)
KINDS = ("manifest", "streamed")
SCORED = 200  # utterances each of validation and test
ROWS_A_FILE = 1_000
SECONDS = 0.25  # a short recording: 8 kB a row
RECORDINGS = 50  # distinct ones in training
SYLLABLES = ("ka", "ri", "to", "ne", "su", "mo", "la", "vi", "pe", "du")
MOST_SECONDS, MOST_GROWTH = 10.0, 0.10
SHOWN = {"rows": 0, "heard": 0, "import": 1, "start": 1, "cpu": 1, "anonymous": 0, "resident": 0}  # key: digits


def write_source(kind: str, folder: Path, rows: int) -> None:
    import random

    import torch

    from attune.audio.waveform import SAMPLE_RATE_HZ, encode_wav

    rng, samples = random.Random(0), int(SECONDS * SAMPLE_RATE_HZ)
    learnt = [encode_wav(0.1 * torch.randn(samples)) for _ in range(RECORDINGS)]
    for split, count in {"train": rows, "validation": SCORED, "test": SCORED}.items():
        sounds = learnt if split == "train" else [encode_wav(0.1 * torch.randn(samples)) for _ in range(SCORED)]
        texts = [" ".join("".join(rng.choices(SYLLABLES, k=2)) for _ in range(8)) for _ in range(count)]
        if kind == "manifest":
            write_manifest(folder, split, texts, sounds)
        else:
            write_parquet(folder, split, texts, sounds)


def write_manifest(folder: Path, split: str, texts: Sequence[str], sounds: Sequence[bytes]) -> None:
    rows = []
    for number, text in enumerate(texts):
        path = folder / f"{split}-{number // ROWS_A_FILE}" / f"{number}.wav"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(sounds[number % len(sounds)])
        rows.append(json.dumps({"audio": str(path.relative_to(folder)), "text": text, "speaker": f"s{number % 500}"}))
    (folder / f"{split}.jsonl").write_text("\n".join(rows))


def write_parquet(folder: Path, split: str, texts: Sequence[str], sounds: Sequence[bytes]) -> None:
    import pyarrow
    import pyarrow.parquet

    for first in range(0, len(texts), ROWS_A_FILE):
        numbers = range(first, min(len(texts), first + ROWS_A_FILE))
        made = [
            {"audio": {"bytes": sounds[number % len(sounds)], "path": None}, "text": texts[number]}
            for number in numbers
        ]
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(made), folder / f"{split}-{first:06d}.parquet")


def read(kind: str, source: Path, cache: Path) -> dict[str, Any]:
    """Read it up to the first batch; what that took."""
    from attune.audio.context import AudioContext
    from attune.data.corpora.hub import HubCorpus
    from attune.data.corpora.manifest import ManifestCorpus
    from attune.data.module import SpeechDataModule
    from attune.model.scratch import obtain_tokens

    gc.freeze()
    gc.enable()
    peak = Peak()
    imported_s = time.perf_counter() - STARTED
    if kind == "manifest":
        corpus = ManifestCorpus(
            *(str(source / f"{split}.jsonl") for split in ("train", "validation", "test")), language="en"
        )
    else:
        corpus = HubCorpus(str(source), language="en", streaming=True, cache_dir=str(cache))
    data = SpeechDataModule(corpus, obtain_tokens("nano", None), AudioContext(), workers=0, listen_up_to=2000)
    data.prepare()
    next(iter(data.train_dataloader()))
    start_s, cpu_s = time.perf_counter() - STARTED, time.process_time()
    heard = int(data.audit.sounds["train"].heard.sum())
    rows = len(data.splits["train"])
    return {"rows": rows, "heard": heard, "import": imported_s, "start": start_s, "cpu": cpu_s, **peak.end()}


class Peak(threading.Thread):
    """Memory at its most, in MB, looked at ten times a second."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most = read_memory_mb()
        self.ended = threading.Event()
        self.start()

    def run(self) -> None:
        while not self.ended.wait(0.1):
            self.look()

    def look(self) -> None:
        self.most = {kind: max(mb, self.most[kind]) for kind, mb in read_memory_mb().items()}

    def end(self) -> dict[str, float]:
        self.ended.set()
        self.join()
        self.look()
        return self.most


def read_memory_mb() -> dict[str, float]:
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    names = {"anonymous": "RssAnon", "resident": "VmRSS"}
    return {kind: int(lines[name].split()[0]) / 1024 for kind, name in names.items()}


def compare(results: Sequence[Mapping[str, Any]]) -> str:
    """The two claims, of one kind of corpus."""
    first, last = results[0], results[-1]
    growth = last["resident"] / first["resident"] - 1
    return (
        f"{last['rows']:,} rows to the first batch: {last['start']:.1f} s ({last['cpu']:.1f} s of CPU), "
        f"{'within' if last['start'] <= MOST_SECONDS else 'NOT within'} {MOST_SECONDS:g} s; resident memory "
        f"{100 * growth:+.1f} % from {first['rows']:,} rows, {'within' if growth <= MOST_GROWTH else 'NOT within'} "
        f"{100 * MOST_GROWTH:g} %"
    )


def main() -> None:
    names = ("rows", "heard", "import s", "start s", "cpu s", "anonymous MB", "resident MB")
    print(" " * 10 + "".join(f"{name:>{len(name) + 3}}" for name in names))
    for kind in KINDS:
        results = []
        for rows in SIZES:
            with tempfile.TemporaryDirectory() as folder:
                (source := Path(folder, "source")).mkdir()
                write_source(kind, source, rows)
                words = [sys.executable, __file__, kind, str(source), folder]
                told = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout
            each = json.loads(told.splitlines()[-1])
            results.append(each)
            cells = [f"{each[key]:.{digits}f}" for key, digits in SHOWN.items()]
            print(f"{kind:10}" + "".join(f"{c:>{len(n) + 3}}" for c, n in zip(cells, names, strict=True)), flush=True)
        print(f"{kind}: {compare(results)}", flush=True)


if __name__ == "__main__":
    if len(sys.argv) == 4:
        print(json.dumps(read(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))))
    else:
        main()
