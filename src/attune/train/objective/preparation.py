"""What an objective may ask for beside the batch: to see the data, and to prepare the model."""

from typing import Any, Protocol, runtime_checkable

from transformers import WhisperForConditionalGeneration

from attune.data.module import SpeechDataModule
from attune.errors import InputError
from attune.model.additions import HEAD
from attune.model.finetune.ctc import find_writer, learns
from attune.model.whisper import Whisper
from attune.train.objective.ctc import Ctc, check_head
from attune.train.objective.joint_ctc import JointCtc

METHODS = ("loss", "loss_from_states")


@runtime_checkable
class Prepared(Protocol):
    """An objective that draws hypotheses, remembers the model as it was, or adds to it.

    Args:
        step: optimiser steps that were made; WhisperModule sets it ahead of every training batch.
    """

    step: int

    def check(self, data: SpeechDataModule) -> None:
        """Refuse, before weights are loaded, data that teaches it nothing.

        Raises:
            InputError: with what is missing.
        """
        ...

    def prepare(self, whisper: Whisper, seed: int, is_varied: bool) -> int:
        """Once, after `finetune.apply` and before the optimiser exists; returns how many parameters it has added.

        Args:
            seed: the run's.
            is_varied: whether an utterance is heard otherwise each time (augment=).

        Raises:
            InputError: it cannot teach this model.
        """
        ...


def check_objective(objective: Any, data: SpeechDataModule, interpolates: bool, is_cached: bool = False) -> None:
    """Refuse, before weights are loaded, what the objective cannot do.

    Args:
        interpolates: whether weights between the untouched model and the trained one are scored (interpolate=).
        is_cached: whether encoder states stand for the sound (cache=encoder).

    Raises:
        InputError: with what is in the way.
    """
    missing = [name for name in METHODS if not callable(getattr(objective, name, None))]
    if missing:
        raise InputError(
            f"objective {type(objective).__name__} has no {missing[0]}(). An objective has two methods: loss(whisper, "
            "batch), and loss_from_states(whisper, states, batch), which is the same from encoder states that are "
            "there already: validation encodes once for loss and decoding."
        )
    if interpolates and hasattr(objective, "monitored"):
        raise InputError(
            f"interpolate chooses weights by their WER, and this objective is judged by {objective.monitored}: "
            "interpolate=null."
        )
    if is_cached and (listeners := getattr(objective, "listeners", [])):
        raise InputError(
            f"cache=encoder keeps the trained model's encoder states and no sound, and {' and '.join(listeners)} has "
            "another model listen too: cache=none."
        )
    if isinstance(objective, Prepared):
        objective.check(data)


def describe_loss(objective: Any) -> dict[str, str]:
    """What one unit of the loss is, in training and in validation; "" where the objective does not tell."""
    unit = getattr(objective, "loss_unit", "")
    return {"unit": unit, "validation_unit": getattr(objective, "validation_loss_unit", unit)}


def prepare_objective(
    objective: Any, whisper: Whisper, parameters: dict[str, int], seed: int, is_varied: bool, trains: bool = True
) -> dict[str, int]:
    """The counts of parameters with what the objective has added.

    Args:
        trains: whether steps are taken at all: not with finetune=none.

    Raises:
        InputError: a CTC head writes this model's transcripts, and only its decoder would be taught; or CTC is to
            teach a model that has no head, or a decoder; or what the objective adds would not be taught at all.
    """
    if parameters["trainable"] > 0:
        by_head = isinstance(objective, Ctc | JointCtc)
        _check_writer(whisper.network, by_head)
        if by_head:
            check_head(whisper.network, is_alone=isinstance(objective, Ctc))
    added = objective.prepare(whisper, seed, is_varied) if isinstance(objective, Prepared) else 0
    if added and not trains:
        raise InputError(
            f"This objective adds {added} parameters to the model, which finetune=none would leave untrained. Take a "
            "type that trains (finetune=full), or give a model that has them, a run of this objective: "
            "model.name_or_path=RUN."
        )
    return {name: count + added for name, count in parameters.items()}


def _check_writer(network: WhisperForConditionalGeneration, by_head: bool) -> None:
    """Raises InputError where a CTC head writes and neither it nor the encoder that it reads is taught by it."""
    if find_writer(network) is None:
        return
    heard = [network.model.encoder, network.get_submodule(HEAD)]
    if not by_head or not any(map(learns, heard)):
        raise InputError(
            "A CTC head writes this model's transcripts, and this run teaches the decoder: no WER would show what is "
            "learnt. Go on with the head (finetune=ctc), or let the decoder write: finetune=ctc "
            "finetune.writes=decoder."
        )
