"""A split as examples: what the workers do."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from datasets import Dataset
from jaxtyping import Float
from torch import Tensor

from attune.audio.context import PackedContext
from attune.audio.waveform import POSITIONS_PER_S, SAMPLE_RATE_HZ, AudioError
from attune.data.audit import encode_rejected, encode_row, load_row
from attune.data.batch import Example
from attune.data.corpora.mapping import let_go
from attune.data.in_context import InContext, Shown
from attune.data.late import Late, check_late
from attune.data.packing import join_rows
from attune.data.sampling import Draw
from attune.data.states import StoredStates
from attune.data.vocabulary import Prompts
from attune.errors import InputError
from attune.text.tokens import Tokens

SLACK_S = 0.5  # that an utterance may be longer than its row says: the least margin of a window


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

    def read(self, draw: Draw) -> tuple[Float[Tensor, "position told"], int]:
        return self.states.read(self.keys[draw.number][draw.index])


class Utterances(torch.utils.data.Dataset[Example | Late]):
    """A split as examples: decoding and resampling happen here, in the worker that asks.

    Args:
        shown: what `in_context` sets before each utterance; empty for none.
        packed: how several utterances share a window, where they do.
        stored: encoder states that are given in the place of sound; None: sound.
        prompts: what stands in the place of the rows' own prompts; not in windows of several utterances.
        max_late: utterances that may turn out unusable in the course of the run, because they have gone or because its
            start did not listen to them. None: not one, as in what is scored.
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
        max_late: int | None = None,
    ):
        self.max_late = max_late
        self.late: set[int] = set()
        self.held: dict[int, Any] = {}  # rows of the batch that is made
        self.prompts = prompts
        self.packed = packed
        self.stored = stored
        self.dataset = dataset
        self.tokens = tokens
        self.in_context = in_context
        self.shown = shown

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, draws: Sequence[Draw]) -> list[Example | Late]:
        """A batch, in which others stand for what cannot be used, and beside it what that was.

        Raises:
            InputError: too much of it, or something that is scored.
        """
        late: list[Late] = []
        self._hold([index for draw in draws for index in (draw.index, *draw.more)])
        found = [self._try(draw, late) for draw in draws]
        if any(row["audio"]["bytes"] is not None for row in self.held.values()):
            let_go()
        self.held = {}
        taken = {index for draw in draws for index in (draw.index, *draw.more)}
        for place, draw in enumerate(draws):
            found[place] = found[place] or self._find_other(draw, taken, late)
        examples = [example for example in found if example is not None]
        if not examples:
            raise InputError("No training utterance that fits into the window can be used. Is the disk still there?")
        return [*examples, *late]

    def _try(self, draw: Draw, late: list[Late]) -> Example | None:
        try:
            return self[draw]
        except AudioError as error:
            if not draw.more:
                return self._note(draw.index, error, late)
        window = (draw.index, *draw.more)
        kept = [index for index in window if self._is_usable(index, late)]
        kept = kept[: len(window) - 1]  # each is a little longer than it says, and together they are too long
        return self._try(replace(draw, index=kept[0], more=tuple(kept[1:])), late) if kept else None

    def _is_usable(self, index: int, late: list[Late]) -> bool:
        """Whether an utterance of a packed window can be used, which failed as a whole."""
        row: Any = self.dataset[index]
        try:
            self._check_room(load_row(row), row["duration_s"] + SLACK_S)
        except AudioError as error:
            self._note(index, error, late)
            return False
        return True

    def _note(self, index: int, error: AudioError, late: list[Late]) -> None:
        row = self.dataset[index]
        if self.max_late is None:
            raise InputError(
                f"{row['place']}: the audio of {row['id']} cannot be used ({error}), and without it the score would "
                "be another. Bring it back, and go on with: python train.py resume=RUN. Or begin again with "
                "data.listen_up_to=null, which sets such rows aside at the start."
            ) from None
        self.late.add(index)
        late.append(Late(index, row["id"], row["place"], str(error)))
        check_late(len(self.late), self.max_late, late[-1])

    def _find_other(self, draw: Draw, taken: set[int], late: list[Late]) -> Example | None:
        """The next utterance that fits into the same window and is not in the batch."""
        durations_s = self.dataset.select_columns(["duration_s"])
        for step in range(1, len(self)):
            index = (draw.index + step) % len(self)
            if index in self.late or index in taken:
                continue
            if durations_s[index]["duration_s"] * POSITIONS_PER_S > draw.positions:
                continue
            taken.add(index)
            other = self._try(Draw(index, draw.positions, number=draw.number), late)
            if other is not None:
                return other
        return None

    def _hold(self, indices: Sequence[int]) -> None:
        """Read rows together: one by one takes three times as long."""
        columns: Any = self.dataset[list(indices)]
        rows = (dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True))
        self.held = dict(zip(indices, rows, strict=True))

    def _read(self, index: int) -> Any:
        return self.held[index] if index in self.held else self.dataset[index]

    def __getitem__(self, draw: Draw) -> Example:
        if draw.more and self.packed:
            rows = [self._read(index) for index in (draw.index, *draw.more)]
            joined = join_rows(rows, draw.positions, self.tokens, self.packed)
            self._check_room(joined.waveform, draw.positions / POSITIONS_PER_S)
            return joined
        row = self._read(draw.index)
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

    def _hear(self, row: Any, draw: Draw) -> tuple[Float[Tensor, "sample"], Float[Tensor, "position told"] | None]:
        """The sound of a row; or its length alone, and the states that were stored of it."""
        if self.stored is None:
            waveform = load_row(row)
            self._check_room(waveform, draw.positions / POSITIONS_PER_S)
            return waveform, None
        states, samples = self.stored.read(draw)
        return torch.empty(samples, device="meta"), states

    def _check_room(self, waveform: Float[Tensor, "sample"], room_s: float) -> None:
        """Refuse to teach a text whose end is cut off: a row that nobody had heard was believed its length."""
        seconds = waveform.shape[0] / SAMPLE_RATE_HZ
        if self.max_late is not None and seconds > room_s:
            raise AudioError(f"longer than its row or its header says: {seconds:.2f} s, where {room_s:.2f} s are free")
