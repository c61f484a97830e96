"""The splits of a run as its corpus has them: the further ones that it asks for, the few utterances that it draws of
training, and the terms spoken by a machine that it adds to them. Nothing is decoded here."""

from collections.abc import Collection, Mapping
from typing import Any

from datasets import Dataset

from attune.data.corpora.schema import Corpus, OffersMore
from attune.data.few_shot import FewShot
from attune.data.vocabulary import CustomVocabulary
from attune.errors import InputError


def check_settings(shares: Mapping[str, Any], seconds: Mapping[str, Any], counts: Mapping[str, Any]) -> None:
    """Hold what a user said of the data, each under its key, against what it must be.

    Args:
        shares: in [0, 1]; `seconds`: above 0; `counts`: whole numbers, or None.

    Raises:
        InputError: with the key.
    """
    for key, value in shares.items():
        if not (_is_number(value) and 0 <= value <= 1):
            raise InputError(f"{key}={value}: accepted is a share from 0 to 1, as 0.05 for 5 %.")
    for key, value in seconds.items():
        if not (_is_number(value) and value > 0):
            raise InputError(f"{key}={value}: accepted are seconds above 0.")
    for key, value in counts.items():
        if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
            raise InputError(f"{key}={value}: accepted are whole numbers, or null.")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def read_splits(
    corpus: Corpus, extras: Collection[str], replay: float, few_shot: FewShot, vocabulary: CustomVocabulary | None
) -> tuple[dict[str, Dataset], str]:
    """Split -> rows of the schema, and a sentence about the few-shot draw ("" for none).

    Args:
        extras: further splits, which are read where the corpus offers them; "replay" must be there.
        replay: for the message, should that be missing.

    Raises:
        InputError: the corpus cannot be read, or offers nothing to replay.
    """
    more = corpus.more() if isinstance(corpus, OffersMore) else {}
    if "replay" in extras and "replay" not in more:
        raise InputError(
            f"This corpus offers no split 'replay', on which data.replay above 0 (it is {replay:g}) and "
            "penalty=ewc draw. data=accent renders one; data=manifest reads one from data.replay_from=FILE. Or "
            "leave data.replay=0, and another penalty."
        )
    wanted = {name: read() for name, read in more.items() if name.split("/")[0] in extras}
    splits, drawn = {**corpus.splits(), **wanted}, ""
    if "train" in splits:  # whatever else looks at the training utterances sees only those that were drawn
        splits["train"], drawn = few_shot.draw(splits["train"])
    return mix_terms(splits, vocabulary), drawn


def mix_terms(splits: dict[str, Dataset], vocabulary: CustomVocabulary | None) -> dict[str, Dataset]:
    """With terms spoken by a machine in the training split, where the run's vocabulary asks for them."""
    if vocabulary is None or not splits.get("validation"):
        return splits
    language = splits["validation"].select_columns(["language"])[0]["language"]
    mixed = vocabulary.mix(splits.get("train"), language)
    return splits if mixed is None else {**splits, "train": mixed}


def check_splits(splits: dict[str, Dataset]) -> None:
    """Raise InputError where there is nothing to learn from, or nothing to be scored on."""
    for split in ("train", "validation", "test"):
        if len(splits.get(split, ())) == 0:
            alone = ", or learn from terms alone: vocabulary.synthetic=1" if split == "train" else ""
            raise InputError(f"The corpus has no utterance in {split!r}. Give data.{split}{alone}.")
