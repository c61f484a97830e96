"""The house's walls: a room imports only from rooms above it, a file only from files above it in its room."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "attune"
# In reading order. A new file is placed here, or the test fails.
HOUSE = """
errors
audio.waveform audio.tape audio.pauses audio.fingerprint audio.log_mel audio.context audio.phonemes audio.speech
audio.acoustics audio.recordings audio.augment audio.spec_augment
text.cells text.counted text.normalise text.sentences text.tokenizer text.tokens text.words
text.vocabulary text.finder text.trie
data.corpora.mapping data.corpora.schema data.corpora.places data.corpora.split_names data.corpora.tables
data.corpora.manifest data.corpora.pairs
data.corpora.division data.corpora.common_voice data.corpora.librispeech data.corpora.timed_text
data.corpora.folder data.corpora.hub data.corpora.mixture data.corpora.environments data.corpora.rendering
data.corpora.synthetic data.corpora.pretraining data.corpora.spoken_terms data.findings data.texts
data.leakage data.hearing data.listening data.audit data.pace data.late data.batch data.packing data.sampling
data.processes data.states data.subwords data.few_shot data.in_context data.vocabulary data.reading
data.utterances data.enduring data.streaming data.module
model.additions model.silence model.attention model.whisper model.scratch model.save
model.finetune.quantize model.finetune.base model.finetune.targets
model.finetune.none model.finetune.depth model.finetune.full model.finetune.layers model.finetune.lora
model.finetune.adalora model.finetune.ia3
model.finetune.vocabulary model.finetune.new_tokens model.finetune.prompt model.finetune.new_head
model.finetune.ctc model.finetune.top model.finetune.gradual model.finetune.adapter model.finetune.added_layers
model.skeleton model.flops model.align model.bias model.lean model.decode model.sample model.likelihood
model.reward_head model.tied
score.metrics score.statistics score.significance score.agreement score.terms score.panel
train.files train.energy train.allocator train.schedule
train.objective.cross_entropy train.objective.ctc train.objective.joint_ctc train.objective.penalty
train.objective.l2sp train.objective.ewc train.objective.distill
train.objective.preparation train.objective.reference train.objective.hypotheses train.objective.mwer
train.objective.rewards train.objective.grpo train.objective.dpo train.objective.reward_model train.augmentation
train.ranks train.strategies train.gradients train.recovery train.memory train.room train.module
train.sharding
train.callbacks.moving_average train.callbacks.random_state train.callbacks.checkpoints
train.callbacks.interruption train.callbacks.not_finite train.callbacks.progress train.callbacks.throughput
train.callbacks.encoder_cache train.callbacks.gaps train.callbacks.compiled train.callbacks.streamed_rejections
train.callbacks.late_rejections train.reach
train.loggers train.trainer train.aid train.scoring train.tuning train.interpolation
report.predictions report.record report.terms report.audit_page report.sentences
report.divergence report.errors report.figures report.learning_curves report.augmentations report.run_page
report.finish
report.compare report.differences report.runs report.tables report.ablation_figures report.trade_offs report.forest
report.ablation_page report.ablation
use.transcript use.words use.attempts use.segments use.listen use.stretches use.transcribe use.numbers use.config
use.faults use.audit use.plan use.screen use.sweep use.export use.formats.known use.formats.base use.formats.layout
use.formats.hf use.formats.ctranslate2 use.formats.ggml use.formats.onnx_loader use.formats.onnx
use.formats.parity use.formats.card use.formats.registry use.convert use.evaluate use.pairs use.journal
use.candidates use.preferences use.dpo_runs use.prefer use.prefer_server
use.commands.transcribe use.commands.evaluate use.commands.export use.commands.report use.commands.plan
use.commands.audit use.commands.pairs use.commands.prefer use.commands.sweep use.cli
""".split()  # noqa: SIM905  # a line a room reads better than a name a line
# faults: what Hydra complains of; sweep: Hydra alone knows when the last run of several has ended
KNOW_HYDRA = {"use.config", "use.faults", "use.cli", "use.sweep"}


def find_modules() -> list[str]:
    paths = (path.relative_to(SOURCE).with_suffix("") for path in SOURCE.rglob("*.py") if path.name != "__init__.py")
    return sorted(".".join(path.parts) for path in paths)


def find_imports(module: str) -> set[str]:
    """Dotted names that a file imports, wherever in it the import stands."""
    tree = ast.parse(SOURCE.joinpath(*module.split(".")).with_suffix(".py").read_text())
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def test_every_file_has_its_place() -> None:
    assert find_modules() == sorted(HOUSE)


@pytest.mark.parametrize("module", HOUSE)
def test_imports_go_up(module: str) -> None:
    ours = {name.removeprefix("attune.") for name in find_imports(module)}
    above = set(HOUSE[: HOUSE.index(module)])
    assert ours & set(HOUSE) <= above


@pytest.mark.parametrize("module", sorted(set(HOUSE) - KNOW_HYDRA))
def test_hydra_stays_at_the_entrances(module: str) -> None:
    assert not {name.split(".")[0] for name in find_imports(module)} & {"hydra", "omegaconf"}


def test_rooms_stand_in_the_order_of_the_design() -> None:
    """And every import is spelt in full, so that the tests above see it."""
    rooms = list(dict.fromkeys(module.split(".")[0] for module in HOUSE))
    assert rooms == ["errors", "audio", "text", "data", "model", "score", "train", "report", "use"]
    for module in HOUSE:
        tree = ast.parse(SOURCE.joinpath(*module.split(".")).with_suffix(".py").read_text())
        assert not [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level], module
