"""Another vocabulary for a Whisper: its token embedding, the output tied to it, and every id in its configs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional
from transformers import WhisperForConditionalGeneration

from attune.errors import InputError
from attune.model.additions import HEAD
from attune.model.whisper import complete_generation_config
from attune.text.tokens import Tokens


@dataclass(frozen=True)
class NewVocabulary:
    """From one tokenizer to another.

    Args:
        old, new: the tokens.
        starts: id of each token that is new -> the old ids whose mean its row starts from.
    """

    old: Tokens
    new: Tokens
    starts: Mapping[int, Sequence[int]]

    def origins(self, old_size: int) -> list[int | None]:
        """For every new id, the old id of the same token, or None; `old_size` are the rows of the old embedding.

        Times keep their distance from the first one: some published tokenizers do not name them.
        """
        known = self.old.tokenizer.get_vocab()
        names = {id: name for name, id in self.new.tokenizer.get_vocab().items()}
        below = [known.get(names[id]) for id in range(self.new.first_timestamp)]
        return [*below, *range(self.old.first_timestamp, old_size)]


class GrownEmbedding(nn.Module):
    """A token embedding with more rows. The old matrix is one frozen parameter, the new rows are another.

    A masked gradient would not keep the old rows as they were: weight decay and AdamW's moments move them all the same.

    Args:
        old: the embedding of the old ids.
        origins: of every new id, its old id, or None for a new row.
        new: the new rows, in the order of their ids.
    """

    rows: Int[Tensor, "token"]  # id -> its row in old and new, one behind the other

    def __init__(self, old: nn.Embedding, origins: Sequence[int | None], new: Float[Tensor, "new width"]):
        super().__init__()
        self.weight = nn.Parameter(old.weight.detach(), requires_grad=False)
        self.new = nn.Parameter(new)
        added = iter(range(len(self.weight), len(self.weight) + len(new)))
        rows = [next(added) if origin is None else origin for origin in origins]
        self.register_buffer("rows", torch.tensor(rows, device=new.device), persistent=False)
        self.runs = find_runs(rows, len(self.weight))

    def forward(self, ids: Int[Tensor, "batch token"]) -> Float[Tensor, "batch token width"]:
        rows, old_size = self.rows[ids], len(self.weight)
        old = functional.embedding(rows.clamp(max=old_size - 1), self.weight)
        new = functional.embedding((rows - old_size).clamp(min=0), self.new)
        return torch.where((rows < old_size)[..., None], old, new)

    def project(self, hidden: Float[Tensor, "*position width"]) -> Float[Tensor, "*position token"]:
        """Logits. Those of the old tokens are bit for bit what they were: it is the same product."""
        logits = functional.linear(hidden, self.weight), functional.linear(hidden, self.new)
        return torch.cat([logits[part][..., start:stop] for part, start, stop in self.runs], dim=-1)

    def join(self) -> Float[Tensor, "token width"]:
        """All rows in the order of their ids."""
        return torch.cat([self.weight, self.new])[self.rows].detach()


def find_runs(rows: Sequence[int], old_size: int) -> list[tuple[int, int, int]]:
    """Consecutive rows as (0 for old or 1 for new, start, stop), counted from the part's own start."""
    runs = []
    # A run goes on while the row grows as the id does.
    for _, group in groupby(enumerate(rows), key=lambda pair: (pair[1] >= old_size, pair[1] - pair[0])):
        taken = [row for _, row in group]
        part = int(taken[0] >= old_size)
        runs.append((part, taken[0] - part * old_size, taken[-1] + 1 - part * old_size))
    return runs


class GrownProjection(nn.Module):
    """The output that is tied to a grown embedding."""

    def __init__(self, embedding: GrownEmbedding):
        super().__init__()
        self.embedding = embedding

    def forward(self, hidden: Float[Tensor, "*position width"]) -> Float[Tensor, "*position token"]:
        return self.embedding.project(hidden)


