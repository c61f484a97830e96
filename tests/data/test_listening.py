"""A corpus of which only a part is heard before the first step: what is believed, what is found, what comes later."""

import csv
import json
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from whispers import make_sound

from attune.audio.context import AudioContext, PackedContext
from attune.audio.waveform import encode_wav
from attune.data.audit import audit_corpus
from attune.data.corpora.manifest import ManifestCorpus
from attune.data.corpora.schema import build_dataset
from attune.data.listening import choose_heard, expect_durations, find_suspects, spread
from attune.data.module import SpeechDataModule
from attune.errors import InputError
from attune.report.audit_page import describe_audit, summarise_audit
from attune.text.tokens import Tokens
from attune.train.callbacks.late_rejections import LateRejections

SILENT = encode_wav(torch.zeros(16_000))


def make_row(number: int, audio: bytes | str | None = None, **more: Any) -> dict[str, Any]:
    sound = encode_wav(make_sound(0.5, number)) if audio is None else audio
    held = {"path": sound, "bytes": None} if isinstance(sound, str) else {"path": None, "bytes": sound}
    row = {"id": f"row-{number}", "audio": held, "text": f"number {number}", "language": "en"}
    return {**row, "place": f"line {number}", **more}


def write_manifest(folder: Path, count: int, bad: dict[int, bytes], **more: Any) -> SpeechDataModule:
    """`count` training files, some of them with other bytes, and two to be scored; prepared by `prepare_manifest`."""
    rows = {"train": range(count), "rest": range(1000, 1002)}
    for split, numbers in rows.items():
        lines = []
        for number in numbers:
            (folder / f"{number}.wav").write_bytes(bad.get(number) or encode_wav(make_sound(0.5, number)))
            row = {"id": str(number), "audio": f"{number}.wav", "text": f"number {number}", "duration_s": 0.5}
            lines.append(json.dumps({**row, "language": "en"}))
        (folder / f"{split}.jsonl").write_text("\n".join(lines))
    return ManifestCorpus(str(folder / "train.jsonl"), str(folder / "rest.jsonl"))  # type: ignore[return-value]


def test_a_draw_is_even_and_always_the_same() -> None:
    drawn = spread(np.arange(1000), 100)
    assert len(set(drawn.tolist())) == 100 and (np.diff(drawn) > 0).all()
    assert all(10 * place <= index < 10 * place + 10 for place, index in enumerate(drawn))
    assert (drawn == spread(np.arange(1000), 100)).all()
    assert choose_heard(1000, None, None).all() and choose_heard(50, 50, None).all()


def test_half_of_the_limit_may_be_suspects() -> None:
    suspects = np.zeros(1000, bool)
    suspects[::2] = True
    chosen = choose_heard(1000, 100, suspects)
    assert chosen.sum() == 100 and 50 <= (chosen & suspects).sum() < 100
    suspects[:] = False
    suspects[[17, 418]] = True
    chosen = choose_heard(1000, 100, suspects)
    assert chosen.sum() == 100 and chosen[17] and chosen[418]


def test_suspects_say_what_is_scored(nano_tokens: Tokens) -> None:
    rows = [make_row(number, text=f"Number {number}!") for number in range(4)]
    found = audit_corpus({"train": build_dataset(rows), "test": build_dataset([make_row(2)])}, nano_tokens)
    assert find_suspects(found.texts["train"], [found.texts["test"]]).tolist() == [False, False, True, False]


def test_a_row_is_believed_where_it_can_be(tmp_path: Path) -> None:
    (tmp_path / "whole.wav").write_bytes(encode_wav(make_sound(2.0, 1)))
    (tmp_path / "empty.wav").write_bytes(b"")
    whole, empty, gone = (str(tmp_path / f"{name}.wav") for name in ("whole", "empty", "gone"))
    rows = [
        make_row(0, whole, duration_s=1.9),  # as it says
        make_row(1, whole),  # as the header says
        make_row(2, whole, duration_s=99.0, start_s=0.5),  # the header: of what is the duration?
        make_row(3, whole, start_s=0.5, end_s=1.25),
        make_row(4),  # the header of bytes
        make_row(5, whole, duration_s=31.0),
        make_row(6, empty, duration_s=1.0),
        make_row(7, gone, duration_s=1.0),
        make_row(8, b"RIFFnonsense"),
        make_row(9, whole, start_s=5.0),
    ]
    expected = expect_durations(build_dataset(rows), np.ones(len(rows), bool))
    assert expected[:5] == pytest.approx([1.9, 2.0, 1.5, 0.75, 0.5], abs=1e-3)
    assert expected[5:].tolist() == [0.0] * 5  # these are listened to, whatever the limit


