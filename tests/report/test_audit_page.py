"""audit.html and the lines of the audit: what they count, and that one of a kind is called one."""

from pathlib import Path
from typing import Any

import pytest
from whispers import make_sound

from attune.audio.waveform import encode_wav
from attune.data.audit import Audit, audit_corpus
from attune.data.corpora.schema import build_dataset
from attune.report.audit_page import describe_audit, draw_histograms, write_audit_page
from attune.text.counted import count_of
from attune.text.tokens import Tokens


def make_row(number: int, text: str, seconds: float = 1.0) -> dict[str, Any]:
    audio = {"path": None, "bytes": encode_wav(make_sound(seconds, number))}
    return {"id": f"{number}", "audio": audio, "text": text, "language": "en", "speaker": "anna", "place": f"{number}"}


@pytest.fixture
def found(nano_tokens: Tokens) -> Audit:
    rows = {
        "train": [make_row(0, "one blue boat")],
        "test": [make_row(1, "One blue boat!"), make_row(2, "green")],
        "test/snr_00": [make_row(3, "one blue boat", 4.0)],
    }
    return audit_corpus({split: build_dataset(of) for split, of in rows.items()}, nano_tokens)


def test_one_of_a_kind_is_called_one(found: Audit, tmp_path: Path) -> None:
    told, overlaps = describe_audit(found)
    assert "4 utterances, 0.00 h, 1 speaker; warnings: 2 shared sentences, 2 shared speakers" in told
    assert overlaps.startswith("test shares with what is learnt: 1 of 2 sentences, 1 of 1 speaker;")
    page = write_audit_page(found, tmp_path / "audit.html", "x").read_text()
    assert "Of 4 different words of test, 1 is never learnt, such as" in page
    for rule in ("shared_speakers", "shared_sentences"):
        del found.findings.counts[rule, "test/snr_00"]
    found.findings.counts["duplicate_text", "test"] = 1
    assert describe_audit(found)[0].endswith("warnings: 1 shared sentence, 1 shared speaker; 1 note")


def test_the_line_of_a_histogram_is_of_test_alone(found: Audit) -> None:
    duration, *_ = draw_histograms(found)
    assert duration.high == pytest.approx(1.05)  # and not 4 s, which the condition test/snr_00 has


@pytest.mark.parametrize(
    ("number", "one", "many", "said"),
    [
        (0, "row", "", "0 rows"),
        (1, "row", "", "1 row"),
        (1.0, "point", "", "1 point"),
        (0.5, "point", "", "0.5 points"),
        (2, "row is", "rows are", "2 rows are"),
    ],
)
def test_what_is_counted(number: float, one: str, many: str, said: str) -> None:
    assert count_of(number, one, many) == said
