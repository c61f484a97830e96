"""A Whisper -> a folder that plain transformers loads: safetensors, config, generation config, tokenizer, front end.

What plain transformers cannot hold lies beside it in additions.safetensors, with a loader and a note.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration
from transformers.models.whisper.tokenization_whisper import LANGUAGES

from attune.model import additions
from attune.model.additions import HEAD, PROMPT, REWARD, WEIGHTS, is_addition
from attune.model.whisper import Whisper, complete_generation_config, load_tokens
from attune.text.tokens import Tokens

LOADER, NOTE = "load_whisper.py", "ADDITIONS.md"
USE = """
    from load_whisper import load

    model = load(".")  # needs torch, transformers and safetensors
"""


def save_whisper(whisper: Whisper, folder: Path, dtype: torch.dtype = torch.float32) -> None:
    """Write everything that `pipeline("automatic-speech-recognition", folder)` needs.

    Args:
        folder: is made; files in it are replaced.
        dtype: of the weights on disk. float16 halves a model whose weights all lie far below 65504.
    """
    network = whisper.network
    network.generation_config = complete_generation_config(network.generation_config, whisper.tokens)
    network.generation_config.alignment_heads = list_alignment_heads(network)  # type: ignore[attr-defined]
    weights = network.state_dict()
    cast = {tensor.data_ptr(): tensor.to(dtype) for tensor in weights.values()}  # tied weights stay one on disk
    state = {name: cast[tensor.data_ptr()] for name, tensor in weights.items()}
    plain = {name: weight for name, weight in state.items() if not is_addition(name)}
    network.save_pretrained(folder, state_dict=plain, safe_serialization=True)
    whisper.tokens.tokenizer.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=network.config.num_mel_bins).save_pretrained(folder)
    _save_additions({name: weight for name, weight in state.items() if is_addition(name)}, folder)


def list_alignment_heads(network: WhisperForConditionalGeneration) -> list[list[int]]:
    """The heads of the cross-attention that tell the time of a word, [block, head] each: those that the model names or,
    where it names none, all of the upper half of the decoder, as openai/whisper does for a model whose heads nobody has
    measured. Heads that the decoder has lost, as one with fewer blocks has, are left out."""
    blocks, heads = network.config.decoder_layers, range(network.config.decoder_attention_heads)
    known = getattr(network.generation_config, "alignment_heads", None) or []
    there = [[block, head] for block, head in known if block < blocks and head in heads]
    return there or [[block, head] for block in range(blocks // 2, blocks) for head in heads]


def _save_additions(weights: dict[str, Tensor], folder: Path) -> None:
    """Weights, loader and note; those of a model that was saved here before go."""
    for name in (WEIGHTS, LOADER, NOTE):
        (folder / name).unlink(missing_ok=True)
    if weights:
        save_file({name: weight.contiguous() for name, weight in weights.items()}, folder / WEIGHTS)
        shutil.copyfile(additions.__file__, folder / LOADER)
    if explained := explain_additions(folder):
        (folder / NOTE).write_text(f"# Not quite a plain Whisper\n\n{explained}\n{USE if weights else ''}")


def explain_additions(folder: Path) -> str | None:
    """What of a saved model plain transformers cannot hold, or must be told; None if there is nothing."""
    return "\n\n".join([*_explain_weights(folder), *_explain_tokens(load_tokens(str(folder)))]) or None


def _explain_tokens(tokens: Tokens) -> Iterator[str]:
    if tokens.soft_prompt:
        ids = tokens.prompt(None, room=tokens.max_tokens)
        yield (
            "Plain transformers must be given this model's learned prompt in every call: "
            f"generate(..., prompt_ids=torch.tensor({ids})). Without it, it decodes as before the training. attune "
            "gives it by itself."
        )
    new = [code for code in tokens.languages if code not in LANGUAGES]
    if tokens.is_multilingual and new:
        yield (
            f"Plain transformers must be asked for {', '.join(new)} by token, generate(..., language='<|{new[0]}|>'): "
            "it knows no such code."
        )


def _explain_weights(folder: Path) -> Iterator[str]:
    if not (folder / WEIGHTS).is_file():
        return
    weights = load_file(folder / WEIGHTS)
    adapters = sum(name.endswith(".down.weight") for name in weights)
    parts = [f"{adapters} adapters"] * bool(adapters)
    prompts = sum(name.endswith(f".{PROMPT}.keys") for name in weights)
    parts += [f"learned prompts in {prompts} blocks"] * bool(prompts)
    parts += ["CTC head, which writes its transcripts"] * (f"{HEAD}.weight" in weights)
    parts += ["reward head, which scores transcripts"] * (f"{REWARD}.weight" in weights)
    count = sum(weight.numel() for weight in weights.values())
    yield (
        f"Plain transformers cannot hold this model's {' and '.join(parts)} ({count:,} parameters in {WEIGHTS}): from "
        "its folder it loads the Whisper without them. attune reads them by itself; elsewhere use "
        f"{LOADER}, beside them."
    )