@pytest.mark.parametrize("late_s", [0.0, 1.0])
def test_headers_are_asked_alike_of_a_fast_disk_and_a_late_one(
    late_s: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of several chunks: of a late disk in threads."""
    monkeypatch.setattr("attune.data.listening.LATE_S", late_s)
    monkeypatch.setattr("attune.data.listening.HEADERS_TOGETHER", 2)
    lengths_s = [0.5, 1.0, 1.5, 2.0, 2.5]
    for number, length_s in enumerate(lengths_s):
        (tmp_path / f"{number}.wav").write_bytes(encode_wav(make_sound(length_s, 1)))
    rows = [make_row(number, str(tmp_path / f"{number}.wav")) for number in range(5)]
    assert expect_durations(build_dataset(rows), np.ones(5, bool)) == pytest.approx(lengths_s, abs=1e-3)


def test_what_looks_wrong_is_heard_and_the_rest_is_told(tmp_path: Path, nano_tokens: Tokens) -> None:
    rows = [make_row(number, duration_s=0.5) for number in range(40)]
    rows[11]["audio"] = {"path": str(tmp_path / "gone.wav"), "bytes": None}
    splits = {"train": build_dataset(rows), "test": build_dataset([make_row(100 + n) for n in range(12)])}
    found = audit_corpus(splits, nano_tokens, max_rejected=0.05, listen_up_to=8)
    assert [each.id for each in found.rejections] == ["row-11"] and len(found.splits["train"]) == 39
    heard = found.sounds["train"].heard
    assert 8 <= heard.sum() <= 9 and heard[11] and found.sounds["test"].heard.all()
    assert f"listened to {heard.sum()} of 40 in train (data.listen_up_to" in describe_audit(found)[0]
    assert summarise_audit(found)["listened"] == {"train": heard.sum(), "test": 12}
    assert found.splits["train"]["duration_s"][:] == pytest.approx([0.5] * 39)
    assert "listened" not in describe_audit(audit_corpus(splits, nano_tokens))[0]


def test_a_leak_among_many_is_found_by_its_text(nano_tokens: Tokens) -> None:
    rows = [make_row(number, duration_s=0.5) for number in range(60)]
    test = [make_row(41, text="Number 41.")]
    found = audit_corpus({"train": build_dataset(rows), "test": build_dataset(test)}, nano_tokens, listen_up_to=4)
    assert found.sounds["train"].heard.sum() == 4
    assert [each.id for each in found.findings.of("shared_audio")] == ["row-41"]


def test_a_bad_part_ends_the_run_at_once(nano_tokens: Tokens) -> None:
    rows = [make_row(number, SILENT if number % 2 else None, duration_s=0.5) for number in range(60)]
    splits = {"train": build_dataset(rows), "test": build_dataset([make_row(100)])}
    with pytest.raises(InputError, match=r"of 10 utterances of train that were listened to, of 60.*listen_up_to=null"):
        audit_corpus(splits, nano_tokens, max_rejected=0.1, listen_up_to=10)


@pytest.mark.parametrize("context", [AudioContext(), PackedContext(single_share=0)], ids=lambda each: each.name)
@pytest.mark.parametrize("workers", [0, 2])
def test_a_late_rejection_is_replaced_counted_and_written(
    context: AudioContext, workers: int, tmp_path: Path, nano_tokens: Tokens
) -> None:
    bad = {7: SILENT, 11: b"RIFFnonsense", 13: encode_wav(make_sound(29.0, 13))}
    corpus = write_manifest(tmp_path, 40, bad)
    data = SpeechDataModule(corpus, nano_tokens, context, 12.0, max_rejected=0.1, workers=workers, listen_up_to=2)  # type: ignore[arg-type]
    data.prepare()
    unheard = {number for number in bad if not data.audit.sounds["train"].heard[number]}
    watcher = LateRejections(tmp_path, data)
    ids: set[str] = set()
    for batch in islice(data.train_dataloader(), 30):
        ids |= {id for joined in batch.ids for id in joined.split("+")}
        watcher.write()
    assert not ids & {str(number) for number in bad} and len(ids) >= 36
    with (tmp_path / "rejected.csv").open(newline="") as file:
        written = {int(row["id"]): row["reason"] for row in csv.DictReader(file) if row["reason"].startswith("late")}
    assert written.keys() == unheard and len(unheard) >= 2
    starts = {7: "late: silent", 11: "late: cannot be decoded", 13: "late: longer than its row"}
    assert all(written[number].startswith(starts[number]) for number in unheard)


def test_too_many_late_rejections_end_the_run(tmp_path: Path, nano_tokens: Tokens) -> None:
    corpus = write_manifest(tmp_path, 40, {number: SILENT for number in range(3, 9)})
    data = SpeechDataModule(corpus, nano_tokens, AudioContext(), 12.0, max_rejected=0.1, workers=0, listen_up_to=1)  # type: ignore[arg-type]
    data.prepare()
    with pytest.raises(InputError, match=r"(?s)training utterances can no longer be read, or never could.*silent"):
        list(islice(data.train_dataloader(), 30))


@pytest.mark.parametrize("wrong", [0, -1, 2.5, "many"])
def test_a_limit_that_is_none_is_refused(wrong: Any, nano_tokens: Tokens) -> None:
    with pytest.raises(InputError, match=rf"data.listen_up_to={wrong}; accepted: recordings, 1 or more, or null"):
        SpeechDataModule(ManifestCorpus("a", "b"), nano_tokens, AudioContext(), listen_up_to=wrong)
