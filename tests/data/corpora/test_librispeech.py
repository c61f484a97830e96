"""A tree like LibriSpeech's."""

from pathlib import Path

import pytest
from recordings import prepare, write_sound

from attune.data.corpora.librispeech import LibriSpeechCorpus
from attune.errors import InputError
from attune.text.tokens import Tokens


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    for seed, (name, speaker) in enumerate(
        [("train-clean-100", "19"), ("train-clean-100", "26"), ("dev-clean", "84"), ("test-clean", "61")]
    ):
        chapter = root / "LibriSpeech" / name / speaker / "198"
        ids = [f"{speaker}-198-{number:04d}" for number in range(2)]
        for number, id in enumerate(ids):
            write_sound(chapter / f"{id}.flac", 1.0 + 0.1 * number, 10 * seed + number)
        text = "".join(f"{id} HE COULDN'T HEAR CHAPTER {seed}\n" for id in ids)
        (chapter / f"{speaker}-198.trans.txt").write_text(text)
    return root


@pytest.mark.parametrize("nested", [False, True])
def test_a_tree_trains(nested: bool, root: Path, nano_tokens: Tokens) -> None:
    data, batch = prepare(LibriSpeechCorpus(str(root if nested else root / "LibriSpeech")), nano_tokens)
    assert sorted(data.splits["train"]["id"]) == ["19-198-0000", "19-198-0001", "26-198-0000", "26-198-0001"]
    assert set(batch.references) <= {"he couldn't hear chapter 0", "he couldn't hear chapter 1"}
    row = data.splits["test"][1]
    assert (row["speaker"], row["language"], row["duration_s"]) == ("61", "en", pytest.approx(1.1))
    assert row["place"].endswith("test-clean/61/198/61-198.trans.txt, line 2")


def test_sets_and_case_as_asked(root: Path) -> None:
    sets = ["dev-clean", "test-clean"]
    splits = LibriSpeechCorpus(str(root), train=sets, validation=sets[:1], test=sets[1:], lowercase=False).splits()
    assert set(splits["train"]["speaker"]) == {"84", "61"}
    assert splits["test"]["text"][0] == "HE COULDN'T HEAR CHAPTER 3"


def test_a_missing_recording_is_left_to_the_audit(root: Path, nano_tokens: Tokens) -> None:
    path = root / "LibriSpeech/train-clean-100/26/198/26-198.trans.txt"
    text = path.read_text()
    path.write_text(text + "26-198-0002 GONE\n")
    try:
        data, _ = prepare(LibriSpeechCorpus(str(root)), nano_tokens, max_rejected=0.3)
    finally:
        path.write_text(text)
    assert [rejection.place for rejection in data.rejections] == [f"{path}, line 3"]


def test_a_set_that_is_not_there(root: Path) -> None:
    there = "dev-clean, test-clean, train-clean-100"
    with pytest.raises(InputError, match=rf"data.root=.*, data.train: there is no set 'train-other-500' .*: {there}"):
        LibriSpeechCorpus(str(root), train=["train-other-500"]).splits()
