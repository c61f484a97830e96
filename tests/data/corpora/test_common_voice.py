"""An unpacked Common Voice release as people have it today, with everything that is wrong in real ones."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from recordings import prepare, write_sound

from attune.data.corpora.common_voice import CommonVoiceCorpus
from attune.errors import InputError
from attune.text.tokens import Tokens

COLUMNS = [
    "client_id",
    "path",
    "sentence_id",
    "sentence",
    "sentence_domain",
    "up_votes",
    "down_votes",
    "age",
    "gender",
    "accents",
    "variant",
    "locale",
    "segment",
]
QUOTED = 'قال "نعم ثم مشى'  # a quote that is never closed
PLAIN = "السلام عليكم\u200f، كيف الحال؟"  # right-to-left, with a mark of direction


def write_table(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    lines = ["\t".join(COLUMNS)]
    for row in rows:
        full = {"sentence_id": "5f", "up_votes": 2, "down_votes": 0, "locale": "ar", **row}
        lines.append("\t".join(str(full.get(column, "")) for column in COLUMNS))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def make_row(speaker: str, number: int, **more: Any) -> dict[str, Any]:
    return {"client_id": speaker, "path": f"common_voice_ar_{number}.mp3", "sentence": PLAIN, **more}


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ar/ with 12 good clips of six speakers, one that is missing and one of 0 bytes."""
    folder = tmp_path_factory.mktemp("cv-corpus-22.0") / "ar"
    for number in range(12):
        write_sound(folder / "clips" / f"common_voice_ar_{number}.mp3", 1.0 + 0.1 * number, number, rate_hz=48_000)
    (folder / "clips" / "common_voice_ar_99.mp3").write_bytes(b"")
    train = [make_row(f"speaker{number // 2}", number) for number in range(8)]
    train[1] |= {"sentence": QUOTED, "accents": "Egyptian Arabic"}
    train[2] |= {"up_votes": 5, "down_votes": 3}
    broken = [make_row("speaker0", 77), make_row("speaker0", 99)]
    write_table(folder / "train.tsv", [*train, *broken])
    egyptian = {"accents": "Egyptian Arabic"}
    write_table(folder / "dev.tsv", [make_row("speaker4", 8, **egyptian), make_row("speaker4", 9)])
    write_table(folder / "test.tsv", [make_row("speaker5", 10), make_row("speaker5", 11, **egyptian)])
    held_out = [make_row(f"speaker{number // 2}", number) for number in range(8, 12)]
    write_table(folder / "validated.tsv", [*train, *held_out])
    durations = "".join(f"common_voice_ar_{number}.mp3\t{1000 + 100 * number}\n" for number in range(12))
    (folder / "clip_durations.tsv").write_text("clip\tduration[ms]\n" + durations)
    return folder


def test_a_release_trains(release: Path, nano_tokens: Tokens) -> None:
    data, batch = prepare(CommonVoiceCorpus(str(release)), nano_tokens, max_rejected=0.2)
    assert [(rejection.split, rejection.place) for rejection in data.rejections] == [
        ("train", f"{release / 'train.tsv'}, line 10"),
        ("train", f"{release / 'train.tsv'}, line 11"),
    ]
    assert "there is no file" in data.rejections[0].reason and "(0 bytes)" in data.rejections[1].reason
    assert set(batch.references) <= {PLAIN, QUOTED} and set(batch.languages) == {"ar"}
    train = data.splits["train"]
    assert train["text"][:3] == [PLAIN, QUOTED, PLAIN]
    assert set(train["speaker"]) == {f"speaker{number}" for number in range(4)}
    assert train["accent"][:3] == [None, "Egyptian Arabic", None]
    assert train["duration_s"][0] == pytest.approx(1.0, abs=0.1)  # mp3 pads


