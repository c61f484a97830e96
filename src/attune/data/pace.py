"""How many tokens a second of speech can need, as a corpus knows it: the cap on what a decoder may write."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from datasets import Dataset

from attune.data.texts import iterate
from attune.text.tokens import SPELT_PER_S, SPOKEN_PER_S, Tokens

PACED = 1000  # utterances of which the pace is taken


def find_paces(splits: Mapping[str, Dataset], tokens: Tokens) -> dict[str, float]:
    """Language code -> tokens that a second of its speech can need (`Tokens.pace`).

    Half as many again as the fastest of a thousand utterances, 12 to 40, of the first split that has the language;
    training comes first, so that no test says how long its own transcripts may be if it can be known from elsewhere.
    English needs 12. A script that the vocabulary spells in bytes takes two or three tokens a letter: Russian 30 with
    nano's, Burmese as many with OpenAI's.
    """
    paces: dict[str, float] = {}
    for split in sorted(splits, key=lambda name: name != "train"):
        rows: dict[str, list[int]] = defaultdict(list)
        for index, row in enumerate(iterate(splits[split], ["language"])):
            rows[tokens.language_code(row["language"]) if tokens.is_multilingual else "en"].append(index)
        paces = {code: find_pace(splits[split], indices, tokens) for code, indices in rows.items()} | paces
    return paces


def find_pace(dataset: Dataset, indices: Sequence[int], tokens: Tokens) -> float:
    """Tokens a second, of some rows of the schema whose `duration_s`, in seconds, is filled in."""
    step = max(1, len(indices) // PACED)
    rows = dataset.select_columns(["text", "language", "duration_s"]).select(indices[::step]).to_list()
    fastest = max(len(tokens.text(row["text"], row["language"])) / row["duration_s"] for row in rows)
    return min(max(1.5 * fastest, SPOKEN_PER_S), SPELT_PER_S)
