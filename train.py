"""Fine-tune a Whisper and say what it bought: `python train.py`, one word changed per experiment.

python train.py
python train.py finetune=lora
python train.py data=manifest data.train=train.jsonl data.validation=dev.jsonl data.test=test.jsonl
"""

import gc
import time
from functools import partial

import attune  # noqa: F401  # ahead of whatever imports torch, which asks once how to take memory

LAUNCHED_AT = time.time()  # before the slow imports: run.json tells how long the first step took from here
gc.disable()  # imports make a million objects and no garbage, and looking for it takes a sixth of their time

import hydra  # noqa: E402
import lightning as L  # noqa: E402
from omegaconf import DictConfig  # noqa: E402

from attune.audio.context import FullContext  # noqa: E402
from attune.data.module import SpeechDataModule  # noqa: E402
from attune.model.finetune.base import apply_finetuning, change_tokens, merge_additions  # noqa: E402
from attune.model.finetune.ctc import find_writer  # noqa: E402
from attune.model.finetune.new_tokens import give_terms  # noqa: E402
from attune.model.save import save_whisper  # noqa: E402
from attune.model.scratch import obtain_tokens, obtain_whisper  # noqa: E402
from attune.model.skeleton import apply_to_skeleton, make_skeleton  # noqa: E402
from attune.report.audit_page import leave_audit  # noqa: E402
from attune.report.augmentations import draw_augmentation  # noqa: E402
from attune.report.finish import (  # noqa: E402
    describe_run,
    describe_test_set,
    finish_report,
    keep_record,
    print_result,
    start_record,
)
from attune.text.tokens import Tokens  # noqa: E402
from attune.train.aid import check_languages, check_vocabulary  # noqa: E402
from attune.train.augmentation import Augmentation  # noqa: E402
from attune.train.callbacks.checkpoints import Checkpoints, find_monitored  # noqa: E402
from attune.train.callbacks.encoder_cache import check_cache  # noqa: E402
from attune.train.callbacks.interruption import Interruption  # noqa: E402
from attune.train.callbacks.late_rejections import LateRejections  # noqa: E402
from attune.train.callbacks.progress import ProgressLine  # noqa: E402
from attune.train.callbacks.streamed_rejections import StreamedRejections  # noqa: E402
from attune.train.callbacks.throughput import Throughput  # noqa: E402
from attune.train.interpolation import check_weapons, check_writer, make_interpolation  # noqa: E402
from attune.train.loggers import close_wandb, make_loggers  # noqa: E402
from attune.train.objective.penalty import anchor  # noqa: E402
from attune.train.objective.preparation import check_objective, prepare_objective  # noqa: E402
from attune.train.ranks import Ranks  # noqa: E402
from attune.train.scoring import check_examples, score, score_other  # noqa: E402
from attune.train.sharding import check_sharding, choose_module  # noqa: E402
from attune.train.tuning import make_aid  # noqa: E402
from attune.use.config import Run, build, build_corpus, find_processes, open_run, plain  # noqa: E402
from attune.use.faults import speak_plainly  # noqa: E402
from attune.use.plan import foresee  # noqa: E402
from attune.use.screen import make_console, settle_screen  # noqa: E402
from attune.use.sweep import carry_out  # noqa: E402

gc.freeze()
gc.enable()


@hydra.main(version_base="1.3", config_path="configs", config_name="train")
def main(config: DictConfig) -> float | None:
    return carry_out(train, config)


