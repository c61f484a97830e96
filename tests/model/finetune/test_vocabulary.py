"""New tokens, a learned prompt, another vocabulary: what stays, where rows start, and what plain transformers gets."""

from pathlib import Path

import pytest
import torch
from transformers import WhisperForConditionalGeneration, WhisperTokenizer
from whispers import TEXTS, TRANSCRIPTS, awaken, change, copy_of, make_batch

from attune.audio.waveform import SAMPLE_RATE_HZ
from attune.errors import InputError
from attune.model.decode import decode_greedily
from attune.model.finetune.base import FineTuning, change_tokens, merge_additions, parameter_groups
from attune.model.finetune.new_head import NewHead
from attune.model.finetune.new_tokens import NewTokens
from attune.model.finetune.prompt import Prompt
from attune.model.finetune.vocabulary import find_runs
from attune.model.save import NOTE, save_whisper
from attune.model.whisper import Whisper, load_tokens, load_whisper
from attune.text.tokenizer import train_tokenizer
from attune.text.tokens import Tokens
from attune.train.objective.cross_entropy import CrossEntropy

TERMS = ["blue boats", "since August"]  # of the batch's texts; more than one token in any vocabulary


def train(whisper: Whisper, finetune: FineTuning, steps: int = 3) -> None:
    """With weight decay, momentum and clipping, which would move rows whose gradient is only masked."""
    groups = parameter_groups(finetune, whisper.network, weight_decay=0.5, learning_rate=1e-2)
    optimizer = torch.optim.AdamW(groups, lr=1e-2)
    batch = make_batch(whisper.tokens, 150)
    for _ in range(steps):
        optimizer.zero_grad()
        CrossEntropy().loss(whisper, batch).total.backward()
        torch.nn.utils.clip_grad_norm_(whisper.network.parameters(), 1.0)
        optimizer.step()


def embedding(whisper: Whisper) -> torch.Tensor:
    return whisper.network.model.decoder.embed_tokens.weight.detach()


def test_rows_start_from_what_they_replace(any_whisper: Whisper) -> None:
    old, finetune = any_whisper.tokens, NewTokens(terms=TERMS, languages={"GSW": "German"})
    whisper = copy_of(any_whisper)
    change(whisper, finetune)
    merge_additions(finetune, whisper.network)
    before, after, new = embedding(any_whisper), embedding(whisper), whisper.tokens
    for term in TERMS:
        pieces = old.tokenizer.encode(f" {term}", add_special_tokens=False)
        (id,) = new.tokenizer.encode(f" {term}", add_special_tokens=False)
        assert torch.equal(after[id], before[pieces].mean(dim=0))
    assert torch.equal(after[new.languages["gsw"]], before[old.languages["de"]])
    assert after.shape[0] == before.shape[0] + 3 == whisper.network.config.vocab_size == len(new.tokenizer)


@pytest.mark.parametrize("rank", [None, 4])
def test_training_moves_no_old_row_by_a_bit(rank: int | None, nano_like: Whisper) -> None:
    whisper, finetune = copy_of(nano_like), NewTokens(terms=TERMS, languages={"gsw": "de"}, rank=rank)
    counts = change(whisper, finetune)
    adapted = sum(p.numel() for name, p in whisper.network.named_parameters() if "lora_" in name)
    assert counts["trainable"] == counts["added"] == 3 * 32 + adapted
    assert bool(adapted) == bool(rank)
    start = whisper.network.model.decoder.embed_tokens.new.detach().clone()
    train(whisper, finetune)
    merge_additions(finetune, whisper.network)
    ids = whisper.tokens.tokenizer.get_vocab()
    for name, id in nano_like.tokens.tokenizer.get_vocab().items():
        assert torch.equal(embedding(whisper)[ids[name]], embedding(nano_like)[id])
    new = [ids[" blue boats"], ids[" since August"], ids["<|gsw|>"]]
    assert (embedding(whisper)[new] - start).abs().amax(dim=1).min() > 0
    assert whisper.network.proj_out.weight is whisper.network.model.decoder.embed_tokens.weight
    assert not [name for name, _ in whisper.network.named_parameters() if "lora_" in name or name.endswith(".new")]


def test_suppressed_tokens_stay_suppressed_under_their_new_ids(real_tokenizer_whisper: Whisper) -> None:
    old, whisper = real_tokenizer_whisper, copy_of(real_tokenizer_whisper)
    change(whisper, NewTokens(terms=TERMS, languages={"gsw": "de"}))
    before, after = old.network.generation_config, whisper.network.generation_config
    for name in ("suppress_tokens", "begin_suppress_tokens"):
        theirs = old.tokens.tokenizer.convert_ids_to_tokens(getattr(before, name))
        assert whisper.tokens.tokenizer.convert_ids_to_tokens(getattr(after, name)) == theirs
    assert after.eos_token_id == after.pad_token_id == whisper.tokens.end_of_text == before.eos_token_id + len(TERMS)
    assert after.no_timestamps_token_id == whisper.tokens.no_timestamps
    assert after.lang_to_id["<|gsw|>"] == whisper.tokens.languages["gsw"]
    assert whisper.network.config.decoder_start_token_id == whisper.tokens.start


