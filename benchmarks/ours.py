"""attune's side: the same clips and the same model through the library that train.py uses. One stage a process.

usage: ours.py STAGE MODEL MANIFEST STEPS BATCH TOKEN_CAP CONTEXT PRECISION, with STAGE features, train, cached (the
decoder learns, from stored encoder states) or evaluate; prints a line of JSON
"""

import attune  # noqa: F401  # ahead of torch, as in train.py

# isort: split
import json
import sys
import tempfile
import time
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from sides import FEATURE_PASSES, PARTS, peak_resident_gb

from attune.audio.context import AudioContext, Context, FullContext, PackedContext
from attune.data.corpora.manifest import ManifestCorpus
from attune.data.module import SpeechDataModule
from attune.model.decode import decode_greedily
from attune.model.finetune.base import FineTuning
from attune.model.finetune.full import Full
from attune.model.finetune.layers import Layers
from attune.model.whisper import load_tokens, load_whisper
from attune.train.callbacks.encoder_cache import EncoderCache
from attune.train.callbacks.throughput import Throughput
from attune.train.module import WhisperModule
from attune.train.objective.cross_entropy import CrossEntropy
from attune.train.trainer import make_trainer

CONTEXTS: dict[str, Context] = {
    "audio": AudioContext(),
    "packed": PackedContext(grow_share=0.0),  # half of the clips alone, as by default; all grown
    "full": FullContext(),
}
WARM = 2  # steps
EVALUATION_S = 240.0  # of window a batch that is scored: the default of data.evaluation_batch_window_s
WINDOW_S = {"audio": 6.0, "packed": 7.5, "full": 30.0}  # of Whisper's window a clip of four seconds, margin included


def main(stage: str, model: str, manifest: str, steps: int, batch: int, cap: int, context: str, precision: str) -> None:
    tokens = load_tokens(model)
    corpus = ManifestCorpus(manifest, manifest, manifest)
    window_s = batch * WINDOW_S[context]  # a batch of the peer's size
    data = SpeechDataModule(
        corpus, tokens, CONTEXTS[context], batch_window_s=window_s, evaluation_batch_window_s=EVALUATION_S,
        allow_leakage=True,  # the same clips are learnt and scored: only time counts here
    )  # fmt: skip
    data.prepare()
    if stage == "features":
        print(json.dumps({"clips_per_second": run_features(data), "peak_gb": peak_resident_gb()}))
        return
    whisper = load_whisper(model, tokens)
    if stage == "evaluate":
        result = evaluate(whisper, data, cap, precision)
    else:
        result = train(whisper, data, steps, precision, is_cached=stage == "cached")
    print(json.dumps(result | {"peak_gb": peak_resident_gb()}))


def run_features(data: SpeechDataModule) -> float:
    """Clips a second: reading, decoding, tokens, batches and log-mel of every clip, several times over, as of a larger
    corpus, once they have been read once: the peer's files are in the system's cache too."""
    from attune.audio.log_mel import LogMel

    log_mel, count = LogMel(80), 0
    log_mel(next(iter(data.panel_dataloader("test"))).waveform)
    started = time.perf_counter()
    for _ in range(FEATURE_PASSES):
        for batch in data.panel_dataloader("test"):
            count += log_mel(batch.waveform).shape[0]
    return count / (time.perf_counter() - started)


class Clock(Callback):
    """Wall time of the steps with their batches, and what was heard in them, but for the first steps, which warm up."""

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == WARM * PARTS:
            self.before = pl_module.utterances_seen, pl_module.audio_seen_s
            self.started = time.perf_counter()

    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        seconds = time.perf_counter() - self.started
        heard = pl_module.utterances_seen - self.before[0], pl_module.audio_seen_s - self.before[1]
        self.rates = {
            f"{name}_per_second": count / seconds for name, count in zip(("clips", "audio_seconds"), heard, strict=True)
        }


def train(whisper, data: SpeechDataModule, steps: int, precision: str, is_cached: bool) -> dict:
    finetune: FineTuning = Layers(["model.decoder.*"]) if is_cached else Full()
    finetune.apply(whisper.network)
    folder = tempfile.mkdtemp()
    module = WhisperModule(whisper, finetune, CrossEntropy(), steps=WARM + steps)
    speed, clock = Throughput(time.time()), Clock()
    callbacks = [speed, clock, *([EncoderCache(folder)] if is_cached else [])]
    trainer = make_trainer(
        callbacks, [], folder, WARM + steps, precision, accumulate_grad_batches=PARTS, validate_every=10**6
    )
    trainer.limit_val_batches = 0
    trainer.fit(module, datamodule=data)
    summary = speed.summary(steps, module)
    return clock.rates | {"mfu": summary["mfu"]}


@torch.no_grad()
def evaluate(whisper, data: SpeechDataModule, cap: int, precision: str) -> dict:
    """Decoding as a run scores a panel, with the peer's cap on tokens."""
    whisper.eval()
    written: dict[str, str] = {}
    with torch.autocast("cpu", torch.bfloat16, enabled="bf16" in precision):
        first = next(iter(data.panel_dataloader("test")))
        decode_greedily(whisper, whisper.encode(first.waveform), first.prefixes, [4] * len(first))
        started = time.perf_counter()
        for batch in data.panel_dataloader("test"):
            room = [cap] * len(batch.prefixes)  # Whisper's `generate` does not count its four tokens of prompt either
            found = decode_greedily(whisper, whisper.encode(batch.waveform), batch.prefixes, room)
            written |= {id: whisper.tokens.transcript(ids) for id, ids in zip(batch.ids, found, strict=True)}
    seconds = time.perf_counter() - started
    audio_s = sum(data.splits["test"]["duration_s"])
    order = list(data.splits["test"]["id"])
    rates = {"clips_per_second": len(order) / seconds, "audio_seconds_per_second": audio_s / seconds}
    return rates | {"hypotheses": [written[id] for id in order]}


if __name__ == "__main__":
    main(*sys.argv[1:4], *map(int, sys.argv[4:7]), *sys.argv[7:9])
