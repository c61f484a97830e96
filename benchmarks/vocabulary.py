"""What a list of terms costs while decoding: time beside none, for lists of 100 to 10,000 terms, and U-WER.

    python benchmarks/vocabulary.py                 # the untouched nano
    python benchmarks/vocabulary.py --model RUN     # a run's model, which has learnt the terms

Clinical sentences, spoken by espeak-ng, are decoded with the terms of their grammar in every list, filled up with
made words that nobody says. The weight of each list is chosen on validation sentences, as a run with
vocabulary.bias=[0.5,1,1.5,2,3] chooses it. One line a list: nodes of the trie, seconds to build it, median seconds to
decode, times those without a list (the bar: 1.3 for 1,000 terms, 1.5 for 10,000), the weight, recall of the terms, and
U-WER with its growth over that without a list (the bar: 5 %). Where no weight is worth it, the time is taken at --bias.
"""

import argparse
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

from attune.audio.context import AudioContext
from attune.data.batch import Batch
from attune.data.corpora.synthetic import Panel, SyntheticCorpus
from attune.data.module import SpeechDataModule
from attune.model.bias import TermBias, make_bias
from attune.model.decode import decode
from attune.model.whisper import Whisper, load_tokens, load_whisper
from attune.score.metrics import Errors, Prediction, count_word_errors
from attune.score.terms import TermScore, score_terms
from attune.text.finder import TermFinder
from attune.text.normalise import normalise
from attune.text.vocabulary import Term, read_grammar
from attune.train.tuning import Tried, choose

SYMBOLS = ["sound", "specialty", "image", "lesion", "symptom", "anatomy", "procedure", "diagnosis", "drug"]
SYLLABLES = (
    "ka", "lor", "vix", "ten", "mab", "pro", "si", "dar", "quel", "ona", "fen", "ith", "ul", "zo", "ram", "est",
)  # fmt: skip
VARIANTS = ("m1", "f1")
WEIGHTS = (0.5, 1.0, 1.5, 2.0, 3.0)
Heard = tuple[Batch, torch.Tensor]  # and its encoder states


@dataclass(frozen=True)
class Decoded:
    """What decoding a panel took, in seconds, and what came out; fractions."""

    seconds: float
    wer: float
    terms: TermScore


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano", help="a Whisper folder, hub name or run")
    parser.add_argument(
        "--bias", type=float, default=1.5, help="nats of the trie that is timed where no weight is worth it"
    )
    parser.add_argument("--terms", default="0,100,1000,10000", help="beside the grammar's own")
    parser.add_argument("--utterances", type=int, default=160)
    parser.add_argument("--validation", type=int, default=80, help="utterances that the weight is chosen on")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    wanted = parser.parse_args()
    name = f"{wanted.model}/model" if Path(wanted.model, "model").is_dir() else wanted.model
    whisper = load_whisper(name, load_tokens(name)).eval().to(wanted.device)
    panels = load_panels(whisper, wanted)
    own = read_grammar("clinical", SYMBOLS)
    plain = {panel: measure(whisper, heard, None, own, wanted.repeats) for panel, heard in panels.items()}
    print(" terms   nodes  build s decode s  times  bias recall %  U-WER %")
    show(0, 0, 0.0, 0.0, plain["test"], plain["test"])
    for count in map(int, wanted.terms.split(",")):
        started = time.perf_counter()
        terms = [*own, *make_words(count, {term.spelling for term in own})]
        bias = make_bias(whisper, terms, wanted.bias)
        build_s = time.perf_counter() - started
        tried = [describe(0.0, plain["validation"])]
        for weight in WEIGHTS:
            decoded = measure(whisper, panels["validation"], bias.reweigh(weight), own, repeats=1)
            tried.append(describe(weight, decoded))
        weight = choose(tried).bias
        decoded = measure(whisper, panels["test"], bias.reweigh(weight or wanted.bias), own, wanted.repeats)
        shown = decoded if weight else Decoded(decoded.seconds, plain["test"].wer, plain["test"].terms)
        show(len(terms), len(bias.trie), build_s, weight, shown, plain["test"])


def show(terms: int, nodes: int, build_s: float, weight: float, decoded: Decoded, plain: Decoded) -> None:
    recall, other = ((100 * (rate or 0.0)) for rate in (decoded.terms.recall, decoded.terms.unbiased_wer))
    growth = other / (100 * (plain.terms.unbiased_wer or 1.0)) - 1
    print(
        f"{terms:6} {nodes:7} {build_s:8.2f} {decoded.seconds:8.3f} {decoded.seconds / plain.seconds:6.2f} {weight:5g} "
        f"{recall:8.1f} {other:8.1f} ({100 * growth:+.1f} %)",
        flush=True,
    )


def describe(weight: float, decoded: Decoded) -> Tried:
    return Tried(weight, decoded.terms.f1, decoded.terms.recall, decoded.terms.unbiased_wer, decoded.wer)


def load_panels(whisper: Whisper, wanted: argparse.Namespace) -> dict[str, list[Heard]]:
    """Validation and test sentences of the clinical grammar in scoring's own batches, and their encoder states."""
    panels = {
        "train": Panel(2, ["en-us"], VARIANTS),
        "validation": Panel(wanted.validation, ["en-us"], VARIANTS, split="validation", grammar="clinical"),
        "test": Panel(wanted.utterances, ["en-us"], VARIANTS, split="test", grammar="clinical"),
    }
    data = SpeechDataModule(SyntheticCorpus(panels), whisper.tokens, AudioContext(), workers=0)
    data.prepare()
    device, heard = torch.device(wanted.device), {}
    for panel in ("validation", "test"):
        batches = [batch.to(device) for batch in data.panel_dataloader(panel)]
        with torch.no_grad():
            heard[panel] = [(batch, whisper.encode(batch.waveform)) for batch in batches]
    return heard


def make_words(count: int, taken: set[str]) -> list[Term]:
    """Words of three to five syllables, none twice."""
    rng, words = random.Random(0), dict[str, None]()
    while len(words) < count:
        word = "".join(rng.choices(SYLLABLES, k=rng.randint(3, 5)))
        if word not in taken:
            words[word] = None
    return [Term(word) for word in words]


def measure(
    whisper: Whisper, heard: Sequence[Heard], bias: TermBias | None, terms: Sequence[Term], repeats: int
) -> Decoded:
    """Decode everything, from encoder states on; the first of the rounds warms up, unless it is the only one."""
    times, predictions = [], []
    for _ in range(repeats + (repeats > 1)):
        started, predictions = time.perf_counter(), []
        for batch, states in heard:
            ids = decode(whisper, states, batch.prefixes, batch.lengths, bias)
            texts = [whisper.tokens.transcript(row) for row in ids]
            rows = zip(batch.ids, batch.references, texts, strict=True)
            predictions += [Prediction(*row, None, "en", 1.0) for row in rows]
        times.append(time.perf_counter() - started)
    errors = [count_word_errors(normalise(each.reference), normalise(each.hypothesis)) for each in predictions]
    wer = sum(errors, Errors()).rate
    return Decoded(median(times[-repeats:]), wer, score_terms(predictions, TermFinder(terms), {}, draws=10))


if __name__ == "__main__":
    main()
