"""SpeechDataModule: corpora in, batches out.

corpus (rows of one schema) -> audit (broken rows set aside) -> sampling (windows, batches) -> waveform -> Batch
"""

import os
from collections.abc import Mapping
from functools import cached_property, partial
from typing import Any

import lightning as L
import torch
from datasets import Dataset
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import DataLoader

from attune.audio.context import Context
from attune.audio.waveform import POSITIONS_PER_S
from attune.data.audit import Rejection, check_texts, encode_row, load_row, reject_broken_audio
from attune.data.batch import Batch, Example, collate
from attune.data.corpora.schema import Corpus
from attune.data.sampling import Draw, TrainingBatches, evaluation_batches
from attune.errors import InputError
from attune.text.tokens import Tokens


class SpeechDataModule(L.LightningDataModule):
    """Batches of any corpus, for any Whisper.

    Args:
        corpus: a reader; its splits are train, validation, test and any retention/NAME.
        tokens: of the Whisper that will be trained.
        context: how much of the 30 s window is used in training and in scoring.
        batch_window_s: seconds of Whisper's window in one training batch: 120 is four full windows, or some thirty
            three-second clips at context=audio.
        evaluation_batch_window_s: the same for scoring, where no gradient takes memory.
        max_rejected: share of unusable utterances, in [0, 1], above which the run stops.
        workers: processes that decode and resample; 0 does it in this one; None is none on a CPU, up to 8 beside a GPU.
        seed: of the order and the windows' margins.
    """

    def __init__(
        self,
        corpus: Corpus,
        tokens: Tokens,
        context: Context,
        batch_window_s: float = 120.0,
        evaluation_batch_window_s: float = 240.0,
        max_rejected: float = 0.05,
        workers: int | None = None,
        seed: int = 0,
    ):
        super().__init__()
        self.corpus = corpus
        self.tokens = tokens
        self.context = context
        self.batch_positions = int(batch_window_s * POSITIONS_PER_S)
        self.evaluation_batch_positions = int(evaluation_batch_window_s * POSITIONS_PER_S)
        self.max_rejected = max_rejected
        self.workers = choose_workers(workers)
        self.seed = seed
        self.splits: dict[str, Dataset] = {}
        self.rejections: list[Rejection] = []
        self.batches_taken = 0

    def prepare(self) -> None:
        """Read the corpus and set broken rows aside: before any weight is loaded, so that bad data costs seconds.

        Raises:
            InputError: the corpus cannot be used; the message says where and why.
        """
        splits = self._read
        for split in ("train", "validation", "test"):
            if len(splits.get(split, ())) == 0:
                raise InputError(f"The corpus has no utterance in {split!r}. Give data.{split}.")
        check_texts(splits, self.tokens)
        self.splits, self.rejections = reject_broken_audio(splits, self.max_rejected)

    @cached_property
    def _read(self) -> dict[str, Dataset]:
        return dict(self.corpus.splits())

    @property
    def transcripts(self) -> list[str]:
        """The training texts as written, before the audit: what a vocabulary may be learnt from."""
        return list(self._read["train"]["text"]) if "train" in self._read else []

    @property
    def panels(self) -> list[str]:
        """What is scored before and after: `test` and every `retention/NAME`."""
        return ["test", *sorted(name for name in self.splits if name.startswith("retention/"))]

    def train_dataloader(self) -> DataLoader[Batch]:
        batches = TrainingBatches(self.splits["train"]["duration_s"], self.context, self.batch_positions, self.seed)
        batches.first_batch = self.batches_taken
        return self._loader("train", batches)

    def val_dataloader(self) -> DataLoader[Batch]:
        return self.panel_dataloader("validation")

    def panel_dataloader(self, panel: str, context: Context | None = None) -> DataLoader[Batch]:
        """Every utterance of a split once, at this data module's context or at another."""
        durations_s = self.splits[panel]["duration_s"]
        batches = evaluation_batches(durations_s, context or self.context, self.evaluation_batch_positions)
        return self._loader(panel, batches)

    def waveform(self, panel: str, id: str) -> Float[Tensor, "sample"]:
        """One utterance, for a person to hear."""
        index = list(self.splits[panel]["id"]).index(id)
        return load_row(self.splits[panel][index])

    def _loader(self, split: str, batches) -> DataLoader[Batch]:
        return DataLoader(
            Utterances(self.splits[split], self.tokens),  # type: ignore[arg-type]
            batch_sampler=batches,
            collate_fn=partial(collate, padding_id=self.tokens.end_of_text),
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            pin_memory=torch.cuda.is_available(),
        )

    def state_dict(self) -> dict[str, Any]:
        """How many training batches were taken: from there a resumed run goes on."""
        trainer = self.trainer
        if trainer is None:
            return {"batches_taken": self.batches_taken}
        return {"batches_taken": trainer.global_step * trainer.accumulate_grad_batches}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        self.batches_taken = int(state_dict["batches_taken"])


class Utterances(torch.utils.data.Dataset[Example]):
    """A split as examples: decoding and resampling happen here, in the worker that asks."""

    def __init__(self, dataset: Dataset, tokens: Tokens):
        self.dataset = dataset
        self.tokens = tokens

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, draw: Draw) -> Example:
        row = self.dataset[draw.index]
        sequence = encode_row(row, self.tokens)
        prefix = self.tokens.prefix(row["language"], row["task"])
        prompt = self.tokens.prompt(row["prompt"], room=self.tokens.max_tokens // 2)
        return Example(
            id=row["id"],
            waveform=load_row(row),
            positions=draw.positions,
            decoder_input_ids=sequence.decoder_input_ids,
            labels=sequence.labels,
            prefix=[*prompt, *prefix],
            reference=row["text"],
            language=row["language"],
            speaker=row["speaker"],
        )


def choose_workers(wanted: int | None) -> int:
    """Worker processes: as asked; else none on a CPU, whose cores train, and up to 8 beside a GPU."""
    if wanted is not None:
        return wanted
    return min(8, max(1, (os.cpu_count() or 1) - 1)) if torch.cuda.is_available() else 0
