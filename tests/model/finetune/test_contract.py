"""The contract of a fine-tuning type, run over every YAML in configs/finetune, found by itself.

Only declared parameters get a gradient; frozen ones are bitwise equal after a step; additive types change nothing at
step 0; counts are those worked out by hand; save, load and merge give the same logits; decoding works; a step learns.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hydra.utils import instantiate
from jaxtyping import Float
from torch import Tensor
from whispers import awaken, copy_of, make_batch

from attune.data.batch import Batch
from attune.errors import InputError
from attune.model.decode import cap_tokens, decode_greedily
from attune.model.finetune.base import advance, apply_finetuning, merge_additions, parameter_groups
from attune.model.finetune.layers import Layers
from attune.model.finetune.lora import Lora
from attune.model.save import save_whisper
from attune.model.whisper import Whisper, load_tokens, load_whisper
from attune.train.objective.cross_entropy import CrossEntropy

FOLDER = Path(__file__).parents[3] / "configs" / "finetune"
TYPES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
WIDTH, LAYERS, POSITIONS, TARGETS, MELS = 32, 2, 1500, 448, 80  # of the Whispers in conftest.py


def build(name: str) -> Any:
    return instantiate(yaml.safe_load((FOLDER / f"{name}.yaml").read_text()), _convert_="all")


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
    "gradual": lambda vocabulary, end: (count_encoder() + count_decoder(vocabulary), 0),
    "adapter": lambda vocabulary, end: (count_adapters(64), count_adapters(64)),
    "added_layers": lambda vocabulary, end: (count_block("encoder") + count_block("decoder"),) * 2,
    "lora": lambda vocabulary, end: (count_lora(32), count_lora(32)),
    "lora": lambda vocabulary, end: (count_lora(32), count_lora(32)),
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
    (terms.total / terms.tokens).backward()
    optimizer.step()
    optimizer.zero_grad()
    return float(terms.total.detach()) / terms.tokens


def test_every_type_has_a_count_worked_out_by_hand() -> None:
    assert sorted(COUNTS) == TYPES


def test_counts(name: str, any_whisper: Whisper) -> None:
    whisper = copy_of(any_whisper)
    counts = apply_finetuning(build(name), whisper.network)
    vocabulary, end = len(whisper.tokens.tokenizer), whisper.tokens.end_of_text
    assert (counts["trainable"], counts["added"]) == COUNTS[name](vocabulary, end)
    constant = POSITIONS * WIDTH
    assert counts["total"] == count_encoder() + count_decoder(vocabulary) + constant + counts["added"]


def test_only_declared_parameters_learn(name: str, any_whisper: Whisper, batch: Batch) -> None:
    whisper, finetune = copy_of(any_whisper), build(name)
    apply_finetuning(finetune, whisper.network)
    parameters = dict(whisper.network.named_parameters())
    before = {key: parameter.detach().clone() for key, parameter in parameters.items()}
    take_step(whisper, finetune, batch)
    frozen = [key for key, parameter in parameters.items() if not parameter.requires_grad]
    assert all(torch.equal(parameters[key], before[key]) for key in frozen)
    assert all(parameters[key].grad is None for key in frozen)
    changed = [key for key in parameters if not torch.equal(parameters[key], before[key])]
    assert len(changed) > 0.4 * (len(parameters) - len(frozen))


def test_nothing_changes_at_step_0(name: str, any_whisper: Whisper, batch: Batch) -> None:
    whisper = awaken(any_whisper, seed=3)
    before = compute_logits(whisper, batch)
    apply_finetuning(build(name), whisper.network)
    assert torch.equal(compute_logits(whisper.eval(), batch), before)


def test_merge_save_and_load_keep_the_logits(name: str, any_whisper: Whisper, batch: Batch, tmp_path: Path) -> None:
    whisper, finetune = awaken(any_whisper, seed=3), build(name)
    apply_finetuning(finetune, whisper.network)
    for _ in range(3):
        take_step(whisper, finetune, batch)
    trained = compute_logits(whisper.eval(), batch)
    merge_additions(finetune, whisper.network)
    torch.testing.assert_close(compute_logits(whisper.eval(), batch), trained, atol=1e-5, rtol=1e-4)
    save_whisper(whisper, tmp_path / "model")
    loaded = load_whisper(str(tmp_path / "model"), load_tokens(str(tmp_path / "model"))).eval()
    torch.testing.assert_close(compute_logits(loaded, batch), trained, atol=1e-5, rtol=1e-4)


def test_a_step_lowers_the_loss_and_decoding_works(name: str, any_whisper: Whisper, batch: Batch) -> None:
    whisper, finetune = copy_of(any_whisper), build(name)
    apply_finetuning(finetune, whisper.network)
    losses = [take_step(whisper, finetune, batch, rate=3e-3) for _ in range(4)]
    assert losses[-1] < losses[0]
    states = whisper.eval().encode(batch.waveform)
    written = decode_greedily(whisper, states, batch.prefixes, cap_tokens(batch.lengths))
    assert len(written) == len(batch)


def test_a_pattern_that_matches_nothing_names_the_nearest(nano_like: Whisper) -> None:
    with pytest.raises(InputError, match=r"'model.decodr.\*' matches no parameter. Nearest names: model.decoder"):
        Layers(["model.decodr.*"]).apply(copy_of(nano_like).network)


def test_lora_refuses_what_is_not_there(nano_like: Whisper) -> None:
    with pytest.raises(InputError, match=r"finetune.rank is 0"):
        Lora(rank=0)
    with pytest.raises(InputError, match=r"no linear layer is called q_porj"):
        Lora(targets=["q_porj"]).apply(copy_of(nano_like).network)


def test_a_type_that_lets_nothing_learn_is_refused(nano_like: Whisper) -> None:
    whisper, finetune = copy_of(nano_like), Layers(["model.decoder.*"], freeze=["*"])
    apply_finetuning(finetune, whisper.network)
    with pytest.raises(InputError, match="lets no parameter learn"):
        parameter_groups(finetune, whisper.network, 0.0, 1e-3)
