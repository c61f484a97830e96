"""attune's side: the same clips and the same model through the library that train.py uses. One stage a process.

usage: ours.py STAGE MODEL MANIFEST STEPS BATCH TOKEN_CAP CONTEXT PRECISION, with STAGE features, train or evaluate
"""

import json
import sys
import tempfile
import time

import torch
from sides import peak_resident_gb

from attune.audio.context import AudioContext, Context, FullContext
from attune.data.corpora.manifest import ManifestCorpus
from attune.data.module import SpeechDataModule
from attune.model.decode import decode_greedily
from attune.model.finetune.full import Full
from attune.model.whisper import load_tokens, load_whisper
from attune.train.callbacks.throughput import Throughput
from attune.train.module import WhisperModule
from attune.train.objective.cross_entropy import CrossEntropy
from attune.train.trainer import make_trainer

CONTEXTS: dict[str, Context] = {"audio": AudioContext(full_share=0.0), "full": FullContext()}


def main(stage: str, model: str, manifest: str, steps: int, batch: int, cap: int, context: str, precision: str) -> None:
    tokens = load_tokens(model)
    corpus = ManifestCorpus(manifest, manifest, manifest)
    # A batch of the peer's size: so many clips of four seconds and their margin, or so many full windows.
    window_s = batch * (30 if context == "full" else 6)
    data = SpeechDataModule(
        corpus, tokens, CONTEXTS[context], batch_window_s=window_s, evaluation_batch_window_s=4 * window_s
    )
    started = time.perf_counter()
    data.prepare()
    if stage == "features":
        count = run_features(data)
        print(json.dumps({"clips_per_second": count / (time.perf_counter() - started), "peak_gb": peak_resident_gb()}))
        return
    whisper = load_whisper(model, tokens)
    result = train(whisper, data, steps, precision) if stage == "train" else evaluate(whisper, data, cap, precision)
    print(json.dumps(result | {"peak_gb": peak_resident_gb()}))


def run_features(data: SpeechDataModule) -> int:
    """Reading, decoding, batching and log-mel of every clip."""
    from attune.audio.log_mel import LogMel

    log_mel, count = LogMel(80), 0
    for batch in data.panel_dataloader("test"):
        count += log_mel(batch.waveform).shape[0]
    return count


def train(whisper, data: SpeechDataModule, steps: int, precision: str) -> dict:
    Full().apply(whisper.network)
    module, speed = WhisperModule(whisper, Full(), CrossEntropy(), steps=steps), Throughput(time.time())
    trainer = make_trainer([speed], [], tempfile.mkdtemp(), max_steps=steps, precision=precision, validate_every=10**6)
    started = time.perf_counter()
    trainer.fit(module, train_dataloaders=data.train_dataloader())
    summary = speed.summary(steps, module)
    return {"clips_per_second": module.utterances_seen / (time.perf_counter() - started), "mfu": summary["mfu"]}


@torch.no_grad()
def evaluate(whisper, data: SpeechDataModule, cap: int, precision: str) -> dict:
    """Decoding as a run scores a panel, with the peer's cap on tokens."""
    whisper.eval()
    written: dict[str, str] = {}
    started = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16, enabled="bf16" in precision):
        for batch in data.panel_dataloader("test"):
            room = [cap - len(prefix) for prefix in batch.prefixes]
            found = decode_greedily(whisper, whisper.encode(batch.waveform), batch.prefixes, room)
            written |= {id: whisper.tokens.transcript(ids) for id, ids in zip(batch.ids, found, strict=True)}
    seconds = time.perf_counter() - started
    order = list(data.splits["test"]["id"])
    return {"clips_per_second": len(order) / seconds, "hypotheses": [written[id] for id in order]}


if __name__ == "__main__":
    main(*sys.argv[1:4], *map(int, sys.argv[4:7]), *sys.argv[7:9])
