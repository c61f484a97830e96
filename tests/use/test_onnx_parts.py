"""What becomes an ONNX graph, and the loader's front end: held against transformers' decoder and ours, without ONNX."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from whispers import awaken, change, copy_of, make_sound

from attune.model.whisper import Whisper
from attune.use.config import build
from attune.use.formats.onnx import Hearing, Writing
from attune.use.formats.onnx_loader import compute_log_mel

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize("words", [[], ["finetune=adapter"], ["finetune=prompt", "finetune.states=4"]])
def test_step_by_step_it_writes_what_transformers_writes(words: list[str], nano_like: Whisper) -> None:
    """A prefix at once, then token by token from the cache; what the types add has weights here."""
    whisper = copy_of(nano_like)
    if words:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            change(whisper, build(compose("train", ["name=test", *words]).finetune))
    whisper = awaken(whisper, seed=3)
    waveform = torch.nn.functional.pad(make_sound(1.5, 1), (0, 480_000 - 24_000))[None]
    tokens = whisper.tokens
    ids = torch.tensor([[*tokens.prefix("en"), 5, 17, 42]])
    with torch.no_grad():
        expected = whisper.project(whisper.decode(whisper.encode(waveform), ids))[0]
        heard = Hearing(whisper.network)(whisper.log_mel(waveform))
        past = heard[0][..., :0, :]
        logits, keys, values = Writing(whisper.network)(ids[:, :4], past, past, *heard)
        torch.testing.assert_close(logits[0], expected[3], atol=1e-4, rtol=1e-4)
        for place in range(4, 7):
            logits, keys, values = Writing(whisper.network)(ids[:, place : place + 1], keys, values, *heard)
            torch.testing.assert_close(logits[0], expected[place], atol=1e-4, rtol=1e-4)
    assert keys.shape[3] == 7


def test_the_loaders_log_mel_is_ours(nano_like: Whisper) -> None:
    waveform = make_sound(2.3, 4)
    ours = nano_like.log_mel(torch.nn.functional.pad(waveform, (0, 480_000 - len(waveform)))[None])[0]
    theirs = compute_log_mel(waveform.numpy(), nano_like.log_mel.mel.mel_scale.fb.numpy())
    assert theirs.dtype == np.float32
    np.testing.assert_allclose(theirs, ours.numpy(), atol=2e-5)


def test_what_is_too_long_is_said() -> None:
    with pytest.raises(ValueError, match="31.2 s of audio"):
        compute_log_mel(np.zeros(500_000, np.float32), np.zeros((201, 80), np.float32))
