"""attune export: a run's checkpoint -> a folder of any format, compared with the run and described.

checkpoint -> plain Whisper (use/export.py: merged, its logits compared) -> the format -> the run's test set, by attune
and by the format's own program -> README.md -> a repository on the hub, if one is named.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from attune.errors import InputError
from attune.model.finetune.ctc import find_writer
from attune.model.whisper import Whisper, load_tokens, load_whisper
from attune.use.config import build_corpus, plain, read_config
from attune.use.export import Exported, check_empty, export
from attune.use.formats.base import Format, find_missing
from attune.use.formats.card import write_card
from attune.use.formats.parity import Parity, check, compare, read_test_set
from attune.use.formats.registry import FORMATS


@dataclass(frozen=True)
class Converted:
    """What was written.

    Args:
        exported: how the plain Whisper came about.
        dtype: of the weights on disk.
        parity: None where it was not asked for, or not possible.
        unchecked: why it was not possible; None if it was.
    """

    exported: Exported
    dtype: str
    parity: Parity | None
    unchecked: str | None


def convert(
    run: Path,
    out: Path,
    to: str = "hf",
    dtype: str | None = None,
    checkpoint: str = "best",
    max_difference: float = 0.2,
    utterances: int | None = None,
) -> Converted:
    """Export a run's checkpoint.

    Args:
        run: a folder that train.py wrote.
        out: is made; may exist if it is empty.
        to: hf, ctranslate2, ggml or onnx.
        dtype: of the weights on disk; None is the format's usual one.
        checkpoint: best or last.
        max_difference: of WER, in percentage points, between attune and the format's own program.
        utterances: how many test utterances are compared; None for all, 0 for none.

    Raises:
        InputError: the run, the format or the program cannot do it, or WER differs by more; `out` is then left empty.
    """
    format = FORMATS[to]
    dtype = choose_dtype(to, format, dtype)
    config = read_config(run)
    check_empty(out)
    with TemporaryDirectory() as scratch:
        folder = out if to == "hf" else Path(scratch) / "model"
        exported = export(run, folder, dtype if to == "hf" else "float32", checkpoint)
        try:
            if to != "hf":
                out.mkdir(parents=True, exist_ok=True)
                format.write(_load(folder), out, dtype)
            whisper = _load(folder)
            unchecked = find_hindrance(format, whisper) if utterances != 0 else None
            asked = utterances != 0 and unchecked is None
            parity = _compare(whisper, format, out, config, utterances) if asked else None
            if parity:
                check(parity, max_difference)
            write_card(out, format, run, config, checkpoint, parity, exported.additions)
        except BaseException:
            shutil.rmtree(out)
            raise
    return Converted(exported, dtype, parity, unchecked)


def choose_dtype(to: str, format: Format, dtype: str | None) -> str:
    """The type of the weights on disk.

    Raises:
        InputError: the format does not take it.
    """
    if dtype not in (None, *format.dtypes):
        raise InputError(f"--to {to} takes --dtype {' or '.join(format.dtypes)}, not {dtype}.")
    return dtype or format.dtypes[0]


def find_hindrance(format: Format, whisper: Whisper) -> str | None:
    """Why the format's program cannot be asked for its transcripts; None where it can."""
    if missing := find_missing(format.runs_with):
        return f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed (attune[export])"
    if find_writer(whisper.network) is not None:
        return "this model's CTC head writes, which no program but attune asks"
    return None


def _load(folder: Path) -> Whisper:
    return load_whisper(str(folder), load_tokens(str(folder))).eval()


def _compare(whisper: Whisper, format: Format, out: Path, config: Any, utterances: int | None) -> Parity:
    try:
        test = read_test_set(build_corpus(config.data), whisper.tokens, plain(config.data).get("audit"), utterances)
    except InputError as error:
        raise InputError(
            f"The run's test set, on which the exported model is compared, cannot be read: {error} To export without a "
            "comparison: --utterances 0"
        ) from None
    whisper = whisper.to("cuda" if torch.cuda.is_available() else "cpu")
    return compare(whisper, format.open(out), test)


def push(out: Path, repository: str) -> str:
    """Upload an exported folder to the hub, into a new private repository or one that exists; returns its address.

    Raises:
        InputError: the hub does not take it: no token, no right to write there, or no network.
    """
    from httpx import HTTPError
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError

    try:
        api = HfApi()
        address = api.create_repo(repository, private=True, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=out, commit_message="Exported by attune")
    except (OSError, HTTPError, HFValidationError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"--push-to {repository}: the hub did not take {out}: {reason} Accepted: OWNER/NAME of a repository that "
            f"your token (hf auth login, or HF_TOKEN) may write. The folder is complete; it can be pushed by hand: "
            f"hf upload {repository} {out}"
        ) from None
    return str(address)
