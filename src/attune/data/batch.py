"""Example, Batch, collate(): the only place that pads."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Self

import torch
from jaxtyping import Float, Int
from torch import Tensor

from attune.audio.waveform import SAMPLES_PER_POSITION
from attune.text.tokens import IGNORED, Sequence448


@dataclass(frozen=True)
class Example:
    """One utterance, ready to be batched.

    Args:
        waveform: (sample,), mono, 16 kHz.
        positions: encoder positions of its window; the waveform is padded to positions * 320 samples.
        decoder_input_ids, labels: of equal length; labels hold IGNORED where nothing is taught.
        prefix: what the decoder is given before it transcribes by itself (prompt, start, language, task).
        reference: the transcript as written.
        lead: samples at the head of the waveform that are not the utterance but examples in context.
        utterances: how many are in the window; more than one where they are packed.
        states: what the encoder made of it, where that was stored (cache=encoder). The waveform has a length then, and
            no samples: it is a tensor of the device `meta`.
        rejected: decoder_input_ids and labels of a transcript that is worse; None for none.
    """

    id: str
    waveform: Float[Tensor, "sample"]
    positions: int
    decoder_input_ids: Sequence[int]
    labels: Sequence[int]
    prefix: Sequence[int]
    reference: str
    language: str
    speaker: str | None
    lead: int = 0
    utterances: int = 1
    states: Float[Tensor, "position told"] | None = None
    rejected: Sequence448 | None = None


@dataclass(frozen=True)
class Batch:
    """Utterances whose windows have one length.

    Args:
        waveform: padded with zeros; sample = positions * 320.
        lengths: of each utterance before padding, in samples; examples in context, which stand before it, not counted.
        decoder_input_ids, labels: padded to the longest of the batch, labels with IGNORED.
        packed: how many utterances each window holds; empty: one each.
        states: stored encoder states (bfloat16) in place of sound. The waveform is then on the device `meta`: it has a
            shape and nothing to listen to, so that whoever tries fails at once.
        rejected_input_ids, rejected_labels: the same of worse transcripts, all IGNORED for an utterance that has none;
            None where no utterance has one.

    What is counted of a batch is counted before it goes to a device (`taught`, `samples`), and goes along: whoever
    asked there would wait for all that the device was asked to do before.
    """

    ids: list[str]
    waveform: Float[Tensor, "batch sample"]
    lengths: Int[Tensor, "batch"]
    decoder_input_ids: Int[Tensor, "batch token"]
    labels: Int[Tensor, "batch token"]
    prefixes: list[list[int]]
    references: list[str]
    languages: list[str]
    speakers: list[str | None]
    packed: list[int] = field(default_factory=list)
    states: Float[Tensor, "batch position told"] | None = None
    rejected_input_ids: Int[Tensor, "batch other_token"] | None = None
    rejected_labels: Int[Tensor, "batch other_token"] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def utterances(self) -> int:
        return sum(self.packed) or len(self)

    @cached_property
    def taught(self) -> Int[Tensor, "taught"]:
        """The places of the tokens that are taught, in the flattened labels."""
        return (self.labels != IGNORED).flatten().nonzero().squeeze(1)

    @cached_property
    def samples(self) -> int:
        """Of all utterances, before padding."""
        return int(self.lengths.sum())

    @property
    def supervised(self) -> int:
        """How many tokens are taught."""
        return len(self.taught)

    def as_rejected(self) -> Self:
        """The same utterances with their worse transcripts."""
        if self.rejected_input_ids is None or self.rejected_labels is None:
            raise ValueError("no utterance of this batch has a rejected transcript")
        return replace(self, decoder_input_ids=self.rejected_input_ids, labels=self.rejected_labels)

    def to(self, device: torch.device, non_blocking: bool | None = None) -> Self:
        """On another device; None: without waiting where the memory is pinned, for Lightning does not ask for that."""
        if non_blocking is None:
            non_blocking = device.type == "cuda" and self.waveform.is_pinned()
        return self._each_tensor(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        return self._each_tensor(Tensor.pin_memory)

    def _each_tensor(self, change) -> Self:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        tensors = {name: value for name, value in values.items() if isinstance(value, Tensor) and not value.is_meta}
        changed = replace(self, **{name: change(value) for name, value in tensors.items()})
        vars(changed).update(taught=change(self.taught), samples=self.samples)
        return changed

    def cut(self, parts: int) -> list[Self]:
        """The rows in at most so many parts, in order and nearly equal in size; padding stays as it is."""
        size = -(-len(self) // parts)
        return [self.select(slice(start, start + size)) for start in range(0, len(self), size)]

    def select(self, rows: slice) -> Self:
        """Some of the rows; tensors are views."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: value[rows] for name, value in values.items() if value is not None})


def collate(examples: Sequence[Example], padding_id: int) -> Batch:
    """Pad the waveforms to their window and the token sequences to the longest.

    `padding_id` fills decoder_input_ids behind the end; its labels are IGNORED, by length and not by id, because
    Whisper's padding token is its end-of-text token.
    """
    positions = max(example.positions for example in examples)
    samples = positions * SAMPLES_PER_POSITION
    packed = [example.utterances for example in examples]
    states = [example.states for example in examples if example.states is not None]
    return Batch(
        ids=[example.id for example in examples],
        waveform=pad_waveforms([example.waveform for example in examples], samples),
        lengths=torch.tensor([min(samples, example.waveform.shape[0]) - example.lead for example in examples]),
        decoder_input_ids=pad_tokens([example.decoder_input_ids for example in examples], padding_id),
        labels=pad_tokens([example.labels for example in examples], IGNORED),
        prefixes=[list(example.prefix) for example in examples],
        references=[example.reference for example in examples],
        languages=[example.language for example in examples],
        speakers=[example.speaker for example in examples],
        packed=packed if max(packed) > 1 else [],
        states=torch.stack(states) if states else None,
        **pad_rejected([example.rejected for example in examples], padding_id),
    )


def pad_rejected(sequences: Sequence[Sequence448 | None], padding_id: int) -> dict[str, Int[Tensor, "batch token"]]:
    """The fields of a batch's worse transcripts; {} where there are none."""
    if not any(sequences):
        return {}
    present = [sequence or Sequence448([padding_id], [IGNORED]) for sequence in sequences]
    return {
        "rejected_input_ids": pad_tokens([sequence.decoder_input_ids for sequence in present], padding_id),
        "rejected_labels": pad_tokens([sequence.labels for sequence in present], IGNORED),
    }


def pad_waveforms(waveforms: Sequence[Float[Tensor, "own"]], samples: int) -> Float[Tensor, "batch sample"]:
    """Waveforms cut or filled up with zeros to `samples`; those without samples stay without (stored states)."""
    if waveforms[0].is_meta:
        return torch.empty(len(waveforms), samples, device="meta")
    padded = torch.empty(len(waveforms), samples)  # zeroed at the tails alone: of all of it that would be a second pass
    for row, waveform in zip(padded, waveforms, strict=True):
        kept = min(samples, waveform.shape[0])
        row[:kept] = waveform[:kept]
        row[kept:] = 0
    return padded


def pad_tokens(rows: Sequence[Sequence[int]], value: int) -> Int[Tensor, "batch token"]:
    """Rows of ids, each filled up with `value` to the longest."""
    padded = torch.full((len(rows), max(map(len, rows))), value, dtype=torch.long)
    for target, row in zip(padded, rows, strict=True):
        target[: len(row)] = torch.tensor(row, dtype=torch.long)
    return padded
