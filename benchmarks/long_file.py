"""What an hour costs and loses: python benchmarks/long_file.py --minutes 60 --longest 4

Utterances are joined, with pauses between them, to one long file; each way of transcribing it runs in a process of its
own. `alone` is what the same model writes of each utterance by itself: a word more or less than that was lost or
invented at a seam. Without --manifest the speech is rendered (nano's own voices); with it, its recordings are taken, in
order and again from the first until the file is as long as asked for.

    python benchmarks/long_file.py --minutes 60 --model RUN --manifest ../shared/data/lj/test.jsonl
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import soundfile
import torch

PAUSES_S = (0.2, 1.2)
VOICES = ["", "m1", "m2", "m3", "m4", "f1", "f2", "f3", "f4"]
WAYS: dict[str, dict[str, Any]] = {
    "decoder's times": {"timestamps": True},
    "windows, words": {"timestamps": False, "words": True},
    "pauses": {"pauses": True, "timestamps": True},
    "pauses, words": {"pauses": True, "timestamps": True, "words": True},
}


def load_utterances(manifest: str | None) -> list[tuple[torch.Tensor, str]]:
    """(waveform, text) of each."""
    from attune.data.audit import load_row
    from attune.data.corpora.manifest import ManifestCorpus
    from attune.data.corpora.synthetic import SyntheticCorpus

    if manifest:
        rows = ManifestCorpus(manifest, manifest, manifest, language="en").splits()["test"]
    else:
        panel = {"utterances": 150, "accents": ["en-us"], "variants": VOICES, "split": "test"}
        rows = SyntheticCorpus({"train": panel, "validation": panel, "test": panel}).splits()["test"]
    return [(load_row(row), row["text"]) for row in rows]  # type: ignore[arg-type]


def join(utterances: list[tuple[torch.Tensor, str]], minutes: float, path: Path) -> list[int]:
    """Write the long file; which utterances are in it, in order."""
    from attune.audio.waveform import SAMPLE_RATE_HZ

    draw, order, written = random.Random(0), [], 0
    with soundfile.SoundFile(path, "w", SAMPLE_RATE_HZ, 1, "PCM_16") as file:
        for index in cycle(range(len(utterances))):
            if written >= minutes * 60 * SAMPLE_RATE_HZ:
                return order
            pause = torch.zeros(int(draw.uniform(*PAUSES_S) * SAMPLE_RATE_HZ))
            sound = torch.cat([utterances[index][0], pause])
            file.write(sound.numpy())
            written += len(sound)
            order.append(index)
    return order


def hear_alone(model: str, utterances: list[tuple[torch.Tensor, str]], folder: Path) -> list[str]:
    """What the model writes of each utterance by itself."""
    from attune.audio.waveform import SAMPLE_RATE_HZ
    from attune.use.transcribe import load_listening, transcribe_by_pauses

    files = [str(folder / f"{index}.wav") for index in range(len(utterances))]
    for file, (waveform, _) in zip(files, utterances, strict=True):
        soundfile.write(file, waveform.numpy(), SAMPLE_RATE_HZ)
    heard = transcribe_by_pauses(load_listening(model, "auto"), files, language="en")
    return ["" if isinstance(result, Exception) else result.text for _, result in heard]


def run(model: str, file: str, way: str, longest_s: float) -> None:
    """Transcribe in this process, and print what it took as one line of JSON."""
    from attune.use.transcribe import load_listening, transcribe, transcribe_by_pauses
    from attune.use.transcript import Transcript

    whisper = load_listening(model, "auto")
    asked: dict[str, Any] = {**WAYS[way], "longest_s": longest_s}
    started, cpu = time.perf_counter(), time.process_time()
    if asked.pop("pauses", False):
        (_, heard), *_ = transcribe_by_pauses(whisper, [file], "en", **asked)
    else:
        heard = transcribe(whisper, file, "en", **asked)
    assert isinstance(heard, Transcript), heard
    took = {"seconds": time.perf_counter() - started, "cpu_s": time.process_time() - cpu}
    took["peak_mb"] = read_memory_mb("VmHWM")
    timed = heard.words or heard.segments
    times_s = [time_s for part in timed for time_s in (part.start_s, part.end_s)]
    ordered = times_s == sorted(times_s) and times_s[0] >= 0 and times_s[-1] <= heard.duration_s
    print(json.dumps({"text": heard.text, "duration_s": heard.duration_s, "ordered": ordered, **took}))


def read_memory_mb(name: str) -> float:
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[name].split()[0]) / 1024


def measure(arguments: argparse.Namespace, folder: Path) -> Iterator[str]:
    from attune.score.metrics import count_word_errors
    from attune.text.normalise import normalise

    utterances = load_utterances(arguments.manifest)
    file = folder / "long.wav"
    order = join(utterances, arguments.minutes, file)
    alone = hear_alone(arguments.model, utterances, folder)
    reference = " ".join(normalise(utterances[index][1], "en") for index in order)
    by_itself = " ".join(normalise(alone[index], "en") for index in order)
    words = len(by_itself.split())
    errors = sum(
        count_word_errors(normalise(utterances[index][1], "en"), normalise(alone[index], "en")).total for index in order
    )
    yield (
        f"{len(order)} utterances, {soundfile.info(file).duration / 60:.1f} min, {len(reference.split())} words; alone "
        f"{words} words, WER {100 * errors / len(reference.split()):.1f}"
    )
    for way in arguments.ways or WAYS:
        command = [
            sys.executable,
            __file__,
            "--model",
            arguments.model,
            "--longest",
            str(arguments.longest),
            "--run",
            str(file),
            way,
        ]
        took = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
        heard = normalise(took["text"], "en")
        wrong = count_word_errors(reference, heard).total
        yield (
            f"{way:18} {len(heard.split()):6} words ({100 * (len(heard.split()) / words - 1):+.2f} % of alone)  "
            f"WER {100 * wrong / len(reference.split()):.1f}  times {'in order' if took['ordered'] else 'OUT OF ORDER'}"
            f"  {took['peak_mb']:.0f} MB at most  {took['seconds']:.0f} s ({took['cpu_s']:.0f} of "
            f"CPU), real-time factor {took['seconds'] / took['duration_s']:.3f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--manifest", help="of recordings to join")
    parser.add_argument(
        "--longest", type=float, default=30, help="seconds that are heard at once; nano knows sentences"
    )
    parser.add_argument("--ways", nargs="+", choices=WAYS)
    parser.add_argument("--run", nargs=2, metavar=("FILE", "WAY"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        file, way = arguments.run
        run(arguments.model, file, way, arguments.longest)
        return
    with tempfile.TemporaryDirectory() as folder:
        for line in measure(arguments, Path(folder)):
            print(line, flush=True)


if __name__ == "__main__":
    main()
