"""SpeechDataModule: corpora in, batches out.

corpus (rows of one schema) -> audit (broken rows set aside) -> sampling (windows, batches) -> waveform -> Batch
"""

import os
import random
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any

import lightning as L
import torch
from datasets import Dataset, concatenate_datasets
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import DataLoader

from attune.audio.context import Context, PackedContext
from attune.audio.waveform import POSITIONS_PER_S
from attune.data.audit import (
    LEARNT,
    Audit,
    audit_corpus,
    check_leakage,
    check_texts,
    keep_usable,
    load_row,
)
from attune.data.batch import Batch, collate
from attune.data.corpora.schema import PAIRED, WEIGHT, Corpus, RowStream, Streams
from attune.data.enduring import EnduringLoader
from attune.data.few_shot import FewShot
from attune.data.findings import Findings, Rejection, read_rules
from attune.data.in_context import InContext, Shown, check_in_context, sum_seconds
from attune.data.late import Late, LateRows
from attune.data.pace import find_paces
from attune.data.packing import measure_shares
from attune.data.processes import gather, share_out
from attune.data.reading import check_settings, check_splits, read_splits
from attune.data.sampling import Draw, TrainingBatches, draw_again, evaluation_batches, group
from attune.data.streaming import StreamedBatches, StreamLoader, check_stream, read_places
from attune.data.utterances import Stored, Utterances
from attune.data.vocabulary import CustomVocabulary, Prompts
from attune.errors import InputError
from attune.text.tokens import Tokens


