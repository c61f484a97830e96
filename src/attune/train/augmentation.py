"""What `augment=` is: a training batch, heard and spelled otherwise in every step, and alike when a run is repeated."""

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from attune.audio.augment import Gain, Noise, Room, Speed, Telephone, WaveformAugmentation, augment_share
from attune.audio.spec_augment import SpecAugment
from attune.data.batch import Batch
from attune.data.subwords import SubwordDropout
from attune.errors import InputError
from attune.model.whisper import Whisper
from attune.text.tokens import Tokens

Kind = TypeVar("Kind")


class Augmentation:
    """All augmentation of a run, on the device, in the order in which sound meets it: voice, room, noise, gain, line.

    It is at work in training steps only: validation and scoring never pass through it. All that it draws depends on the
    seed, the optimiser step, the micro-batch and the rank: a run that continues hears what the uninterrupted one would
    have heard.

    Args:
        speed, room, noise, gain, telephone: the fields of the class of this name in audio/augment.py; None is off.
        spec_augment: the fields of SpecAugment in audio/spec_augment.py; None is off.
        bpe_dropout: chance that a merge of the target's spelling is undone (data/subwords.py), in [0, 1); 0 is off.
        seed: the run's.

    Raises:
        InputError: a field that there is not, a share outside [0, 1], a folder without audio.
    """

    def __init__(
        self,
        speed: Mapping[str, Any] | None = None,
        room: Mapping[str, Any] | None = None,
        noise: Mapping[str, Any] | None = None,
        gain: Mapping[str, Any] | None = None,
        telephone: Mapping[str, Any] | None = None,
        spec_augment: Mapping[str, Any] | None = None,
        bpe_dropout: float = 0.0,
        seed: int = 0,
    ):
        made: dict[str, WaveformAugmentation | None] = {
            "speed": _make(Speed, "speed", speed),
            "room": _make(Room, "room", room),
            "noise": _make(Noise, "noise", noise),
            "gain": _make(Gain, "gain", gain),
            "telephone": _make(Telephone, "telephone", telephone),
        }
        self.waveform = {name: augmentation for name, augmentation in made.items() if augmentation is not None}
        self.spec_augment = _make(SpecAugment, "spec_augment", spec_augment)
        self.bpe_dropout = bpe_dropout
        self.subwords: SubwordDropout | None = None  # made of the tokens of the first batch
        self.seed = seed

    def __bool__(self) -> bool:
        return bool(self.waveform or self.spec_augment or self.bpe_dropout)

    @contextmanager
    def hear(self, whisper: Whisper, batch: Batch, step: int, part: int = 0, rank: int = 0) -> Iterator[Batch]:
        """The batch as a training step is to hear it; inside the context `whisper` also hears SpecAugment's masks.

        However often an objective encodes the batch, it hears the same. Another Whisper beside it, such as a penalty's
        untouched one, hears the same waveform without masks.

        Args:
            step: optimiser steps that were made.
            part: micro-batches since then.
            rank: of the process.
        """
        if not self:
            yield batch
            return
        seed = random.Random(f"augment {self.seed} {step} {part} {rank}").randrange(2**62)
        with self.hear_drawn(whisper, batch, seed) as changed:
            yield changed

    @contextmanager
    def hear_drawn(self, whisper: Whisper, batch: Batch, seed: int) -> Iterator[Batch]:
        """The same, by a seed of one's own."""
        changed = self.change(batch, whisper.tokens, seed)
        with self._hide(whisper, changed.lengths, seed):
            yield changed

    @property
    def sound(self) -> str:
        """What is done to the sound, in words that differ where it does; "" for nothing."""
        told = [*self.waveform.values(), *([self.spec_augment] if self.spec_augment else [])]
        return ", ".join(map(repr, told))

    def change(self, batch: Batch, tokens: Tokens, seed: int) -> Batch:
        """Waveforms of the same shape, and targets that spell the same text."""
        # Where states were stored there is no sound, and what they are of was augmented before.
        changed = batch if batch.states is not None else self._change_sound(batch, tokens, seed)
        if not self.bpe_dropout:
            return changed
        if self.subwords is None:
            self.subwords = SubwordDropout(tokens, self.bpe_dropout)
        return self.subwords.respell(changed, random.Random(seed))

    @torch.no_grad()
    def _change_sound(self, batch: Batch, tokens: Tokens, seed: int) -> Batch:
        waveform, lengths = batch.waveform.float(), batch.lengths
        generator = torch.Generator(waveform.device).manual_seed(seed)
        with torch.autocast(waveform.device.type, enabled=False):  # half precision would add a noise of its own
            for name, augmentation in self.waveform.items():
                heard, new_lengths = augment_share(augmentation, waveform, lengths, generator)
                if name == "speed":  # the times in a label hold for the recording as it was
                    timed = find_timed(batch.labels, tokens)
                    heard = torch.where(timed[:, None], waveform, heard)
                    new_lengths = torch.where(timed, lengths, new_lengths)
                waveform, lengths = heard, new_lengths
        return replace(batch, waveform=waveform, lengths=lengths)

    @contextmanager
    def _hide(self, whisper: Whisper, lengths: Tensor, seed: int) -> Iterator[None]:
        """Between log-mel and encoder, for as long as the context lasts."""
        spec_augment = self.spec_augment
        if spec_augment is None:
            yield
            return

        def hide(_module: torch.nn.Module, _inputs: object, log_mel: Tensor) -> Tensor:
            if len(log_mel) != len(lengths):
                return log_mel  # not this batch, but sound of an objective's own
            return spec_augment(log_mel, lengths, torch.Generator(log_mel.device).manual_seed(seed + 1))

        handle = whisper.log_mel.register_forward_hook(hide)
        try:
            yield
        finally:
            handle.remove()


def find_timed(labels: Tensor, tokens: Tokens) -> Tensor:
    """Which rows teach timestamps."""
    return ((labels >= tokens.first_timestamp) & (labels <= tokens.last_timestamp)).any(dim=1)


def _make(kind: type[Kind], name: str, settings: Mapping[str, Any] | None) -> Kind | None:
    if settings is None:
        return None
    known = [field.name for field in fields(kind)]  # type: ignore[arg-type]  # each kind is a dataclass
    unknown = sorted(settings.keys() - set(known))
    if unknown:
        raise InputError(f"augment.{name} has no {', '.join(unknown)}. It has: {', '.join(known)}; null is off.")
    share = settings.get("share", 0.5)
    if not 0 <= share <= 1:
        raise InputError(f"augment.{name}.share={share:g} is no share of the utterances: it must be in [0, 1].")
    return kind(**settings)
