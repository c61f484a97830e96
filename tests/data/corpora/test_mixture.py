"""Several corpora as one: what is heard how often, and what is only watched."""

import random
from collections import Counter
from itertools import islice

import pytest
from recordings import prepare
from whispers import make_sound

from attune.audio.waveform import encode_wav
from attune.data.corpora.hub import HubCorpus
from attune.data.corpora.mixture import MixtureCorpus
from attune.data.corpora.schema import build_dataset
from attune.data.sampling import repeat
from attune.errors import InputError
from attune.text.tokens import Tokens

WAV = encode_wav(make_sound(0.5, 1))


class Part:
    """A corpus of `size` training rows in one language, with ids that every part has."""

    def __init__(self, size: int, language: str, task: str = "transcribe"):
        self.size, self.language, self.task = size, language, task

    def splits(self):
        return {split: build_dataset(self._rows(split, count)) for split, count in
                {"train": self.size, "validation": 1, "test": 2, "retention/old": 1}.items()}  # fmt: skip

    def more(self):
        return {"retention_validation/old": lambda: build_dataset(self._rows("old", 1))}

    def _rows(self, split: str, count: int):
        for number in range(count):
            yield {"id": f"{split}-{number}", "audio": {"path": None, "bytes": WAV}, "text": f"{split} {number}",
                   "language": self.language, "task": self.task, "place": f"{split}, {number}"}  # fmt: skip


def make_parts() -> dict[str, Part]:
    return {"large": Part(30, "en"), "small": Part(10, "de", "translate")}


def hear(corpus: MixtureCorpus, tokens: Tokens, batches: int = 200) -> Counter[str]:
    data, _ = prepare(corpus, tokens, batch_window_s=10.0)
    ids = [id for batch in islice(data.train_dataloader(), batches) for id in batch.ids]
    return Counter(id.split("-")[0] for id in ids)


def test_each_part_keeps_its_language_and_task(nano_tokens: Tokens) -> None:
    data, _ = prepare(MixtureCorpus(make_parts()), nano_tokens)
    assert [len(data.splits[split]) for split in ("train", "validation", "test")] == [40, 2, 4]
    kinds = {(row["language"], row["task"]) for row in data.splits["train"]}
    assert kinds == {("en", "transcribe"), ("de", "translate")}
    assert len(set(data.splits["train"]["id"])) == 40 and "small-test-1" in list(data.splits["test"]["id"])
    assert data.panels == ["test", "test/large", "test/small", "retention/large-old", "retention/small-old"]
    assert {language for batch in data.panel_dataloader("test") for language in batch.languages} == {"en", "de"}


@pytest.mark.parametrize(
    ("weights", "temperature", "share"),
    [({}, 1.0, 0.25), ({"small": 3.0}, 1.0, 0.5), ({}, 1e6, 0.5), ({"large": 0.5}, 1.0, 0.4)],
)
def test_shares_are_heard(weights: dict[str, float], temperature: float, share: float, nano_tokens: Tokens) -> None:
    heard = hear(MixtureCorpus(make_parts(), weights, temperature), nano_tokens)
    assert heard["small"] / heard.total() == pytest.approx(share, abs=0.06)


def test_plain_shares_hear_every_row_once_a_pass() -> None:
    train = MixtureCorpus(make_parts()).splits()["train"]
    assert set(train["weight"]) == {1.0}


def test_a_weight_is_a_mean() -> None:
    rng = random.Random(0)
    counts = Counter(index for _ in range(1000) for index in repeat([1.0, 2.3, 0.25, 0.0], rng))
    assert counts[0] == 1000 and counts[3] == 0
    assert counts[1] == pytest.approx(2300, rel=0.05) and counts[2] == pytest.approx(250, rel=0.2)


def test_a_part_of_weight_0_is_watched(nano_tokens: Tokens) -> None:
    corpus = MixtureCorpus(make_parts(), {"small": 0})
    data, _ = prepare(corpus, nano_tokens, replay=0.5)
    assert [len(data.splits[split]) for split in ("train", "validation", "test")] == [30, 1, 2]
    assert data.panels == ["test", "retention/large-old", "retention/small", "retention/small-old"]
    assert len(data.splits["replay"]) == 10
    heard = Counter(id.split("-")[0] for batch in islice(data.train_dataloader(), 40) for id in batch.ids)
    assert heard["small"] / heard.total() == pytest.approx(0.5, abs=0.1)
    assert set(corpus.more()) == {
        "replay", "retention_validation/small", "retention_validation/large-old", "retention_validation/small-old"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"parts": {}}, r"data.parts is empty. Add .*\+data@data.parts.NAME=manifest"),
        ({"weights": {"smal": 2}}, r"data.weights.smal: there is no such part. There is: small"),
        ({"weights": {"small": -1}}, r"data.weights.small is -1; it must be a number, 0 or more"),
        ({"weights": {"small": 0, "large": 0}}, r"data.weights are all 0"),
        ({"temperature": 0}, r"data.temperature=0 is not above 0"),
        ({"parts": {"in": MixtureCorpus(make_parts())}}, r"data.parts.in is a mixture itself. Give its parts here"),
        ({"parts": {"big": HubCorpus("a/b", "en", streaming="shards")}}, r"Take data.parts.big.streaming=true"),
    ],
)
def test_what_is_said(settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        MixtureCorpus(**{"parts": make_parts(), **settings})
