"""report.html: what it says is true, what it shows is escaped, and it asks nobody for anything."""

import base64
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import soundfile
import torch
from hostile import HOSTILE
from jaxtyping import Float
from torch import Tensor

from attune.errors import InputError
from attune.report.predictions import PredictionRow, predictions_path, read_predictions, write_predictions
from attune.report.record import RunRecord, read_record, write_record
from attune.report.run_page import Difference, choose_utterances, compute_differences, encode_audio, write_run_page
from attune.report.sentences import (
    describe_interpolation,
    describe_other_rates,
    describe_remainder,
    describe_units,
    summarise,
)
from attune.score.metrics import Prediction
from attune.text.normalise import NORMALISER


class Elements(HTMLParser):
    """Every start tag with its attributes, as a browser would see them; and whether the tags are balanced."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "input", "wbr"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def named(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == name]


def make_row(identifier: str, before: int, after: int, words: int = 10) -> PredictionRow:
    return PredictionRow(identifier, "s", "en", 2.0, "a", "b", "c", words, before, after)


def test_the_gravest_utterances_come_first_and_the_faultless_never() -> None:
    rows = [make_row("a", 5, 0), make_row("b", 0, 0), make_row("c", 1, 4), make_row("d", 3, 4, words=5)]
    rows += [make_row("e", 9, 8)]
    chosen = {kind: [row.id for row in rows] for kind, rows in choose_utterances(rows).items()}
    assert chosen == {"worst": ["e", "d", "c"], "harmed": ["c", "d"], "improved": ["a", "e"]}
    assert [row.id for row in choose_utterances(rows, limit=1)["worst"]] == ["e"]
    assert choose_utterances([]) == {"worst": [], "harmed": [], "improved": []}


def test_differences_join_neighbours_of_one_kind() -> None:
    found = compute_differences("The quick brown fox, jumps!", "the quack brawn fox jumps high up")
    assert found == [
        Difference("equal", "the", "the"),
        Difference("substitute", "quick brown", "quack brawn"),
        Difference("equal", "fox jumps", "fox jumps"),
        Difference("insert", "", "high up"),
    ]
    assert compute_differences("gone", "") == [Difference("delete", "gone", "")]
    assert compute_differences("", "...") == []


def test_differences_of_a_language_without_spaces_are_of_characters() -> None:
    found = compute_differences("今天天气很好，我们去", "今天天气真好我们去", "zh")
    assert found == [
        Difference("equal", "今天天气", "今天天气"),
        Difference("substitute", "很", "真"),
        Difference("equal", "好我们去", "好我们去"),
    ]


@pytest.fixture
def page(run_folder: Path, speech: Float[Tensor, "sample"]) -> str:
    chosen = choose_utterances(read_predictions(predictions_path(run_folder, "test")))["worst"]
    return write_run_page(run_folder, {("test", chosen[0].id): speech}).read_text("utf-8")


def test_the_page_is_whole_and_asks_nobody(page: str) -> None:
    elements = Elements(page)
    assert elements.open == []
    loading = ("src", "href", "srcset")
    addresses = [value for _, attributes in elements.tags for name, value in attributes.items() if name in loading]
    assert addresses
    assert all(address and address.startswith(("data:", "#")) for address in addresses)
    assert not re.search(r"https?://|url\(|@import", page)
    assert "default-src 'none'" in str(elements.named("meta"))
    assert len(page) < 3_000_000


def test_nothing_that_a_corpus_says_becomes_markup(page: str) -> None:
    elements = Elements(page)
    assert not elements.named("script") and not elements.named("b") and not elements.named("i")
    assert not [image for image in elements.named("img") if not str(image["src"]).startswith("data:image/png")]
    assert "&lt;i&gt;utt&lt;/i&gt;-x" in page and "script alert x script" in page
    assert HOSTILE not in page


def test_hostile_names_and_errors_are_escaped(run_folder: Path, record: RunRecord) -> None:
    hostile = replace(record, name=HOSTILE, status="failed", error=f"KeyError: {HOSTILE}", rejected={HOSTILE: 1})
    hostile.config = {"data": HOSTILE}
    write_record(hostile, run_folder)
    page = write_run_page(run_folder, {}).read_text("utf-8")
    assert HOSTILE not in page
    assert not Elements(page).named("script")
    assert "This run is not finished: failed." in page


def test_there_is_a_player_only_where_there_is_audio(page: str) -> None:
    players = Elements(page).named("audio")
    assert len(players) == 1  # one waveform was given; where the same one is harmed as well, a link leads to it
    assert str(players[0]["src"]).startswith("data:audio/mpeg;base64,")
    identifiers = {attributes["id"] for _, attributes in Elements(page).tags if attributes.get("id")}
    assert all(str(link["href"])[1:] in identifiers for link in Elements(page).named("a"))


def test_the_same_audio_is_stored_once(run_folder: Path, speech: Float[Tensor, "sample"]) -> None:
    rows = read_predictions(predictions_path(run_folder, "test"))
    page = write_run_page(run_folder, {("test", row.id): speech for row in rows}).read_text("utf-8")
    assert len(Elements(page).named("audio")) == 1
    assert len(Elements(page).named("a")) == sum(map(len, choose_utterances(rows).values())) - 1


def test_the_audio_is_mono_at_16_khz(speech: Float[Tensor, "sample"], tmp_path: Path) -> None:
    path = tmp_path / "audio.mp3"
    path.write_bytes(base64.b64decode(encode_audio(4 * speech).split(",")[1]))
    information = soundfile.info(path)
    assert (information.samplerate, information.channels, information.format) == (16_000, 1, "MP3")
    assert information.duration == pytest.approx(len(speech) / 16_000, abs=0.1)
    assert path.stat().st_size < len(speech)  # half of what 16-bit samples take, at the very most


def test_a_libsndfile_without_mp3_gives_wav(speech: Float[Tensor, "sample"], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soundfile, "available_formats", lambda: {"WAV": "WAV (Microsoft)"})
    assert encode_audio(speech).startswith("data:audio/wav;base64,UklGR")  # RIFF


def test_every_part_is_there(page: str, record: RunRecord) -> None:
    for part in ("3,412,992", "1,706,496 (50.0%)", "4 utterances rejected", "31.0%", "33.1 utterances/s", "en-029"):
        assert part in page
    assert "Peak memory" not in page  # it was not measured on this machine
    assert len(Elements(page).named("img")) == 3
    assert f"{100 * record.result['test']['wer']:.1f}" in page
    transcripts = [attributes for attributes in Elements(page).named("dd") if "dir" in attributes]
    assert transcripts and all(attributes["dir"] == "auto" for attributes in transcripts)


def test_the_composed_config_is_preferred(run_folder: Path) -> None:
    (run_folder / "config.yaml").write_text("finetune:\n  rank: 32 # <chosen>\n")
    assert "rank: 32 # &lt;chosen&gt;" in write_run_page(run_folder, {}).read_text("utf-8")


def test_the_page_says_where_the_errors_are(page: str, run_folder: Path) -> None:
    assert "Where the errors are" in page and "What no listener would write" in page
    assert "By speaker" in page and "By duration" in page
    (run_folder / "metrics.csv").write_text("step,val/loss,val/wer\n9,1.5,0.2\n19,1.0,0.3\n")
    told = write_run_page(run_folder, {}).read_text("utf-8")
    assert "The loss fell while the word error rate rose" in told and "From step 10 to step 20" in told
    assert "The loss fell while the word error rate rose" not in page
    write_record(replace(read_record(run_folder), loss={"monitored": "val/loss"}), run_folder)
    other = write_run_page(run_folder, {}).read_text("utf-8")  # of a reward model, whose WER is chosen by nothing
    assert "The loss fell while the word error rate rose" not in other
    assert Elements(told).open == []


def test_a_page_that_is_full_plays_no_more(
    run_folder: Path, speech: Float[Tensor, "sample"], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("attune.report.run_page.AUDIO_CHARACTERS", 100)
    rows = read_predictions(predictions_path(run_folder, "test"))
    page = write_run_page(run_folder, {("test", row.id): speech for row in rows}).read_text("utf-8")
    assert not Elements(page).named("audio")
    assert page.count("no audio: this page is full") == sum(map(len, choose_utterances(rows).values()))


@pytest.mark.slow
def test_two_thousand_utterances_stay_below_15_megabytes(
    run_folder: Path, record: RunRecord, speech: Float[Tensor, "sample"]
) -> None:
    panels = {"test": 2000} | {f"retention/{name}": 400 for name in "abcdefghijk"}
    chosen = {}
    for number, (panel, count) in enumerate(panels.items()):
        record.baseline[panel] = record.result[panel] = record.result["test"]
        said = [f"the lamp number {index} went out in panel {number}" for index in range(count)]
        before, after = (
            [
                Prediction(f"u{index}", text, f"{text} {more}", f"s{index}", "en", 30.0)
                for index, text in enumerate(said)
            ]
            for more in ("and then some more", "too")
        )
        write_predictions(run_folder, panel, before, after)
        rows = read_predictions(predictions_path(run_folder, panel))
        for identifier in sorted({row.id for kind in choose_utterances(rows).values() for row in kind}):
            # No two alike, and each of half a minute.
            noise = torch.rand(1, generator=torch.Generator().manual_seed(len(chosen))).item()
            chosen[panel, identifier] = (0.5 + 0.5 * noise) * speech.repeat(30 * 16_000 // len(speech))
    write_record(record, run_folder)
    page = write_run_page(run_folder, chosen)
    assert 9_000_000 < page.stat().st_size < 15_000_000
    assert "no audio: this page is full" in page.read_text("utf-8")


def test_a_run_that_was_only_started_has_a_page(tmp_path: Path) -> None:
    write_record(RunRecord(name="x", seed=1, config={}), tmp_path)
    page = write_run_page(tmp_path, {}).read_text("utf-8")
    assert "This run is not finished: running." in page
    assert Elements(page).open == []
    with pytest.raises(InputError, match="holds no run.json"):
        write_run_page(tmp_path / "nowhere", {})


def test_the_way_between_two_models_is_told(run_folder: Path, record: RunRecord) -> None:
    assert "Interpolation" not in write_run_page(run_folder, {}).read_text("utf-8")
    names = ("validation", "retention_validation/us", "test", "retention/us", "retention/<b>")
    rates = {0.0: (0.5, 0.1, 0.48, 0.12, 0.2), 0.5: (0.3, 0.105, 0.28, 0.13, 0.21), 1.0: (0.2, 0.2, 0.08, 0.22, 0.3)}
    points = [{"alpha": alpha, "wer": dict(zip(names, wer, strict=True))} for alpha, wer in rates.items()]
    record.interpolation = {"chosen": 0.5, "rule": f"By {HOSTILE}.", "judged": list(names[1:2]), "points": points}
    assert describe_interpolation(record) == (
        "Kept: 0.5 of the way to the trained model. It has 20.0 of the 40.0 points that 1 of the way gains on the "
        "target, and changes the WER on retention by +1.0 instead of +10.0 points."
    )
    write_record(record, run_folder)
    page = write_run_page(run_folder, {}).read_text("utf-8")
    assert Elements(page).open == []
    assert describe_interpolation(record) in page and "<strong>0.5, kept</strong>" in page and "10.5" in page
    assert HOSTILE not in page and "retention/&lt;b&gt;" in page
    record.interpolation["chosen"] = 1.0  # nothing to compare it with
    assert describe_interpolation(record) == "Kept: 1 of the way to the trained model."
    record.interpolation["chosen"] = 0.5
    points[2]["wer"]["test"] = None  # a panel without speech
    assert describe_interpolation(record) == "Kept: 0.5 of the way to the trained model."


def make_record(**panels: tuple[float, float]) -> RunRecord:
    def score(wer: float) -> dict[str, object]:
        return {"wer": wer, "wer_ci95": [wer - 0.02, wer + 0.02], "words": 100}

    names = {name: name.replace("_", "/") for name in panels}
    record = RunRecord(name="x", seed=1, config={})
    record.baseline = {names[name]: score(before) for name, (before, _) in panels.items()}
    record.result = {names[name]: score(after) for name, (_, after) in panels.items()}
    return record


@pytest.mark.parametrize(
    ("record", "said"),
    [
        (
            make_record(test=(0.4, 0.3), retention_us=(0.1, 0.2), retention_noise=(0.2, 0.19)),
            "Fine-tuning lowered the word error rate by 10.0 points (25 % relative) on the target; "
            "it forgot some of “us” (+10.0 points) and shows no clear change on “noise” (−1.0 points).",
        ),
        (
            make_record(test=(0.4, 0.38), retention_us=(0.2, 0.1)),
            "Fine-tuning lowered the word error rate by 2.0 points (5 % relative) on the target, a change that the "
            "95 % intervals do not tell from chance; it also gained on “us” (−10.0 points).",
        ),
        (
            make_record(test=(0.3, 0.4)),
            "Fine-tuning raised the word error rate by 10.0 points (33 % relative) on the target; "
            "no retention panel was scored, so what it forgot is unknown.",
        ),
        (
            make_record(test=(0.3, 0.3)),
            "Fine-tuning changed nothing on the target; no retention panel was scored, so what it forgot is unknown.",
        ),
        (
            make_record(),
            "The target was not scored both before and after, so nothing can be said about what this run gained.",
        ),
    ],
)
def test_the_summary_claims_only_what_was_measured(record: RunRecord, said: str) -> None:
    assert summarise(record) == said


def test_what_is_not_learnt_and_what_others_count_stand_beside_the_whole() -> None:
    record = RunRecord(name="r", seed=0, config={})
    assert describe_remainder(record) == describe_other_rates(record) == ""
    rest = {"utterances": 17, "words": 80}
    whole = {"wer": 0.5, "wer_raw": 0.75, "wer_whisper": 0.25, "utterances": 62}
    record.baseline = {"test": {**whole, "remainder": {**rest, "wer": 0.6}}}
    record.result = {"test": {**whole, "remainder": {**rest, "wer": 0.4}}}
    assert describe_remainder(record) == (
        "45 of the 62 test utterances have a sentence that is learnt too; the WER of the other 17 is 60.0 → 40.0 %."
    )
    assert "75.0 % as written, 25.0 % by Whisper's own normaliser" in describe_other_rates(record)
    record.result["test"]["remainder"] = {"utterances": 1, "words": 3, "wer": 0.5}
    assert describe_remainder(record).endswith("; the WER of the other one is 60.0 → 50.0 %.")
    record.result["test"]["remainder"] = {"utterances": 2, "words": 0, "wer": None}
    assert describe_remainder(record).endswith("in the other 2 nothing is said, so that no word is left to be scored.")
    record.result["test"]["remainder"] = {"utterances": 0, "words": 0, "wer": None}
    assert describe_remainder(record).endswith("no other is left to be scored by itself.")
    record.result["test"]["utterances"] = 1
    assert describe_remainder(record).startswith("1 of the 1 test utterance has a sentence that is learnt too;")


def test_where_nothing_is_said_there_is_no_rate() -> None:
    silent = {"wer": float("nan"), "wer_raw": float("nan"), "wer_whisper": float("nan"), "words": 0, "utterances": 1}
    record = RunRecord(name="r", seed=0, config={}, baseline={"test": silent}, result={"test": silent})
    assert describe_other_rates(record) == ""
    assert summarise(record).startswith("Nothing is said in the target's test set, so it has no word error rate; ")
    record.parameters = {"trainable": 0}
    assert summarise(record).endswith("it has no word error rate. Nothing was trained.")


def test_one_utterance_has_no_interval_to_tell_it_from_chance() -> None:
    record = make_record(test=(0.4, 0.38))
    record.result["test"]["wer_ci95"] = [None, None]
    assert "points (5 % relative) on the target, a change that may be chance: of so few" in summarise(record)


def test_each_panel_says_what_was_resampled(run_folder: Path, record: RunRecord) -> None:
    record.normaliser = NORMALISER
    assert describe_units(record) == "utterance"
    record.result["test"]["ci_unit"] = "speaker"
    assert describe_units(record) == "speaker on test and by utterance on retention/us"
    write_record(record, run_folder)
    page = " ".join(write_run_page(run_folder, {}).read_text("utf-8").split())
    assert "they resample by speaker on test and by utterance on retention/us. S, D, I" in page
    assert f"WER of ar, en: {NORMALISER}, which keeps combining marks" in page
    record.result["retention/us"]["wer_ci95"] = [None, None]
    assert describe_units(record) == "speaker"


def test_characters_stand_once_where_they_are_the_words(run_folder: Path, record: RunRecord) -> None:
    assert ">Letters confused most often<" in write_run_page(run_folder, {}).read_text("utf-8")
    before, after = ([Prediction("u1", "今天天气很好。", text, "a", "zh", 2.0)] for text in ("今天", "今天天气真好"))
    for panel in ("test", "retention/us"):
        write_predictions(run_folder, panel, before, after)
    record.normaliser = NORMALISER
    write_record(record, run_folder)
    page = write_run_page(run_folder, {}).read_text("utf-8")
    assert ">Characters confused most often<" in page and "Letters confused" not in page
    assert "of zh each character is a word, so that WER is CER" in page


def test_a_reward_model_with_one_pair() -> None:
    record = RunRecord(name="r", seed=0, config={})
    record.result = {"test": {"pairs": {"pairs": 1, "ordered": 1.0, "ordered_ci95": [None, None]}}}
    assert summarise(record).startswith("The reward model puts 100.0 % of 1 pair of the test set in their order;")
