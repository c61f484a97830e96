"""The data module: the schema in, batches out, and a place from which a run goes on."""

from collections.abc import Callable
from itertools import islice

import pytest
import torch

from attune.audio.context import AudioContext, FullContext
from attune.data.batch import Batch
from attune.data.corpora.synthetic import Panel, SyntheticCorpus
from attune.data.module import SpeechDataModule, choose_workers
from attune.errors import InputError
from attune.text.tokens import Tokens

MakeData = Callable[..., SpeechDataModule]


def equal(left: Batch, right: Batch) -> bool:
    tensors = ("waveform", "lengths", "decoder_input_ids", "labels")
    return left.ids == right.ids and all(torch.equal(getattr(left, name), getattr(right, name)) for name in tensors)


def test_training_batches_hold_what_the_corpus_says(make_data: MakeData, nano_tokens: Tokens) -> None:
    data = make_data(nano_tokens, AudioContext(), batch_window_s=30.0)
    rows = {row["id"]: row for row in data.splits["train"]}
    seen: list[str] = []
    for batch in data.train_dataloader():
        assert len(batch) == 1 or batch.waveform.shape.numel() <= 30 * 16_000
        for index, id in enumerate(batch.ids):
            sequence = nano_tokens.sequence(rows[id]["text"], "en")
            assert batch.labels[index, : len(sequence.labels)].tolist() == sequence.labels
            assert batch.lengths[index] == round(rows[id]["duration_s"] * 16_000)
            assert (batch.references[index], batch.speakers[index]) == (rows[id]["text"], rows[id]["speaker"])
        seen += batch.ids
        if len(seen) >= 24:
            break
    assert sorted(seen) == sorted(rows)


def test_a_resumed_stream_goes_on(make_data: MakeData, nano_tokens: Tokens) -> None:
    whole, resumed = (make_data(nano_tokens, batch_window_s=15.0, seed=4) for _ in range(2))
    resumed.load_state_dict({"batches_taken": 5})
    assert resumed.state_dict() == {"batches_taken": 5, "ranks": 1}
    expected = list(islice(whole.train_dataloader(), 5, 12))
    assert all(map(equal, expected, islice(resumed.train_dataloader(), 7)))
    other = make_data(nano_tokens, batch_window_s=15.0, seed=5)
    assert not all(map(equal, expected, islice(other.train_dataloader(), 7)))


def test_workers_give_the_same_batches(make_data: MakeData, nano_tokens: Tokens) -> None:
    here, there = (make_data(nano_tokens, batch_window_s=15.0, workers=workers) for workers in (0, 1))
    assert all(map(equal, islice(here.train_dataloader(), 6), islice(there.train_dataloader(), 6)))


def test_a_panel_is_scored_once_at_any_context(make_data: MakeData, nano_tokens: Tokens) -> None:
    data = make_data(nano_tokens)
    assert data.panels == ["test", "retention/us"]
    for context, positions in ((None, None), (FullContext(), 1500)):
        batches = list(data.panel_dataloader("test", context))
        assert sorted(id for batch in batches for id in batch.ids) == sorted(data.splits["test"]["id"])
        assert positions is None or {batch.waveform.shape[1] for batch in batches} == {positions * 320}


def test_one_utterance_to_be_heard(make_data: MakeData, nano_tokens: Tokens) -> None:
    data = make_data(nano_tokens)
    row = data.splits["test"][2]
    assert data.waveform("test", row["id"]).shape[0] == round(row["duration_s"] * 16_000)


def test_a_corpus_without_a_panel(nano_tokens: Tokens, corpus: SyntheticCorpus) -> None:
    class Half:
        def splits(self) -> dict:
            return {"train": corpus.splits()["train"]}

    with pytest.raises(InputError, match=r"no utterance in 'validation'. Give data.validation"):
        SpeechDataModule(Half(), nano_tokens, AudioContext()).prepare()


def test_rendering_is_repeatable_and_cached(corpus: SyntheticCorpus, tmp_path_factory: pytest.TempPathFactory) -> None:
    panel = {"train": corpus.panels["train"]}
    again = SyntheticCorpus(panel, cache_dir=str(tmp_path_factory.mktemp("again")))
    rendered, cached = again.splits()["train"], corpus.splits()["train"]
    assert rendered[:] == cached[:]
    folders = list((again.cache_dir / "speech").iterdir())
    assert len(folders) == 1
    assert again.splits()["train"][:] == cached[:]
    assert list((again.cache_dir / "speech").iterdir()) == folders


def test_another_seed_or_panel_is_another_corpus(corpus: SyntheticCorpus, speech_cache: str) -> None:
    panel = Panel(utterances=4, accents=["en-us"], variants=["m1"])
    one, two = (
        SyntheticCorpus({"train": panel}, seed=seed, cache_dir=speech_cache).splits()["train"] for seed in (0, 1)
    )
    assert list(one["text"]) != list(two["text"])
    assert not set(corpus.splits()["train"]["text"]) & set(corpus.splits()["test"]["text"])


@pytest.mark.parametrize("wanted", [0, 3])
def test_workers_as_asked(wanted: int) -> None:
    assert choose_workers(wanted) == wanted
