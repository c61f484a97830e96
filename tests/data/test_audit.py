"""Broken rows are set aside with their place and their reason; too many of them end the run."""

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from whispers import make_sound

from attune.audio.waveform import encode_wav
from attune.data.audit import check_texts, reject_broken_audio
from attune.data.corpora.schema import FEATURES, build_dataset
from attune.data.findings import write_rejections
from attune.data.pace import find_paces
from attune.errors import InputError
from attune.text.tokens import Tokens

GOOD = encode_wav(make_sound(2.0, 1))
BROKEN = {
    "nonsense": (b"RIFFnonsense", "cannot be decoded: its 12 bytes are not a file that libsndfile reads"),
    "silent": (encode_wav(torch.zeros(16_000)), "silent: no sample above -80 dBFS"),
    "empty": (encode_wav(torch.zeros(0)), "empty: 0.000 s of audio"),
    "long": (encode_wav(make_sound(30.5, 1)), "too long: 30.5 s"),
}


def make_row(number: int, audio: bytes | None = GOOD, **more: Any) -> dict[str, Any]:
    row = {"id": f"row-{number}", "audio": {"path": None, "bytes": audio}, "text": "No.", "language": "en"}
    return {**row, "place": f"train.jsonl, line {number}", **more}


def test_rows_are_set_aside_with_place_and_reason(tmp_path: Path) -> None:
    rows = [make_row(number) for number in range(16)]
    rows += [make_row(20 + number, audio) for number, (audio, _) in enumerate(BROKEN.values())]
    rows.insert(3, {**make_row(30), "audio": {"path": str(tmp_path / "gone.wav"), "bytes": None}})
    kept, rejections = reject_broken_audio({"train": build_dataset(rows), "test": build_dataset(rows[:3])}, 0.25)
    assert kept["train"]["id"][:] == [f"row-{number}" for number in range(16)]
    assert len(kept["test"]) == 3
    assert kept["train"].features == FEATURES
    assert [rejection.place for rejection in rejections] == [f"train.jsonl, line {n}" for n in (30, 20, 21, 22, 23)]
    reasons = [
        f"cannot be decoded: there is no file {tmp_path / 'gone.wav'}",
        *(reason for _, reason in BROKEN.values()),
    ]
    for rejection, reason in zip(rejections, reasons, strict=True):
        assert rejection.reason.startswith(reason)
        assert rejection.split == "train"
    write_rejections(rejections, tmp_path / "rejected.csv")
    with (tmp_path / "rejected.csv").open(newline="") as file:
        read = list(csv.DictReader(file))
    assert [row["reason"] for row in read] == [rejection.reason for rejection in rejections]
    assert list(read[0]) == ["split", "id", "place", "reason"]


def test_a_broken_row_takes_no_other_of_its_id_with_it() -> None:
    """Parts of one recording often have its id."""
    rows = [make_row(number, id="talk") for number in range(4)]
    rows[2] = make_row(2, b"RIFFnonsense", id="talk")
    kept, rejections = reject_broken_audio({"train": build_dataset(rows)}, 0.25)
    assert kept["train"]["place"][:] == [f"train.jsonl, line {number}" for number in (0, 1, 3)]
    assert [rejection.place for rejection in rejections] == ["train.jsonl, line 2"]


def test_an_id_is_scored_once(nano_tokens: Tokens) -> None:
    twice = build_dataset([make_row(0), make_row(1), make_row(2, id="row-0")])
    check_texts({"train": twice}, nano_tokens)
    with pytest.raises(InputError, match="line 2: the id 'row-0' is that of train.jsonl, line 0 too; each row of test"):
        check_texts({"test": twice}, nano_tokens)


def test_durations_are_measured_after_the_cut() -> None:
    rows = [make_row(0, duration_s=99.0), make_row(1, start_s=0.5, end_s=1.25), make_row(2, start_s=1.5)]
    kept, _ = reject_broken_audio({"train": build_dataset(rows)}, 0.0)
    assert kept["train"]["duration_s"][:] == pytest.approx([2.0, 0.75, 0.5])


