"""attune's Whisper computes what transformers and OpenAI's own package compute with the same weights."""

import re
from collections.abc import Mapping
from pathlib import Path

import huggingface_hub
import pytest
import torch
from jaxtyping import Float
from torch import Tensor
from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration
from whispers import awaken, copy_of, make_batch, make_sound

from attune.audio.waveform import WINDOW_POSITIONS
from attune.data.batch import Batch
from attune.errors import InputError
from attune.model import whisper as under_test
from attune.model.save import save_whisper
from attune.model.silence import spread_silence
from attune.model.whisper import Whisper, encode, load_tokens, load_whisper
from attune.text.tokens import IGNORED
from attune.train.objective.cross_entropy import CrossEntropy

# openai-whisper's names -> transformers'. The blocks are the same; every part is called otherwise.
RENAMED = (
    (r"^encoder\.positional_embedding", "model.encoder.embed_positions.weight"),
    (r"^decoder\.positional_embedding", "model.decoder.embed_positions.weight"),
    (r"^decoder\.token_embedding", "model.decoder.embed_tokens"),
    (r"^encoder\.ln_post", "model.encoder.layer_norm"),
    (r"^decoder\.ln\b", "model.decoder.layer_norm"),
    (r"^(encoder|decoder)\.blocks", r"model.\1.layers"),
    (r"^(encoder)\.conv", r"model.\1.conv"),
    (r"\.attn_ln", ".self_attn_layer_norm"),
    (r"\.cross_attn_ln", ".encoder_attn_layer_norm"),
    (r"\.mlp_ln", ".final_layer_norm"),
    (r"\.attn\.", ".self_attn."),
    (r"\.cross_attn\.", ".encoder_attn."),
    (r"\.mlp\.0", ".fc1"),
    (r"\.mlp\.2", ".fc2"),
    (r"\.query", ".q_proj"),
    (r"\.key", ".k_proj"),
    (r"\.value", ".v_proj"),
    (r"\.out\.", ".out_proj."),
)


def features_of(batch: Batch, mels: int) -> Float[Tensor, "batch mel frame"]:
    """The batch's audio as transformers' front end gives it."""
    rows = [wave[:length].numpy() for wave, length in zip(batch.waveform, batch.lengths, strict=True)]
    return WhisperFeatureExtractor(feature_size=mels)(rows, sampling_rate=16_000, return_tensors="pt").input_features


def gradients(network: WhisperForConditionalGeneration) -> dict[str, Tensor]:
    return {name: p.grad for name, p in network.named_parameters() if p.grad is not None}


@pytest.fixture(params=["nano_like", "real_tokenizer_whisper"])
def whisper(request: pytest.FixtureRequest) -> Whisper:
    return awaken(request.getfixturevalue(request.param), seed=1, factor=3.0)


def check_gradients(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert sum(int(gradient.abs().max() > 1e-5) for gradient in expected.values()) > 0.9 * len(expected)
    for name, gradient in expected.items():
        torch.testing.assert_close(
            found[name], gradient, atol=1e-5, rtol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_loss_and_gradients_are_those_of_transformers(whisper: Whisper) -> None:
    """transformers' own front end, forward pass and `labels=` loss against ours, the prompt of one row masked."""
    batch = make_batch(whisper.tokens, WINDOW_POSITIONS, prompts=[None, "Once upon a time.", None])
    assert len(set((batch.labels != IGNORED).sum(1).tolist())) == 3
    theirs = copy_of(whisper).network
    output = theirs(
        input_features=features_of(batch, 80), decoder_input_ids=batch.decoder_input_ids, labels=batch.labels
    )
    output.loss.backward()
    terms = CrossEntropy().loss(whisper, batch)
    loss = terms.total / terms.tokens
    loss.backward()
    assert terms.tokens == batch.supervised
    torch.testing.assert_close(loss, output.loss, atol=1e-5, rtol=0)
    check_gradients(gradients(whisper.network), gradients(theirs))


def test_without_prompts_the_decoder_reads_what_transformers_makes_of_labels(whisper: Whisper) -> None:
    batch = make_batch(whisper.tokens, WINDOW_POSITIONS)
    with torch.no_grad():
        theirs = whisper.network(input_features=features_of(batch, 80), labels=batch.labels).loss
        terms = CrossEntropy().loss(whisper, batch)
    torch.testing.assert_close(terms.total / terms.tokens, theirs, atol=1e-5, rtol=0)


def test_label_smoothing_is_that_of_torch(nano_like: Whisper) -> None:
    whisper = awaken(nano_like, seed=2, factor=3.0)
    batch = make_batch(whisper.tokens, 300)
    with torch.no_grad():
        terms = CrossEntropy(label_smoothing=0.1).loss(whisper, batch)
        logits = whisper.project(whisper.decode(whisper.encode(batch.waveform), batch.decoder_input_ids))
    expected = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), batch.labels.flatten(), reduction="sum", label_smoothing=0.1
    )
    torch.testing.assert_close(terms.total, expected, atol=1e-3, rtol=1e-6)


