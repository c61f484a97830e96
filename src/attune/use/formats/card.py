"""README.md of an exported model: what it learnt from, how, what it is worth, under which licence, how to load it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from attune.errors import InputError
from attune.model.additions import WEIGHTS
from attune.model.whisper import NANO
from attune.report.record import Panel, RunRecord, format_interval, format_percent, read_record
from attune.use.formats.base import Format
from attune.use.formats.parity import Parity

ADAPTED = """import sys

import soundfile

sys.path.insert(0, "{folder}")
from load_whisper import load  # of this folder: it puts in what plain transformers cannot hold
from transformers import pipeline

parts = {{"tokenizer": "{folder}", "feature_extractor": "{folder}"}}
recognise = pipeline("automatic-speech-recognition", load("{folder}"), **parts)
waveform, rate_hz = soundfile.read("speech.wav", dtype="float32")  # mono
heard = {{"raw": waveform, "sampling_rate": rate_hz}}
print(recognise(heard, generate_kwargs={{"language": "{language}"}})["text"])"""


def write_card(
    out: Path, format: Format, run: Path, config: Any, checkpoint: str, parity: Parity | None, explained: str | None
) -> None:
    """Write README.md into an exported folder.

    Args:
        config: the run's.
        checkpoint: best or last: run.json's numbers are of the weights that the run kept, best unless it says other.
        parity: what the format's program made of the test set, if that was asked.
        explained: what plain transformers cannot hold.
    """
    try:
        record = read_record(run)
    except InputError:
        record = None
    language = find_language(config)
    parts = [
        _describe_front(config, language),
        f"# {config.name}\n\nA Whisper, fine-tuned with attune; format: {format.title}.",
        f"## Use\n\n```python\n{_choose_usage(out, format).format(folder='FOLDER', language=language)}\n```",
        *([explained] if explained else []),
        _describe_training(config, record),
        _describe_worth(config, record, checkpoint, parity),
        _describe_licence(str(config.model.name_or_path)),
    ]
    (out / "README.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def find_language(config: Any) -> str:
    """The code of the run's language, for the example; en where the corpus says it row by row."""
    return str(config.data.get("language") or "en")


def find_licence(base: str) -> str | None:
    """The licence that the untouched model's own card names; None where it names none, or has no card here."""
    if base == NANO:
        return "apache-2.0"
    try:
        head = (Path(base) / "README.md").read_text("utf-8").split("---")[1]
        found = yaml.safe_load(head)
    except (OSError, IndexError, UnicodeDecodeError, yaml.YAMLError):
        return None
    return str(found["license"]) if isinstance(found, dict) and found.get("license") else None


def _describe_front(config: Any, language: str) -> str:
    base = str(config.model.name_or_path)
    head: dict[str, Any] = {
        "pipeline_tag": "automatic-speech-recognition",
        "language": language,
        "tags": ["whisper", "attune"],
    }
    if licence := find_licence(base):
        head["license"] = licence
    if base != NANO and base.count("/") == 1 and not Path(base).exists():
        head["base_model"] = base
    return f"---\n{yaml.safe_dump(head, sort_keys=False)}---"


def _choose_usage(out: Path, format: Format) -> str:
    return ADAPTED if (out / WEIGHTS).is_file() else format.usage


def _describe_training(config: Any, record: RunRecord | None) -> str:
    choices = config.get("choices") or {}
    told = {
        "Untouched model": config.model.name_or_path,
        "Data": choices.get("data") or config.data.corpus.get("_target_", "").rpartition(".")[2],
        "Type": choices.get("finetune") or config.finetune.get("_target_", "").rpartition(".")[2],
        "Objective": choices.get("objective") or config.objective.get("_target_", "").rpartition(".")[2],
        "Seed": config.seed,
    }
    if record:
        train = record.splits.get("train", {})
        told["Training utterances"] = f"{train.get('utterances', 0):,.0f} ({train.get('minutes', 0):.1f} minutes)"
        learnt = record.parameters
        told["Parameters"] = f"{learnt.get('trainable', 0):,} of {learnt.get('total', 0):,} learnt"
        told["Steps"] = f"{record.train.get('steps') or 0:,.0f}"
    return "## Training\n\n" + "\n".join(f"- {name}: {value}" for name, value in told.items())


def _describe_worth(config: Any, record: RunRecord | None, checkpoint: str, parity: Parity | None) -> str:
    lines = ["## Word error rate\n"]
    if record and record.result:
        lines += ["| panel | utterances | words | before, WER % | after, WER % |", "| --- | --- | --- | --- | --- |"]
        lines += _list_panels(record)
        lines += [
            "",
            "[95 % intervals]. `test` is the target, `test@full` the same in Whisper's whole window of 30 s, as other "
            "programs hear it; `retention/...` is what was not to be forgotten.",
        ]
        if checkpoint != "best" or config.get("keep", "best") == "last" or config.get("interpolate"):
            lines.append(
                f"These numbers are of the weights that the run kept; the exported ones are of checkpoint {checkpoint}."
            )
        if not any(name.startswith("retention/") for name in record.result):
            lines.append("No retention panel was scored: what the model forgot is unknown.")
    else:
        lines.append("The run has not finished, so it has no score.")
    if parity:
        lines += ["", f"This folder: {parity.describe()}"]
    return "\n".join(lines)


def _list_panels(record: RunRecord) -> Iterator[str]:
    for name, after in record.result.items():
        before = record.baseline.get(name, {})
        yield f"| {name} | {after['utterances']} | {after['words']} | {_to_cell(before)} | {_to_cell(after)} |"


def _to_cell(panel: Panel) -> str:
    return f"{format_percent(panel.get('wer'))} {format_interval(panel)}".strip()


def _describe_licence(base: str) -> str:
    licence = find_licence(base)
    told = f"{licence}, as the untouched model" if licence else f"not known to attune: see that of {base}"
    return f"## Licence\n\nWeights: {told}. The terms of the training data hold beside it; attune does not know them."
