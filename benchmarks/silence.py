"""How near a cut window comes to 30 s: with its silence standing for all of it (model/silence.py), and without.

    python benchmarks/silence.py                # nano on the test set of data=accent
    python benchmarks/silence.py --model DIR

Prints, for margins of several sizes, the mean Kullback-Leibler divergence of the next token's distribution from the one
at 30 s, teacher-forced, in nats a token; and how many tokens are another at the top.
"""

import argparse
from collections.abc import Iterator

import torch
from hydra import compose, initialize
from jaxtyping import Float
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn.functional import pad

from attune.audio.context import AudioContext
from attune.audio.waveform import SAMPLES_PER_POSITION, WINDOW_POSITIONS
from attune.data.batch import Batch
from attune.data.module import SpeechDataModule
from attune.model.whisper import Whisper, encode, load_tokens, load_whisper
from attune.use.config import build_corpus

MARGINS = (80, 48, 32, 16, 8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano", help="a Whisper folder or hub name")
    parser.add_argument("words", nargs="*", default=["data=accent"], help="of train.py, that choose the data")
    arguments = parser.parse_args()
    with initialize(version_base="1.3", config_path="../configs"):
        corpus = build_corpus(compose("train", arguments.words).data)
    whisper = load_whisper(arguments.model, load_tokens(arguments.model)).eval()
    expected: dict[str, Float[Tensor, "token vocabulary"]] = {}
    table = Table("positions of silence", "nats a token", "other tokens", "cut: nats a token", "other tokens")
    for margin in MARGINS:
        context = AudioContext(margin_min=margin, margin_max=margin, shortest=50, bucket=1)
        data = SpeechDataModule(corpus, whisper.tokens, context, evaluation_batch_window_s=60, workers=0)
        data.prepare()
        found = [compare(whisper, batch, expected) for batch in data.panel_dataloader("test")]
        tokens, *sums = (sum(column) for column in zip(*found, strict=True))
        cells = [f"{sums[0] / tokens:.5f}", f"{sums[1]:g}", f"{sums[2] / tokens:.5f}", f"{sums[3]:g}"]
        table.add_row(str(margin), *cells)
    Console().print(table)
    Console().print(f"of {tokens:g} tokens")


@torch.inference_mode()
def compare(whisper: Whisper, batch: Batch, expected: dict[str, Tensor]) -> tuple[float, ...]:
    """Tokens; divergence and other tokens with silence spread; the same without. `expected` keeps what 30 s say."""
    whole = WINDOW_POSITIONS * SAMPLES_PER_POSITION
    if any(id not in expected for id in batch.ids):
        states = whisper.encode(pad(batch.waveform, (0, whole - batch.waveform.shape[1])))
        expected.update(zip(batch.ids, list_rows(whisper, states, batch), strict=True))
    sums = [0.0] * 4
    for place, states in enumerate(
        (whisper.encode(batch.waveform), encode(whisper.network, whisper.log_mel(batch.waveform)))
    ):
        for id, ours in zip(batch.ids, list_rows(whisper, states, batch), strict=True):
            theirs = expected[id]
            sums[2 * place] += float((theirs.exp() * (theirs - ours)).sum())
            sums[2 * place + 1] += int((theirs.argmax(-1) != ours.argmax(-1)).sum())
    return (batch.supervised, *sums)


def list_rows(whisper: Whisper, states: Tensor, batch: Batch) -> Iterator[Float[Tensor, "token vocabulary"]]:
    """Log-probabilities of the taught tokens, utterance by utterance."""
    said = whisper.project(whisper.decode(states, batch.decoder_input_ids)).float().log_softmax(-1)
    for row, labels in zip(said, batch.labels, strict=True):
        yield row[labels >= 0]


if __name__ == "__main__":
    main()
