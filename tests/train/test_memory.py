"""The memory plan: counts by hand, what fits, what is advised; and, slowly, beside what a process really takes."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from whispers import copy_of, make_batch

from attune.audio.context import AudioContext, PackedContext
from attune.data.module import SpeechDataModule
from attune.model.finetune.adapter import Adapter
from attune.model.finetune.full import Full
from attune.model.finetune.layers import Layers
from attune.model.finetune.lora import Lora
from attune.model.whisper import Whisper
from attune.train.memory import GAPS, LIBRARIES, Job, Load, measure_loads
from attune.train.objective.cross_entropy import CrossEntropy
from attune.train.recovery import is_out_of_memory
from attune.train.room import advise, costliest, find_available, find_largest, find_resident

LOAD = Load(windows=8, positions=200, tokens=20, supervised=120)


def make_job(whisper: Whisper, finetune: Full | Layers | Lora, **changed: int | bool) -> Job:
    changed_whisper = copy_of(whisper)
    finetune.apply(changed_whisper.network)
    return Job(changed_whisper.network, LOAD, scored_positions=0, **changed)  # type: ignore[arg-type]


def test_weights_gradients_and_moments_by_hand(nano_like: Whisper) -> None:
    network = nano_like.network
    total = sum(each.numel() for each in network.parameters())
    learning = total - 1500 * 32  # the encoder's positions are fixed
    need = make_job(nano_like, Full(), accumulates=True).need()
    assert need.parameters == 4 * total
    assert need.gradients == 4 * learning and need.optimiser == 8 * learning
    decoder = sum(each.numel() for each in network.model.decoder.parameters())
    assert make_job(nano_like, Layers(["model.decoder.*"]), accumulates=True).need().gradients == 4 * decoder


def test_shares_of_two_devices_by_hand(nano_like: Whisper) -> None:
    """Half of all that stays; of the weights what is gathered beside it: all but the two other blocks of four."""
    network = nano_like.network
    total = sum(each.numel() for each in network.parameters())
    learning = total - 1500 * 32
    encoder, decoder = (
        sum(each.numel() for each in part.layers[0].parameters())
        for part in (network.model.encoder, network.model.decoder)
    )
    need = make_job(nano_like, Full(), accumulates=True, shards=2).need()
    assert need.parameters == 4 * (total // 2 + total - 2 * encoder - 2 * decoder + 2 * decoder)
    assert need.gradients == 4 * learning // 2 and need.optimiser == 8 * learning // 2
    scoring = replace(make_job(nano_like, Full(), shards=2), load=Load(1, 1, 1, 1), scored_positions=12_000)
    alone = replace(scoring, shards=1)
    assert scoring.need().activations - alone.need().activations == 4 * 2 * encoder  # what was not gathered before


def test_activations_of_full_fine_tuning_by_hand(nano_like: Whisper) -> None:
    """In fp32: 17 numbers a position, width and encoder block, 22 a token and decoder block; 5, 1, 1 of the encoder's
    front, last norm and states; 2 a decoder block for keys and values; 2 of the decoder's last norm and what it gives;
    and two frames of 80 mels a position."""
    need = make_job(nano_like, Full()).need()
    positions, rows, width, vocabulary = 8 * 200, 8 * 20, 32, nano_like.network.config.vocab_size
    decoder_block = 17 + 1 + 1 + 2 + 1  # cross-attention: its norm's input and output, query and output, its copy
    expected = positions * (2 * 17 + 5 + 1 + 1 + 2 * 2) + rows * (2 * decoder_block + 2)
    assert need.activations == 4 * (width * expected + 2 * 80 * positions)
    assert need.logits == 3 * 4 * 120 * vocabulary


@pytest.mark.parametrize("half", [False, True])
def test_what_autograd_keeps_is_what_is_counted(half: bool, nano_like: Whisper) -> None:
    """Every tensor that is saved for a backward pass, each memory counted once; the loss's own are the logits'."""
    types = ((Full(), 0.1), (Layers(["model.decoder.*"]), 0.2), (Lora(rank=2), 0.15), (Adapter(bottleneck=8), 0.2))
    for finetune, within in types:
        whisper = copy_of(nano_like).train()
        finetune.apply(whisper.network)
        batch = make_batch(whisper.tokens, 400)
        weights = {each.untyped_storage().data_ptr() for each in whisper.network.parameters()}
        kept: dict[int, int] = {}

        def keep(tensor: torch.Tensor, kept=kept, weights=weights) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights and tensor.is_floating_point():
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
        with hooks, torch.autocast("cpu", torch.bfloat16, enabled=half, cache_enabled=False):
            terms = CrossEntropy().loss(whisper, batch)
        load = Load(len(batch), 400, batch.labels.shape[1], batch.supervised)
        need = Job(whisper.network, load, half=half, scored_positions=0).need()
        assert sum(kept.values()) == pytest.approx(need.activations + need.logits / 3, rel=within), type(finetune)
        assert terms.tokens == load.supervised


@pytest.mark.parametrize("half", [False, True])
def test_less_is_needed_for_less(half: bool, nano_like: Whisper) -> None:
    full = make_job(nano_like, Full(), half=half)
    decoder = make_job(nano_like, Layers(["model.decoder.*"]), half=half)
    cached, lora = replace(decoder, cached=True), make_job(nano_like, Lora(rank=2), half=half)
    assert cached.need().total <= decoder.need().total < full.need().total
    assert lora.need().optimiser < decoder.need().optimiser < full.need().optimiser
    larger = replace(full, load=LOAD.fill(600))
    assert larger.load.windows == 150 and larger.need().activations > 15 * full.need().activations
    assert full.need().total < replace(full, accumulates=True).need().total


def test_half_precision_keeps_less_of_long_windows(nano_like: Whisper) -> None:
    fp32, half = (make_job(nano_like, Full(), half=half).need().activations for half in (False, True))
    assert 0.5 * fp32 < half < fp32


def test_the_largest_batch_fits_and_the_next_does_not(nano_like: Whisper) -> None:
    job = make_job(nano_like, Full())
    available = 200e6
    largest = find_largest(job, available)
    assert largest is not None
    assert replace(job, load=LOAD.fill(largest)).need().total <= available
    assert replace(job, load=LOAD.fill(2 * largest)).need().total > available
    assert find_largest(job, 1e3) is None


def test_advice_is_the_least_change(nano_like: Whisper) -> None:
    full, lora = make_job(nano_like, Full()), make_job(nano_like, Lora(rank=2))
    assert advise(full, [], 1e12, 120.0, 1) == "fits, up to data.batch_window_s=1920"
    largest = find_largest(full, 20e6)
    assert largest is not None and largest < 120
    words = advise(full, [("finetune=lora", lora)], 20e6, 120.0, 2)
    assert words == f"data.batch_window_s={largest} trainer.accumulate_grad_batches={-(-240 // largest)}"
    heavy = replace(full, beside=10**12)
    assert advise(heavy, [("finetune=lora", lora)], 1e12, 120.0, 1).startswith("finetune=lora fits")
    assert advise(heavy, [], 1e9, 120.0, 1) == "does not fit: take a smaller model"


@pytest.mark.parametrize("context", [AudioContext(), PackedContext(same_speaker=False)])
def test_loads_are_those_of_the_corpus(
    context: AudioContext, make_data: Callable[..., SpeechDataModule], nano_like: Whisper
) -> None:
    data = make_data(nano_like.tokens, context, batch_window_s=60.0, workers=0)
    loads = measure_loads(data)
    assert len(loads) == 64
    for load, batch in zip(loads, data.train_dataloader(), strict=False):
        assert (load.windows, load.positions) == (len(batch), batch.waveform.shape[1] // 320)
        slack = 8 * batch.utterances if batch.packed else 0  # packed ones share a prefix
        assert batch.labels.shape[1] <= load.tokens <= batch.labels.shape[1] + slack
        assert batch.supervised <= load.supervised <= batch.supervised + slack
    job = costliest(make_job(nano_like, Full()), loads)
    assert job.need().total == max(replace(job, load=load).need().total for load in loads)


def test_packed_windows_are_foreseen_grown(make_data: Callable[..., SpeechDataModule], nano_like: Whisper) -> None:
    """A trainer may know the data already, and in its first steps the windows would be short."""
    data = make_data(nano_like.tokens, PackedContext(same_speaker=False), batch_window_s=60.0, workers=0)
    loads = measure_loads(data)
    data.trainer = SimpleNamespace(max_steps=1000, accumulate_grad_batches=1)  # type: ignore[assignment]
    assert next(iter(data.training_batches()))[0].positions < max(load.positions for load in loads)
    assert measure_loads(data) == loads


def test_the_machine_is_asked() -> None:
    assert 10**7 < find_resident() < find_available(torch.device("cpu"))
    assert not is_out_of_memory(RuntimeError("something else"))


MEASURED = """
import json, resource, sys, time
sys.path.insert(0, "tests")
import torch
from attune.model.finetune.full import Full
from attune.model.finetune.gradual import Gradual
from attune.model.finetune.layers import Layers
from attune.model.finetune.lora import Lora
from attune.model.finetune.top import Top
from attune.model.scratch import Scratch, make_tokens, make_whisper
from attune.train.allocator import return_freed_memory
from attune.train.memory import Job, Load
from attune.train.objective.cross_entropy import CrossEntropy
from attune.train.room import find_resident
from whispers import TEXTS, make_batch
kind, width, layers = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(1)
return_freed_memory()  # as the trainer does
tokens = make_tokens(50)
whisper = make_whisper(tokens, Scratch(width=width, layers=layers, heads=width // 32)).train()
types = {"full": Full(), "decoder": Layers(["model.decoder.*"]), "lora": Lora(), "top": Top()}
types["bias"] = Layers(["*.bias"])
types[kind].apply(whisper.network)
batch = make_batch(tokens, 1500, TEXTS * 3, [9.0] * 9)
small = make_batch(tokens, 150, TEXTS[:1], [1.0])
optimizer = torch.optim.AdamW([each for each in whisper.parameters() if each.requires_grad], lr=1e-5, fused=True)
held = sum(each.nbytes for each in whisper.network.parameters())
CrossEntropy().loss(whisper, small).total.backward()
optimizer.zero_grad()
process = find_resident() - held
load = Load(len(batch), 1500, batch.labels.shape[1], batch.supervised)
need = Job(whisper.network, load, process=process, scored_positions=0).need()
for _ in range(2):
    optimizer.zero_grad()
    CrossEntropy().loss(whisper, batch).total.backward()
    optimizer.step()
print(json.dumps([need.total, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, process]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("size", [(192, 4), (384, 4), (512, 6)], ids=str)
@pytest.mark.parametrize("kind", ["full", "decoder", "lora", "top", "bias"])
def test_the_plan_is_near_what_a_process_takes(kind: str, size: tuple[int, int]) -> None:
    """Resident memory at its peak, of five types and three sizes, each in a process of its own."""
    words = [sys.executable, "-c", MEASURED, kind, *map(str, size)]
    output = subprocess.run(words, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True).stdout
    planned, measured, process = json.loads(output.splitlines()[-1])
    assert planned == pytest.approx(measured, rel=0.15), f"process {process / 1e9:.2f} GB"


def test_a_cpu_process_takes_more_than_is_counted(nano_like: Whisper) -> None:
    """What was measured beside it, and nothing of it on a GPU, whose job names no process."""
    on_gpu, on_cpu = (make_job(nano_like, Full(), process=process).need() for process in (0, 10**9))
    assert on_gpu.process == 0
    assert on_cpu.process == 10**9 + LIBRARIES + round(GAPS * on_cpu.activations)
    assert on_cpu.activations == on_gpu.activations
