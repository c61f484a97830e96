"""Training utterances that are read from their shards as they are needed, and kept nowhere.

    shards, in an order drawn anew for each pass
      -> every worker of every process has shards of its own, and reads them one behind the other
      -> 1,024 rows of a pass at a time: windows drawn, grouped by length into batches, batches shuffled
      -> decoded, and collated to a Batch

Where there are fewer shards than workers, several share one, and each takes its rows of it in turn: all are read then,
and no sound is decoded twice. What cannot be used is set aside when its turn comes.
"""

import io
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import groupby, islice
from typing import Any

import soundfile
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from attune.audio.context import Context
from attune.audio.waveform import SAMPLES_PER_POSITION, WINDOW_S, AudioError, compute_fault
from attune.data.batch import Batch, Example, collate
from attune.data.corpora.schema import RowStream
from attune.data.findings import Rejection
from attune.data.sampling import Draw, fill_up, group
from attune.data.utterances import Utterances
from attune.errors import InputError
from attune.text.tokens import Tokens

PLANNED = 1024  # rows that are batched together
KEPT = 1000  # rejections that a process remembers; further ones are only counted
LENIENT = 1000  # rows that are read before the share of the rejected is looked at
IDLE = 100  # passes in which a worker may find nothing: a shard may be empty, and it has others in the next pass
REMEMBERED = 16  # batches that the trainer may have asked for ahead of those that it has trained on


@dataclass(frozen=True)
class Place:
    """Where a worker is: in which pass, in which of its shards, at which row of it, and how many batches of the rows
    from there on it has given."""

    number: int = 0
    shard: int = 0
    row: int = 0
    batches: int = 0


@dataclass(frozen=True)
class Given:
    """A batch, where its worker is after it, and what was set aside on the way. `role` is the worker's number."""

    batch: Batch
    role: int
    place: Place
    rejected: Sequence[Rejection]

    def pin_memory(self) -> "Given":
        return replace(self, batch=self.batch.pin_memory())


