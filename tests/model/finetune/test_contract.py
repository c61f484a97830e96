"""The contract of a fine-tuning type, run over every YAML in configs/finetune, found by itself.

Only declared parameters get a gradient; frozen ones are bitwise equal after a step; additive types change nothing at
step 0; counts are those worked out by hand; save, load and merge give the same logits; decoding works; a step learns.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from jaxtyping import Float, Int
from torch import Tensor
from whispers import awaken, change, copy_of, make_batch, read_settings

from attune.data.batch import Batch
from attune.errors import InputError
from attune.model.additions import SoftPrompt
from attune.model.decode import cap_tokens, decode_greedily
from attune.model.finetune.base import (
    advance,
    after_step,
    apply_finetuning,
    merge_additions,
    parameter_groups,
    regularisation,
)
from attune.model.finetune.layers import Layers
from attune.model.finetune.lora import Lora
from attune.model.save import save_whisper
from attune.model.whisper import Whisper, load_tokens, load_whisper
from attune.train.objective.cross_entropy import CrossEntropy

FOLDER = Path(__file__).parents[3] / "configs" / "finetune"
TYPES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
WIDTH, LAYERS, POSITIONS, TARGETS, MELS = 32, 2, 1500, 448, 80  # of the Whispers in conftest.py


def build(name: str) -> Any:
    return instantiate(read_settings(FOLDER / f"{name}.yaml"), _convert_="all")


def count_attention() -> int:
    return 4 * WIDTH**2 + 3 * WIDTH  # q, k, v, out; k has no bias


def count_feed_forward() -> int:
    return 8 * WIDTH**2 + 4 * WIDTH + WIDTH


def count_encoder() -> int:
    convolutions = 3 * MELS * WIDTH + WIDTH + 3 * WIDTH**2 + WIDTH
    layer = count_attention() + count_feed_forward() + 2 * 2 * WIDTH
    return convolutions + LAYERS * layer + 2 * WIDTH  # the positions are a constant


def count_decoder(vocabulary: int) -> int:
    layer = 2 * count_attention() + count_feed_forward() + 3 * 2 * WIDTH
    return vocabulary * WIDTH + TARGETS * WIDTH + LAYERS * layer + 2 * WIDTH  # the output is tied to the embedding


def count_lora(rank: int) -> int:
    attention, feed_forward = 4 * rank * 2 * WIDTH, 2 * rank * 5 * WIDTH
    return LAYERS * (attention + feed_forward) + LAYERS * (2 * attention + feed_forward)


def count_block(side: str) -> int:
    attentions = {"encoder": 1, "decoder": 2}[side]
    return attentions * count_attention() + count_feed_forward() + (attentions + 1) * 2 * WIDTH


def count_biases_and_norms() -> int:
    encoder_block = 3 * WIDTH + (4 + 1) * WIDTH + 2 * 2 * WIDTH  # attention (k has none), feed-forward, two norms
    decoder_block = 2 * 3 * WIDTH + (4 + 1) * WIDTH + 3 * 2 * WIDTH
    convolutions, last_norms = 2 * WIDTH, 2 * 2 * WIDTH
    return convolutions + LAYERS * (encoder_block + decoder_block) + last_norms


def count_adapters(bottleneck: int) -> int:
    one = 2 * bottleneck * WIDTH + bottleneck + WIDTH
    return LAYERS * (2 + 3) * one


def count_dora(rank: int) -> int:
    encoder_rows, decoder_rows = (4 + 5) * WIDTH, (2 * 4 + 5) * WIDTH  # a length for each row: q, k, v, out, fc1, fc2
    return count_lora(rank) + LAYERS * (encoder_rows + decoder_rows)


def count_adalora(rank: int) -> tuple[int, int]:
    matrices = LAYERS * (6 + 10)
    trainable = count_lora(rank) + matrices * rank  # the singular values
    return trainable, trainable + matrices  # and of each matrix its rank, which peft keeps as a frozen parameter


def count_ia3() -> int:
    encoder, decoder = (2 + 4) * WIDTH, (2 * 2 + 4) * WIDTH  # k, v and the inside of the feed-forward part
    return LAYERS * (encoder + decoder)


# (vocabulary, id of <|endoftext|>) -> (trainable, added), worked out from the dimensions.
COUNTS: dict[str, Callable[[int, int], tuple[int, int]]] = {
    "full": lambda vocabulary, end: (count_encoder() + count_decoder(vocabulary), 0),
    "layers": lambda vocabulary, end: (count_decoder(vocabulary), 0),
    "encoder": lambda vocabulary, end: (count_encoder(), 0),
    "decoder": lambda vocabulary, end: (count_decoder(vocabulary), 0),
    "top": lambda vocabulary, end: (count_block("encoder") + count_block("decoder") + 2 * 2 * WIDTH, 0),
    "cross_attention": lambda vocabulary, end: (LAYERS * (count_attention() + 2 * WIDTH), 0),
    "embeddings": lambda vocabulary, end: ((vocabulary + TARGETS) * WIDTH, 0),
    "bias": lambda vocabulary, end: (count_biases_and_norms(), 0),
    "none": lambda vocabulary, end: (0, 0),
    "gradual": lambda vocabulary, end: (count_encoder() + count_decoder(vocabulary), 0),
    "adapter": lambda vocabulary, end: (count_adapters(64), count_adapters(64)),
    "added_layers": lambda vocabulary, end: (count_block("encoder") + count_block("decoder"),) * 2,
    "lora": lambda vocabulary, end: (count_lora(32), count_lora(32)),
    "dora": lambda vocabulary, end: (count_dora(32), count_dora(32)),
    "adalora": lambda vocabulary, end: count_adalora(48),
    "ia3": lambda vocabulary, end: (count_ia3(), count_ia3()),
    "new_tokens": lambda vocabulary, end: (64 * WIDTH + count_lora(32),) * 2,
    "prompt": lambda vocabulary, end: (2 * LAYERS * 2 * 32 * WIDTH,) * 2,  # keys and values of each block
    # 256 bytes and 400 merges in the place of all pieces, which are the ids below <|endoftext|>.
    "new_head": lambda vocabulary, end: (
        count_encoder() + count_decoder(vocabulary - end + 656),
        (656 - end) * WIDTH,
    ),
    "ctc": lambda vocabulary, end: (
        count_encoder() + count_decoder(vocabulary) + (WIDTH + 1) * (end + 1),
        (WIDTH + 1) * (end + 1),
    ),
}


@pytest.fixture(params=TYPES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def batch(any_whisper: Whisper) -> Batch:
    return make_batch(any_whisper.tokens, positions=250)


def compute_logits(whisper: Whisper, batch: Batch) -> Float[Tensor, "batch token vocabulary"]:
    with torch.no_grad():
        return whisper.project(whisper.decode(whisper.encode(batch.waveform), batch.decoder_input_ids))


def take_step(whisper: Whisper, finetune: Any, batch: Batch, rate: float = 1e-3) -> float:
    """One step of AdamW, as WhisperModule takes it; the loss before."""
    advance(finetune, whisper.network, 0.0)
    optimizer = torch.optim.AdamW(parameter_groups(finetune, whisper.network, 0.01, rate), lr=rate)
    terms = CrossEntropy().loss(whisper, batch)
    (terms.total / terms.tokens + regularisation(finetune, whisper.network)).backward()
    optimizer.step()
    after_step(finetune, whisper.network, step=1, steps=100)
    optimizer.zero_grad()
    return float(terms.total.detach()) / terms.tokens


def needs_steps(finetune: Any) -> None:
    if not finetune.rate_factor:
        pytest.skip("it trains nothing: test_none.py")


def test_every_type_has_a_count_worked_out_by_hand() -> None:
    assert sorted(COUNTS) == TYPES


def test_counts(name: str, any_whisper: Whisper) -> None:
    counts = change(copy_of(any_whisper), build(name))
    vocabulary, end = len(any_whisper.tokens.tokenizer), any_whisper.tokens.end_of_text
    assert (counts["trainable"], counts["added"]) == COUNTS[name](vocabulary, end)
    constant = POSITIONS * WIDTH
    assert counts["total"] == count_encoder() + count_decoder(vocabulary) + constant + counts["added"]


def test_only_declared_parameters_learn(name: str, any_whisper: Whisper) -> None:
    whisper, finetune = copy_of(any_whisper), build(name)
    needs_steps(finetune)
    change(whisper, finetune)
    batch = make_batch(whisper.tokens, positions=250)
    parameters = dict(whisper.network.named_parameters())
    before = {key: parameter.detach().clone() for key, parameter in parameters.items()}
    take_step(whisper, finetune, batch)
    frozen = [key for key, parameter in parameters.items() if not parameter.requires_grad]
    assert all(torch.equal(parameters[key], before[key]) for key in frozen)
    assert all(parameters[key].grad is None for key in frozen)
    changed = [key for key in parameters if not torch.equal(parameters[key], before[key])]
    assert len(changed) > 0.4 * (len(parameters) - len(frozen))


def test_nothing_changes_at_step_0(name: str, any_whisper: Whisper, batch: Batch) -> None:
    """Where the vocabulary changes: nothing for the tokens that it keeps, whose ids may be others."""
    old, whisper = awaken(any_whisper, seed=3), awaken(any_whisper, seed=3)
    change(whisper, build(name))
    kept = find_kept(old, whisper)
    renumbered = torch.full((len(old.tokens.tokenizer),), -1)
    renumbered[kept["old"]] = kept["new"]
    ids = batch.decoder_input_ids.where(renumbered[batch.decoder_input_ids] >= 0, old.tokens.start)
    before = compute_logits(old, replace(batch, decoder_input_ids=ids))[..., kept["old"]]
    after = compute_logits(whisper.eval(), replace(batch, decoder_input_ids=renumbered[ids]))[..., kept["new"]]
    if name == "new_head":  # a product of another shape, which may add in another order
        torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-5)
    else:
        assert torch.equal(after, before)


def find_kept(old: Whisper, new: Whisper) -> dict[str, Int[Tensor, "kept"]]:
    """The ids, before and after, of all tokens that are in both vocabularies."""
    ids = new.tokens.tokenizer.get_vocab()
    kept = [(id, ids[name]) for name, id in old.tokens.tokenizer.get_vocab().items() if name in ids]
    return {"old": torch.tensor([id for id, _ in kept]), "new": torch.tensor([id for _, id in kept])}


def train_and_merge(whisper: Whisper, finetune: Any) -> tuple[Batch, Float[Tensor, "batch token vocabulary"]]:
    """A batch, and its logits after three steps, which merging keeps."""
    change(whisper, finetune)
    batch = make_batch(whisper.tokens, positions=250)
    for _ in range(3 if finetune.rate_factor else 0):
        take_step(whisper, finetune, batch)
    trained = compute_logits(whisper.eval(), batch)
    merge_additions(finetune, whisper.network)
    torch.testing.assert_close(compute_logits(whisper.eval(), batch), trained, atol=1e-5, rtol=1e-4)
    return batch, trained


def test_merge_save_and_load_keep_the_logits(name: str, any_whisper: Whisper, tmp_path: Path) -> None:
    whisper = awaken(any_whisper, seed=3)
    batch, trained = train_and_merge(whisper, build(name))
    save_whisper(whisper, tmp_path / "model")
    loaded = load_whisper(str(tmp_path / "model"), load_tokens(str(tmp_path / "model"))).eval()
    torch.testing.assert_close(compute_logits(loaded, batch), trained, atol=1e-5, rtol=1e-4)
    assert loaded.tokens.tokenizer.get_vocab() == whisper.tokens.tokenizer.get_vocab()
    again = make_batch(loaded.tokens, positions=250)
    assert torch.equal(again.labels, batch.labels) and again.prefixes == batch.prefixes


def test_a_type_learns_on_a_model_with_prompts_what_is_saved_of_it(name: str, nano_like: Whisper) -> None:
    """A learned prompt goes through the projections that LoRA adapts; while they learnt it did not."""
    if name == "prompt":
        pytest.skip("a second prompt is refused")
    whisper, prompts = awaken(nano_like, seed=3), build("prompt")
    change(whisper, prompts)
    for prompt in whisper.network.modules():
        if isinstance(prompt, SoftPrompt):
            prompt.values.data.normal_()
    merge_additions(prompts, whisper.network)
    train_and_merge(whisper, build(name))


def test_a_step_lowers_the_loss_and_decoding_works(name: str, any_whisper: Whisper) -> None:
    whisper, finetune = copy_of(any_whisper), build(name)
    needs_steps(finetune)
    change(whisper, finetune)
    batch = make_batch(whisper.tokens, positions=250)
    losses = [take_step(whisper, finetune, batch, rate=3e-3) for _ in range(4)]
    assert losses[-1] < losses[0]
    states = whisper.eval().encode(batch.waveform)
    written = decode_greedily(
        whisper, states, batch.prefixes, cap_tokens(whisper.tokens, batch.prefixes, batch.lengths)
    )
    assert len(written) == len(batch)


def test_a_pattern_that_matches_nothing_names_the_nearest(nano_like: Whisper) -> None:
    with pytest.raises(InputError, match=r"'model.decodr.\*' matches no parameter. Nearest names: model.decoder"):
        Layers(["model.decodr.*"]).apply(copy_of(nano_like).network)


def test_lora_refuses_what_is_not_there(nano_like: Whisper) -> None:
    with pytest.raises(InputError, match=r"finetune.rank is 0"):
        Lora(rank=0)
    with pytest.raises(InputError, match=r"finetune.targets: 'q_porj' matches no linear layer. Nearest names: q_proj"):
        Lora(targets=["q_porj"]).apply(copy_of(nano_like).network)


def test_a_type_that_lets_nothing_learn_is_refused(nano_like: Whisper) -> None:
    whisper, finetune = copy_of(nano_like), Layers(["model.decoder.*"], freeze=["*"])
    apply_finetuning(finetune, whisper.network)
    with pytest.raises(InputError, match="lets no parameter learn"):
        parameter_groups(finetune, whisper.network, 0.0, 1e-3)
