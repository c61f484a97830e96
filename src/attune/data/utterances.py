"""A split as examples: what the workers do."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset
from jaxtyping import Float
from torch import Tensor

from attune.audio.context import PackedContext
from attune.audio.waveform import POSITIONS_PER_S, AudioError
from attune.data.audit import encode_rejected, encode_row, load_row
from attune.data.batch import Example
from attune.data.in_context import InContext, Shown
from attune.data.packing import join_rows
from attune.data.sampling import Draw
from attune.data.states import StoredStates
from attune.data.vocabulary import Prompts
from attune.errors import InputError
from attune.text.tokens import Tokens

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stored:
    """Encoder states that stand for the sound of training utterances.

    Args:
        keys: of each draw, of each training row; `states` has them all.
    """

    states: StoredStates
    keys: Sequence[Sequence[str]]

    @property
    def draws(self) -> int:
        return len(self.keys)

    def read(self, draw: Draw) -> tuple[Float[Tensor, "position width"], int]:
        return self.states.read(self.keys[draw.number][draw.index])


class Utterances(torch.utils.data.Dataset[Example]):
    """A split as examples: decoding and resampling happen here, in the worker that asks.

    Args:
        shown: what `in_context` sets before each utterance; empty for none.
        packed: how several utterances share a window, where they do.
        stored: encoder states that are given in the place of sound; None: sound.
        prompts: what stands in the place of the rows' own prompts; not in windows of several utterances.
        max_lost: utterances that may become unreadable in the course of the run; None: not one, as in what is scored.
    """

    def __init__(
        self,
        dataset: Dataset,
        tokens: Tokens,
        in_context: InContext | None = None,
        shown: Sequence[Sequence[Shown]] = (),
        packed: PackedContext | None = None,
        stored: Stored | None = None,
        prompts: Prompts | None = None,
        max_lost: int | None = None,
    ):
        self.max_lost = max_lost
        self.lost: set[int] = set()
        self.prompts = prompts
        self.packed = packed
        self.stored = stored
        self.dataset = dataset
        self.tokens = tokens
        self.in_context = in_context
        self.shown = shown

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, draws: Sequence[Draw]) -> list[Example]:
        """A batch, without what could be read when the run began and no longer can.

        Raises:
            InputError: too much of it, or something that is scored.
        """
        found = [example for draw in draws if (example := self._try(draw)) is not None]
        return found or [self._find_other(draws[0])]

    def _try(self, draw: Draw) -> Example | None:
        try:
            return self[draw]
        except AudioError as error:
            self._note(draw, error)
            return None

    def _note(self, draw: Draw, error: AudioError) -> None:
        row = self.dataset[draw.index]
        if self.max_lost is None:
            raise InputError(
                f"{row['place']}: the audio of {row['id']} can no longer be read ({error}), and without it the score "
                "would be another. Bring it back, and go on with: python train.py resume=RUN"
            ) from None
        if draw.index not in self.lost:
            log.warning("attune: %s: %s can no longer be read (%s); training goes on.", row["place"], row["id"], error)
        self.lost.add(draw.index)
        if len(self.lost) > self.max_lost:
            raise InputError(
                f"{len(self.lost)} training utterances can no longer be read, more than data.max_rejected allows; the "
                f"last is {row['id']} ({error}). Is the disk still there? Then: python train.py resume=RUN"
            ) from None

    def _find_other(self, draw: Draw) -> Example:
        """The next utterance that fits into the same window: a batch is never empty."""
        for step in range(1, len(self)):
            index = (draw.index + step) % len(self)
            if index in self.lost or self.dataset[index]["duration_s"] * POSITIONS_PER_S > draw.positions:
                continue
            other = self._try(Draw(index, draw.positions, number=draw.number))
            if other is not None:
                return other
        raise InputError("No training utterance that fits into the window can be read any longer. Is the disk there?")

    def __getitem__(self, draw: Draw) -> Example:
        if draw.more and self.packed:
            rows = [self.dataset[index] for index in (draw.index, *draw.more)]
            return join_rows(rows, draw.positions, self.tokens, self.packed)
        row = self.dataset[draw.index]
        if self.prompts is not None:
            row = {**row, "prompt": self.prompts(row, draw)}
        sequence = encode_row(row, self.tokens)
        prefix = self.tokens.prefix(row["language"], row["task"])
        prompt = self.tokens.prompt(row["prompt"], room=self.tokens.max_tokens // 2)
        waveform, states = self._hear(row, draw)
        example = Example(
            id=row["id"],
            waveform=waveform,
            positions=draw.positions,
            decoder_input_ids=sequence.decoder_input_ids,
            labels=sequence.labels,
            prefix=[*prompt, *prefix],
            reference=row["text"],
            language=row["language"],
            speaker=row["speaker"],
            states=states,
            rejected=encode_rejected(row, self.tokens),
        )
        if self.in_context is None or not self.shown:
            return example
        return self.in_context.put_before(example, self.shown[draw.index])

    def _hear(self, row: Any, draw: Draw) -> tuple[Float[Tensor, "sample"], Float[Tensor, "position width"] | None]:
        """The sound of a row; or its length alone, and the states that were stored of it."""
        if self.stored is None:
            return load_row(row), None
        states, samples = self.stored.read(draw)
        return torch.empty(samples, device="meta"), states