class SpeechDataModule(L.LightningDataModule):
    """Batches of any corpus, for any Whisper.

    Args:
        corpus: a reader; its splits are train, validation, test and any retention/NAME.
        tokens: of the Whisper that will be trained.
        context: how much of the 30 s window is used in training and in scoring.
        batch_window_s: seconds of Whisper's window in one training batch: 40 is one full window, or some ten
            three-second clips at context=audio. The Trainer's `accumulate_grad_batches` of them are a step.
        evaluation_batch_window_s: the same for scoring, where no gradient takes memory.
        max_rejected: share of unusable utterances, in [0, 1], above which the run stops.
        workers: processes that decode and resample; 0 does it in this one; None is none on a CPU, up to 8 beside a GPU.
        seed: of the order, of the windows' margins and of every draw.
        shots, shots_per: how many training utterances are drawn, in all or of each speaker or label; None is all there
            are. Validation and test keep all of theirs.
        in_context, in_context_per: training utterances set before each that is scored, where scoring asks for them.
        replay: share of the training utterances, in [0, 1), that are drawn from the corpus's split `replay`.
        extras: further splits that are read where the corpus offers them: "replay" (which must then be there),
            "retention_validation".
        vocabulary: a list of terms, for synthetic speech in the training split and for prompts; None is none.
        audit: rule -> severity, on or off, for rules of the audit that are to be other than they are by themselves.
        allow_leakage: go on where a recording is learnt and also scored.
        rank, ranks: of several processes this one trains and scores its part of every batch and panel.
        listen_up_to: recordings of a split that is learnt which are heard before the run begins; None is all.

    Raises:
        InputError: `replay` is no such share, or another setting is none that there is.
    """

    def __init__(
        self,
        corpus: Corpus,
        tokens: Tokens,
        context: Context,
        batch_window_s: float = 40.0,
        evaluation_batch_window_s: float = 240.0,
        max_rejected: float = 0.05,
        workers: int | None = None,
        seed: int = 0,
        shots: int | None = None,
        shots_per: str = "all",
        in_context: int = 0,
        in_context_per: str = "all",
        replay: float = 0.0,
        extras: Sequence[str] = (),
        vocabulary: CustomVocabulary | None = None,
        audit: Mapping[str, Any] | None = None,
        allow_leakage: bool = False,
        rank: int = 0,
        ranks: int = 1,
        listen_up_to: int | None = None,
    ):
        super().__init__()
        if listen_up_to is not None and (not isinstance(listen_up_to, int) or listen_up_to < 1):
            raise InputError(f"data.listen_up_to={listen_up_to}; accepted: recordings, 1 or more, or null for all.")
        check_settings(
            {"data.max_rejected": max_rejected},
            {"data.batch_window_s": batch_window_s, "data.evaluation_batch_window_s": evaluation_batch_window_s},
            {"data.in_context": in_context, "data.workers": workers},
        )
        if not isinstance(replay, int | float) or not 0 <= replay < 1:
            raise InputError(f"data.replay={replay} is no share of the training utterances: it must be in [0, 1).")
        self.corpus = corpus
        self.tokens = tokens
        self.context = context
        self.batch_positions = int(batch_window_s * POSITIONS_PER_S)
        self.evaluation_batch_positions = int(evaluation_batch_window_s * POSITIONS_PER_S)
        self.max_rejected = max_rejected
        self.workers = choose_workers(workers)
        self.seed = seed
        self.few_shot = FewShot(shots, shots_per, seed)
        self.drawn = ""  # a sentence about the few-shot draw
        check_in_context(in_context, in_context_per)
        self.examples, self.examples_per = in_context, in_context_per
        self.in_context: InContext | None = None
        self.replay = replay
        self.extras = {*extras, *(["replay"] if replay else [])}
        self.vocabulary = vocabulary
        read_rules(audit)  # a rule that is none is said at once
        self.rules, self.allow_leakage, self.listen_up_to = audit, allow_leakage, listen_up_to
        self.audit = Audit(Findings({}))  # what was found, once it is prepared
        self.splits: dict[str, Dataset] = {}
        self.rejections: list[Rejection] = []
        self.rank, self.ranks = rank, ranks
        self.late = LateRows()
        self.batches_taken = 0  # by each process
        self.stream: RowStream | None = None  # training utterances that are kept nowhere (data.streaming=shards)
        self.streamed: StreamLoader | None = None
        self.stream_state: Mapping[str, Any] = {}
        self.stored: Stored | None = None  # encoder states in the place of training's sound (cache=encoder)

    def prepare(self, share: Callable[[Callable[[], Audit]], Audit] = lambda make: make()) -> None:
        """Read the corpus and set broken rows aside: before any weight is loaded, so that bad data costs seconds.

        Args:
            share: of several processes the first one listens, and tells the others (`Ranks.share`).

        Raises:
            InputError: the corpus cannot be used; the message says where and why.
        """
        splits = self._read
        check_splits(splits)
        self.audit = share(partial(self._listen, splits))
        if not self.audit.splits:
            self.audit.splits = {name: keep_usable(rows, self.audit.sounds[name]) for name, rows in splits.items()}
        self.splits, self.rejections = self.audit.splits, self.audit.rejections
        self.tokens.paces |= find_paces(self.splits, self.tokens)
        if isinstance(self.corpus, Streams) and (stream := self.corpus.stream()):
            self._begin_stream(stream)
        if self.examples:
            train = self.splits["train"]
            self.in_context = InContext(train, self.tokens, self.examples, self.examples_per, self.seed)

    def _begin_stream(self, stream: RowStream) -> None:
        few, packed = self.few_shot.shots, isinstance(self.context, PackedContext) and "packed"
        asked = {"data.shots": few, "data.replay": self.replay, "context": packed, "vocabulary": self.vocabulary}
        check_stream(**asked, **{"data.in_context": self.examples})
        self.stream = stream
        self.drawn = f"training streams {stream.shards} shards; the audit has heard the rows counted above, the first"

    def _listen(self, splits: Mapping[str, Dataset]) -> Audit:
        check_texts(splits, self.tokens)
        found = audit_corpus(splits, self.tokens, self.rules, self.max_rejected, self.listen_up_to)
        check_leakage(found, self.allow_leakage)
        return found

    @cached_property
    def _read(self) -> dict[str, Dataset]:
        splits, self.drawn = read_splits(self.corpus, self.extras, self.replay, self.few_shot, self.vocabulary)
        return splits

    @property
    def transcripts(self) -> list[str]:
        """The training texts as written, before the audit: what a vocabulary may be learnt from."""
        return list(self._read["train"]["text"]) if "train" in self._read else []

    @property
    def panels(self) -> list[str]:
        """What is scored before and after: `test`, every `test/NAME` (the target under one condition) and
        `retention/NAME`."""
        rooms = ("test/", "retention/")
        return ["test", *(name for room in rooms for name in sorted(self.splits) if name.startswith(room))]

    @property
    def languages(self) -> list[str]:
        """Of what is scored, in alphabetical order."""
        return sorted({language for panel in self.panels for language in self.splits[panel].unique("language")})

    @cached_property
    def training_rows(self) -> Dataset:
        """The training utterances and, behind them, those that are replayed."""
        splits = [self.splits["train"], *([self.splits["replay"]] if self.replay else [])]
        known = [[name for name in PAIRED if name in split.column_names] for split in splits]
        return concatenate_datasets([split.select_columns(names) for split, names in zip(splits, known, strict=True)])

    def train_dataloader(self) -> DataLoader[Batch] | StreamLoader:
        if self.stream is not None:
            return self._stream(self.stream)
        prompts = self.vocabulary.training_prompts() if self.vocabulary else None
        batches = self.training_batches()
        return self._loader(self.training_rows, batches, stored=self.stored, prompts=prompts, max_late=self.max_late)

    def _stream(self, source: RowStream) -> StreamLoader:
        places = read_places(self.stream_state, self.workers) if self.stream_state else {}
        batches = StreamedBatches(
            source, self.tokens, self.context, self.batch_positions, self.seed, self.rank, self.ranks, places,
            self.batches_taken,
        )  # fmt: skip
        self.streamed = StreamLoader(batches, self.workers, self.max_rejected)
        return self.streamed

    def training_batches(self) -> TrainingBatches:
        """The stream of this process, from the batch on that comes next."""
        train, rows, trainer = self.splits["train"], self.training_rows, self.trainer
        durations_s = rows["duration_s"][:]
        batches = TrainingBatches(
            durations_s[: len(train)],
            self.context,
            self.batch_positions,
            self.seed,
            durations_s[len(train) :],
            self.replay,
            list(train[WEIGHT]) if WEIGHT in train.column_names else None,
            measure_shares(rows, self.tokens, self.context) if isinstance(self.context, PackedContext) else (),
            self.stored.draws if self.stored else None,
            rank=self.rank,
            ranks=self.ranks,
            total=trainer.max_steps * trainer.accumulate_grad_batches * self.ranks if trainer else None,
        )
        batches.first_batch = self.batches_taken
        return batches

    def fixed_windows(self, number: int) -> list[Draw]:
        """Of every training utterance, the window of draw `number` (cache=encoder)."""
        durations_s = self.training_rows["duration_s"]
        return [draw_again(index, duration_s, self.context, number) for index, duration_s in enumerate(durations_s)]

    def windows_dataloader(self, draws: Sequence[Draw]) -> tuple[DataLoader[Batch], list[list[Draw]]]:
        """These windows of training utterances, with their sound, in batches as large as those of scoring."""
        batches = group(draws, self.evaluation_batch_positions)
        return self._loader(self.training_rows, batches), batches

    def val_dataloader(self) -> DataLoader[Batch]:
        return self.panel_dataloader("validation")

    def panel_dataloader(
        self, panel: str, context: Context | None = None, in_context: bool = False, prompts: Prompts | None = None
    ) -> DataLoader[Batch]:
        """Every utterance of a split once, at this data module's context or at another; of several processes each has
        its part (`share_out`).

        Args:
            in_context: set examples before each utterance, where the run has any (data.in_context).
            prompts: what stands in the place of the rows' own prompts.
        """
        scored = self.splits[panel]
        shown = self.in_context.plan(scored) if in_context and self.in_context else [[] for _ in range(len(scored))]
        durations_s = [own + sum_seconds(before) for own, before in zip(scored["duration_s"], shown, strict=True)]
        batches = evaluation_batches(durations_s, context or self.context, self.evaluation_batch_positions)
        own, repeats = share_out(batches, self.rank, self.ranks)
        return self._loader(scored, own, shown, prompts=prompts, repeats=repeats)

    def one_by_one(self, split: str, count: int) -> DataLoader[Batch]:
        """`count` utterances of a split (all, where it has fewer), drawn by the seed, each a batch by itself."""
        alone = evaluation_batches(self.splits[split]["duration_s"], self.context, batch_positions=1)
        drawn = random.Random(f"{self.seed} {split}").sample(alone, min(count, len(alone)))
        return self._loader(self.splits[split], drawn)

    def waveform(self, panel: str, id: str) -> Float[Tensor, "sample"]:
        """One utterance, for a person to hear."""
        index = list(self.splits[panel]["id"]).index(id)
        return load_row(self.splits[panel][index])

    def _loader(
        self,
        dataset: Dataset,
        batches,
        shown: Sequence[Sequence[Shown]] = (),
        stored: Stored | None = None,
        prompts: Prompts | None = None,
        repeats: bool = False,
        max_late: int | None = None,
    ) -> DataLoader[Batch]:
        packed = self.context if isinstance(self.context, PackedContext) else None
        return EnduringLoader(
            Utterances(dataset, self.tokens, self.in_context, shown, packed, stored, prompts, max_late),
            batches,
            partial(collate, padding_id=self.tokens.end_of_text),
            self.workers,
            repeats,
            None if max_late is None else self.note_late,
        )

    @property
    def max_late(self) -> int:
        """How many training utterances may turn out unusable in this process after the start: what data.max_rejected
        leaves, shared between the processes, for each counts its own."""
        early = sum(rejection.split in LEARNT for rejection in self.audit.rejections)
        allowed = int(self.max_rejected * (len(self.training_rows) + early)) - early
        return max(1, allowed // self.ranks)

    def note_late(self, late: Late) -> None:
        """Count a training utterance that turned out unusable when its turn came, and say so once.

        Raises:
            InputError: there are more than `max_late`.
        """
        self.late.note(late, self.max_late)

    def list_rejections(self) -> list[Rejection]:
        """What was set aside at the start, and behind it what was since."""
        own = len(self.splits["train"])
        return [*self.rejections, *(self.late.list_rejections(self.training_rows, own) if self.late else [])]

    def state_dict(self) -> dict[str, Any]:
        """How many training batches each process has taken, of how many: from there a resumed run goes on."""
        trainer = self.trainer
        taken = trainer.global_step * trainer.accumulate_grad_batches if trainer else self.batches_taken
        state: dict[str, Any] = {"batches_taken": taken, "ranks": self.ranks}
        if self.late:
            state["late"] = self.late.state_dict()
        if self.streamed is not None:
            state["streams"] = gather(self.streamed.state(taken))  # every process has a place of its own
        return state

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """With another number of processes it goes on at the same place of the stream, or just before it."""
        self.batches_taken = int(state_dict["batches_taken"]) * int(state_dict.get("ranks", 1)) // self.ranks
        self.late.load_state_dict(state_dict.get("late", {}))
        streams = state_dict.get("streams", [])
        if streams and len(streams) != self.ranks:
            raise InputError(
                f"{len(streams)} processes streamed this run; as many must go on with it, not {self.ranks}."
            )
        self.stream_state = streams[self.rank] if streams else {}


def choose_workers(wanted: int | None) -> int:
    """Worker processes: as asked; else none on a CPU, whose cores train, and up to 8 beside a GPU."""
    if wanted is not None:
        return wanted
    return min(8, max(1, (os.cpu_count() or 1) - 1)) if torch.cuda.is_available() else 0
