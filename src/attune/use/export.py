"""A run's checkpoint -> a folder that plain transformers loads, checked by loading it.

A run leaves such a folder itself, RUN/model, of the weights that it ends with. This is for the others: the last weights
instead of the best, half the size, or those of a run that was interrupted. config.yaml says how the model was built;
the checkpoint holds all of its weights.
"""

import shutil
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import WhisperTokenizer

from attune.audio.waveform import SAMPLE_RATE_HZ
from attune.errors import InputError
from attune.model.additions import REWARD
from attune.model.finetune.base import ChangesTokens, FineTuning, apply_finetuning, merge_additions
from attune.model.finetune.ctc import find_writer
from attune.model.finetune.vocabulary import NewVocabulary
from attune.model.reward_head import add_reward_head
from attune.model.save import explain_additions, save_whisper
from attune.model.scratch import obtain_tokens, obtain_whisper
from attune.model.whisper import Whisper, load_tokens, load_whisper
from attune.text.tokens import Tokens
from attune.train.callbacks.checkpoints import average_checkpoints
from attune.use.config import build, read_config

DTYPES = {"float32": torch.float32, "float16": torch.float16}
# Largest difference of a logit, as a share of the largest logit: what rounding may do, and nothing else would keep to.
LIMITS = {"float32": 1e-4, "float16": 2e-2}
PROBE_S, PROBE_TOKENS = 3, 16


@dataclass(frozen=True)
class Exported:
    """What was written.

    Args:
        checkpoints: that the weights come from; of several, their mean.
        difference: largest of a logit before and after, as a share of the largest logit.
        left_out: parts that the checkpoint has and the folder has not, because no transcript depends on them.
        additions: what plain transformers cannot hold, in plain words; None if it holds it all.
    """

    checkpoints: list[Path]
    difference: float
    left_out: list[str]
    additions: str | None


def export(run: Path, out: Path, dtype: str = "float32", checkpoint: str = "best") -> Exported:
    """Build the run's model, load a checkpoint, merge what can be merged, save, load again and compare.

    Args:
        run: a folder that train.py wrote.
        out: is made; may exist if it is empty.
        dtype: of the weights on disk, float32 or float16.
        checkpoint: best (by validation WER; the mean of the best with keep=topK) or last.

    Raises:
        InputError: `run` is no run or has no such checkpoint, `out` is not empty, or other logits came out.
    """
    config = read_config(run)
    paths = find_checkpoints(run, checkpoint)
    check_empty(out)
    whisper, finetune = rebuild(run, config)
    load_weights(whisper, paths)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    trained = compute_probe(whisper, device)
    parts = _find_parts(whisper)
    merge_additions(finetune, whisper.network)
    save_whisper(whisper.cpu(), out, DTYPES[dtype])
    written = compute_probe(load_whisper(str(out), load_tokens(str(out))), device)
    difference = float((written - trained).abs().max() / trained.abs().max())
    if not difference <= LIMITS[dtype]:  # a NaN is no small difference either
        shutil.rmtree(out)
        raise InputError(
            f"{run}: the exported model's logits differ from the checkpoint's by {difference:.1e} of the largest, and "
            f"rounding to {dtype} explains no more than {LIMITS[dtype]:.0e}. Nothing was kept."
            + (" Try --dtype float32." if dtype == "float16" else " Please report this, with the run's config.yaml.")
        )
    return Exported(paths, difference, sorted(parts - _find_parts(whisper)), explain_additions(out))


def find_checkpoints(run: Path, checkpoint: str) -> list[Path]:
    """The files of `best` or `last`.

    Raises:
        InputError: there are none; the message lists those that there are.
    """
    folder = run / "checkpoints"
    found = [folder / f"{checkpoint}.ckpt"]
    if checkpoint == "best" and not found[0].is_file():
        found = sorted(folder.glob("top-*.ckpt"))
    if not found or not found[0].is_file():
        known = sorted(path.stem for path in folder.glob("*.ckpt"))
        hint = f"There is: {', '.join(known)}." if known else "The run was stopped before, or trained nothing."
        raise InputError(f"--checkpoint={checkpoint}: {folder} holds no such checkpoint. {hint}")
    return found


