"""WhisperModule: loss, steps, decoding, optimiser. It knows nothing of files."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import chain, zip_longest
from typing import Any

import lightning as L
import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from attune.audio.waveform import SAMPLE_RATE_HZ, SAMPLES_PER_POSITION
from attune.data.batch import Batch
from attune.data.processes import gather
from attune.model.bias import TermBias
from attune.model.decode import decode
from attune.model.finetune.base import FineTuning, Scheduled, advance, after_step, parameter_groups, regularisation
from attune.model.flops import Work, count_forward, count_training, learning_shares
from attune.model.tied import adding_rows
from attune.model.whisper import Whisper
from attune.score.metrics import CorpusErrorRate, Prediction
from attune.train.augmentation import Augmentation
from attune.train.gradients import WindowGradient
from attune.train.objective.cross_entropy import CrossEntropy, LossTerms
from attune.train.objective.penalty import Estimated, Penalty
from attune.train.objective.preparation import Prepared
from attune.train.recovery import Recovery, can_recover
from attune.train.schedule import check_optimizer, default_learning_rate, describe_learning_rate, linear_decay

# What is counted in the course of a run, and taken back where an accumulation window has to be taken again.
COUNTED = ("window_tokens", "window_loss", "window_parts", "utterances_seen", "audio_seen_s", "flops_done")

FUSED = ("cuda", "cpu")  # where torch has AdamW as one kernel; elsewhere it is a loop over parameters


class WhisperModule(L.LightningModule):
    """A Whisper, a fine-tuning type and an objective, as Lightning trains them.

    The loss of an optimiser step is the mean over the supervised tokens of its whole accumulation window on all ranks.
    Lightning would average the means of the micro-batches, which weighs a token by how empty its micro-batch is.

    Args:
        whisper: already changed by `finetune.apply`.
        finetune: which parameters learn.
        objective: what they learn from.
        learning_rate: peak of AdamW's rate; None is the default of the model's size times the type's own factor.
        rate_share: times that default; a rate that is given is taken as it is.
        steps: optimiser steps of the whole run; the schedule ends there.
        warmup_share: share of the steps in which the rate rises, in [0, 1].
        final_share: the rate at the end, as a share of the peak, in [0, 1].
        weight_decay: AdamW's, on matrices only.
        betas: AdamW's.
        penalty: what keeps the model near what it was, beside any objective; it has been anchored.
        augmentation: what is changed in the batches of training steps, and of no others; None is nothing.

    Raises:
        InputError: a rate is not above 0, a beta not in [0, 1), or a share not in [0, 1].
    """

    def __init__(
        self,
        whisper: Whisper,
        finetune: FineTuning,
        objective: CrossEntropy,
        steps: int,
        learning_rate: float | None = None,
        rate_share: float = 1.0,
        warmup_share: float = 0.1,
        final_share: float = 0.0,
        weight_decay: float = 0.01,
        betas: Sequence[float] = (0.9, 0.98),
        penalty: Penalty | None = None,
        augmentation: Augmentation | None = None,
    ):
        super().__init__()
        self.whisper = whisper
        self.finetune = finetune
        self.objective = objective
        self.penalty = penalty
        self.augmentation = augmentation or Augmentation()
        width: int = whisper.network.config.d_model
        shares = {"warmup_share": warmup_share, "final_share": final_share}
        check_optimizer(learning_rate, rate_share, betas, weight_decay, **shares)
        default = rate_share * default_learning_rate(width, finetune.rate_factor)
        self.learning_rate = default if learning_rate is None else learning_rate
        self.rate_text = describe_learning_rate(self.learning_rate, width, finetune.rate_factor)
        self.steps = steps
        self.warmup_share = warmup_share
        self.final_share = final_share
        self.weight_decay = weight_decay
        self.betas = (betas[0], betas[1])
        self.word_errors = CorpusErrorRate(unit="word", normalised=True)
        self.raw_word_errors = CorpusErrorRate(unit="word", normalised=False)
        self.predictions: list[Prediction] = []  # of the panel that was scored last, of all ranks
        self._heard: list[list[Prediction]] = []  # those of this rank, batch by batch
        self.bias: TermBias | None = None  # of the panel that is being scored; validation while training has none
        self.window_tokens = 0  # supervised tokens since the last optimiser step, on this rank
        self.window_loss: Tensor | float = 0.0  # the objective's sum over them
        self.window_parts = 0  # micro-batches since then
        self.mean_tokens = torch.ones(())  # of the ranks, in the window whose gradient is about to be used
        self._gradient = WindowGradient()
        self.learns = (1.0, 1.0)  # shares of the weights of encoder and decoder
        self.utterances_seen = 0
        self.audio_seen_s = 0.0
        self.flops_done = 0.0
        self.skipped_steps = 0  # whose gradient was not finite
        self.recovery = Recovery()
        self.counted = {name: getattr(self, name) for name in COUNTED}  # when the accumulation window began

    @property
    def leaves_out(self) -> bool:
        """Whether a step may leave out something that learns, which DDP then has to look for."""
        return isinstance(self.finetune, Scheduled) or type(self.objective) is not CrossEntropy

    def on_fit_start(self) -> None:
        self.learns = learning_shares(self.whisper.network)
        self.recovery.close_window()
        self.window_tokens = self.window_parts = 0
        self.window_loss = 0.0
        if isinstance(self.penalty, Estimated):
            data = self.trainer.datamodule  # type: ignore[attr-defined]
            alone = data.one_by_one("replay", self.penalty.utterances)
            self.penalty.estimate(self.whisper, (batch.to(self.device) for batch in alone))

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        advance(self.finetune, self.whisper.network, self.trainer.global_step / self.steps)
        if isinstance(self.finetune, Scheduled):
            self.learns = learning_shares(self.whisper.network)

    def training_step(self, batch: Batch, batch_idx: int) -> Float[Tensor, ""]:
        """Forward and, on one device, backward too: a step that does not fit is then taken again (train/recovery.py),
        and the gradients of the step before are gone before activations take their place."""
        if not can_recover(self.trainer):
            return self._hear(batch)
        self.recovery.learn(batch, self._step, self._begin_window)
        return torch.zeros((), device=self.device)

    def _hear(self, batch: Batch) -> Float[Tensor, ""]:
        place = self.trainer.global_step, self.window_parts, self.global_rank
        self.window_parts += 1
        with ExitStack() as stack:
            heard = stack.enter_context(self.augmentation.hear(self.whisper, batch, *place))
            stack.enter_context(self.whisper.recalling(heard.waveform, heard.states))
            return self._train_on(heard)

    def _step(self, batch: Batch) -> None:
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        with adding_rows(self.whisper.network):
            loss = self._hear(batch) / self.trainer.accumulate_grad_batches
            with torch.autocast(self.device.type, enabled=False):  # the forward pass has chosen every precision
                (loss if scaler is None else scaler.scale(loss)).backward()

    def _begin_window(self) -> None:
        """Clear the gradients; where the window has begun before, take back what was counted in it."""
        self._optimizer.zero_grad()
        if self.window_parts:
            for name, value in self.counted.items():
                setattr(self, name, value)
        self.counted = {name: getattr(self, name) for name in COUNTED}

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        if not can_recover(self.trainer):  # else it has been done
            super().backward(loss, *args, **kwargs)

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Optimizer) -> None:
        if not can_recover(self.trainer):  # else the window's gradients are there already
            super().optimizer_zero_grad(epoch, batch_idx, optimizer)

    def _train_on(self, batch: Batch) -> Float[Tensor, ""]:
        if isinstance(self.objective, Prepared):
            self.objective.step = self.trainer.global_step
        terms = self.objective.loss(self.whisper, batch)
        self.window_tokens += terms.tokens
        self.window_loss = self.window_loss + terms.total.detach()
        self.utterances_seen += batch.utterances
        self.audio_seen_s += batch.samples / SAMPLE_RATE_HZ
        self.flops_done += self._count_flops(batch)
        self._log_values("train", terms, len(batch), on_step=True)
        rates = [group["lr"] for group in self.optimizers().param_groups]  # type: ignore[union-attr]
        # Lower blocks may learn more slowly. A number Lightning would send to the device, and wait for it.
        self.log("train/learning_rate", torch.tensor(max(rates)))
        total = terms.total + self._penalise(batch, terms)
        total = total + terms.tokens * regularisation(self.finetune, self.whisper.network)
        return total * self.trainer.accumulate_grad_batches  # Lightning divides by it; we divide by tokens instead

    def _penalise(self, batch: Batch, terms: LossTerms) -> Float[Tensor, ""] | float:
        """The penalty's part of the batch's sum: logged by itself, so that losses compare with and without one."""
        if self.penalty is None:
            return 0.0
        penalty = self.penalty.loss(self.whisper, batch, terms)
        self.log("train/penalty", penalty.detach() / max(terms.tokens, 1), batch_size=terms.tokens)
        return penalty

    def _count_flops(self, batch: Batch) -> float:
        network, (utterances, samples) = self.whisper.network, batch.waveform.shape
        positions, tokens = samples // SAMPLES_PER_POSITION, batch.decoder_input_ids.shape[1]
        forward = count_forward(network.config, utterances, positions, tokens, batch.supervised)
        if batch.states is not None:  # the encoder was not asked
            forward = Work(0.0, forward.decoder)
        return count_training(forward, self.learns)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """The window's loss: its sum, and the tokens that it is over."""
        loss = torch.as_tensor(self.window_loss, device=self.device).float()
        counted = torch.stack([loss, torch.full_like(loss, self.window_tokens)])
        loss, self.mean_tokens = self.trainer.strategy.reduce(counted, reduce_op="mean")
        self.log("train/loss", loss / self.mean_tokens.clamp(min=1), prog_bar=True)
        self.window_tokens = self.window_parts = 0
        self.window_loss = 0.0
        self.recovery.close_window()

    @property
    def gradient_norm(self) -> Float[Tensor, ""]:
        """The L2 norm of the window's gradient, which is a sum over its tokens."""
        return self._gradient.norm(self._optimizer)

    def configure_gradient_clipping(
        self, optimizer: Optimizer, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Turn the gradient into a mean and clip that, after it was unscaled (train/gradients.py)."""
        # Ranks average their gradients, so dividing by the mean count of tokens divides the sum by the total count.
        self._gradient.average(self._optimizer, self.mean_tokens, gradient_clip_val)

    @property
    def _optimizer(self) -> Optimizer:
        """Torch's own, without Lightning's wrapper."""
        return self.optimizers(use_pl_optimizer=False)  # type: ignore[return-value]

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Once for each accumulation window, before any checkpoint is written: the type's own work must be in it."""
        super().optimizer_step(*args, **kwargs)
        step = self.trainer.global_step + 1  # Lightning counts this one when the hook returns
        for name, value in after_step(self.finetune, self.whisper.network, step, self.steps).items():
            self.log(f"train/{name}", value)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """On several ranks every utterance counts once, wherever it is heard."""
        states = self.whisper.encode(batch.waveform)
        counts = not getattr(self.trainer.val_dataloaders, "repeats", False)
        terms = self.objective.loss_from_states(self.whisper, states, batch)
        mean = terms.total / max(terms.tokens, 1)
        self._log_mean("val/loss", mean, counts * terms.tokens, prog_bar=True, on_step=False, on_epoch=True)
        self._log_values("val", terms, counts * len(batch))
        hypotheses = self._transcribe(states, batch)
        for metric in (self.word_errors, self.raw_word_errors):
            said = (batch.references, hypotheses, batch.languages)
            metric.update(*(each if counts else [] for each in said))
        self.log("val/wer", self.word_errors, prog_bar=True, batch_size=len(batch))
        self.log("val/raw_wer", self.raw_word_errors, batch_size=len(batch))

    def on_test_start(self) -> None:
        self._heard = []

    def on_test_end(self) -> None:
        """The predictions of all ranks, in the order of one."""
        repeats = getattr(self.trainer.test_dataloaders, "repeats", False)
        turns = zip_longest(*gather([] if repeats else self._heard), fillvalue=[])
        self.predictions = list(chain.from_iterable(chain.from_iterable(turns)))

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Transcribe a panel into `predictions`. Lightning's predict would take our batches apart to count them."""
        states = self.whisper.encode(batch.waveform)
        hypotheses = self._transcribe(states, batch)
        durations_s = (batch.lengths / SAMPLE_RATE_HZ).tolist()
        rows = zip(batch.ids, batch.references, hypotheses, batch.speakers, batch.languages, durations_s, strict=True)
        judge = getattr(self.objective, "judge", None)  # of a reward model
        margins = judge(self.whisper, states, batch) if judge else [None] * len(batch)
        self._heard.append([Prediction(*row, margin=margin) for row, margin in zip(rows, margins, strict=True)])

    def _transcribe(self, states: Float[Tensor, "batch position told"], batch: Batch) -> list[str]:
        ids = decode(self.whisper, states, batch.prefixes, batch.lengths, self.bias)
        return [self.whisper.tokens.transcript(row) for row in ids]

    def _log_values(self, stage: str, terms: LossTerms, utterances: int, on_step: bool = False) -> None:
        """What the objective tells beside its loss; in training the mean of the ranks' means."""
        for key, value in terms.logged.items():
            self._log_mean(f"{stage}/{key}", value, utterances, on_step=on_step, on_epoch=not on_step)

    def _log_mean(self, name: str, value: Tensor | float, weight: int, **when: Any) -> None:
        # Of whole weights Lightning would take the ranks' mean as a whole number, and lose the half.
        exact: Any = float(weight)
        self.log(name, value, batch_size=exact, sync_dist=self.trainer.world_size > 1, **when)

    def configure_optimizers(self) -> Any:
        groups = parameter_groups(self.finetune, self.whisper.network, self.weight_decay, self.learning_rate)
        optimizer = AdamW(groups, lr=self.learning_rate, betas=self.betas, fused=self.device.type in FUSED or None)
        # Lightning refuses to clip for an optimiser that could unscale 16-bit gradients by itself, as a fused one can.
        # Told that it cannot, Lightning unscales them ahead of the clipping.
        optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]
        rate: Callable[[int], float] = linear_decay(self.steps, self.warmup_share, self.final_share)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": LambdaLR(optimizer, rate), "interval": "step", "name": "train/learning_rate"},
        }
