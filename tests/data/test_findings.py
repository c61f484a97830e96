"""Each rule of the audit finds what it is for, by itself, and does as it is told."""

from typing import Any

import pytest
import torch
from whispers import make_sound

from attune.audio.waveform import encode_wav
from attune.data.audit import Audit, audit_corpus
from attune.data.corpora.schema import build_dataset
from attune.data.findings import ALWAYS, KEPT, RULES, Findings, read_rules
from attune.errors import InputError
from attune.text.tokens import Tokens

CLEAN = 12


def make_row(number: int, text: str | None = None, audio: torch.Tensor | None = None, **more: Any) -> dict[str, Any]:
    words = ["boat", "lamp", "river", "stone", "glass", "horse", "bread", "cloud", "field", "night", "paper", "music"]
    sound = make_sound(2.0, number) if audio is None else audio
    row = {"id": f"row {number}", "audio": {"path": None, "bytes": encode_wav(sound)}, "language": "en"}
    name = words[number] if number < CLEAN else f"{words[number % CLEAN]} {words[number // CLEAN]}"
    return {**row, "text": text or f"Some {name} is here.", "place": f"line {number}", **more}


def audit(tokens: Tokens, train: list[dict[str, Any]], rules: dict[str, Any] | None = None, **splits: Any) -> Audit:
    rows = {"train": [*map(make_row, range(CLEAN)), *train], **splits}
    return audit_corpus({split: build_dataset(of) for split, of in rows.items()}, tokens, rules)


def list_found(found: Audit) -> list[tuple[str, str]]:
    return sorted((finding.rule, finding.id) for finding in found.findings.kept)


SOUND = make_sound(2.0, 40)
QUIET = torch.cat([SOUND[:8000], 1e-3 * torch.randn(24_000, generator=torch.Generator().manual_seed(0))])
SPOILT = {
    "clipping": {"audio": (4 * SOUND).clamp(-1, 1)},
    "dc_offset": {"audio": 0.5 * SOUND + 0.1},
    "silence": {"audio": QUIET},
    "too_fast": {"text": "far more words than anybody could ever say in so short a time " * 3},
    "too_slow": {"text": "No.", "audio": make_sound(8.0, 41)},
    "no_words": {"text": "... — !"},
    "empty_text": {"text": " "},
    "mixed_scripts": {"text": "Some rіver is here."},  # with a Ukrainian i
    "digits": {"text": "Some 40 are here."},
    "spelt_in_bytes": {"text": "Some naïve boat."},
    "duplicate_text": {"text": "some BOAT is here"},
    "duplicate_audio": {"audio": make_sound(2.0, 3), "text": "Another text."},
    ALWAYS: {"audio": torch.zeros(16_000)},
}


@pytest.mark.parametrize("rule", SPOILT)
def test_a_rule_finds_its_row_and_no_other(rule: str, nano_tokens: Tokens) -> None:
    found = list_found(audit(nano_tokens, [make_row(40, **SPOILT[rule])]))
    beside = {"mixed_scripts": {"spelt_in_bytes"}, "no_words": {"spelt_in_bytes"}}.get(rule, set())
    assert {name for name, _ in found} - beside == {rule}
    assert {id for _, id in found} == {"row 40"}


def test_characters_are_words_where_a_language_has_no_spaces(nano_tokens: Tokens) -> None:
    """As WER counts them, so that a comma makes no sentence another one."""
    learnt = make_row(40, text="你好，世界！", language="zh")
    found = audit(nano_tokens, [learnt], test=[make_row(41, text="你好世界", language="zh")])
    assert found.shared["test"].ids == {"row 41"}
    assert found.texts["test"].words == dict.fromkeys("你好世界", 1)
    assert list(found.texts["test"].spoken_words) == list(found.texts["test"].spoken) == [4]
    again = audit(nano_tokens, [learnt, make_row(42, text="你好世界", language="zh")])
    assert [each.reason for each in again.findings.of("duplicate_text")] == ["'你好世界' stands above"]


