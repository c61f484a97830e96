"""Folders of recordings: text beside them, subtitles, TextGrids, metadata; and how they are divided."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from recordings import prepare, write_sound

from attune.data.corpora.division import divide
from attune.data.corpora.folder import FolderCorpus, join, merge
from attune.data.corpora.timed_text import Cue
from attune.errors import InputError
from attune.text.tokens import Tokens

SRT = (
    "1\n00:00:00,500 --> 00:00:01,500\nOne.\n\n2\n00:00:01,500 --> 00:00:02,250\nTwo.\n\n"
    "3\n00:00:05,000 --> 00:00:06,000\nThree.\n"
)


def write_pairs(folder: Path, count: int, suffix: str = ".txt") -> None:
    for number in range(count):
        write_sound(folder / f"talk{number}.wav", 1.0, number)
        (folder / f"talk{number}{suffix}").write_text(f"Talk {number}.\n")


def test_text_beside_is_divided_by_recording(tmp_path: Path, nano_tokens: Tokens) -> None:
    write_pairs(tmp_path / "mine", 6)
    write_pairs(tmp_path / "yours", 4, ".lab")
    data, batch = prepare(FolderCorpus(str(tmp_path), "en"), nano_tokens)
    assert {split: len(rows) for split, rows in data.splits.items()} == {"train": 8, "validation": 1, "test": 1}
    assert len({id for rows in data.splits.values() for id in rows["id"]}) == 10
    assert all(text.startswith("Talk ") for text in batch.references)
    again = FolderCorpus(str(tmp_path), "en").splits()
    assert {split: list(rows["id"]) for split, rows in again.items()} == {
        split: list(rows["id"]) for split, rows in data.splits.items()
    }


def test_subfolders_are_the_splits_and_what_is_missing_is_taken_from_train(tmp_path: Path) -> None:
    write_pairs(tmp_path / "train", 9)
    write_pairs(tmp_path / "test", 2)
    splits = FolderCorpus(str(tmp_path), "en").splits()
    assert [len(splits[split]) for split in ("train", "validation", "test")] == [8, 1, 2]
    write_pairs(tmp_path / "dev", 3)
    splits = FolderCorpus(str(tmp_path), "en").splits()
    assert [len(splits[split]) for split in ("train", "validation", "test")] == [9, 3, 2]
    assert splits["validation"]["id"][0] == "dev/talk0.wav"


def test_subtitles_are_cut(tmp_path: Path, nano_tokens: Tokens) -> None:
    for number in range(3):
        write_sound(tmp_path / f"talk{number}.flac", 7.0, number, rate_hz=44_100)
        (tmp_path / f"talk{number}.srt").write_text(SRT)
    data, batch = prepare(FolderCorpus(str(tmp_path), "en"), nano_tokens)
    assert [len(rows) for rows in data.splits.values()] == [3, 3, 3]
    assert data.splits["train"]["duration_s"][:] == pytest.approx([1.0, 0.75, 1.0], abs=1e-3)
    row = data.splits["train"][1]
    assert row["segments"] == [{"start_s": 0.0, "end_s": pytest.approx(0.75), "text": "Two."}]
    assert row["place"].endswith(".srt, line 6")
    assert set(batch.references) <= {"One.", "Two.", "Three."}
    recordings = [{row["audio"]["path"] for row in rows} for rows in data.splits.values()]
    assert sum(map(len, recordings)) == len(set.union(*recordings)) == 3


def test_neighbours_are_merged_with_their_times(tmp_path: Path) -> None:
    for number in range(3):
        write_sound(tmp_path / f"talk{number}.wav", 7.0, number)
        (tmp_path / f"talk{number}.srt").write_text(SRT)
    first, second = FolderCorpus(str(tmp_path), "en", merge_s=30).splits()["train"]
    assert (first["text"], first["start_s"], first["end_s"]) == ("One. Two.", 0.5, 2.25)
    assert [(part["start_s"], part["end_s"]) for part in first["segments"]] == [(0.0, 1.0), (1.0, 1.75)]
    assert second["text"] == "Three."  # nobody has written down what is in the pause before it


def test_merging_stops_at_the_length_and_at_another_speaker() -> None:
    cues = [Cue(0, 4, "a", ""), Cue(4, 8, "b", ""), Cue(8, 12, "c", ""), Cue(12.5, 13, "d", "", "Anna")]
    assert [[cue.text for cue in group] for group in merge(cues, 8)] == [["a", "b"], ["c"], ["d"]]
    assert [len(group) for group in merge(cues, 0)] == [1, 1, 1, 1]
    overlapping = join([Cue(1, 3, "你好", ""), Cue(2, 4, "世界", "")], "zh")
    assert overlapping["text"] == "你好世界"
    assert [(part["start_s"], part["end_s"]) for part in overlapping["segments"]] == [(0, 2), (2, 3)]


def test_textgrids_with_tiers_of_speakers(tmp_path: Path, nano_tokens: Tokens) -> None:
    grid = '"ooTextFile"\n"TextGrid"\n0\n3\n<exists>\n2\n' + "".join(
        f'"IntervalTier"\n"{name}"\n0\n3\n1\n{start}\n{start + 1}\n"{name} speaks."\n'
        for name, start in (("A", 0), ("B", 1.5))
    )
    for number in range(3):
        write_sound(tmp_path / f"talk{number}.ogg", 3.0, number)
        (tmp_path / f"talk{number}.TextGrid").write_text(grid)
    data, _ = prepare(FolderCorpus(str(tmp_path), "en", tiers=["A", "B"]), nano_tokens)
    assert [(row["speaker"], row["text"]) for row in data.splits["test"]] == [("A", "A speaks."), ("B", "B speaks.")]


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_metadata(kind: str, tmp_path: Path, nano_tokens: Tokens) -> None:
    rows = []
    for number in range(10):
        write_sound(tmp_path / "clips" / f"{number}.wav", 2.0, number)
        rows += [{"file_name": f"clips/{number}.wav", "transcription": f"{part}, {number}.", "start_s": part}
                 for part in (0, 1)]  # fmt: skip
    if kind == "csv":
        lines = [f'{row["file_name"]},"{row["transcription"]}",{row["start_s"]}' for row in rows]
        (tmp_path / "metadata.csv").write_text("\n".join(["file_name,transcription,start_s", *lines]))
    else:
        (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data, _ = prepare(FolderCorpus(str(tmp_path), "en", columns={"text": "transcription"}), nano_tokens)
    assert [len(data.splits[split]) for split in ("train", "validation", "test")] == [16, 2, 2]
    assert len({row["audio"]["path"] for row in data.splits["test"]}) == 1  # both parts of one recording
    with pytest.raises(InputError, match="data.columns.text=transcription"):
        FolderCorpus(str(tmp_path), "en").splits()


def write_metadata(folder: Path, splits: Sequence[str | None]) -> None:
    rows = [{"file_name": f"{number}.wav", "text": f"{number}", "split": split} for number, split in enumerate(splits)]
    for row in rows:
        write_sound(folder / row["file_name"], 1.0, 1)
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))


def test_metadata_that_names_splits(tmp_path: Path) -> None:
    write_metadata(tmp_path, ["test", "train", "dev", "train", "test"])
    splits = FolderCorpus(str(tmp_path), "en").splits()
    texts = {"train": ["1", "3"], "validation": ["2"], "test": ["0", "4"]}
    assert {split: list(rows["text"]) for split, rows in splits.items()} == texts
    write_metadata(tmp_path, ["test", *["train"] * 9])
    splits = FolderCorpus(str(tmp_path), "en").splits()
    assert [len(splits[split]) for split in ("train", "validation", "test")] == [8, 1, 1]
    assert splits["test"]["text"][:] == ["0"]
    write_metadata(tmp_path, [None] * 10)
    assert [len(rows) for rows in FolderCorpus(str(tmp_path), "en").splits().values()] == [8, 1, 1]


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        (["train", "test", None], "line 3 names no split, and other rows do"),
        (["Train", "exam"], r"line 2: split is 'exam'. Accepted: train \(or training\), validation"),
        (["dev", "test"], "names the splits test, validation, and not train"),
    ],
)
def test_metadata_that_names_splits_wrongly(splits: Sequence[str | None], message: str, tmp_path: Path) -> None:
    write_metadata(tmp_path, splits)
    with pytest.raises(InputError, match=message):
        FolderCorpus(str(tmp_path), "en").splits()


def test_a_subfolder_is_one_split(tmp_path: Path) -> None:
    write_metadata(tmp_path / "train", ["train", "test"])
    with pytest.raises(InputError, match="metadata.jsonl names the split test and lies in train/. Put the file into"):
        FolderCorpus(str(tmp_path), "en").splits()


def test_a_file_name_in_another_encoding(tmp_path: Path) -> None:
    write_pairs(tmp_path, 3)
    name = os.fsdecode("caf\u00e9".encode("latin-1"))
    (tmp_path / "talk0.wav").rename(tmp_path / f"{name}.wav")
    (tmp_path / f"{name}.txt").write_text("Coffee.")
    with pytest.raises(InputError, match=r"caf\\udce9.txt: id is caf\\udce9.wav, with half of .* or rename the file"):
        FolderCorpus(str(tmp_path), "en").splits()


def test_what_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="data.root: there is no folder .*nowhere"):
        FolderCorpus(str(tmp_path / "nowhere"), "en").splits()
    with pytest.raises(InputError, match=r"data.merge_s=40: accepted are 0 to 30 s"):
        FolderCorpus(str(tmp_path), "en", merge_s=40)
    with pytest.raises(InputError, match=r"data.shares is .* a share above 0 for each of train, validation, test"):
        FolderCorpus(str(tmp_path), "en", shares={"train": 1.0})
    with pytest.raises(InputError, match=r"no recording with text beside it. It holds: nothing"):
        FolderCorpus(str(tmp_path), "en").splits()
    write_pairs(tmp_path, 2)
    with pytest.raises(InputError, match="data.language"):
        FolderCorpus(str(tmp_path)).splits()
    with pytest.raises(InputError, match=r"2 recordings of data.root=.* cannot be divided into train, vali"):
        FolderCorpus(str(tmp_path), "en").splits()
    write_sound(tmp_path / "mute.mp3", 1.0, 9)
    with pytest.raises(InputError, match=r"1 recordings have no text beside them: mute.mp3. It holds: 2 \."):
        FolderCorpus(str(tmp_path), "en").splits()
    (tmp_path / "test").mkdir()
    with pytest.raises(InputError, match=r"there is test/ in it, but no train/"):
        FolderCorpus(str(tmp_path), "en").splits()


def test_division_keeps_the_shares_and_trains_on_what_is_too_large() -> None:
    sizes = {f"speaker{number}": 1.0 for number in range(100)} | {"everyone": 100.0}
    shares = {"train": 0.8, "validation": 0.1, "test": 0.1}
    places = divide(sizes, shares, 0, "speakers")
    assert places["everyone"] == "train"
    assert [list(places.values()).count(split) for split in ("validation", "test")] == [20, 20]
    assert divide(sizes, shares, 1, "speakers") != places
    assert divide(dict(reversed(sizes.items())), shares, 0, "speakers") == places
    large = divide({"a": 5.0, "b": 4.0, "c": 3.0}, shares, 0, "speakers")
    assert (large["c"], large["b"], large["a"]) == ("test", "validation", "train")  # the smallest where none fits
