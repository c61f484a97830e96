"""Settings against each other: paired by utterance, with seeds, and refused where they are of different things."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from test_ablation import make_record

from attune.errors import InputError
from attune.report.ablation import report_ablation
from attune.report.compare import make_rows
from attune.report.differences import add_differences, check_comparable, read_panels
from attune.report.predictions import write_predictions
from attune.report.record import RunRecord, write_record
from attune.report.runs import (
    Runs,
    count_finished,
    drop_repeats,
    find_finished,
    name_job,
    note_name,
    read_runs,
    write_plan,
)
from attune.score.metrics import Prediction
from attune.score.significance import weigh
from attune.score.statistics import standard_error
from attune.text.normalise import NORMALISER

WORDS = "one two three four five six seven eight nine ten"


def predict(wrong: list[int], speakers: int = 12) -> list[Prediction]:
    """Utterances of ten words, of which so many each are wrong."""
    return [
        Prediction(
            f"u{index:02}", WORDS, " ".join(["x"] * count + WORDS.split()[count:]), f"s{index % speakers}", "en", 4.0
        )
        for index, count in enumerate(wrong)
    ]


BEFORE = [4] * 24
AFTER = {
    ("full", 1): [1, 2] * 12,
    ("full", 2): [2, 2] * 12,
    ("lora", 1): [3, 3, 2] * 8,
    ("lora", 2): [3, 2, 2] * 8,
}


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    for number, ((finetune, seed), wrong) in enumerate(AFTER.items()):
        folder = tmp_path / f"{number:02}"
        record = make_record(finetune, seed, wer=sum(wrong) / 240)
        record.normaliser = "attune 2"
        write_record(record, folder)
        write_predictions(folder, "test", predict(BEFORE), predict(wrong))
        write_predictions(folder, "retention/a", predict([1] * 24), predict([1, 2] * 12))
    return tmp_path


def test_a_difference_is_that_of_the_same_utterances(sweep: Path) -> None:
    runs = read_runs([sweep])
    found = add_differences(make_rows(runs), read_panels(runs))
    full, lora = (row for row in found.rows if row.is_setting)
    assert full.to_untouched == pytest.approx(sum(AFTER["full", 1] + AFTER["full", 2]) / 480 - 0.4)
    assert lora.to_first == pytest.approx(lora.wer_after - full.wer_after)  # type: ignore[operator]
    assert full.to_first is None and full.to_untouched_mapsswe_p is None  # a mean is of no two systems
    # By hand: errors summed over both seeds, 24 utterances of twelve speakers, and the seeds beside it.
    gained = [one + two - 8 for one, two in zip(AFTER["full", 1], AFTER["full", 2], strict=True)]
    error, units = standard_error(gained, [20] * 24, [f"s{index % 12}" for index in range(24)])
    seeds = [sum(AFTER["full", seed]) / 240 for seed in (1, 2)]
    effect = weigh(full.to_untouched or 0.0, error, units, [0.4], seeds)
    assert units == 12
    assert (full.to_untouched_low, full.to_untouched_high, full.to_untouched_p) == pytest.approx(
        (effect.low, effect.high, effect.p)
    )
    assert "over the speakers of 24 test utterances with 240 words" in found.notes[0]


def test_holm_is_over_settings_and_panels(sweep: Path) -> None:
    runs = read_runs([sweep])
    found = add_differences(make_rows(runs), read_panels(runs))
    assert [(row.setting, row.panel) for row in found.panels] == [
        ("finetune=full", "test"), ("finetune=full", "retention/a"),
        ("finetune=lora", "test"), ("finetune=lora", "retention/a"),
    ]  # fmt: skip
    p_values = [row.p for row in found.panels]
    smallest = min(found.panels, key=lambda row: row.p or 1.0)
    assert None not in p_values and smallest.p_holm == pytest.approx(4 * smallest.p)  # type: ignore[operator]
    assert found.rows[0].to_untouched_p_holm == found.panels[0].p_holm


def test_a_model_beside_itself_is_no_comparison(tmp_path: Path) -> None:
    """Folders of `attune evaluate`: before and after are one transcript; what can be shown, the others tell."""
    for number, ((finetune, seed), wrong) in enumerate(AFTER.items()):
        if seed == 1:
            folder = tmp_path / str(number)
            write_record(make_record(finetune, seed, wer=sum(wrong) / 240), folder)
            write_predictions(folder, "test", predict(wrong), predict(wrong))
    found = add_differences(make_rows(runs := read_runs([tmp_path])), read_panels(runs))
    assert [(panel.p, panel.p_holm, panel.difference) for panel in found.panels] == [(None, None, None)] * 2
    assert any("over 0 comparisons, the first row over 1." in note for note in found.notes)
    (told,) = [note for note in found.notes if "shows a difference of" in note]
    assert "of 0.0 points" not in told


def test_single_runs_are_matched_with_the_run_of_their_seed(sweep: Path) -> None:
    runs = read_runs([sweep])
    rows = add_differences(make_rows(runs), read_panels(runs)).rows
    single = [row for row in rows if not row.is_mean]
    assert all(row.to_untouched_mapsswe_p is not None for row in single if row.setting == "finetune=lora")
    assert all(row.to_first_mapsswe_p is None for row in single if row.setting == "finetune=full")
    assert all(row.to_first_mapsswe_p is not None for row in single if row.setting == "finetune=lora")
    assert all(row.to_untouched is None for row in single)  # p-values belong to settings


def test_the_whole_report_of_paired_runs(sweep: Path) -> None:
    console = Console(width=160, file=io.StringIO(), record=True)
    assert report_ablation([sweep], sweep, console) == 0
    names = {path.stem for path in (sweep / "figures").glob("*.png")}
    assert (
        names
        == {path.stem for path in (sweep / "figures").glob("*.svg")}
        == {"ablation", "forest", "trade_offs", "groups"}
    )
    assert "Four times of five, this test set shows a difference of" in console.export_text()
    assert "## Every panel" in (sweep / "ablation.md").read_text()
    assert (sweep / "ablation_panels.csv").read_text().count("\n") == 5


def change_test_set(folder: Path, kind: str) -> None:
    before, after = predict(BEFORE), predict(BEFORE)
    if kind == "utterances":
        before, after = before[:20], after[:20]
    if kind == "texts":
        before, after = ([replace(each, reference="other words") for each in one] for one in (before, after))
    write_predictions(folder, "test", before, after)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("utterances", r"have 24 and 20 utterances with words, 20 of them in both; 'u20' is in one alone"),
        ("texts", r"for utterance 'u00' they have 'one two .*' and 'other words' as text"),
        ("normaliser", r"the normalisers 'attune 2' and 'whisper'"),
    ],
)
def test_runs_of_different_things_are_refused(sweep: Path, kind: str, message: str) -> None:
    last = sweep / "03"
    change_test_set(last, kind)
    if kind == "normaliser":
        record = make_record("lora", 2)
        record.normaliser = "whisper"
        write_record(record, last)
    runs = read_runs([sweep])
    with pytest.raises(InputError, match=rf"00 and .*03 cannot stand in one table: .*{message}"):
        check_comparable(runs, read_panels(runs))


def test_records_from_before_normalisers_were_written_go_with_any(sweep: Path) -> None:
    write_record(make_record("lora", 2), sweep / "03")
    runs = read_runs([sweep])
    check_comparable(runs, read_panels(runs))


def test_a_damaged_table_of_predictions_costs_its_own_difference_only(sweep: Path) -> None:
    (sweep / "03" / "predictions" / "test.csv").write_text("id\n")
    runs = read_runs([sweep])
    rows = add_differences(make_rows(runs), read_panels(runs)).rows
    full, lora = (row for row in rows if row.is_setting)
    assert full.to_untouched is not None
    assert lora.to_untouched is None and lora.wer_after is not None  # a mean of two seeds, of which one can be paired


def test_too_few_speakers_are_told(tmp_path: Path) -> None:
    write_record(make_record(), tmp_path)
    write_predictions(tmp_path, "test", predict(BEFORE, speakers=3), predict(AFTER["full", 1], speakers=3))
    write_predictions(tmp_path, "retention/a", predict(BEFORE), predict(BEFORE))
    runs = read_runs([tmp_path])
    notes = " ".join(add_differences(make_rows(runs), read_panels(runs)).notes)
    assert "Neither ten speakers nor ten recordings are known" in notes
    assert "say nothing of other seeds" in notes
    assert "Differences are paired, over 24 test utterances with 240 words." in notes


def test_what_was_counted_is_told_unless_another_attune_did_it(sweep: Path) -> None:
    report_ablation([sweep], sweep, Console(file=io.StringIO()))
    assert f"WER of en: {NORMALISER}, which keeps combining marks" in (sweep / "ablation.md").read_text()
    for _, record in (runs := read_runs([sweep])):
        record.normaliser = "attune 1"
    for folder, record in runs:
        write_record(record, folder)
    report_ablation([sweep], sweep, Console(file=io.StringIO()))
    assert "which keeps combining marks" not in (sweep / "ablation.md").read_text()


def test_a_test_set_without_words_has_no_difference(tmp_path: Path) -> None:
    write_record(make_record(), tmp_path)
    silent = [Prediction("u0", "", "", None, "en", 4.0)]
    write_predictions(tmp_path, "test", silent, silent)
    runs = read_runs([tmp_path])
    (note,) = add_differences(make_rows(runs), read_panels(runs)).notes
    assert note.startswith("No run has a table of predictions with words in its test set")


def attempt(folder: str, status: str, seed: int = 1) -> tuple[Path, RunRecord]:
    record = make_record(seed=seed)
    record.status = status  # type: ignore[assignment]
    record.config["name"] = folder  # what a run is called is no part of what it computes
    return Path(folder), record


def test_each_config_counts_once() -> None:
    runs: Runs = [
        attempt("0", "running"),
        attempt("1", "failed", 2),
        attempt("2", "finished"),
        attempt("3", "running", 2),
    ]
    kept, notes = drop_repeats(runs)
    assert [folder.name for folder, _ in kept] == ["2", "3"]
    assert notes == []
    kept, notes = drop_repeats([attempt("0", "finished"), attempt("1", "finished")])
    assert [folder.name for folder, _ in kept] == ["0"]
    assert notes == ["1 computes the same as 0, and is left out."]


def test_a_finished_run_is_found_by_its_config(sweep: Path) -> None:
    config = make_record("lora", 2).config
    assert find_finished(sweep, {**config, "name": "b", "logger": "csv"}) == sweep / "03"
    assert find_finished(sweep, {**config, "keep": "last"}) is None


def test_a_run_stands_for_another_name_of_the_same(sweep: Path) -> None:
    write_plan(sweep, {"jobs": [["finetune=full", "seed=1"], ["finetune=all", "seed=1"]], "words": []})
    assert count_finished(sweep) == 1
    for _ in range(2):
        note_name(sweep / "00", "finetune=all,seed=1")
    assert (sweep / "00" / "also_named.txt").read_text() == "finetune=all,seed=1\n"
    assert count_finished(sweep) == 2
    assert all(record.status == "finished" for _, record in read_runs([sweep]))


def test_a_planned_run_that_never_began_is_a_row(sweep: Path) -> None:
    jobs = [[f"finetune={finetune}", f"seed={seed}"] for finetune in ("full", "lora") for seed in (1, 2, 3)]
    write_plan(sweep, {"jobs": jobs, "words": []})
    assert name_job(["seed=1", "finetune=full"]) == "finetune=full,seed=1"
    rows = make_rows(read_runs([sweep]))
    missing = [(row.setting, row.seed) for row in rows if row.status == "missing"]
    assert missing == [("finetune=full", "3"), ("finetune=lora", "3")]
    assert report_ablation([sweep], sweep, Console(file=io.StringIO())) == 2
    assert "| finetune=lora | 3 | n/a | n/a | missing |" in (sweep / "ablation.md").read_text()
