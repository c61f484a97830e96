"""Manifests as people write them, and what is said about those that cannot be read."""

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from whispers import make_sound

from attune.audio.context import AudioContext
from attune.audio.waveform import encode_wav
from attune.data.audit import encode_row, load_row
from attune.data.corpora.manifest import ManifestCorpus
from attune.data.corpora.schema import FEATURES
from attune.data.module import SpeechDataModule
from attune.errors import InputError
from attune.text.tokens import Tokens

WAV = encode_wav(make_sound(0.5, 1))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "clips").mkdir()
    for name in ("a", "b", "c"):
        (tmp_path / "clips" / f"{name}.wav").write_bytes(WAV)
    return tmp_path


def write(path: Path, text: str, encoding: str = "utf-8") -> str:
    path.write_bytes(text.encode(encoding))
    return str(path)


def jsonl(path: Path, rows: Sequence[Any]) -> str:
    return write(path, "\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n")


def read(manifest: str, split: str = "train", **arguments: Any) -> list[dict[str, Any]]:
    corpus = ManifestCorpus(manifest, manifest, manifest, **{"language": "en", **arguments})
    return list(corpus.splits()[split])


A, B = {"audio": "clips/a.wav", "text": "One."}, {"audio": "clips/b.wav", "text": "Two, three."}


def test_jsonl(folder: Path) -> None:
    full = {
        "id": "x",
        "language": "de",
        "task": "translate",
        "speaker": "s",
        "accent": "us",
        "start_s": 0.1,
        "end_s": "0.4",
    }
    manifest = jsonl(folder / "train.jsonl", [A, {**B, **full, "prompt": "Before.", "unknown": [1]}])
    first, second = read(manifest)
    assert first["audio"] == {"path": str(folder / "clips/a.wav"), "bytes": None}  # relative to the manifest
    assert (first["id"], first["text"], first["language"], first["task"]) == ("train-1", "One.", "en", "transcribe")
    assert first["place"] == f"{manifest}, line 1"
    assert all(first[name] is None for name in ("speaker", "accent", "duration_s", "start_s", "end_s", "prompt"))
    assert {name: second[name] for name in full} == {**full, "start_s": pytest.approx(0.1), "end_s": pytest.approx(0.4)}
    assert second["prompt"] == "Before."
    assert set(first) == set(FEATURES)
    assert load_row(second).shape == (4800,)