def grow_vocabulary(network: WhisperForConditionalGeneration, change: NewVocabulary) -> None:
    """Add rows that learn to the embedding and to the output; the old ones are frozen, and so is nothing else."""
    old = network.model.decoder.embed_tokens
    origins = change.origins(len(old.weight))
    new = [id for id, origin in enumerate(origins) if origin is None]
    embedding = GrownEmbedding(old, origins, torch.stack([compute_start(old.weight, change.starts[id]) for id in new]))
    network.model.decoder.embed_tokens = embedding  # type: ignore[assignment]
    network.proj_out = GrownProjection(embedding)  # type: ignore[assignment]
    renumber(network, change, origins)


def merge_vocabulary(network: WhisperForConditionalGeneration) -> None:
    """Put the plain embedding and the plain output, tied to it, in the place of the grown ones."""
    grown = network.model.decoder.embed_tokens
    if isinstance(grown, GrownEmbedding):
        install_embedding(network, grown.join())


def replace_vocabulary(network: WhisperForConditionalGeneration, change: NewVocabulary) -> None:
    """An embedding of another vocabulary: rows of tokens that are in both move, the others start from old ones."""
    weight = network.model.decoder.embed_tokens.weight.detach()
    origins = change.origins(len(weight))
    sources = [change.starts[id] if origin is None else [origin] for id, origin in enumerate(origins)]
    renumber(network, change, origins)
    install_embedding(network, torch.stack([compute_start(weight, ids) for ids in sources]))


def compute_start(weight: Float[Tensor, "token width"], ids: Sequence[int]) -> Float[Tensor, "width"]:
    """The mean of some rows; of one row, the row itself bit for bit."""
    return weight[list(ids)].detach().mean(dim=0)


def install_embedding(network: WhisperForConditionalGeneration, weight: Float[Tensor, "token width"]) -> None:
    """A plain embedding, and the plain output that is tied to it."""
    padding = network.config.pad_token_id
    embedding = nn.Embedding.from_pretrained(weight, freeze=False, padding_idx=padding)  # type: ignore[arg-type]
    projection = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    projection.weight = embedding.weight
    network.model.decoder.embed_tokens = embedding
    network.proj_out = projection


def renumber(network: WhisperForConditionalGeneration, change: NewVocabulary, origins: Sequence[int | None]) -> None:
    """Write the new ids into both configs; tokens that are suppressed stay so, where they are left."""
    tokens, config = change.new, network.config
    config.vocab_size = len(origins)
    config.decoder_start_token_id = tokens.start
    config.bos_token_id = config.eos_token_id = config.pad_token_id = tokens.end_of_text
    network.model.decoder.padding_idx = tokens.end_of_text
    generation = complete_generation_config(network.generation_config, change.old)
    moved = {origin: id for id, origin in enumerate(origins) if origin is not None}
    for name in ("suppress_tokens", "begin_suppress_tokens"):
        setattr(generation, name, [moved[id] for id in getattr(generation, name) if id in moved])
    generation.suppress_tokens = list(dict.fromkeys([*generation.suppress_tokens, *tokens.soft_prompt]))
    stale = ("no_timestamps_token_id", "prev_sot_token_id", "decoder_start_token_id", "lang_to_id", "task_to_id")
    for name in (*stale, "bos_token_id", "eos_token_id", "pad_token_id"):
        if hasattr(generation, name):
            delattr(generation, name)
    network.generation_config = complete_generation_config(generation, tokens)


def refuse_head(network: nn.Module) -> None:
    """Raises InputError where a CTC head writes ids of text: they would be read as those of another vocabulary."""
    if hasattr(network, HEAD):
        raise InputError(
            "model.name_or_path: this Whisper has a CTC head, which writes text ids of the vocabulary that it has, and "
            "finetune=new_head and the terms of finetune=new_tokens give them other ids. Begin with a model without "
            "one; a run of finetune=ctc finetune.writes=decoder drops the head."
        )


def require(change: NewVocabulary | None) -> NewVocabulary:
    """What `change_tokens` has decided; it is called before `apply`."""
    if change is None:
        raise InputError("finetune: change_tokens must be called before apply, as train.py does.")
    return change