def test_rows_that_are_set_aside_count_nowhere(nano_tokens: Tokens) -> None:
    silent = make_row(40, text="Some qux is here.", audio=torch.zeros(16_000), speaker="anna")
    found = audit(nano_tokens, [silent], test=[make_row(41, text="A qux.", speaker="anna"), silent])
    train, test = found.texts["train"], found.texts["test"]
    assert train.words["some"] == CLEAN and "qux" not in train.words and "q" not in train.letters
    assert not train.speakers and test.speakers == {"anna": 1} and test.words == {"a": 1, "qux": 1}
    assert found.shared["test"].speakers == ()  # nobody learns from her


def test_a_clean_corpus_has_no_finding(nano_tokens: Tokens) -> None:
    found = audit(nano_tokens, [])
    assert not found.findings.kept and not found.rejections and len(found.splits["train"]) == CLEAN


def test_rules_do_as_they_are_told(nano_tokens: Tokens) -> None:
    train = [make_row(40, **SPOILT["clipping"]), make_row(41, **SPOILT["digits"], audio=make_sound(2.0, 42))]
    assert list_found(audit(nano_tokens, train, {"clipping": "off", "digits": False})) == []
    found = audit(nano_tokens, train, {"clipping": "error", "digits": "warning"})
    assert [(each.rule, each.severity) for each in found.findings.kept] == [
        ("digits", "warning"),
        ("clipping", "error"),
    ]
    assert [(each.id, each.place, each.reason.split(":")[0]) for each in found.rejections] == [
        ("row 40", "line 40", "clipping")
    ]
    assert found.splits["train"]["id"][-1] == "row 41"
    texts = audit(nano_tokens, train, {"digits": "error"})
    assert [each.reason for each in texts.rejections] == ["digits: '40'"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cliping": "off"}, r"data.audit.cliping: there is no such rule. Nearest: clipping"),
        ({"clipping": "loud"}, r"data.audit.clipping=loud: accepted are error, warning, note, on and off"),
        ({"duplicate_audio": "error"}, r"data.audit.duplicate_audio=error .*Accepted: warning, note, on, off"),
    ],
)
def test_what_is_no_rule(settings: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_rules(settings)


def test_of_many_findings_some_are_kept_and_all_are_counted() -> None:
    findings = Findings(read_rules({"shared_audio": "on", "silence": "off"}))
    for number in range(KEPT + 5):
        findings.add("digits", "train", {"id": str(number), "place": ""}, "")
        findings.add("silence", "train", {"id": str(number), "place": ""}, "")
    assert (len(findings.kept), findings.count("note"), findings.count("warning")) == (KEPT, {"digits": KEPT + 5}, {})


def test_sentences_and_speakers_on_both_sides_are_named(nano_tokens: Tokens) -> None:
    test = [
        make_row(50, "some boat is HERE", speaker="ann"),
        make_row(51, "Something else entirely.", speaker="ann"),
        make_row(52, "And a third.", speaker="bob"),
        make_row(53, " ", speaker=None),
    ]
    replay = [make_row(60, "And a third.", speaker="cid")]
    train = [make_row(40, "A sentence of hers.", speaker="ann"), make_row(41, " ", speaker=None)]
    found = audit(nano_tokens, train, {"empty_text": "off"}, test=test, replay=replay)
    assert found.shared["test"].ids == {"row 50", "row 52"} and found.shared["test"].speakers == ("ann",)
    assert list_found(found) == [
        ("shared_sentences", "row 50"), ("shared_sentences", "row 52"), ("shared_speakers", "row 50"),
    ]  # fmt: skip


def test_what_is_chosen_on_may_not_be_what_is_reported(nano_tokens: Tokens) -> None:
    rows = [make_row(50), make_row(51)]
    found = audit(nano_tokens, [], test=rows, validation=rows[1:])
    assert list_found(found) == [("validation_is_test", "row 51")]


def test_all_rules_can_be_set_where_corpora_are_described() -> None:
    from attune.use.config import compose_run

    assert dict(compose_run([]).data.audit) == {name: severity for name, (severity, _) in RULES.items()}
