"""A skeleton has the shapes, and what learns in it, of the model that would be loaded; the type stays untouched."""

from pathlib import Path

import pytest
import torch
from whispers import TRANSCRIPTS, copy_of

from attune.model.finetune.adalora import Adalora
from attune.model.finetune.adapter import Adapter
from attune.model.finetune.added_layers import AddedLayers
from attune.model.finetune.base import FineTuning, apply_finetuning, change_tokens
from attune.model.finetune.ctc import Ctc
from attune.model.finetune.full import Full
from attune.model.finetune.gradual import Gradual
from attune.model.finetune.ia3 import Ia3
from attune.model.finetune.layers import Layers
from attune.model.finetune.lora import Lora
from attune.model.finetune.new_head import NewHead
from attune.model.finetune.new_tokens import NewTokens
from attune.model.finetune.prompt import Prompt
from attune.model.finetune.top import Top
from attune.model.reward_head import add_reward_head
from attune.model.save import save_whisper
from attune.model.scratch import Scratch, make_whisper
from attune.model.skeleton import apply_to_skeleton, make_skeleton
from attune.model.whisper import Whisper

TYPES = [
    Full(), Layers(["model.decoder.*"]), Top(), Gradual(stages=2), Lora(rank=4), Lora(rank=4, dora=True), Adalora(),
    Ia3(), Adapter(8), AddedLayers(), NewTokens(count=5), Prompt(4, states=2), NewHead(merges=9), Ctc(),
]  # fmt: skip


@pytest.mark.parametrize("finetune", TYPES, ids=lambda each: type(each).__name__)
def test_a_skeleton_learns_what_the_model_will(finetune: FineTuning, nano_like: Whisper, nano_folder: Path) -> None:
    change_tokens(finetune, nano_like.tokens, TRANSCRIPTS)
    skeleton, real = make_skeleton(str(nano_folder), nano_like.tokens, None), copy_of(nano_like)
    counts = apply_to_skeleton(finetune, skeleton)
    assert counts == apply_finetuning(finetune, real.network)
    shapes = [
        {name: (tuple(each.shape), each.requires_grad) for name, each in network.named_parameters()}
        for network in (skeleton, real.network)
    ]
    assert shapes[0] == shapes[1]
    assert all(each.is_meta for each in skeleton.parameters())


@pytest.mark.parametrize("kind", ["adapter", "prompt", "ctc", "reward"])
def test_a_skeleton_has_what_lies_beside_the_model(kind: str, nano_like: Whisper, tmp_path: Path) -> None:
    """Else finetune.train=[*adapter*] matched nothing, ahead of a model in which it would have."""
    real = copy_of(nano_like)
    added = {"adapter": Adapter(8), "prompt": Prompt(states=2), "ctc": Ctc(train=[])}
    if kind in added:
        apply_finetuning(added[kind], real.network)
    else:
        add_reward_head(real.network)
    save_whisper(real, tmp_path)
    skeleton = make_skeleton(str(tmp_path), nano_like.tokens, None)
    shapes = [{name: each.shape for name, each in network.named_parameters()} for network in (skeleton, real.network)]
    assert shapes[0] == shapes[1]
    assert all(each.is_meta for each in skeleton.parameters())
    learns = Layers([{"adapter": "*decoder*adapter*", "ctc": "ctc_head.*"}.get(kind, f"*{kind}*")])
    assert apply_to_skeleton(learns, skeleton) == apply_finetuning(learns, real.network)


def test_a_model_from_nothing_has_one_too(nano_like: Whisper) -> None:
    size = Scratch(width=16, layers=1, heads=2)
    skeleton, real = make_skeleton(None, nano_like.tokens, size), make_whisper(nano_like.tokens, size)
    shapes = [{name: each.shape for name, each in network.named_parameters()} for network in (skeleton, real.network)]
    assert shapes[0] == shapes[1]
    assert skeleton.get_parameter("model.encoder.conv1.weight").device == torch.device("meta")
