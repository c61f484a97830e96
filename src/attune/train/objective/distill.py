"""Distillation: the trained model goes on saying what the untouched one would say."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import kl_div, log_softmax

from attune.data.batch import Batch
from attune.errors import InputError
from attune.model.whisper import Whisper
from attune.train.objective.cross_entropy import LossTerms, compute_logits


class Distill(nn.Module):
    """weight * T^2 * sum_t KL(p0(t) || p(t)), p = softmax(logits / T), over the batch's supervised tokens.

    Where the objective counts otherwise, in utterances, it is the mean of a token for each of them.

    Learning without forgetting (Li and Hoiem 2016, arXiv:1606.09282): p0 is the untouched model's, on the training
    batch itself, teacher-forced with its transcripts. T^2 keeps the gradient's size when T changes (Hinton et al. 2015,
    arXiv:1503.02531). The untouched model takes its place in memory and in every checkpoint, and each step is longer by
    its forward pass; by the trained one's too, where the objective made no logits of the transcripts.

    Args:
        weight: of the sum, beside the objective's, at least 0.
        temperature: T, above 0; above 1 the less likely tokens count more.
    """

    needs: Sequence[str] = ()
    compares_tokens: bool = True
    teacher: Whisper

    def __init__(self, weight: float = 1.0, temperature: float = 2.0):
        super().__init__()
        if weight < 0:
            raise InputError(f"penalty.weight={weight:g} would push the model away from its start; 0 or more.")
        if temperature <= 0:
            raise InputError(f"penalty.temperature={temperature:g} must be above 0; 1 leaves everything as it is.")
        self.weight = weight
        self.temperature = temperature

    def anchor(self, whisper: Whisper, load_untouched: Callable[[], Whisper]) -> None:
        self.teacher = load_untouched().requires_grad_(False).eval()

    def loss(self, whisper: Whisper, batch: Batch, terms: LossTerms) -> Float[Tensor, ""]:
        student = terms.logits
        if student is None:
            student = compute_logits(whisper, whisper.encode(batch.waveform), batch)
        with torch.no_grad():
            teacher = compute_logits(self.teacher, self.teacher.encode(batch.waveform), batch)
        counted = terms.tokens / max(len(student), 1)  # 1, unless the objective counts utterances
        return counted * self.weight * compute_divergence(student, teacher, self.temperature)


def compute_divergence(
    student: Float[Tensor, "token vocabulary"], teacher: Float[Tensor, "token vocabulary"], temperature: float
) -> Float[Tensor, ""]:
    """T^2 * sum_t KL(teacher || student), in nats, of the distributions at a temperature."""
    ours, theirs = (log_softmax(logits / temperature, dim=-1) for logits in (student, teacher))
    return temperature**2 * kl_div(ours, theirs, reduction="sum", log_target=True)
