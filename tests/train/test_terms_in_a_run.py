"""A vocabulary in a whole small run: what is recorded, reported and refused."""

import json
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from attune.audio.speech import Voice, speak
from attune.audio.waveform import encode_wav
from attune.errors import InputError
from attune.train.tuning import Tried, choose
from attune.use.listen import Thresholds
from attune.use.transcribe import load_listening, read_list, transcribe
from train import train

SURE = Thresholds(temperatures=(0.0,), no_speech=1.0)  # what is forced is unlikely, and would count as silence
CONFIGS = Path(__file__).parents[2] / "configs"
SMALL = [
    "model=scratch", "model.scratch.width=32", "model.scratch.layers=1", "model.scratch.heads=2", "logger=csv",
    "trainer.max_steps=2", "trainer.validate_every=2", "trainer.accelerator=cpu", "data=manifest", "name=test",
    "data.allow_leakage=true",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("terms")
    rows = []
    for index, text in enumerate(["Take warfarin.", "The femur hurts.", "Nothing else.", "Seven boats."]):
        (folder / f"{index}.wav").write_bytes(encode_wav(speak(text, Voice())))
        rows.append({"audio": f"{index}.wav", "text": text, "language": "en"})
    (folder / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    (folder / "terms.csv").write_text("term,pronunciation\nwarfarin,\nfemur,/ˈfiːmɚ/\nulna,\n", encoding="utf-8")
    return folder


def run(folder: Path, out: Path, *words: str) -> dict:
    rows = folder / "rows.jsonl"
    data = [f"data.{split}={rows}" for split in ("train", "validation", "test")]
    words = (*SMALL, *data, "vocabulary=file", f"vocabulary.file={folder / 'terms.csv'}", f"folder={out}", *words)
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        train(compose("train", list(words), return_hydra_config=True))
    return json.loads((out / "run.json").read_text())


def test_everything_together(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTUNE_CACHE", str(tmp_path / "cache"))
    words = [
        "vocabulary.synthetic=0.5",
        "vocabulary.times=1",
        "vocabulary.prompt=found",
        "vocabulary.train_prompts=0.5",
    ]
    record = run(folder, tmp_path / "run", *words, "vocabulary.bias=[0.5,60]")
    assert record["status"] == "finished"
    told = record["vocabulary"]
    assert (told["terms"], told["spoken"]) == (3, 3)
    assert [each["bias"] for each in told["tuning"]] == [0.0, 0.5, 60.0] and told["bias"] in (0.0, 0.5, 60.0)
    for panel in ("test", "test@full"):
        terms = record["result"][panel]["terms"]
        assert terms["said"] == 2 and set(terms["by_frequency"]) == {"unseen", "rare", "common"}
        assert terms["by_frequency"]["rare"]["said"] == 2  # each once in the training texts
    page = (tmp_path / "run" / "report.html").read_text()
    assert "<h2>Terms</h2>" in page and "Terms on the target: recall" in page


def test_a_large_bias_writes_terms_and_nothing_is_trained(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = run(folder, tmp_path / "run", "finetune=none", "vocabulary.bias=200")
    before, after = record["baseline"]["test"]["terms"], record["result"]["test"]["terms"]
    assert before["written"] == 0 < after["written"]
    assert record["vocabulary"]["bias"] == 200 and "tuning" not in record["vocabulary"]
    if after["missed"]:
        assert "Missed: terms of the list" in (tmp_path / "run" / "report.html").read_text()
    assert "terms: 3 of " in capsys.readouterr().out


def test_new_tokens_take_the_list(folder: Path, tmp_path: Path) -> None:
    words = ["finetune=new_tokens", "finetune.rank=null", "finetune.terms=vocabulary", "vocabulary.bias=0"]
    record = run(folder, tmp_path / "run", *words)
    assert record["parameters"]["added"] == 2 * 32  # ulna stands in no training text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["vocabulary.prompt=all", "data.in_context=1"], "share the place before the transcript"),
        (["finetune=ctc", "objective=joint_ctc", "finetune.writes=head"], "here a CTC head writes"),
    ],
)
def test_what_does_not_go_together_is_refused(folder: Path, tmp_path: Path, words: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        run(folder, tmp_path / "run", *words)


def test_the_weight_is_the_best_that_spares_the_other_words() -> None:
    tried = [
        Tried(0.0, 0.1, 0.1, 0.200, 0.3),
        Tried(1.0, 0.4, 0.5, 0.204, 0.3),
        Tried(2.0, 0.4, 0.6, 0.203, 0.3),
        Tried(3.0, 0.9, 0.9, 0.210, 0.31),
    ]
    assert choose(tried).bias == 1.0
    assert choose(tried[:1] + tried[3:]).bias == 0.0
    # More than half a point of few words is a word or two: where all words together gain, they are worth it.
    tried = [*tried, Tried(4.0, 0.8, 0.8, 0.210, 0.29)]
    assert choose(tried).bias == 4.0
    # But no more than a twentieth of all other words may be lost for them.
    assert choose([*tried, Tried(5.0, 0.9, 0.9, 0.211, 0.28)]).bias == 4.0


def test_transcribing_with_a_list(folder: Path, tmp_path: Path) -> None:
    whisper = load_listening("nano", "cpu")
    sound = str(folder / "0.wav")
    terms = str(folder / "terms.csv")
    bias, prompt = read_list(whisper, terms, 100.0, prompts=True)
    assert prompt == "warfarin, femur, ulna."
    for timestamps in (False, True):
        text = transcribe(whisper, sound, "en", "transcribe", timestamps, SURE, bias, prompt).text.lower()
        assert any(term in text for term in ("warfarin", "femur", "ulna"))
    with pytest.raises(InputError, match="--vocabulary=.*none.txt cannot be read"):
        read_list(whisper, str(tmp_path / "none.txt"), 1.0, prompts=False)
