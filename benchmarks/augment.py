"""What each augmentation of configs/augment/standard.yaml costs a batch, beside the log-mel that every batch pays for.

usage: augment.py [--device cuda] [--batch 40] [--window 4] [--repeats 20]

Prints one line an augmentation: median milliseconds a batch, given to its usual share of the utterances and given to
all of them, and how many log-mels that is. BPE dropout is measured with nano's tokens.
"""

import argparse
import random
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
import yaml

from attune.audio.augment import augment_share
from attune.audio.log_mel import LogMel
from attune.audio.waveform import POSITIONS_PER_S, SAMPLE_RATE_HZ
from attune.data.batch import Batch, Example, collate
from attune.data.subwords import SubwordDropout
from attune.model.whisper import load_tokens
from attune.text.sentences import draw_sentences
from attune.text.tokens import Tokens
from attune.train.augmentation import Augmentation

STANDARD = Path(__file__).parents[1] / "configs" / "augment" / "standard.yaml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int, default=40, help="utterances")
    parser.add_argument("--window", type=float, default=4.0, help="seconds; three quarters of it are speech")
    parser.add_argument("--repeats", type=int, default=20)
    wanted = parser.parse_args()
    settings = yaml.safe_load(STANDARD.read_text())
    del settings["_target_"]
    augmentation, tokens = Augmentation(**settings), load_tokens("nano")
    device = torch.device(wanted.device)
    batch = make_batch(tokens, wanted.batch, wanted.window).to(device)
    log_mel = LogMel(80).to(device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"{wanted.batch} windows of {wanted.window:g} s on {name}, median of {wanted.repeats}")

    baseline_ms = time_ms(lambda seed: log_mel(batch.waveform), wanted.repeats, device)

    def measure(label: str, usual: Callable[[int], object], of_all: Callable[[int], object] | None = None) -> None:
        cost_ms = time_ms(usual, wanted.repeats, device)
        all_ms = f"{time_ms(of_all, wanted.repeats, device):.2f}" if of_all else ""
        print(f"{label:14} {cost_ms:9.2f} {all_ms:>9} {cost_ms / baseline_ms:9.2f}")

    print(f"{'':14} {'usual, ms':>9} {'all, ms':>9} {'log-mels':>9}")
    measure("log-mel", lambda seed: log_mel(batch.waveform))
    for part, change in augmentation.waveform.items():
        measure(
            part,
            lambda seed, change=change: augment_share(change, batch.waveform, batch.lengths, seeded(seed, device)),
            lambda seed, change=change: change(batch.waveform, batch.lengths, seeded(seed, device)),
        )
    heard, spec_augment = log_mel(batch.waveform), augmentation.spec_augment
    if spec_augment is not None:
        measure("spec_augment", lambda seed: spec_augment(heard, batch.lengths, seeded(seed, device)))
    dropout = SubwordDropout(tokens, augmentation.bpe_dropout)
    measure("bpe_dropout", lambda seed: dropout.respell(batch, random.Random(seed)))
    measure("all together", lambda seed: augmentation.change(batch, tokens, seed))


def make_batch(tokens: Tokens, utterances: int, window_s: float) -> Batch:
    """Everyday sentences over noise: augmentation does not care what is said."""
    samples = int(0.75 * window_s * SAMPLE_RATE_HZ)
    generator = torch.Generator().manual_seed(0)
    examples = []
    for index, text in enumerate(draw_sentences(utterances, seed=0, split="train")):
        sequence = tokens.sequence(text, "en")
        sound = 0.1 * torch.randn(samples, generator=generator)
        examples.append(
            Example(
                id=str(index), waveform=sound, positions=int(window_s * POSITIONS_PER_S),
                decoder_input_ids=sequence.decoder_input_ids, labels=sequence.labels, prefix=tokens.prefix("en"),
                reference=text, language="en", speaker=None,
            )
        )  # fmt: skip
    return collate(examples, tokens.end_of_text)


def seeded(seed: int, device: torch.device) -> torch.Generator:
    return torch.Generator(device).manual_seed(seed)


@torch.no_grad()
def time_ms(work: Callable[[int], object], repeats: int, device: torch.device) -> float:
    """Median over seeds, after two rounds to warm up."""
    taken = []
    for seed in range(repeats + 2):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        started = time.perf_counter()
        work(seed)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(1000 * (time.perf_counter() - started))
    return median(taken[2:])


if __name__ == "__main__":
    main()
