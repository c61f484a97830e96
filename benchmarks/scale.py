"""The table of docs/scale.md: what a pass over a corpus costs, by the memory plan and the count of FLOPs.

python benchmarks/scale.py            # no weights are loaded, nothing is trained
python benchmarks/scale.py --mfu 0.4  # another share of the device's arithmetic
"""

import argparse
from dataclasses import replace

import torch
from transformers import WhisperConfig, WhisperForConditionalGeneration

from attune.model.finetune.full import Full
from attune.model.finetune.lora import Lora
from attune.model.flops import count_forward, count_training, learning_shares
from attune.train.callbacks.throughput import GPU_PEAKS
from attune.train.memory import Job, Load

MODELS = {  # width, blocks of the encoder and of the decoder, heads, mels, vocabulary
    "small": (768, 12, 12, 12, 80, 51_865),
    "medium": (1024, 24, 24, 16, 80, 51_865),
    "large_v3_turbo": (1280, 32, 4, 20, 128, 51_866),
    "large_v3": (1280, 32, 32, 20, 128, 51_866),
}
SPOKEN_S, WINDOWS, POSITIONS, TOKENS, TAUGHT = 8.0, 13, 450, 40, 30  # data.batch_window_s=120, of utterances of 8 s


def make_network(name: str) -> WhisperForConditionalGeneration:
    """A Whisper of that size, without weights."""
    width, encoder, decoder, heads, mels, vocabulary = MODELS[name]
    config = WhisperConfig(
        d_model=width, encoder_layers=encoder, decoder_layers=decoder, encoder_attention_heads=heads,
        decoder_attention_heads=heads, encoder_ffn_dim=4 * width, decoder_ffn_dim=4 * width, num_mel_bins=mels,
        vocab_size=vocabulary,
    )  # fmt: skip
    with torch.device("meta"):
        return WhisperForConditionalGeneration(config)


def measure(name: str, finetune: Full | Lora, peak: float) -> tuple[float, float, float, float, float]:
    """GB on one GPU with ddp, GB on each of 8 with fsdp, GB of gradients; PFLOP an hour of speech, GPU hours for 1,000
    of them."""
    network = make_network(name)
    finetune.apply(network)
    load = Load(WINDOWS, POSITIONS, TOKENS, WINDOWS * TAUGHT)
    job = Job(network, load, half=True, accumulates=True)
    memory = [replace(job, shards=shards).need().total / 1e9 for shards in (1, 8)]
    gradients = 4 * sum(each.numel() for each in network.parameters() if each.requires_grad) / 1e9
    forward = count_forward(network.config, WINDOWS, POSITIONS, TOKENS, WINDOWS * TAUGHT)
    hour = count_training(forward, learning_shares(network)) * 3600 / (WINDOWS * SPOKEN_S)
    return memory[0], memory[1], gradients, hour / 1e15, 1000 * hour / peak / 3600


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gpu", default="H100", choices=GPU_PEAKS)
    parser.add_argument("--mfu", type=float, default=0.3, help="share of the GPU's bfloat16 arithmetic (default 0.3)")
    arguments = parser.parse_args()
    peak = GPU_PEAKS[arguments.gpu] * arguments.mfu
    for name in MODELS:
        for finetune in (Full(), Lora()):
            alone, shared, gradients, work, hours = measure(name, finetune, peak)
            print(
                f"| {name} | {type(finetune).__name__.lower()} | {alone:.0f} | {shared:.0f} | {gradients:.2f} | "
                f"{work:.2f} | {hours:.1f} |"
            )


if __name__ == "__main__":
    main()