@pytest.mark.parametrize("training", [False, True])
def test_the_full_window_is_encoded_bit_for_bit_as_by_transformers(whisper: Whisper, training: bool) -> None:
    waveform = make_batch(whisper.tokens, WINDOW_POSITIONS).waveform
    whisper.train(training)
    with torch.no_grad():
        theirs = whisper.network.model.encoder(whisper.log_mel(waveform)).last_hidden_state
        assert torch.equal(whisper.encode(waveform), theirs)


def test_dropout_and_layerdrop_are_drawn_as_by_transformers(nano_like: Whisper) -> None:
    whisper = awaken(nano_like, seed=3)
    encoder = whisper.network.model.encoder.train()
    encoder.dropout, encoder.layerdrop = 0.3, 0.5
    for layer in encoder.layers:
        layer.dropout = 0.2
    log_mel = whisper.log_mel(make_batch(whisper.tokens, WINDOW_POSITIONS).waveform)
    for seed in range(4):
        torch.manual_seed(seed)
        theirs = encoder(log_mel).last_hidden_state
        torch.manual_seed(seed)
        assert torch.equal(encode(whisper.network, log_mel), theirs)


def test_a_window_of_its_own_length_for_any_row(nano_like: Whisper) -> None:
    """Ahead of attention, a short window is some positions of the long one: its sound, and silence up to the end."""
    whisper = awaken(nano_like, seed=4)
    whisper.network.model.encoder.layers = torch.nn.ModuleList()
    sound = torch.nn.functional.pad(make_sound(2.0, 1), (0, 28 * 16_000))
    with torch.no_grad():
        long, short = whisper.encode(sound[None]), whisper.encode(sound[None, : 250 * 320])
    assert short.shape == (1, 250, 32 + 1)
    spread = spread_silence(sound[None, : 250 * 320])
    torch.testing.assert_close(short[..., :32], long[:, spread.places[0]], atol=1e-5, rtol=0)
    assert torch.equal(short[..., 32], spread.log_counts)


def openai_model(network: WhisperForConditionalGeneration) -> torch.nn.Module:
    """openai-whisper's model with the same weights."""
    openai = pytest.importorskip("whisper", reason="openai-whisper is absent: there is nothing to compare with")
    config = network.config
    sizes = (config.d_model, config.encoder_attention_heads, config.encoder_layers)
    dims = openai.model.ModelDimensions(
        config.num_mel_bins, config.max_source_positions, *sizes, config.vocab_size, config.max_target_positions, *sizes
    )
    model = openai.model.Whisper(dims).eval()
    ours, renamed = network.state_dict(), {}
    for name in model.state_dict():
        theirs = name
        for pattern, replacement in RENAMED:
            name = re.sub(pattern, replacement, name)
        renamed[theirs] = ours.pop(name)
    assert set(ours) == {"proj_out.weight"}  # tied: the token embedding once more
    model.load_state_dict(renamed)
    return model


def test_encoder_and_logits_are_those_of_openai(whisper: Whisper) -> None:
    theirs = openai_model(whisper.network)
    batch = make_batch(whisper.tokens, WINDOW_POSITIONS)
    with torch.no_grad():
        their_states = theirs.embed_audio(features_of(batch, 80))
        states = whisper.encode(batch.waveform)
        torch.testing.assert_close(states, their_states, atol=1e-4, rtol=0)
        logits = whisper.project(whisper.decode(states, batch.decoder_input_ids))
        torch.testing.assert_close(logits, theirs.logits(batch.decoder_input_ids, their_states), atol=1e-4, rtol=0)
    assert logits.std() > 0.1


def test_openai_s_own_mel_and_sinusoids(nano_like: Whisper) -> None:
    openai = pytest.importorskip("whisper", reason="openai-whisper is absent: there is nothing to compare with")
    sound = make_sound(30.0, seed=9)
    torch.testing.assert_close(nano_like.log_mel(sound[None])[0], openai.log_mel_spectrogram(sound), atol=1e-5, rtol=0)
    positions = openai.model.sinusoids(1500, 32)
    torch.testing.assert_close(nano_like.network.model.encoder.embed_positions.weight, positions, atol=1e-6, rtol=0)