def train(config: DictConfig) -> None:
    settle_screen()
    ranks = Ranks(**find_processes(config))
    run = ranks.share(partial(open_run, config))
    config, console = run.config, make_console(quiet=not ranks.first)
    L.seed_everything(config.seed, workers=True, verbose=False)

    # What is held against forgetting; it may need further splits of the corpus.
    objective, penalty = build(config.objective), build(config.penalty)
    make_checkpoints = partial(Checkpoints, keep=config.keep, ema=config.ema, monitored=find_monitored(objective))
    make_checkpoints(run.folder)  # what it refuses is said now; the folder may get a number behind its name yet
    path = make_interpolation(config.interpolate, config.retention_limit)

    # The data first: whatever is wrong with it is said before a weight is loaded.
    size = build(config.model.scratch)
    finetune, augmentation, cache = build(config.finetune), build(config.augment, seed=config.seed), build(config.cache)
    check_sharding(config.trainer.strategy, finetune, objective, penalty=penalty, ema=config.ema, cache=cache)
    with ranks.in_turn():  # the first process of a machine fetches and renders, the others find it in the cache
        own = tokens = obtain_tokens(config.model.name_or_path, size)
        data = make_data(
            config, tokens, [split for weapon in (penalty, path) if weapon for split in weapon.needs], ranks
        )
        give_terms(finetune, data.vocabulary.terms if data.vocabulary else [])
        data.tokens = tokens = change_tokens(finetune, tokens, data.transcripts)
    data.prepare(ranks.share)
    check_weapons(penalty, path, finetune, data, is_scratch=size is not None)
    check_languages(finetune, data)
    check_objective(objective, data, interpolates=path is not None, is_cached=cache is not None)
    if cache:
        skeleton = make_skeleton(config.model.name_or_path, own, size)
        apply_to_skeleton(finetune, skeleton)
        check_cache(cache, skeleton, data, penalty)

    load_untouched = partial(obtain_whisper, config.model.name_or_path, own, size)
    with ranks.in_turn():
        whisper = load_untouched()
    wrote = find_writer(whisper.network) is not None
    parameters = apply_finetuning(finetune, whisper.network)
    is_rewritten = wrote != (find_writer(whisper.network) is not None)
    check_writer(path, is_rewritten)
    check_examples(data, whisper.network)
    whisper.tokens = tokens
    bias = check_vocabulary(data, whisper, interpolates=path is not None)
    trains = bool(finetune.rate_factor)
    parameters = prepare_objective(objective, whisper, parameters, config.seed, bool(augmentation), trains)
    anchor(penalty, whisper, load_untouched)
    steps, rates = config.trainer.max_steps, plain(config.optimizer)
    beside = {"penalty": penalty, "augmentation": augmentation}
    module = choose_module(config.trainer.strategy)(whisper, finetune, objective, steps=steps, **beside, **rates)

    run = ranks.share(partial(start, run, data, augmentation))
    checkpoints = make_checkpoints(run.folder)
    record = start_record(plain(config), parameters, data, objective)
    describe_run(console, record, data, run.folder, module.rate_text)
    loggers = make_loggers(run.folder, config.name, plain(config), **plain(config.logger)) if ranks.first else []
    speed = Throughput(run.opened_at or LAUNCHED_AT)
    interruption = Interruption(run.folder, checkpoints.last)
    watchers = [speed, ProgressLine(console), LateRejections(run.folder, data), StreamedRejections(run.folder)]
    callbacks = [*watchers, *checkpoints.callbacks, interruption, *([cache] if cache else [])]
    added = {"folder": str(run.folder), "loggers": loggers, "callbacks": callbacks, "monitored": checkpoints.monitored}
    trainer = build(config.trainer, **added, devices=ranks.devices, num_nodes=ranks.nodes)
    if trains and ranks.first:
        record.memory = foresee(console, module, data, trainer, config)

    with interruption, keep_record(record, run.folder):
        # New tokens and another writer write otherwise before they have learnt: then the model is loaded once more.
        is_changed = tokens is not own or is_rewritten
        untouched = score_other(trainer, module, load_untouched() if is_changed else whisper, data, data.panels)
        describe_test_set(console, untouched.predictions["test"])
        if trains:
            resume_from = ranks.share(checkpoints.find_last) if run.resumed else None
            trainer.fit(module, datamodule=data, ckpt_path=resume_from, weights_only=True)
        checkpoints.load_kept(module)
        aid, record.vocabulary = make_aid(trainer, module, data, bias)
        is_same = not (trains or aid or data.examples or path)  # `attune evaluate`: scored once is enough
        if path:
            tuned, record.interpolation = path.run(trainer, module, data, load_untouched().network, untouched)
        elif is_same:
            tuned = untouched
        else:
            tuned = score(trainer, module, data, data.panels, in_context=True, aid=aid)

        # Other programs pad to 30 s, so both models are judged there too: the untouched one is loaded once more for it.
        if data.context.name != "full":
            tuned.add(score(trainer, module, data, ["test"], FullContext(), in_context=True, aid=aid))
            if not is_same:
                untouched.add(score_other(trainer, module, load_untouched(), data, ["test"], FullContext()))

        if not path:  # which had to merge first
            merge_additions(finetune, whisper.network)
        record.train = speed.summary(trainer.global_step, module)
        if not ranks.first:
            ranks.part()
            return
        save_whisper(whisper, run.folder / "model")
        shown = finish_report(run.folder, record, untouched, tuned, data)
    print_result(console, record, run.folder)
    close_wandb(loggers, {"baseline": record.baseline, "result": record.result, "train": record.train}, shown)
    ranks.part()


def make_data(config: DictConfig, tokens: Tokens, extras: list[str], ranks: Ranks) -> SpeechDataModule:
    """What the config says of the data, for this process of the run."""
    return SpeechDataModule(
        build_corpus(config.data),
        tokens,
        build(config.context),
        batch_window_s=config.data.batch_window_s,
        evaluation_batch_window_s=config.data.evaluation_batch_window_s,
        max_rejected=config.data.max_rejected,
        workers=config.data.workers,
        seed=config.seed,
        shots=config.data.shots,
        shots_per=config.data.shots_per,
        in_context=config.data.in_context,
        in_context_per=config.data.in_context_per,
        replay=config.data.replay,
        extras=extras,
        vocabulary=build(config.vocabulary, seed=config.seed),
        audit=plain(config.data).get("audit"),  # a run from before it was there may be resumed
        allow_leakage=config.data.allow_leakage,
        rank=ranks.rank,
        ranks=ranks.world,
        listen_up_to=None if config.cache else config.data.get("listen_up_to"),  # a cache hears all anyway
    )


def start(run: Run, data: SpeechDataModule, augmentation: Augmentation) -> Run:
    """Make the run folder, and leave in it what is known of the data before anything is trained."""
    run = run.start()
    leave_audit(run.folder, data.audit, run.config.name)
    data.tokens.tokenizer.save_pretrained(run.folder / "model")  # for `attune export` of a run that stops early
    draw_augmentation(run.folder, augmentation, data)
    return run


if __name__ == "__main__":
    speak_plainly(main)
