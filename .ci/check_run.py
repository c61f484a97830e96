"""Hold the run folder of the default run against what the README promises of it."""

import json
import sys
from pathlib import Path

from transformers import pipeline
from transformers.utils import logging

from attune.audio.waveform import SAMPLE_RATE_HZ
from attune.data.audit import load_row
from attune.data.corpora.synthetic import SyntheticCorpus
from attune.score.metrics import Prediction
from attune.score.panel import score_panel

FILES = (
    "run.json",
    "config.yaml",
    "metrics.csv",
    "rejected.csv",
    "report.html",
    "predictions/test.csv",
    "predictions/test@full.csv",
    "predictions/retention-general.csv",
    "figures/learning_curves.png",
    "figures/error_types.png",
    "figures/log_mel.png",
    "checkpoints/last.ckpt",
    "checkpoints/best.ckpt",
    "model/model.safetensors",
    "wandb",
)
# The pipeline's own default is a beam of 5; runs are scored greedily.
GREEDY = {"language": "en", "task": "transcribe", "max_new_tokens": 64, "num_beams": 1}


def main(folder: Path) -> None:
    for name in FILES:
        check((folder / name).exists(), f"{name} exists")
    record = json.loads((folder / "run.json").read_text())
    before, after = record["baseline"]["test"], record["result"]["test"]
    check(record["status"] == "finished", f"status is {record['status']}")
    check("retention/general" in record["result"], "retention is reported")
    check(record["train"]["peak_memory_gb"] < 4, f"peak memory {record['train']['peak_memory_gb']:.2f} GB is under 4")
    wer = transcribe_with_transformers(folder / "model", record["config"]["data"]["corpus"])
    difference = abs(wer - record["result"]["test@full"]["wer"])
    check(after["wer"] <= before["wer"] / 2, f"test WER {before['wer']:.3f} -> {after['wer']:.3f} at least halves")
    check(after["wer_ci95"][1] < before["wer_ci95"][0], "the two 95 % intervals are apart")
    # 17 to 18 s on two quiet cores; a shared machine has taken 24. What fails is a step that got slower, not a noise.
    first_s = record["train"]["first_step_after_s"]
    check(first_s < 35, f"first step after {first_s:.1f} s (goal: 20)")
    check(difference <= 0.02, f"plain transformers: WER {wer:.3f}, {100 * difference:.2f} points from test@full")


def transcribe_with_transformers(model: Path, corpus: dict) -> float:
    """WER of the test panel by transformers' own pipeline, which pads to 30 s."""
    arguments = {key: value for key, value in corpus.items() if key != "_target_"}
    rows = SyntheticCorpus(**arguments).splits()["test"]
    logging.set_verbosity_error()  # a hint for each utterance
    transcribe = pipeline("automatic-speech-recognition", str(model))
    predictions = []
    for row in rows:
        audio = {"raw": load_row(row).numpy(), "sampling_rate": SAMPLE_RATE_HZ}
        text = transcribe(audio, generate_kwargs=GREEDY)["text"]
        predictions.append(Prediction(row["id"], row["text"], text, row["speaker"], "en", row["duration_s"]))
    return score_panel(predictions, seconds=1.0).wer


def check(holds: bool, what: str) -> None:
    print(f"{'ok' if holds else 'FAILED'}: {what}")
    if not holds:
        sys.exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
