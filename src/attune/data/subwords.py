"""BPE dropout: the same transcript, spelled in other pieces. In training only."""

import json
import random
from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from attune.data.batch import Batch, pad_tokens
from attune.errors import InputError
from attune.text.tokens import IGNORED, Tokens


class SubwordDropout:
    """Subword regularisation after BPE dropout (Provilkov et al. 2020): a model that has seen a word in many spellings
    leans less on having seen the word.

    BPE dropout leaves merges out while a text is encoded. tokenizers draws them from a generator of its own that cannot
    be seeded, so no run could be repeated. Here merges are undone in the finished ids instead: a token falls into its
    two halves with the chance `share`, and so do the halves. The spellings are of the same kind, their chances others.

    Args:
        tokens: of the Whisper that is trained; tokens that no merge made (bytes, special and added ones) stay.
        share: chance that a merge is undone, in [0, 1).
    """

    def __init__(self, tokens: Tokens, share: float):
        if not 0 <= share < 1:
            raise InputError(f"augment.bpe_dropout={share:g} is no chance: it must be in [0, 1); 0.1 is usual.")
        model = json.loads(tokens.tokenizer.backend_tokenizer.to_str())["model"]
        pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]
        ids = model["vocab"]
        self.halves = {ids[left + right]: (ids[left], ids[right]) for left, right in pairs}
        self.share = share
        self.max_tokens = tokens.max_tokens
        self.padding_id = tokens.end_of_text

    def respell(self, batch: Batch, rng: random.Random) -> Batch:
        """The batch with its targets spelled anew; prompts stay as they are, and a row that would not fit. Of a pair
        both transcripts are, so that a preference is not one for a spelling."""
        ids, labels = self._respell_all(batch.decoder_input_ids, batch.labels, rng)
        changed = replace(batch, decoder_input_ids=ids, labels=labels)
        if batch.rejected_input_ids is None or batch.rejected_labels is None:
            return changed
        ids, labels = self._respell_all(batch.rejected_input_ids, batch.rejected_labels, rng)
        return replace(changed, rejected_input_ids=ids, rejected_labels=labels)

    def _respell_all(self, ids: Tensor, labels: Tensor, rng: random.Random) -> tuple[Tensor, Tensor]:
        rows = zip(ids.tolist(), labels.tolist(), strict=True)
        spelled = [self._respell(row_ids, row_labels, rng) for row_ids, row_labels in rows]
        return (
            pad_tokens([row_ids for row_ids, _ in spelled], self.padding_id).to(labels.device),
            pad_tokens([row_labels for _, row_labels in spelled], IGNORED).to(labels.device),
        )

    def _respell(self, ids: list[int], labels: list[int], rng: random.Random) -> tuple[Sequence[int], Sequence[int]]:
        """One row, its padding dropped: what is fed is what was taught one position before, spelled the same way."""
        taught = [place for place, label in enumerate(labels) if label != IGNORED]
        if not taught:  # an utterance without a rejected transcript
            return ids, labels
        first, last = taught[0], taught[-1]
        ids, labels = ids[: last + 1], labels[: last + 1]
        if ids[first + 1 :] != labels[first:last]:  # no speech: the targets are no sequence
            return ids, labels
        pieces = [piece for label in labels[first:] for piece in self.split(label, rng)]
        if first + len(pieces) > self.max_tokens:
            return ids, labels
        return [*ids[: first + 1], *pieces[:-1]], [*labels[:first], *pieces]

    def split(self, token: int, rng: random.Random) -> list[int]:
        """The token, or its parts; together they spell the same bytes."""
        if token not in self.halves or rng.random() >= self.share:
            return [token]
        return [piece for half in self.halves[token] for piece in self.split(half, rng)]