def test_nothing_is_opened_before_the_audit(release: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("soundfile.SoundFile.__init__", lambda *_, **__: pytest.fail("a clip was opened"))
    splits = CommonVoiceCorpus(str(release)).splits()
    assert [len(splits[split]) for split in ("train", "validation", "test")] == [10, 2, 2]
    assert splits["train"][0]["audio"] == {"path": str(release / "clips/common_voice_ar_0.mp3"), "bytes": None}
    assert splits["train"]["duration_s"][:2] == pytest.approx([1.0, 1.1])
    assert splits["train"]["duration_s"][8] is None


def test_the_release_itself_with_a_language(release: Path) -> None:
    (row,) = CommonVoiceCorpus(str(release.parent), "ar", limits={"test": 1}).splits()["test"]
    assert row["language"] == "ar" and row["id"].startswith("common_voice_ar_1")


def test_votes_and_accents(release: Path) -> None:
    def count(**settings: Any) -> list[int]:
        return [len(rows) for rows in CommonVoiceCorpus(str(release), **settings).splits().values()]

    assert count(max_down_votes=2) == [9, 2, 2]
    assert count(accents=["scottish", "EGYPTIAN"]) == [1, 1, 1]
    with pytest.raises(InputError, match=r"dev.tsv leaves no utterance for validation.*data.min_up_votes=5"):
        count(min_up_votes=5)
    with pytest.raises(InputError, match=r"data.accents=\['egypt'\]"):  # a part of a word
        count(accents=["Egypt"])
    with pytest.raises(InputError, match=r"data.accents=\['scottish'\]"):
        count(accents=["Scottish"])


def test_a_resplit_parts_no_speaker_and_repeats(release: Path) -> None:
    def speakers(seed: int) -> dict[str, set[str]]:
        shares = {"train": 0.5, "validation": 0.25, "test": 0.25}
        splits = CommonVoiceCorpus(str(release), resplit="validated", shares=shares, split_seed=seed).splits()
        assert sum(map(len, splits.values())) == 12
        return {split: set(rows["speaker"]) for split, rows in splits.items()}

    first = speakers(0)
    assert not first["train"] & first["test"] and not first["train"] & first["validation"]
    assert not first["test"] & first["validation"] and all(first.values())
    assert speakers(0) == first
    assert any(speakers(seed) != first for seed in range(1, 6))


def test_validated_trains_without_the_speakers_that_are_scored(release: Path) -> None:
    splits = CommonVoiceCorpus(str(release), train="validated").splits()
    assert len(splits["train"]) == 8
    assert not set(splits["train"]["speaker"]) & {"speaker4", "speaker5"}


def test_limits_are_drawn_by_the_seed(release: Path) -> None:
    def ids(seed: int) -> list[str]:
        return list(CommonVoiceCorpus(str(release), limits={"train": 4}, split_seed=seed).splits()["train"]["id"])

    assert len(ids(0)) == 4 and ids(0) == ids(0)
    assert any(ids(seed) != ids(0) for seed in range(1, 6))


def test_what_is_said_about_another_folder(release: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data.root=.*: It holds the languages ar: give one .* beside clips/"):
        CommonVoiceCorpus(str(release.parent)).splits()
    with pytest.raises(InputError, match=r"data.root=.*nowhere: There is no such folder. Expected is the folder"):
        CommonVoiceCorpus(str(tmp_path / "nowhere")).splits()
    (tmp_path / "cv-corpus-22.0-ar.tar.gz").write_bytes(b"x")
    with pytest.raises(InputError, match=r"It holds cv-corpus-22.0-ar.tar.gz: unpack it first"):
        CommonVoiceCorpus(str(tmp_path)).splits()
    with pytest.raises(InputError, match=r"data.validation=invalid: there is no .* The release has: dev, test, train"):
        CommonVoiceCorpus(str(release), validation="invalid").splits()


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("path\tsentence\n", r"data.train=train: .*train.tsv has no column client_id. It has: path, sentence"),
        ("client_id\tpath\tsentence\na\tb.mp3\tx\ty\n", r"train.tsv, line 2 has other columns than the first line"),
        ("client_id\tpath\tsentence\na\tb.mp3\n", r"train.tsv, line 2 has other columns"),
        ("client_id\tpath\tsentence\tup_votes\na\tb.mp3\tx\tmany\n", r"votes \['many', '0'\] that are no numbers"),
    ],
)
def test_tables_that_are_none(table: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    (tmp_path / "train.tsv").write_text(table)
    for name in ("dev", "test"):
        write_table(tmp_path / f"{name}.tsv", [make_row("other", 1)])
    with pytest.raises(InputError, match=message):
        CommonVoiceCorpus(str(tmp_path)).splits()
