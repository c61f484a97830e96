"""The recipe that users would pick instead: transformers' Seq2SeqTrainer, every clip padded to 30 s.

usage: peer.py STAGE MODEL MANIFEST STEPS BATCH TOKEN_CAP, with STAGE features, train or evaluate; prints a line of JSON
"""

import json
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import soundfile
import torch
from datasets import Dataset
from sides import FEATURE_PASSES, PARTS, peak_resident_gb
from transformers import (
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    TrainerCallback,
    WhisperForConditionalGeneration,
    WhisperProcessor,
)


class Clock(TrainerCallback):
    """When the first step has ended, which warms up."""

    started = 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        self.started = self.started or time.perf_counter()


@dataclass
class Collator:
    processor: WhisperProcessor
    start: int

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch = self.processor.feature_extractor.pad(
            [{"input_features": each["input_features"]} for each in features], return_tensors="pt"
        )
        padded = self.processor.tokenizer.pad([{"input_ids": each["labels"]} for each in features], return_tensors="pt")
        labels = padded["input_ids"].masked_fill(padded["attention_mask"].ne(1), -100)
        batch["labels"] = labels[:, 1:] if (labels[:, 0] == self.start).all() else labels
        return batch


def main(stage: str, model: str, manifest: str, steps: int, batch: int, cap: int) -> None:
    torch.manual_seed(0)
    processor = WhisperProcessor.from_pretrained(model, language="en", task="transcribe")
    rows = [json.loads(line) for line in Path(manifest).read_text().splitlines()]

    def prepare(row: dict[str, str]) -> dict[str, Any]:
        samples, rate = soundfile.read(row["audio"], dtype="float32")
        features = processor.feature_extractor(samples, sampling_rate=rate).input_features[0]
        return {"input_features": features, "labels": processor.tokenizer(row["text"]).input_ids}

    rows *= FEATURE_PASSES if stage == "features" else 1
    prepare(rows[0])  # warms up, as a step does below
    started = time.perf_counter()
    plain = Dataset.from_list([{"audio": row["audio"], "text": row["text"]} for row in rows])
    prepared = plain.map(prepare, remove_columns=["audio", "text"], load_from_cache_file=False)
    seconds = time.perf_counter() - started
    clips = len(rows)
    hypotheses: list[str] = []
    if stage != "features":
        network = WhisperForConditionalGeneration.from_pretrained(model)
        network.generation_config.language, network.generation_config.task = "en", "transcribe"
        network.config.use_cache = False
        on_gpu = torch.cuda.is_available()
        arguments = Seq2SeqTrainingArguments(
            output_dir=tempfile.mkdtemp(),
            per_device_train_batch_size=batch,
            per_device_eval_batch_size=batch,
            gradient_accumulation_steps=PARTS,
            learning_rate=1e-5,
            max_steps=1 + steps,
            eval_strategy="no",
            save_strategy="no",
            predict_with_generate=True,
            generation_max_length=cap,
            report_to=[],
            remove_unused_columns=False,
            disable_tqdm=True,
            use_cpu=not on_gpu,
            bf16=on_gpu,
        )
        trainer = Seq2SeqTrainer(
            args=arguments,
            model=network,
            train_dataset=prepared,
            eval_dataset=prepared,
            data_collator=Collator(processor, network.config.decoder_start_token_id),
            processing_class=processor.feature_extractor,
        )
        if stage == "train":
            clock = Clock()
            trainer.add_callback(clock)
            trainer.train()
            clips, started = steps * PARTS * batch, clock.started
        else:
            trainer.predict(prepared.select(range(batch)), max_length=8)
            started = time.perf_counter()
            predictions = trainer.predict(prepared).predictions
            predictions[predictions < 0] = processor.tokenizer.pad_token_id
            hypotheses = processor.tokenizer.batch_decode(predictions, skip_special_tokens=True)
        seconds = time.perf_counter() - started
    result = {"clips_per_second": clips / seconds, "peak_gb": peak_resident_gb(), "hypotheses": hypotheses}
    print(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:4], *map(int, sys.argv[4:7]))