@dataclass
class StreamedBatches(IterableDataset[Given]):
    """An endless stream of batches for one process; iterated in a worker of a DataLoader, that worker's.

    Args:
        source: the shards.
        seed: of the order of shards and batches, and of the windows' margins.
        rank, ranks: this process among those of the run.
        places: role -> where it goes on.
        taken: batches that the process was given before: the worker that comes next is the first again.
    """

    source: RowStream
    tokens: Tokens
    context: Context
    batch_positions: int
    seed: int
    rank: int = 0
    ranks: int = 1
    places: Mapping[int, Place] = field(default_factory=dict)
    taken: int = 0

    def __iter__(self) -> Iterator[Given]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        role = (worker + self.taken) % workers
        rejected: list[Rejection] = []
        part, parts = self.rank * workers + role, self.ranks * workers
        for place, examples in self._run(part, parts, self.places.get(role, Place()), rejected.append):
            batch = collate(examples, self.tokens.end_of_text)
            yield Given(batch, role, place, tuple(rejected))
            rejected.clear()

    def _run(
        self, part: int, parts: int, place: Place, reject: Callable[[Rejection], None]
    ) -> Iterator[tuple[Place, list[Example]]]:
        begin, given = replace(place, batches=0), place.batches
        for _, one_pass in groupby(self._read(part, parts, begin), key=lambda found: found[0].number):
            while chunk := list(islice(one_pass, PLANNED)):
                rows = [row for _, row in chunk]
                for number, draws in enumerate(self._plan(rows, random.Random(f"{self.seed} {part} {begin}"), reject)):
                    if number < given:
                        continue
                    examples = [example for draw in draws if (example := self._hear(rows, draw, reject)) is not None]
                    if examples:
                        yield replace(begin, batches=number + 1), examples
                begin, given = chunk[-1][0], 0

    def _read(self, part: int, parts: int, place: Place) -> Iterator[tuple[Place, Mapping[str, Any]]]:
        """The rows of one worker without end, each with the place behind it."""
        cuts = -(-parts // self.source.shards)  # into how many a shard is cut, so that everybody has some
        number, done, row, idle = place.number, place.shard, place.row, 0
        while idle < IDLE:
            idle += 1
            order = list(range(cuts * self.source.shards))
            random.Random(f"{self.seed} shards {number}").shuffle(order)
            own = order[part::parts]
            for index in range(done, len(own)):
                shard, turn = divmod(own[index], cuts)
                for at, found in enumerate(islice(self.source.read(shard), row, None), start=row):
                    if at % cuts == turn:
                        idle = 0
                        yield Place(number, index, at + 1), found
                row = 0
            number, done = number + 1, 0
        raise InputError(f"data.streaming=shards: in {self.source.shards} shards there was no training utterance.")

    def _plan(
        self, rows: Sequence[Mapping[str, Any]], rng: random.Random, reject: Callable[[Rejection], None]
    ) -> list[list[Draw]]:
        draws = []
        for index, row in enumerate(rows):
            try:
                draws.append(Draw(index, self.context.positions(measure_seconds(row), rng)))
            except AudioError as error:
                reject(_name(row, error))
        batches = group(fill_up(draws, self.batch_positions), self.batch_positions)
        rng.shuffle(batches)
        return batches

    def _hear(
        self, rows: Sequence[Mapping[str, Any]], draw: Draw, reject: Callable[[Rejection], None]
    ) -> Example | None:
        try:
            example = Utterances(rows, self.tokens)[draw]  # type: ignore[arg-type]  # a list of rows will do
            fault = compute_fault(example.waveform)
            if fault is None and example.waveform.shape[0] > draw.positions * SAMPLES_PER_POSITION:
                fault = "it is longer than its header says"
            if fault is None:
                return example
        except (AudioError, InputError) as error:
            fault = str(error)
        reject(_name(rows[draw.index], fault))
        return None


def _name(row: Mapping[str, Any], reason: object) -> Rejection:
    return Rejection("train", row["id"], row["place"], str(reason))


def measure_seconds(row: Mapping[str, Any]) -> float:
    """How long an utterance is, by the header of its file.

    Raises:
        AudioError: there is none, or Whisper's window is shorter.
    """
    audio = row["audio"]
    source = audio["path"] if audio["bytes"] is None else io.BytesIO(audio["bytes"])
    try:
        whole = soundfile.info(source).duration
    except (soundfile.SoundFileError, OSError, TypeError, ValueError):
        raise AudioError("cannot be decoded: not a file that libsndfile reads") from None
    end_s = whole if row["end_s"] is None else min(row["end_s"], whole)
    seconds = end_s - (row["start_s"] or 0.0)
    if not 0 < seconds <= WINDOW_S:
        raise AudioError(f"{seconds:.1f} s long: accepted is up to {WINDOW_S:.0f} s (give start_s and end_s)")
    return seconds


class StreamLoader:
    """The batches of one process, and what its stream must know to go on from any of the last ones.

    Args:
        batches: of this process.
        workers: processes that read and decode; 0: this one.
        max_rejected: share of what was read, in [0, 1], above which the run stops.

    Raises:
        InputError: more than that could not be used.
    """

    def __init__(self, batches: StreamedBatches, workers: int, max_rejected: float):
        self.batches, self.workers, self.max_rejected = batches, workers, max_rejected
        self.history = {batches.taken: dict(batches.places)}
        self.rejections: list[Rejection] = []
        self.seen = self.rejected = 0

    def __iter__(self) -> Iterator[Batch]:
        loader = DataLoader(
            self.batches, batch_size=None, num_workers=self.workers, pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),
        )  # fmt: skip
        for count, given in enumerate(loader, start=self.batches.taken + 1):
            self._note(given.rejected, len(given.batch))
            self.history[count] = {**self.history[count - 1], given.role: given.place}
            self.history.pop(count - REMEMBERED, None)
            yield given.batch

    def _note(self, rejected: Sequence[Rejection], heard: int) -> None:
        self.rejections += rejected[: KEPT - len(self.rejections)]
        self.rejected += len(rejected)
        self.seen += heard + len(rejected)
        if self.rejected > self.max_rejected * max(self.seen, LENIENT):
            raise InputError(
                f"{self.rejected} of {self.seen} streamed utterances cannot be used, more than "
                f"data.max_rejected={self.max_rejected:g} allows. The last: {rejected[-1].place}: {rejected[-1].reason}"
            )

    def state(self, taken: int) -> dict[str, Any]:
        """Where the workers were when `taken` batches had been given, in primitives."""
        places = {role: list(asdict(place).values()) for role, place in self.history[taken].items()}
        return {"workers": self.workers, "places": places}


def read_places(state: Mapping[str, Any], workers: int) -> dict[int, Place]:
    """What `StreamLoader.state` has told.

    Raises:
        InputError: there were other workers, whose shards were others.
    """
    if state["workers"] != workers:
        raise InputError(
            f"The run streamed with data.workers={state['workers']}, and now has {workers}: their shards are others. "
            f"Set workers: {state['workers']} under data in the run's config.yaml, and go on."
        )
    return {int(role): Place(*place) for role, place in state["places"].items()}


def check_stream(**others: Any) -> None:
    """Refuse what asks for all training utterances at once.

    Args:
        others: config key -> its value, where it would.

    Raises:
        InputError: with the key.
    """
    for key, value in others.items():
        if value:
            raise InputError(
                f"data.streaming=shards and {key}={value}: training utterances are met one by one, and it asks for all "
                "of them beforehand. Leave it out, or take data.streaming=true, which keeps the rows in the cache."
            )