TABLES = {
    "csv": 'audio,text\nclips/a.wav,"She said ""no"", twice."\nclips/b.wav,"Two,\nthree."\nclips/c.wav,a 5" disk\n',
    "tsv": 'audio\ttext\nclips/a.wav\tShe said "no", twice.\nclips/b.wav\t"Two, three.\nclips/c.wav\t""quoted"" or '
    "not\n",
}
TEXTS = {
    "csv": ['She said "no", twice.', "Two,\nthree.", 'a 5" disk'],
    "tsv": ['She said "no", twice.', '"Two, three.', '""quoted"" or not'],  # an open quote swallows no row
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("kind", ["csv", "tsv"])
def test_tables(kind: str, newline: str, encoding: str, folder: Path) -> None:
    table = TABLES[kind].replace("\n", newline)
    rows = read(write(folder / f"rows.{kind}", table, encoding))
    assert [row["text"].replace("\r\n", "\n") for row in rows] == TEXTS[kind]
    assert [row["audio"]["path"][-5:] for row in rows] == ["a.wav", "b.wav", "c.wav"]


def test_a_tsv_in_which_every_field_is_quoted(folder: Path) -> None:
    table = '"audio"\t"text"\n"clips/a.wav"\t"She said ""no""."\n'
    assert [row["text"] for row in read(write(folder / "rows.tsv", table))] == ['She said "no".']


def test_places_are_lines_of_the_file(folder: Path) -> None:
    blank = jsonl(folder / "rows.jsonl", [A]) and write(folder / "rows.jsonl", f"{json.dumps(A)}\n\n{json.dumps(B)}\n")
    assert [row["place"].rpartition(" ")[2] for row in read(blank)] == ["1", "3"]
    table = write(folder / "rows.tsv", "audio\ttext\nclips/a.wav\tOne.\nclips/b.wav\tTwo.\n")
    assert [row["place"].rpartition(" ")[2] for row in read(table)] == ["2", "3"]


def test_a_byte_order_mark_before_json(folder: Path) -> None:
    assert len(read(write(folder / "rows.jsonl", json.dumps(A), "utf-8-sig"))) == 1


def test_scripts_and_surrogates_survive(folder: Path) -> None:
    texts = ["हिन्दी में", "你好，世界", "😀 naïve", "السلام عليكم", "a\u2028b"]
    rows = read(jsonl(folder / "rows.jsonl", [{**A, "text": text} for text in texts]))
    assert [row["text"] for row in rows] == texts


def test_audio_within_the_manifest(folder: Path) -> None:
    (row,) = read(jsonl(folder / "rows.jsonl", [{**A, "audio": {"bytes": base64.b64encode(WAV).decode()}}]))
    assert row["audio"] == {"path": None, "bytes": WAV}


def test_numbers_are_texts_too(folder: Path) -> None:
    (row,) = read(jsonl(folder / "rows.jsonl", [{**A, "text": 7, "speaker": 12, "prompt": None}]))
    assert (row["text"], row["speaker"], row["prompt"]) == ("7", "12", None)


def test_absolute_paths(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    manifest = jsonl(elsewhere / "rows.jsonl", [{**A, "audio": str(folder / "clips/a.wav")}])
    (row,) = read(manifest, audio_folders=[str(folder)])
    assert load_row(row).shape == (8000,)
    assert read(manifest, audio_folders=["/"]) == [row]
    with pytest.raises(InputError, match=rf"line 1: .*a\.wav lies outside .*data\.audio_folders=\[{folder}/clips\]"):
        read(manifest)


def test_columns_by_other_names(folder: Path) -> None:
    table = write(folder / "validated.tsv", "client_id\tpath\tsentence\tlocale\nme\tclips/a.wav\tOne.\tde\n")
    columns = {"audio": "path", "text": "sentence", "speaker": "client_id", "language": "locale"}
    (row,) = read(table, columns=columns)
    assert (row["text"], row["speaker"], row["language"]) == ("One.", "me", "de")


def test_a_split_column(folder: Path) -> None:
    splits = ["train", "test", "validation", "train", "", None]
    manifest = jsonl(folder / "all.jsonl", [{**A, "text": str(i), "split": split} for i, split in enumerate(splits)])
    corpus = ManifestCorpus(manifest, manifest, manifest, language="en", retention={"old": manifest}).splits()
    assert {name: list(split["text"]) for name, split in corpus.items()} == {
        "train": ["0", "3", "4", "5"],  # a row that names none belongs to every one
        "validation": ["2", "4", "5"],
        "test": ["1", "4", "5"],
        "retention/old": ["0", "1", "2", "3", "4", "5"],
    }


def test_a_split_by_other_names(folder: Path) -> None:
    """Whatever people call it: no row is dropped because of its case."""
    splits = ["train", "Training", " TRAIN ", "dev", "Valid", "val", "Test"]
    manifest = jsonl(folder / "all.jsonl", [{**A, "text": str(i), "split": split} for i, split in enumerate(splits)])
    corpus = ManifestCorpus(manifest, manifest, manifest, language="en").splits()
    texts = {name: list(split["text"]) for name, split in corpus.items()}
    assert texts == {"train": ["0", "1", "2"], "validation": ["3", "4", "5"], "test": ["6"]}


def test_a_header_with_blanks(folder: Path) -> None:
    (row,) = read(write(folder / "rows.csv", "audio, text , language\nclips/a.wav, One., de\n"))
    assert (row["text"], row["language"]) == ("One.", "de")


def test_missing_recordings_are_set_aside(folder: Path, nano_tokens: Tokens, tmp_path: Path) -> None:
    manifest = jsonl(folder / "rows.jsonl", [A, {**B, "audio": "clips/gone.wav"}, B])
    dev = jsonl(folder / "dev.jsonl", [{**A, "audio": "clips/c.wav"}])
    settings = {"max_rejected": 0.4, "allow_leakage": True}
    data = SpeechDataModule(ManifestCorpus(manifest, dev, language="en"), nano_tokens, AudioContext(), **settings)
    data.prepare()
    assert data.splits["train"]["text"][:] == ["One.", "Two, three."]
    (rejection,) = data.rejections
    assert rejection.place == f"{manifest}, line 2"
    assert rejection.reason == f"cannot be decoded: there is no file {folder}/clips/gone.wav"
    strict = SpeechDataModule(ManifestCorpus(manifest, dev, language="en"), nano_tokens, AudioContext())
    with pytest.raises(
        InputError, match=r"1 of 3 utterances of train cannot be used, more than data.max_rejected=0.05"
    ):
        strict.prepare()


def test_without_a_test_manifest_the_validation_is_the_test(folder: Path) -> None:
    train, validation = jsonl(folder / "train.jsonl", [A]), jsonl(folder / "dev.jsonl", [B])
    corpus = ManifestCorpus(train, validation, language="en").splits()
    assert list(corpus["test"]["text"]) == list(corpus["validation"]["text"]) == ["Two, three."]


def test_without_a_training_manifest_there_is_nothing_to_learn_but_terms(folder: Path, nano_tokens: Tokens) -> None:
    corpus = ManifestCorpus(None, jsonl(folder / "dev.jsonl", [A, B]), language="en")
    assert set(corpus.splits()) == {"validation", "test"}
    with pytest.raises(InputError, match=r"no utterance in 'train'. Give data.train, or .* vocabulary.synthetic=1"):
        SpeechDataModule(corpus, nano_tokens, AudioContext()).prepare()


def test_an_empty_text_is_an_utterance_without_speech(folder: Path, nano_tokens: Tokens) -> None:
    (row,) = read(jsonl(folder / "rows.jsonl", [{**A, "text": ""}]))
    assert encode_row(row, nano_tokens).labels[0] == nano_tokens.no_speech


@pytest.mark.parametrize("name", ["Japanese", "japanese", "JA", "ja"])
def test_languages_by_name_become_codes(name: str, folder: Path, nano_tokens: Tokens) -> None:
    """Code or name, the label is the same: Japanese is written without a space in front."""
    manifest = jsonl(folder / "rows.jsonl", [{**A, "text": "世界", "language": name}])
    (row,) = read(manifest, language=None)
    assert row["language"] == "ja"
    assert encode_row(row, nano_tokens) == nano_tokens.sequence("世界", "ja")
    assert read(jsonl(folder / "plain.jsonl", [A]), language=name)[0]["language"] == "ja"


def bad(rows: str, message: str, name: str = "rows.jsonl", **arguments: Any) -> Any:
    return pytest.param(name, rows, message, arguments)


@pytest.mark.parametrize(
    ("name", "rows", "message", "arguments"),
    [
        bad('{"audio": "clips/a.wav", "text": "One."}\n{"audio": ', r"rows.jsonl, line 2 is not JSON: .* at column \d"),
        bad("[1]\n", "line 1 is a JSON list; each line must be an object"),
        bad(
            '{"audio": "clips/z.wav", "text": ""}',
            r"data.train: 1 of 1 files are missing, the first:\n  .*rows.jsonl, line 1: there is no audio file .*/z"
            r".wav\nRelative paths in it are of ",
        ),
        bad(
            "audio;text;language\nclips/a.wav;x;en\n",
            r"'audio;text;language', is divided by semicolons, and a .csv is divided by commas. Save it with commas",
            "rows.csv",
        ),
        bad("audio\ttext\nclips/a.wav\tx\n", r"divided by tabs, .* by commas. Name it .tsv.", "rows.csv"),
        bad(
            "clips/a.wav,Hello world\nclips/b.wav,x\n",
            r"no column 'audio'. It has: clips/a.wav, Hello world. That looks like a row: the first line of a CSV",
            "rows.csv",
        ),
        bad('{"duration": 1, "words_said": "x"}', r"It has: duration, words_said\.$"),  # no hint where nothing is near
        bad('{"audio": "", "text": ""}', "line 1: the column 'audio' is empty"),
        bad(
            '{"audio": "clips/a.wav", "sentence": "x"}',
            "line 1: there is no column 'text'. It has: audio, sentence. If it is 'sentence' here: "
            "data.columns.text=sentence",
        ),
        bad(
            "path\ttranscription\nclips/a.wav\tx\n",
            "line 2: there is no column 'audio'. It has: path, transcription.",
            "rows.tsv",
        ),
        bad(
            "audio,texts\nclips/a.wav,x\n",
            "no column 'text'. It has: audio, texts. If it is 'texts' here: data.columns.text=texts",
            "rows.csv",
        ),
        bad(json.dumps({**A, "start_s": "soon"}), "line 1: start_s is 'soon'; it must be a number of seconds"),
        bad(json.dumps({**A, "end_s": [1]}), r"line 1: end_s is \[1\]; it must be"),
        bad(json.dumps({**A, "duration_s": -1}), "line 1: duration_s is -1; it must be a number of seconds, 0 or more"),
        bad('{"audio": "clips/a.wav", "text": "", "start_s": NaN}', "line 1: start_s is nan; it must be"),
        bad(json.dumps(A), "line 1 has no language. Give data.language=CODE", language=None),
        bad("", r"data.train: .*rows.jsonl holds no utterance\."),
        bad("audio,text\n", r"data.train: .*rows.csv holds no utterance of this split\.", "rows.csv"),
        bad(
            json.dumps({**A, "split": "test"}),
            r"data.train: .* holds no utterance of this split\. Its column 'split' names 'test' in 1 rows. Accepted "
            r"are train \(or training\), .*data.columns.split=NAME",
        ),
        bad(
            "\n".join(json.dumps({**A, "split": split}) for split in ("train", "foo", "foo")),
            r"data.train: 2 rows of .* name the split 'foo' in the column 'split', which is none. Accepted are train ",
        ),
        bad(
            "audio,text\nclips/a.wav,Hello, world\n",
            r"rows.csv, line 2 has more fields .* \['world'\] are left over",
            "rows.csv",
        ),
        bad(
            'audio,text\nclips/a.wav,"One.\nclips/b.wav,Two.\n',
            r"rows.csv, line 2 cannot be read: unexpected end of data. A field that begins with a double quote ends",
            "rows.csv",
        ),
        bad(
            'audio,text\nclips/a.wav,"One.\nclips/b.wav,"Two.\nclips/c.wav,Three.\n',
            r"rows.csv, line 2 cannot be read: ',' expected after '\"'",
            "rows.csv",
        ),
        bad("audio,text\nclips/a.wav\n", "rows.csv, line 2 has fewer fields .*: text are missing", "rows.csv"),
        bad("audio\ttext\nclips/a.wav\n", "rows.tsv, line 2 has fewer fields .*: text are missing", "rows.tsv"),
        bad('{"audio": "clips/a.wav", "text": NaN}', 'line 1: text is nan; it must be text. .* has the text ""'),
        bad(json.dumps({**A, "text": ["One."]}), r"line 1: text is \['One.'\]; it must be text"),
        bad(json.dumps({**A, "text": False}), "line 1: text is False; it must be text"),
        bad(
            '{"audio": "clips/a.wav", "text": "", "speaker": NaN}',
            "speaker is nan; it must be text. Where it is not known: null",
        ),
        bad('{"audio": "clips/a.wav", "text": "hi \\ud83d"}', r"line 1: text is hi \\ud83d, with half of a character"),
        bad(json.dumps({**A, "audio": {"bytes": "no base64!"}}), "line 1: audio.bytes is not base64"),
        bad("x", r"data.train: .*rows.txt ends in '.txt'. Accepted: .jsonl, .csv, .tsv", "rows.txt"),
    ],
)
def test_what_is_said(name: str, rows: str, message: str, arguments: dict[str, Any], folder: Path) -> None:
    with pytest.raises(InputError, match=message):
        read(write(folder / name, rows), **arguments)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv"])
def test_a_file_in_another_encoding(name: str, folder: Path) -> None:
    text = (
        json.dumps({**A, "text": "café"}, ensure_ascii=False)
        if name == "rows.jsonl"
        else "audio,text\nclips/a.wav,café\n"
    )
    with pytest.raises(InputError, match="data.train: .* cannot be read: .* It must be text in UTF-8"):
        read(write(folder / name, text, "latin-1"))


def test_a_table_in_utf_16(folder: Path) -> None:
    with pytest.raises(InputError, match=r"cannot be read: this is UTF-16. It must be text in UTF-8. Save it as UTF-8"):
        read(write(folder / "rows.csv", "audio,text\nclips/a.wav,x\n", "utf-16"))


def test_where_a_manifest_was_looked_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    with pytest.raises(InputError, match=rf"there is no manifest train.jsonl \(looked for in {folder}\)"):
        read("train.jsonl")


@pytest.mark.parametrize("split", ["train", "validation", "test", "retention/old"])
def test_a_manifest_that_is_not_there(split: str, folder: Path) -> None:
    there = jsonl(folder / "rows.jsonl", [A])
    files = {
        "train": there,
        "validation": there,
        "test": there,
        "retention/old": there,
        split: str(folder / "gone.jsonl"),
    }
    old = files.pop("retention/old")
    key = split.replace("/", ".")
    with pytest.raises(
        InputError, match=rf"data.{key}: there is no manifest .*gone.jsonl. Give a .jsonl, .csv, .tsv file"
    ):
        ManifestCorpus(**files, language="en", retention={"old": old}).splits()
