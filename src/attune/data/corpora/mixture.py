"""Several corpora as one: each keeps its own languages and tasks, and weights say how often each is heard."""

from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from functools import cached_property, partial

from datasets import Dataset, Value, concatenate_datasets

from attune.data.corpora.schema import FEATURES, WEIGHT, Corpus, OffersMore
from attune.errors import InputError


class MixtureCorpus:
    """Parts, of which those with a weight above 0 are learnt together, and those with weight 0 are watched.

    The share of a learnt part among what is heard is

        share = weight * utterances ** (1 / temperature), over the sum of all parts

    so that temperature 1 takes the parts as large as they are, and a high one takes them alike, as in multilingual
    models (Arivazhagan et al. 2019, arXiv:1907.05019). A pass is as long as all learnt parts together: a row of a part
    that is to be heard more often than it is large stands in it several times, one of a part that is to be heard less
    in some passes only. Validation and test hold every row of every learnt part once; where there are several, each
    part's test is a panel `test/NAME` as well.

    A watched part is what the model could do before: its test is the panel `retention/NAME`, its validation is what
    choices between old and new are made on, and its train is what data.replay draws from.

    Args:
        parts: NAME -> a corpus. Ids become NAME-id.
        weights: NAME -> 0 or more; 1 for a part that has none.
        temperature: above 0.
    """

    def __init__(
        self,
        parts: Mapping[str, Corpus] | None = None,
        weights: Mapping[str, float] | None = None,
        temperature: float = 1.0,
    ):
        self.parts = dict(parts or {})
        if not self.parts:
            raise InputError(
                "data.parts is empty. Add other options of data under names of yours: +data@data.parts.NAME=manifest "
                "data.parts.NAME.train=FILE ..."
            )
        for name, part in self.parts.items():
            if isinstance(part, MixtureCorpus):
                raise InputError(f"data.parts.{name} is a mixture itself. Give its parts here, with data.weights.")
            if getattr(part, "streaming", None) == "shards":
                raise InputError(
                    f"data.parts.{name}.streaming=shards keeps a sample of its training rows, and a mixture weighs all "
                    f"of them. Take data.parts.{name}.streaming=true."
                )
        self.weights = check_weights(self.parts, weights or {})
        if temperature <= 0:
            raise InputError(f"data.temperature={temperature:g} is not above 0: 1 takes parts as large as they are.")
        self.temperature = temperature

    def splits(self) -> dict[str, Dataset]:
        read = self._read
        learnt = {name: splits for name, splits in read.items() if self.weights[name] > 0}
        train = {name: splits["train"] for name, splits in learnt.items()}
        mixed = {"train": concatenate_datasets(list(self._weigh(train)))}
        for split in ("validation", "test"):
            mixed[split] = concatenate_datasets([splits[split] for splits in learnt.values()])
        for name, splits in read.items():
            if name not in learnt or len(learnt) > 1:
                mixed[f"{'test' if name in learnt else 'retention'}/{name}"] = splits["test"]
            for split in splits:
                room, _, inner = split.partition("/")
                if inner:
                    mixed[f"{room if name in learnt else 'retention'}/{name}-{inner}"] = splits[split]
        return mixed

    def more(self) -> dict[str, Callable[[], Dataset]]:
        offered: dict[str, Callable[[], Dataset]] = {}
        replayed: list[Callable[[], Dataset]] = []
        for name, part in self.parts.items():
            for split, read in (part.more() if isinstance(part, OffersMore) else {}).items():
                if split == "replay":
                    replayed.append(partial(self._named, name, read))
                else:
                    room, _, inner = split.partition("/")
                    offered[f"{room}/{name}-{inner}"] = partial(self._named, name, read)
            if self.weights[name] == 0:
                replayed.append(lambda name=name: self._read[name]["train"])
                offered[f"retention_validation/{name}"] = lambda name=name: self._read[name]["validation"]
        if replayed:
            offered["replay"] = lambda: concatenate_datasets([read() for read in replayed])
        return offered

    @cached_property
    def _read(self) -> dict[str, dict[str, Dataset]]:
        """NAME -> its splits, ids made unlike those of the other parts."""
        return {
            name: {split: self._named(name, lambda rows=rows: rows) for split, rows in part.splits().items()}
            for name, part in self.parts.items()
        }

    @staticmethod
    def _named(name: str, read: Callable[[], Dataset]) -> Dataset:
        rows = read()
        ids = [f"{name}-{id}" for id in rows["id"]]
        return rows.remove_columns("id").add_column("id", ids, feature=FEATURES["id"])  # type: ignore[call-arg]

    def _weigh(self, train: Mapping[str, Dataset]) -> Sequence[Dataset]:
        """Each part with a column that says how often a pass holds each of its rows, on average."""
        empty = [name for name, rows in train.items() if len(rows) == 0]
        if empty:
            raise InputError(f"data.parts.{empty[0]} has no utterance in train. Give it one, or data.weights: 0.")
        masses = {name: self.weights[name] * len(rows) ** (1 / self.temperature) for name, rows in train.items()}
        utterances = sum(map(len, train.values()))
        weighed = []
        for name, rows in train.items():
            often = masses[name] / sum(masses.values()) * utterances / len(rows)
            column = [often] * len(rows)
            weighed.append(rows.add_column(WEIGHT, column, feature=Value("float32")))  # type: ignore[call-arg]
        return weighed


def check_weights(parts: Mapping[str, Corpus], weights: Mapping[str, float]) -> dict[str, float]:
    """A weight for each part.

    Raises:
        InputError: one is of no part, or below 0; or all are 0.
    """
    for name, weight in weights.items():
        if name not in parts:
            near = get_close_matches(name, parts, n=1) or sorted(parts)
            raise InputError(f"data.weights.{name}: there is no such part. There is: {', '.join(near)}.")
        if not isinstance(weight, int | float) or weight < 0:
            raise InputError(f"data.weights.{name} is {weight}; it must be a number, 0 or more.")
    read = {name: float(weights.get(name, 1.0)) for name in parts}
    if not any(read.values()):
        raise InputError("data.weights are all 0: nothing would be learnt. Give one part a weight above 0.")
    return read
