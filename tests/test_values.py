"""Values that a run cannot take: said in one message with their key, and not by a traceback, or by nobody."""

from pathlib import Path

import pytest
from hydra.core.hydra_config import HydraConfig
from test_train import make_config

from attune.errors import InputError
from attune.train.interpolation import make_interpolation
from attune.train.schedule import check_optimizer
from attune.use.config import build, open_run, plain
from attune.use.numbers import check_numbers, check_seed

CONFIGS = Path(__file__).parents[1] / "configs"
COUNTS = r"accepted are whole numbers"


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (["finetune=lora", "finetune.rank=1.5"], "rank"),
        (["finetune=adalora", "finetune.target_rank=1.5"], "target_rank"),
        (["finetune=adalora", "finetune.every=1.5"], "every"),
        (["finetune=added_layers", "finetune.encoder=1.5"], "encoder"),
        (["finetune=top", "finetune.decoder=0.5"], "decoder"),
        (["finetune=adapter", "finetune.bottleneck=8.5"], "bottleneck"),
        (["finetune=prompt", "finetune.states=2.5"], "states"),
        (["finetune=new_head", "finetune.merges=2.5"], "merges"),
        (["finetune=new_tokens", "finetune.count=true"], "count"),
        (["finetune=gradual", "finetune.stages=2.5"], "stages"),
        (["finetune=gradual", "finetune.blocks=2.5"], "blocks"),
    ],
)
def test_a_type_counts_in_whole_numbers(words: list[str], key: str) -> None:
    with pytest.raises(InputError, match=rf"finetune.{key}=.*: {COUNTS}"):
        build(make_config(*words).finetune)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("samples=2.5", rf"objective.samples=2.5: {COUNTS}"),
        ("refresh_every=1.5", rf"objective.refresh_every=1.5: {COUNTS}"),
    ],
)
def test_so_does_an_objective(word: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build(make_config("objective=grpo", f"objective.{word}").objective)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("accumulate_grad_batches=1.5", rf"trainer.accumulate_grad_batches=1.5: {COUNTS}"),
        ("patience=0", r"trainer.patience=0: .* 1 and more"),
        ("max_steps=0", r"trainer.max_steps=0: .* 1 and more"),
        ("gradient_clip_val=-1", r"trainer.gradient_clip_val=-1 would turn the gradient round"),
    ],
)
def test_a_trainer_goes_down_and_takes_steps(word: str, message: str, tmp_path: Path) -> None:
    """Clipped to a norm of -1 every step went uphill; a patience of 0 was over before the first one."""
    trainer = make_config(f"trainer.{word}", "trainer.accelerator=cpu").trainer
    with pytest.raises(InputError, match=message):
        build(trainer, callbacks=[], loggers=[], folder=str(tmp_path))


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("spec_augment.time_masks=-1", r"augment.spec_augment.time_masks=-1: .* 0 and more"),
        ("spec_augment.mel_channels=1.5", r"augment.spec_augment.mel_channels=1.5"),
        ("spec_augment.time_share=2", r"augment.spec_augment.time_share=2 is no share"),
        ("noise.low_db=30", r"augment.noise: low_db=30 and high_db=20 are no range"),
        ("gain.high_db=-20", r"augment.gain: low_db=-12 and high_db=-20"),
        ("room.far_db=10", r"augment.room: far_db=10 and near_db=9"),
    ],
)
def test_an_augmentation_has_ranges(word: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build(make_config("augment=standard", f"augment.{word}").augment)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("warmup_share=2", r"optimizer.warmup_share=2: accepted is a share in \[0, 1\]"),
        ("final_share=-1", r"optimizer.final_share=-1: "),
        ("weight_decay=-1", r"optimizer.weight_decay=-1 would make weights grow"),
    ],
)
def test_an_optimiser_has_shares(word: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_optimizer(**plain(make_config(f"optimizer.{word}").optimizer))


@pytest.mark.parametrize("seed", ["-1", "5000000000", "1.5", "null", "true"])
def test_a_seed_is_one_for_every_generator(seed: str) -> None:
    with pytest.raises(InputError, match=rf"seed={seed.replace('null', 'None').title()}: .* from 0 to 4294967295"):
        check_seed(make_config(f"seed={seed}").seed)
    check_seed(make_config("seed=7").seed)


@pytest.mark.parametrize("limit", ["null", "-0.1", "much"])
def test_a_limit_of_forgetting_is_a_fraction(limit: str) -> None:
    """It was first looked at when the trained model had been scored."""
    config = make_config("interpolate=[.5]", f"retention_limit={limit}", "name=test")
    with pytest.raises(InputError, match=r"retention_limit=.* must be a fraction"):
        make_interpolation(plain(config)["interpolate"], config.retention_limit)


@pytest.mark.parametrize("more", [["trainer.max_steps=6", "seed=3", "finetune=lora"], ["+x=1"]])
def test_a_run_that_goes_on_reads_no_other_words(
    more: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They were dropped without a word."""
    (tmp_path / "config.yaml").write_text("{model: {}, data: {}, finetune: {}}")
    resume = f"resume={tmp_path}"
    monkeypatch.setattr(HydraConfig.instance(), "cfg", make_config(*more, resume))
    with pytest.raises(InputError, match=rf"got {more[0].replace('+', '.')}.*begin a new run: model.name_or_path="):
        open_run(make_config(*more, resume))
    config = make_config(resume, "hydra.job.name=again")
    monkeypatch.setattr(HydraConfig.instance(), "cfg", config)
    assert open_run(config).resumed


@pytest.mark.parametrize("option", sorted(path.stem for path in (CONFIGS / "trainer").glob("*.yaml")))
def test_numbers_of_every_trainer_are_taken(option: str) -> None:
    """trainer=ddp and fsdp leave devices and nodes to whoever launches: `auto` is no number, and no fault."""
    check_numbers(plain(make_config(f"trainer={option}").trainer), "trainer")
