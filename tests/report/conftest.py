"""A run folder as train.py leaves it: two panels, speech, sparse metrics, and a hostile transcript among the others."""

import random
from dataclasses import asdict
from pathlib import Path

import pytest
from hostile import HOSTILE
from jaxtyping import Float
from torch import Tensor

from attune.audio.speech import Voice, speak
from attune.report.figures import plot_error_types, plot_log_mel, save_figures
from attune.report.learning_curves import plot_learning_curves
from attune.report.predictions import write_predictions
from attune.report.record import RunRecord, write_record
from attune.score.metrics import Prediction
from attune.score.panel import PanelScore, score_panel

SENTENCES = (
    "the harbour master closed the northern gate before the storm",
    "please send the invoice to the second address in the letter",
    "nobody had watered the garden since the middle of august",
    "three of the seven bridges were repaired in the spring",
    "she reads the evening news on a small island radio",
    "a cold wind came down from the hills and the lamps went out",
)
MISHEARD = {"the": "a", "was": "is", "in": "and", "harbour": "harper", "garden": "guarding", "three": "tree"}


def mishear(text: str, rate: float, rng: random.Random) -> str:
    """A hypothesis with about `rate` errors a word: substitutions, deletions and stutters."""
    words: list[str] = []
    for word in text.split():
        fate = rng.random() / rate if rate else 1.0
        words += [MISHEARD.get(word, word[:-1] or "uh")] if fate < 0.6 else [] if fate < 0.8 else [word]
        words += [word] if 0.8 <= fate < 1.0 else []
    return " ".join(words)


def make_predictions(rate: float, seed: int, count: int = 36) -> list[Prediction]:
    rng = random.Random(seed)
    references = [SENTENCES[index % len(SENTENCES)] for index in range(count)]
    return [
        Prediction(f"utt-{index:03}", text, mishear(text, rate, rng), f"speaker-{index % 6}", "en", 3.5 + index / 40)
        for index, text in enumerate(references)
    ]


def make_hostile(hypothesis: str) -> Prediction:
    return Prediction("<i>utt</i>-x", "the lamps went out", f"{HOSTILE} {hypothesis}", '"><img src=x>', "en", 2.0)


def score(predictions: list[Prediction]) -> PanelScore:
    return score_panel(predictions, seconds=12.0, draws=500)


@pytest.fixture(scope="session")
def panels() -> dict[str, tuple[list[Prediction], list[Prediction]]]:
    """panel: (before, after). The target improves, the retention panel is forgotten."""
    hostile = ([make_hostile("a lambs")], [make_hostile("the lamps went")])
    arabic = Prediction("utt-rtl", "السلام عليكم يا صديقي", "السلام عليك صديقي", None, "ar", 2.5)
    target = (make_predictions(0.45, 1) + hostile[0] + [arabic], make_predictions(0.12, 2) + hostile[1] + [arabic])
    return {"test": target, "retention/us": (make_predictions(0.05, 3), make_predictions(0.3, 4))}


@pytest.fixture
def record(panels: dict[str, tuple[list[Prediction], list[Prediction]]]) -> RunRecord:
    return RunRecord(
        name="accent full seed 1",
        seed=1,
        config={"finetune": {"_target_": "attune.model.finetune.full.Full"}, "data": {"voices": ["en-029"]}},
        git={"commit": "0123456789abcdef", "dirty": True},
        versions={"python": "3.11.7", "torch": "2.11.0"},
        parameters={"total": 3_412_992, "trainable": 1_706_496, "added": 0},
        context="audio",
        baseline={name: asdict(score(before)) for name, (before, _) in panels.items()},
        result={name: asdict(score(after)) for name, (_, after) in panels.items()},
        train={"steps": 300, "seconds": 74.2, "utterances_per_second": 33.1, "peak_memory_gb": None, "mfu": 0.31},
        evaluate={"seconds": 21.0, "utterances_per_second": 5.1},
        rejected={"silent: no sample above -80 dBFS": 3, "too long: 31.2 s": 1},
        status="finished",
    )


@pytest.fixture
def metrics(tmp_path: Path) -> Path:
    """metrics.csv as Lightning's CSVLogger writes it: one kind of event a row, the other cells empty; steps from 0."""
    rng = random.Random(0)
    lines = ["epoch,step,train/learning_rate,train/loss,val/loss,val/wer,val/wer/us"]
    for step in range(1, 301):
        lines.append(f"0,{step - 1},{1e-4 * step / 300},{2.8 * 0.99**step + 0.3 + rng.gauss(0, 0.08)},,,")
        if step % 60 == 0:
            lines.append(f"0,{step - 1},,,{2.6 * 0.99**step + 0.5},{0.42 * 0.993**step + 0.08},{0.05 + step / 1500}")
    path = tmp_path / "metrics.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="session")
def speech() -> Float[Tensor, "sample"]:
    return speak(SENTENCES[0], Voice("en-gb-scotland"))


@pytest.fixture
def run_folder(
    tmp_path: Path,
    record: RunRecord,
    metrics: Path,
    panels: dict[str, tuple[list[Prediction], list[Prediction]]],
    speech: Float[Tensor, "sample"],
) -> Path:
    write_record(record, tmp_path)
    for name, (before, after) in panels.items():
        write_predictions(tmp_path, name, before, after)
    figures = {
        "learning_curves": plot_learning_curves(metrics),
        "error_types": plot_error_types(record),
        "log_mel": plot_log_mel(speech, SENTENCES[0], "the harper master closed a northern gate", window_s=6.0),
    }
    save_figures(tmp_path, figures)
    return tmp_path