def check_empty(out: Path) -> None:
    """Raises InputError where writing to a folder would mix with, or replace, what is there."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file. Give a folder; it is made where it does not exist.")
    if out.is_dir() and any(out.iterdir()):
        raise InputError(f"{out} is not empty, and nothing is exported over what exists. Give a new folder.")


def rebuild(run: Path, config: Any) -> tuple[Whisper, FineTuning]:
    """The model as it was when the run began to train; its type."""
    size, finetune = build(config.model.scratch), build(config.finetune)
    tokens = restore_tokens(run, config, finetune)
    own = obtain_tokens(config.model.name_or_path, size)
    whisper = obtain_whisper(config.model.name_or_path, own, size)
    apply_finetuning(finetune, whisper.network)
    whisper.tokens = tokens
    return whisper, finetune


def restore_tokens(run: Path, config: Any, finetune: FineTuning) -> Tokens:
    """The model's own tokens or, where the type changed them, those of the run: told to the type, as in training.

    train.py leaves the tokenizer in RUN/model when the run begins. It says everything that the type needs: which rows
    are new. What they started from does not matter, because the checkpoint holds them; so the corpus, from which they
    may have been learnt, is not needed again.

    Raises:
        InputError: the type changed the tokens, and RUN/model holds no tokenizer.
    """
    own = obtain_tokens(config.model.name_or_path, build(config.model.scratch))
    if not isinstance(finetune, ChangesTokens):
        return own
    try:
        tokenizer = WhisperTokenizer.from_pretrained(run / "model")
    except (OSError, ValueError, TypeError, KeyError):
        raise InputError(f"{run / 'model'} holds no tokenizer, and the run's new tokens stand nowhere else.") from None
    tokens = Tokens(tokenizer, own.is_multilingual, own.max_tokens)
    finetune.change = NewVocabulary(own, tokens, defaultdict(lambda: [0]))  # type: ignore[attr-defined]
    return tokens


def load_weights(whisper: Whisper, paths: list[Path]) -> None:
    """Put a checkpoint's weights, or the mean of several, into a model.

    Raises:
        InputError: a file is damaged, or belongs to another model.
    """
    try:
        saved = average_checkpoints(paths)
    except (RuntimeError, UnpicklingError, EOFError, KeyError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{paths[0]} is no checkpoint, or a damaged one: {reason}") from None
    of_whisper = "whisper."
    state = {name.removeprefix(of_whisper): saved[name] for name in saved if name.startswith(of_whisper)}
    if f"network.{REWARD}.weight" in state:  # the objective's doing, which config.finetune does not tell of
        add_reward_head(whisper.network)
    try:
        whisper.load_state_dict(state)
    except RuntimeError as error:
        raise InputError(
            f"{paths[0]} does not fit the model that config.yaml describes: {str(error).splitlines()[-1].strip()} Was "
            "the model of model.name_or_path, or the corpus that a vocabulary was learnt from, replaced since?"
        ) from None


@torch.no_grad()
def compute_probe(whisper: Whisper, device: str) -> Float[Tensor, "token vocabulary"]:
    """Logits of some noise and some tokens, always the same: of what the model writes with."""
    whisper = whisper.eval().to(device)
    generator = torch.Generator().manual_seed(0)
    waveform = 0.1 * torch.randn(1, PROBE_S * SAMPLE_RATE_HZ, generator=generator)
    text = torch.randint(0, whisper.tokens.end_of_text, (PROBE_TOKENS,), generator=generator).tolist()
    states = whisper.encode(waveform.to(device))
    if (head := find_writer(whisper.network)) is not None:
        return head(states)[0].float().cpu()
    ids = torch.tensor([[*whisper.tokens.prefix(next(iter(whisper.tokens.languages), "en")), *text]])
    return whisper.project(whisper.decode(states, ids.to(device)))[0].float().cpu()


def _find_parts(whisper: Whisper) -> set[str]:
    """The network's own children that have parameters."""
    return {name for name, part in whisper.network.named_children() if any(True for _ in part.parameters())}
