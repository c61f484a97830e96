"""What a list of terms costs while decoding: time beside none, for lists of 100 to 10,000 terms, and U-WER.

usage: vocabulary.py [--model nano] [--bias 1.5] [--terms 0,100,1000,10000] [--utterances 160] [--repeats 5]
                     [--device cpu]

Clinical sentences, spoken by espeak-ng, are decoded with the terms of their grammar in every list, filled up with
made words that nobody says. One line a list: nodes of the trie, seconds to build it, median seconds to decode, times
those without a list (the bar: 1.3 for 1,000 terms, 1.5 for 10,000), recall of the terms, and U-WER.
"""

import argparse
import random
import time
from collections.abc import Sequence
from statistics import median

import torch

from attune.audio.context import AudioContext
from attune.data.batch import Batch
from attune.data.corpora.synthetic import Panel, SyntheticCorpus
from attune.data.module import SpeechDataModule
from attune.model.bias import TermBias, make_bias
from attune.model.decode import decode
from attune.model.whisper import Whisper, load_tokens, load_whisper
from attune.score.metrics import Prediction
from attune.score.terms import score_terms
from attune.text.finder import TermFinder
from attune.text.vocabulary import Term, read_grammar

SYMBOLS = ["sound", "specialty", "image", "lesion", "symptom", "anatomy", "procedure", "diagnosis", "drug"]
SYLLABLES = (
    "ka",
    "lor",
    "vix",
    "ten",
    "mab",
    "pro",
    "si",
    "dar",
    "quel",
    "ona",
    "fen",
    "ith",
    "ul",
    "zo",
    "ram",
    "est",
)
VARIANTS = ("m1", "f1")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--bias", type=float, default=1.5)
    parser.add_argument("--terms", default="0,100,1000,10000", help="beside the grammar's own; 0: no list at all")
    parser.add_argument("--utterances", type=int, default=160)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    wanted = parser.parse_args()
    whisper = load_whisper(wanted.model, load_tokens(wanted.model)).eval().to(wanted.device)
    batches = [batch.to(torch.device(wanted.device)) for batch in load_batches(whisper, wanted.utterances)]
    with torch.no_grad():
        states = [whisper.encode(batch.waveform) for batch in batches]
    own = read_grammar("clinical", SYMBOLS)
    baseline_s = None
    print(f"{'terms':>6} {'nodes':>8} {'build, s':>8} {'decode, s':>9} {'times':>6} {'recall %':>8} {'U-WER %':>8}")
    for count in map(int, wanted.terms.split(",")):
        started = time.perf_counter()
        terms = [*own, *make_words(count, {term.spelling for term in own})]
        bias = make_bias(whisper, terms, wanted.bias) if count else None
        build_s = time.perf_counter() - started
        decode_s, predictions = measure(whisper, batches, states, bias, wanted.repeats)
        baseline_s = baseline_s or decode_s
        score = score_terms(predictions, TermFinder(own), {}, draws=10)
        rates = [100 * (rate or 0.0) for rate in (score.recall, score.unbiased_wer)]
        nodes = len(bias.trie) if bias else 0
        print(
            f"{len(terms) if bias else 0:6} {nodes:8} {build_s if bias else 0:8.2f} {decode_s:9.3f} "
            f"{decode_s / baseline_s:6.2f} {rates[0]:8.1f} {rates[1]:8.1f}"
        )


def load_batches(whisper: Whisper, utterances: int) -> list[Batch]:
    """Test sentences of the clinical grammar in scoring's own batches."""
    small = Panel(2, ["en-us"], VARIANTS)
    panels = {
        "train": small,
        "validation": Panel(2, ["en-us"], VARIANTS, split="validation"),
        "test": Panel(utterances, ["en-us"], VARIANTS, split="test", grammar="clinical"),
    }
    data = SpeechDataModule(SyntheticCorpus(panels), whisper.tokens, AudioContext(), workers=0)
    data.prepare()
    return list(data.panel_dataloader("test"))


def make_words(count: int, taken: set[str]) -> list[Term]:
    """Words of three to five syllables, none twice."""
    rng, words = random.Random(0), dict[str, None]()
    while len(words) < count:
        word = "".join(rng.choices(SYLLABLES, k=rng.randint(3, 5)))
        if word not in taken:
            words[word] = None
    return [Term(word) for word in words]


def measure(
    whisper: Whisper,
    batches: Sequence[Batch],
    states: Sequence[torch.Tensor],
    bias: TermBias | None,
    repeats: int,
) -> tuple[float, list[Prediction]]:
    """Median seconds to decode all batches, from encoder states on, and what was written."""
    times, predictions = [], []
    for _ in range(repeats + 1):  # the first one warms up
        started, predictions = time.perf_counter(), []
        for batch, heard in zip(batches, states, strict=True):
            ids = decode(whisper, heard, batch.prefixes, batch.lengths, bias)
            texts = [whisper.tokens.transcript(row) for row in ids]
            rows = zip(batch.ids, batch.references, texts, strict=True)
            predictions += [Prediction(*row, None, "en", 1.0) for row in rows]
        times.append(time.perf_counter() - started)
    return median(times[1:]), predictions


if __name__ == "__main__":
    main()
