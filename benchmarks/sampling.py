"""Hypotheses and their log-probabilities, as objective=grpo and mwer draw them, beside a loop of transformers'
`generate` with the same number of samples: the same clips, the same Whisper, in turn.

    python benchmarks/sampling.py                  # whisper-tiny's shape with random weights, clips of 3 s
    python benchmarks/sampling.py --model DIR --device cuda --clips 64

The loop takes a clip at a time: thirty seconds of features, `generate` with num_return_sequences, then a forward pass
over what it wrote. Ours takes all clips at once, at the context of the audio. With random weights neither side reaches
the end, so that both write the same number of tokens. Prints clips and hypotheses a second, and leaves them beside this
file.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from sides import make_tiny
from torch import Tensor
from transformers import WhisperFeatureExtractor

from attune.audio.context import AudioContext
from attune.audio.waveform import SAMPLE_RATE_HZ, SAMPLES_PER_POSITION
from attune.model.likelihood import score_hypotheses
from attune.model.sample import sample
from attune.model.whisper import Whisper, load_tokens, load_whisper

GOAL = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a Whisper folder or hub name")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--clips", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--samples", type=int, default=8, help="hypotheses a clip")
    parser.add_argument("--tokens", type=int, default=32, help="a hypothesis has at most")
    parser.add_argument("--peer-clips", type=int, default=4, help="of the loop: each costs what the others do")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        name = wanted.model or str(make_tiny(Path(folder) / "tiny"))
        whisper = load_whisper(name, load_tokens(name)).eval().to(wanted.device)
    generator = torch.Generator().manual_seed(0)
    length = int(wanted.seconds * SAMPLE_RATE_HZ)
    clips = [0.1 * torch.randn(length, generator=generator) for _ in range(wanted.clips)]
    peer = measure(lambda: run_peer(whisper, clips[: wanted.peer_clips], wanted.samples, wanted.tokens), whisper)
    ours = measure(lambda: run_ours(whisper, clips, wanted.samples, wanted.tokens), whisper)
    rates = {"peer": wanted.peer_clips / peer, "ours": wanted.clips / ours}
    result = {**vars(wanted), "clips_per_second": rates, "ratio": rates["ours"] / rates["peer"], "goal": GOAL}
    Path(__file__).with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    for side, rate in rates.items():
        print(f"{side}: {rate:8.2f} clips/s {wanted.samples * rate:8.2f} hypotheses/s")
    print(f"ratio {result['ratio']:.1f}x, goal {GOAL}x")


@torch.no_grad()
def measure(work: Callable[[], int], whisper: Whisper) -> float:
    """Seconds of the second of two rounds."""
    on_gpu = next(whisper.parameters()).is_cuda
    for _ in range(2):
        started = time.perf_counter()
        work()
        if on_gpu:
            torch.cuda.synchronize()
    return time.perf_counter() - started


def run_ours(whisper: Whisper, clips: Sequence[Tensor], samples: int, tokens: int) -> int:
    """How many tokens were written and scored."""
    device = next(whisper.parameters()).device
    positions = AudioContext().positions(len(clips[0]) / SAMPLE_RATE_HZ, None)
    waveform = torch.zeros(len(clips), positions * SAMPLES_PER_POSITION)
    waveform[:, : len(clips[0])] = torch.stack(list(clips))
    states = whisper.encode(waveform.to(device))
    prefixes = [whisper.tokens.prefix("en")] * len(clips)
    drawn = sample(whisper, states, prefixes, [tokens] * len(clips), range(len(clips)), samples)
    rows = [hypothesis for group in drawn for hypothesis in group]
    repeated = states.repeat_interleave(samples, dim=0)
    scores = score_hypotheses(whisper, repeated, [prefixes[0]] * len(rows), rows)
    return len(scores.log_probabilities)


def run_peer(whisper: Whisper, clips: Sequence[Tensor], samples: int, tokens: int) -> int:
    """The same by `generate`, clip by clip."""
    network, count = whisper.network, 0
    extractor = WhisperFeatureExtractor(feature_size=network.config.num_mel_bins)
    prefix = torch.tensor([whisper.tokens.prefix("en")] * samples, device=network.device)
    for clip in clips:
        features = extractor(clip.numpy(), sampling_rate=SAMPLE_RATE_HZ, return_tensors="pt").input_features
        features = features.to(network.device)
        written = network.generate(
            features, do_sample=True, temperature=1.0, top_k=0, num_return_sequences=samples, max_new_tokens=tokens,
            language="en", task="transcribe",
        )  # fmt: skip
        starts = bool((written[:, : prefix.shape[1]] == prefix).all())
        ids = written if starts else torch.cat([prefix, written], dim=1)
        states = network.model.encoder(features).last_hidden_state.repeat(samples, 1, 1)
        logits = network(encoder_outputs=(states,), decoder_input_ids=ids[:, :-1]).logits.float()
        scores = logits.log_softmax(dim=-1).gather(2, ids[:, 1:, None])
        count += scores[:, prefix.shape[1] - 1 :].numel()
    return count


if __name__ == "__main__":
    main()
