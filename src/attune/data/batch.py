"""Example, Batch, collate(): the only place that pads."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Self

import torch
from jaxtyping import Float, Int
from torch import Tensor

from attune.audio.waveform import SAMPLES_PER_POSITION
from attune.text.tokens import IGNORED


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


@dataclass(frozen=True)
class Batch:
    """Utterances whose windows have one length.

    Args:
        waveform: padded with zeros; sample = positions * 320.
        lengths: of each utterance before padding, in samples; examples in context, which stand before it, not counted.
        decoder_input_ids, labels: padded to the longest of the batch, labels with IGNORED.
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

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def supervised(self) -> int:
        """How many tokens are taught."""
        return int((self.labels != IGNORED).sum())

    def to(self, device: torch.device, non_blocking: bool = False) -> Self:
        return self._each_tensor(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        return self._each_tensor(Tensor.pin_memory)

    def _each_tensor(self, change) -> Self:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: change(value) for name, value in values.items() if isinstance(value, Tensor)})


def collate(examples: Sequence[Example], padding_id: int) -> Batch:
    """Pad the waveforms to their window and the token sequences to the longest.

    `padding_id` fills decoder_input_ids behind the end; its labels are IGNORED, by length and not by id, because
    Whisper's padding token is its end-of-text token.
    """
    samples = max(example.positions for example in examples) * SAMPLES_PER_POSITION
    waveform = torch.zeros(len(examples), samples)
    for row, example in zip(waveform, examples, strict=True):
        kept = min(samples, example.waveform.shape[0])
        row[:kept] = example.waveform[:kept]
    return Batch(
        ids=[example.id for example in examples],
        waveform=waveform,
        lengths=torch.tensor([min(samples, example.waveform.shape[0]) - example.lead for example in examples]),
        decoder_input_ids=pad_tokens([example.decoder_input_ids for example in examples], padding_id),
        labels=pad_tokens([example.labels for example in examples], IGNORED),
        prefixes=[list(example.prefix) for example in examples],
        references=[example.reference for example in examples],
        languages=[example.language for example in examples],
        speakers=[example.speaker for example in examples],
    )


def pad_tokens(rows: Sequence[Sequence[int]], value: int) -> Int[Tensor, "batch token"]:
    """Rows of ids, each filled up with `value` to the longest."""
    padded = torch.full((len(rows), max(map(len, rows))), value, dtype=torch.long)
    for target, row in zip(padded, rows, strict=True):
        target[: len(row)] = torch.tensor(row, dtype=torch.long)
    return padded