def test_a_cut_behind_the_end_is_a_reason() -> None:
    rows = [make_row(0), make_row(1, start_s=5.0), make_row(2, start_s=1.0, end_s=0.5)]
    _, rejections = reject_broken_audio({"train": build_dataset(rows)}, 0.9)
    assert [rejection.reason.split(":")[0] for rejection in rejections] == ["cut", "empty"]


@pytest.mark.parametrize(("bad", "allowed"), [(1, 0.0), (2, 0.05), (10, 0.5)])
def test_too_many_end_the_run(bad: int, allowed: float) -> None:
    rows = [make_row(number, b"broken" if number < bad else GOOD) for number in range(19)]
    message = rf"(?s){bad} of 19 utterances of train .* data.max_rejected={allowed:g} .*train.jsonl, line 0: cannot"
    with pytest.raises(InputError, match=message) as caught:
        reject_broken_audio({"train": build_dataset(rows)}, allowed)
    assert str(caught.value).count("\n  train.jsonl") == min(bad, 5)


def test_the_share_itself_is_still_allowed() -> None:
    rows = [make_row(number, b"broken" if number == 7 else GOOD) for number in range(20)]
    kept, rejections = reject_broken_audio({"train": build_dataset(rows)}, 0.05)
    assert (len(kept["train"]), len(rejections)) == (19, 1)


def test_nothing_left_is_never_allowed() -> None:
    with pytest.raises(InputError, match="1 of 1"):
        reject_broken_audio({"test": build_dataset([make_row(0, b"broken")])}, 1.0)


def test_the_pace_is_that_of_the_corpus(nano_tokens: Tokens) -> None:
    def pace(text: str, duration_s: float) -> float:
        rows = [make_row(1, text="No.", duration_s=2.0), make_row(2, text=text, duration_s=duration_s)]
        return find_paces({"train": build_dataset(rows)}, nano_tokens)["en"]

    assert pace("No.", 2.0) == 12  # slow speech
    letters = "Привет, как дела"
    count = len(nano_tokens.text(letters, "en"))
    assert pace(letters, 2.0) == pytest.approx(1.5 * count / 2) and count > len(letters)
    assert pace(letters, 0.1) == 40  # a text that is too long for its audio


def test_each_language_has_a_pace_from_where_it_is_learnt(nano_tokens: Tokens) -> None:
    """A retention panel in another script is decoded whole, and no test says how long its own transcripts may be."""
    spelt = "გამარჯობა, როგორ ხარ"
    train = build_dataset(
        [make_row(1, text="No.", duration_s=2.0), make_row(2, text="Да.", language="Russian", duration_s=2.0)]
    )
    rows = [
        make_row(3, text="No, no, no, no, no, no.", duration_s=0.5),
        make_row(4, text=spelt, language="ka", duration_s=4.0),
    ]
    paces = find_paces({"retention/old": build_dataset(rows), "train": train}, nano_tokens)
    assert paces == {"en": 12, "ru": 12, "ka": pytest.approx(1.5 * len(nano_tokens.text(spelt, "ka")) / 4)}
    assert paces["ka"] > 12


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text": "boat " * 500}, "line 1: The text has"),
        ({"language": "xx"}, "line 1: Whisper knows no language 'xx'"),
        ({"task": "sing"}, "line 1: Whisper knows no task 'sing'"),
    ],
)
def test_texts_are_checked_before_any_weight_is_loaded(
    change: dict[str, str], message: str, nano_tokens: Tokens
) -> None:
    dataset = build_dataset([make_row(0), {**make_row(1), **change}])
    with pytest.raises(InputError, match=f"train.jsonl, {message}"):
        check_texts({"train": dataset}, nano_tokens)
    check_texts({"train": build_dataset([make_row(0)])}, nano_tokens)