def test_what_is_saved_is_what_is_loaded(whisper: Whisper, tmp_path: Path) -> None:
    save_whisper(whisper, tmp_path)
    loaded = load_whisper(str(tmp_path), load_tokens(str(tmp_path)))
    batch = make_batch(loaded.tokens, 200)
    assert torch.equal(batch.labels, make_batch(whisper.tokens, 200).labels)
    with torch.no_grad():
        ours, theirs = (CrossEntropy().loss(each.eval(), batch).total for each in (whisper, loaded))
    assert torch.equal(ours, theirs)
    assert loaded.network.generation_config.suppress_tokens == whisper.network.generation_config.suppress_tokens
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}
    assert loaded.network.proj_out.weight is loaded.network.model.decoder.embed_tokens.weight


def test_half_precision_on_disk(nano_like: Whisper, tmp_path: Path) -> None:
    save_whisper(nano_like, tmp_path / "whole")
    save_whisper(nano_like, tmp_path / "half", dtype=torch.float16)
    size = {name: (tmp_path / name / "model.safetensors").stat().st_size for name in ("whole", "half")}
    assert size["half"] < 0.55 * size["whole"]
    loaded = load_whisper(str(tmp_path / "half"), nano_like.tokens)
    state = loaded.network.state_dict()
    for name, weight in nano_like.network.state_dict().items():
        assert torch.equal(state[name], weight.half().float())


def test_plain_transformers_transcribes_with_a_saved_folder(nano_like: Whisper, tmp_path: Path) -> None:
    from transformers import pipeline

    save_whisper(awaken(nano_like, seed=1), tmp_path)
    recogniser = pipeline("automatic-speech-recognition", str(tmp_path))
    found = recogniser(
        {"raw": make_sound(2.0, 1).numpy(), "sampling_rate": 16_000}, generate_kwargs={"max_new_tokens": 8}
    )
    assert isinstance(found["text"], str)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "has no config.json"),
        ({"config.json": "{"}, "is not JSON"),
        ({"config.json": '{"model_type": "bert"}'}, "holds a 'bert' model"),
        ({"config.json": '{"model_type": "whisper"}'}, "This tokenizer has no token"),
    ],
)
def test_a_folder_that_is_no_whisper(files: dict[str, str], message: str, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        load_tokens(str(tmp_path))


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no folder"):
        load_tokens(str(tmp_path / "nowhere"))


def test_weights_that_are_missing(nano_folder: Path, tmp_path: Path, nano_like: Whisper) -> None:
    for path in nano_folder.iterdir():
        if path.suffix == ".json":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    tokens = load_tokens(str(tmp_path))
    assert tokens.special == nano_like.tokens.special
    with pytest.raises(InputError, match="no Whisper could be loaded"):
        load_whisper(str(tmp_path), tokens)


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine without a network; where its downloads would lie."""

    class Unplugged:
        def head(self, *args: object, **kwargs: object) -> None:
            raise OSError("no route")

    monkeypatch.setattr(under_test, "get_session", Unplugged)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    under_test._find_on_hub.cache_clear()
    return tmp_path / "hub"


def test_a_hub_that_cannot_be_reached_is_asked_once(no_hub: Path) -> None:
    with pytest.raises(InputError, match=r"someone/whisper: the hub at .* cannot be reached \(no route\)"):
        load_tokens("someone/whisper")


def test_without_a_network_an_earlier_download_is_used(no_hub: Path, nano_folder: Path, nano_like: Whisper) -> None:
    repository = no_hub / "models--someone--whisper"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("a" * 40)
    (repository / "snapshots").mkdir()
    (repository / "snapshots" / ("a" * 40)).symlink_to(nano_folder, target_is_directory=True)
    tokens = load_tokens("someone/whisper")
    assert tokens.special == nano_like.tokens.special
    load_whisper("someone/whisper", tokens)


@pytest.mark.gpu
def test_an_odd_vocabulary_is_filled_up_to_the_same_logits(real_tokenizer_whisper: Whisper) -> None:
    whisper = copy_of(real_tokenizer_whisper).to("cuda")
    hidden = torch.randn(7, whisper.network.config.d_model, device="cuda")
    filled = whisper.project(hidden)  # 51,865 rows, and gradients are on
    with torch.no_grad():
        plain = whisper.project(hidden)
    assert filled.shape == plain.shape == (7, whisper.network.config.vocab_size)
    torch.testing.assert_close(filled, plain, atol=1e-4, rtol=1e-4)