def save_changed(whisper: Whisper, finetune: FineTuning, folder: Path) -> Whisper:
    """A changed Whisper that writes text only: `generate` looks for the next segment behind a time."""
    changed = awaken(whisper, seed=2)
    change(changed, finetune)
    train(changed, finetune)
    merge_additions(finetune, changed.network)
    changed.network.generation_config.suppress_tokens = sorted(changed.tokens.special - {changed.tokens.end_of_text})
    save_whisper(changed.eval(), folder)
    return changed


def generate(folder: Path, whisper: Whisper, waveform: torch.Tensor, **asked: object) -> list[int]:
    """What plain transformers writes with a folder: six new ids, or those in front of <|endoftext|>."""
    model = WhisperForConditionalGeneration.from_pretrained(folder).eval()
    row = model.generate(whisper.log_mel(waveform), max_new_tokens=6, **asked)[0].tolist()
    end = whisper.tokens.end_of_text
    return row[: row.index(end)] if end in row else row


def test_plain_transformers_is_asked_for_a_new_language_by_its_token(any_whisper: Whisper, tmp_path: Path) -> None:
    changed = save_changed(any_whisper, NewTokens(terms=[], languages={"gsw": "de"}), tmp_path)
    waveform = make_batch(changed.tokens, 1500).waveform[:1]
    with torch.no_grad():
        ours = decode_greedily(changed, changed.encode(waveform), [changed.tokens.prefix("gsw")], [6])[0]
    assert generate(tmp_path, changed, waveform, language="<|gsw|>") == ours != []
    with pytest.raises(ValueError, match="Unsupported language: gsw"):
        generate(tmp_path, changed, waveform, language="gsw")
    with pytest.raises(ValueError, match="Unsupported language: gsw"):
        WhisperTokenizer.from_pretrained(tmp_path, language="gsw")
    assert load_tokens(str(tmp_path)).language_code("gsw") == "gsw"
    assert "must be asked for gsw by token, generate(..., language='<|gsw|>')" in (tmp_path / NOTE).read_text()


def test_plain_transformers_reads_a_learned_prompt_from_prompt_ids(any_whisper: Whisper, tmp_path: Path) -> None:
    changed = save_changed(any_whisper, Prompt(tokens=4, states=0), tmp_path)
    tokens = load_tokens(str(tmp_path))
    learned = tokens.prompt(None, room=448)
    assert learned == [tokens.start_of_prompt, *changed.tokens.soft_prompt] and len(learned) == 5
    assert f"prompt_ids=torch.tensor({learned})" in (tmp_path / NOTE).read_text()
    batch = make_batch(tokens, 1500)
    assert batch.prefixes[0] == [*learned, *tokens.prefix("en")]
    loaded = load_whisper(str(tmp_path), tokens).eval()
    with torch.no_grad():
        ours = decode_greedily(loaded, loaded.encode(batch.waveform[:1]), batch.prefixes[:1], [6])[0]
    assert generate(tmp_path, loaded, batch.waveform[:1], language="en", prompt_ids=torch.tensor(learned)) == ours != []


def test_a_learned_prompt_starts_as_the_training_texts_begin(nano_like: Whisper) -> None:
    whisper = copy_of(nano_like)
    change(whisper, Prompt(tokens=5, states=0))
    beginning = nano_like.tokens.text(" ".join(TEXTS), "en")[:5]
    assert torch.equal(whisper.network.model.decoder.embed_tokens.new, embedding(nano_like)[beginning])
    assert set(whisper.tokens.soft_prompt) <= set(whisper.network.generation_config.suppress_tokens)  # never written


