"""How much memory a run will take, and what to change for it to fit: `attune plan`, and a line before every run."""

import inspect
import math
from dataclasses import replace
from typing import Any

import lightning as L
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import nn

from attune.data.module import SpeechDataModule
from attune.model.finetune.base import change_tokens
from attune.model.finetune.layers import Layers
from attune.model.finetune.lora import Lora
from attune.model.finetune.new_tokens import give_terms
from attune.model.scratch import obtain_tokens
from attune.model.skeleton import apply_to_skeleton, make_skeleton
from attune.train.aid import check_languages
from attune.train.callbacks.encoder_cache import check_cache
from attune.train.memory import Job, measure_loads
from attune.train.module import WhisperModule
from attune.train.objective.preparation import check_objective
from attune.train.room import USABLE, advise, costliest, find_available, find_largest, find_process, find_resident
from attune.train.strategies import Sharded
from attune.train.trainer import choose_precision
from attune.use.config import build, build_corpus, plain

CARDS_GB = (8, 16, 24, 80)


def foresee(
    console: Console, module: WhisperModule, data: SpeechDataModule, trainer: L.Trainer, config: Any
) -> dict[str, float]:
    """Say before the first step what it will need, and what to change where that is more than there is.

    Args:
        config: the run's.

    Returns:
        the `memory` part of run.json, in 10^9 bytes.
    """
    device = trainer.strategy.root_device
    on_gpu, held = device.type == "cuda", count_bytes(module.whisper.network)
    beside = count_bytes(module) - held + (held if config.ema else 0)
    process = 0 if on_gpu else find_process(module)
    loads = measure_loads(data)
    job = Job(
        module.whisper.network,
        loads[0],
        half="16" in str(trainer.precision),
        # In DDP's buffers gradients lie from the first step on.
        accumulates=trainer.accumulate_grad_batches > 1 or trainer.world_size > 1,
        cached=config.cache is not None,
        scored_positions=data.evaluation_batch_positions,
        beside=beside,
        process=process,
        shards=trainer.world_size if isinstance(trainer.strategy, Sharded) else 1,
    )
    job = costliest(job, loads)
    parts, available = {name: value / 1e9 for name, value in vars(job.need()).items()}, find_available(device)
    total = job.need().total
    told = ", ".join(f"{name} {value:.2f}" for name, value in parts.items() if value >= 0.005)
    console.print(
        f"memory: {total / 1e9:.2f} GB foreseen of {available / 1e9:.1f} ({told})", highlight=False, markup=False
    )
    if total > available:
        words = advise(job, [], available, config.data.batch_window_s, trainer.accumulate_grad_batches)
        fear = f"It may not fit. {words}; or ask `attune plan`."
        console.print(fear, style="yellow", highlight=False, markup=False)  # lists of a config stand in brackets
    return {**parts, "total": total / 1e9, "available": available / 1e9}


def count_shards(trainer: Any) -> int:
    """Devices that share the weights: of trainer=fsdp those that it names; where it says auto, one is planned for."""
    named = [trainer.devices, trainer.num_nodes]
    return math.prod(each for each in named if isinstance(each, int)) if trainer.strategy == "fsdp" else 1


def count_bytes(module: nn.Module) -> int:
    """Of the parameters and buffers, as they are stored."""
    return sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))


def plan_run(console: Console, config: Any) -> None:
    """A run up to the point where weights would be loaded: its corpus, its type, its costliest batch, its memory.

    Raises:
        InputError: the run would be refused.
    """
    job, others = make_jobs(config)
    need = job.need()
    load = job.load
    console.print(
        f"{config.name}: {load.windows} windows of {load.positions / 50:g} s and {load.tokens} tokens in the costliest "
        f"batch, {'16-bit autocast' if job.half else 'fp32'}",
        highlight=False,
        markup=False,
    )
    table = Table("at the fullest moment", "GB", box=SIMPLE_HEAD)
    for name, value in (*vars(need).items(), ("all", need.total)):
        table.add_row(name, f"{value / 1e9:.2f}")
    console.print(table)
    table = Table("GPU", "largest data.batch_window_s", "what to say", box=SIMPLE_HEAD)
    for size_gb in CARDS_GB:
        available = USABLE * size_gb * 1e9
        on_card, elsewhere = replace(job, process=0), [(words, replace(each, process=0)) for words, each in others]
        largest = find_largest(on_card, available)
        parts = config.trainer.accumulate_grad_batches
        words = advise(on_card, elsewhere, available, config.data.batch_window_s, parts)
        table.add_row(f"{size_gb} GB", "none" if largest is None else str(largest), Text(words))
    console.print(table)


def make_jobs(config: Any) -> tuple[Job, list[tuple[str, Job]]]:
    """The run's job, and lighter ones with the words that make them, the least change first."""
    size = build(config.model.scratch)
    own = obtain_tokens(config.model.name_or_path, size)
    finetune, penalty, cache = build(config.finetune), build(config.penalty), build(config.cache)
    known = inspect.signature(SpeechDataModule).parameters
    settings = {key: value for key, value in plain(config.data).items() if key in known and key != "corpus"}
    extras = penalty.needs if penalty else ()
    corpus, context = build_corpus(config.data), build(config.context)
    vocabulary = build(config.vocabulary, seed=config.seed)
    data = SpeechDataModule(corpus, own, context, seed=config.seed, extras=extras, vocabulary=vocabulary, **settings)
    give_terms(finetune, vocabulary.terms if vocabulary else [])
    data.tokens = change_tokens(finetune, own, data.transcripts)
    data.prepare()
    network = make_skeleton(config.model.name_or_path, own, size)
    apply_to_skeleton(finetune, network)
    check_cache(cache, network, data, penalty)
    check_languages(finetune, data)
    check_objective(build(config.objective), data, interpolates=config.interpolate is not None)
    weights = count_bytes(network)
    beside = weights if config.ema else 0
    if penalty is not None:  # the untouched model, or what learns and its Fisher information at most
        learning = sum(each.nbytes for each in network.parameters() if each.requires_grad)
        beside += weights if penalty.compares_tokens else 2 * learning
    loads = measure_loads(data)
    job = Job(
        network,
        loads[0],
        half="16" in choose_precision(config.trainer.precision, config.trainer.accelerator),
        accumulates=config.trainer.accumulate_grad_batches > 1,
        cached=cache is not None,
        scored_positions=data.evaluation_batch_positions,
        beside=beside,
        process=find_resident(),
        shards=count_shards(config.trainer),
    )
    job = costliest(job, loads)
    others: list[tuple[str, Job]] = [] if job.half else [("trainer.precision=bf16-mixed", replace(job, half=True))]
    for words, lighter in (("finetune=lora", Lora()), ("finetune=decoder", Layers(["model.decoder.*"]))):
        skeleton = make_skeleton(config.model.name_or_path, own, size)
        apply_to_skeleton(lighter, skeleton)
        others.append((f"trainer.precision=bf16-mixed {words}", replace(job, network=skeleton, half=True, beside=0)))
    cached = replace(others[-1][1], cached=True)
    others.append(("trainer.precision=bf16-mixed finetune=decoder cache=encoder", cached))
    return job, others