def test_a_transcript_of_a_prompted_model_is_asked_with_its_prompt(
    nano_like: Whisper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import soundfile

    from attune.use import listen as hearing
    from attune.use import transcribe as room

    save_changed(nano_like, Prompt(tokens=4, states=0), tmp_path / "model")
    soundfile.write(tmp_path / "a.wav", 0.1 * torch.randn(2 * SAMPLE_RATE_HZ).numpy(), SAMPLE_RATE_HZ)
    whisper = room.load_listening(str(tmp_path / "model"), "cpu")
    asked = []
    decode = hearing.decode
    monkeypatch.setattr(hearing, "decode", lambda *args: asked.extend(args[2]) or decode(*args))
    room.transcribe(whisper, str(tmp_path / "a.wav"))  # the language is detected
    assert asked[0][: 1 + 4 + 1] == [whisper.tokens.start_of_prompt, *whisper.tokens.soft_prompt, whisper.tokens.start]
    once = room.Thresholds(temperatures=(0.0,))  # random weights can leave nothing to draw from
    room.transcribe(whisper, str(tmp_path / "a.wav"), "en", timestamps=True, thresholds=once)


def test_a_new_head_keeps_what_agrees_and_averages_what_does_not(any_whisper: Whisper) -> None:
    whisper = copy_of(any_whisper)
    change(whisper, NewHead(merges=30))
    old, new = any_whisper.tokens.tokenizer, whisper.tokens.tokenizer
    before, after, known = embedding(any_whisper), embedding(whisper), old.get_vocab()
    assert len(after) == len(new) == 256 + 30 + len(old) - any_whisper.tokens.end_of_text
    for name, id in new.get_vocab().items():
        pieces = [known[name]] if name in known else [t.id for t in old.backend_tokenizer.model.tokenize(name)]
        assert torch.equal(after[id], before[pieces].mean(dim=0))
    assert whisper.network.proj_out.weight is whisper.network.model.decoder.embed_tokens.weight
    assert whisper.network.model.encoder.conv1.weight.requires_grad  # a new writing is learnt with everything


def test_words_are_chosen_by_what_they_save(nano_like: Whisper) -> None:
    tokens = nano_like.tokens
    texts = ["Kwyjibo and xylophonist.", "A kwyjibo.", "a Kwyjibo, Zyzzyva's"]
    new = change_tokens(NewTokens(count=1), tokens, texts)
    (chosen,) = new.tokenizer.get_vocab().keys() - tokens.tokenizer.get_vocab().keys()
    assert chosen == " Kwyjibo"  # it stands twice; the others are not twice as long
    new = change_tokens(NewTokens(count=99), tokens, texts)
    assert " Zyzzyva's" in new.tokenizer.get_vocab()


def test_runs() -> None:
    assert find_runs([0, 1, 5, 6, 2, 7, 3, 4], old_size=5) == [(0, 0, 2), (1, 0, 2), (0, 2, 3), (1, 2, 3), (0, 3, 5)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"terms": []}, r"finetune.terms is empty and finetune.languages too"),
        ({"count": 0}, r"finetune.count is 0"),
        ({"rank": 0}, r"finetune.rank is 0"),
        ({"terms": ["the"]}, r"'the' stands in no training text|'the' is a token already"),
        ({"terms": ["b"]}, r"finetune.terms: 'b' is a token already \(id \d+\)"),
        ({"terms": ["August", "August "]}, r"finetune.terms lists 'August' 2 times"),
        ({"terms": ["Kubernetes"]}, r"finetune.terms: 'Kubernetes' stands in no training text"),
        ({"terms": [" "]}, r"finetune.terms: '' stands in no training text"),
        ({"terms": ["§é"]}, r"transformers cannot write '§é' as one token"),
        ({"languages": {"de": "en"}}, r"finetune.languages: <\|de\|> is a token already"),
        ({"languages": {"gsw": "germn"}}, r"Whisper knows no language 'germn'. Nearest: german"),
    ],
)
def test_new_tokens_that_cannot_be(arguments: dict, message: str, nano_like: Whisper) -> None:
    with pytest.raises(InputError, match=message):
        change_tokens(NewTokens(**arguments), nano_like.tokens, [*TRANSCRIPTS, "aabb x§é"])


def test_an_english_only_whisper_takes_no_language() -> None:
    tokens = Tokens(train_tokenizer(["a b"], merges=1), is_multilingual=False)
    with pytest.raises(InputError, match="English-only and takes no language token"):
        change_tokens(NewTokens(terms=[], languages={"gsw": "de"}), tokens, TRANSCRIPTS)


def test_words_that_are_all_one_token(nano_like: Whisper) -> None:
    with pytest.raises(InputError, match=r"every word of the training texts is one token already"):
        change_tokens(NewTokens(), nano_like.tokens, ["12 34."])


def test_prompts_and_heads_that_cannot_be(nano_like: Whisper) -> None:
    with pytest.raises(InputError, match=r"finetune.tokens is 224; a prompt has at most 223 tokens"):
        Prompt(tokens=224)
    for states in (0, -1):
        with pytest.raises(InputError, match=rf"finetune.states {states}: one must be above 0"):
            Prompt(states=states)
    with pytest.raises(InputError, match="this Whisper has a learned prompt already"):
        change_tokens(Prompt(tokens=16), change_tokens(Prompt(tokens=16), nano_like.tokens, TRANSCRIPTS), TRANSCRIPTS)
    whisper = copy_of(nano_like)
    Prompt().apply(whisper.network)
    with pytest.raises(InputError, match="this Whisper has learned prompts in its blocks already"):
        Prompt().apply(whisper.network)
    with pytest.raises(InputError, match=r"finetune.blocks: there is no block 'model.encoder.layers.9'. There are: "):
        Prompt(blocks=["model.encoder.layers.9"]).apply(copy_of(nano_like).network)
    with pytest.raises(InputError, match="finetune.blocks is empty"):
        Prompt(blocks=[]).apply(copy_of(nano_like).network)
    with pytest.raises(InputError, match="finetune.merges is -1"):
        NewHead(merges=-1)
