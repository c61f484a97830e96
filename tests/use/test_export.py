"""attune export: from a run's checkpoint to a folder that plain transformers loads."""

import re
import sys
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from transformers import WhisperForConditionalGeneration
from whispers import TEXTS

from attune.errors import InputError
from attune.model.finetune.base import apply_finetuning, change_tokens
from attune.model.whisper import Whisper, load_tokens, load_whisper
from attune.train.module import WhisperModule
from attune.train.objective.cross_entropy import CrossEntropy
from attune.use.cli import main
from attune.use.config import build
from attune.use.export import compute_probe, export

CONFIGS = Path(__file__).parents[2] / "configs"
TYPES = {
    "lora": ["finetune=lora", "finetune.rank=4"],
    "adalora": ["finetune=adalora", "finetune.rank=4", "finetune.target_rank=2"],
    "ia3": ["finetune=ia3"],
    "layers": ["finetune=layers"],
    "ctc": ["finetune=ctc"],
    "adapter": ["finetune=adapter"],
    "prompt": ["finetune=prompt", "finetune.tokens=4", "finetune.states=0"],
    "prompt_in_blocks": ["finetune=prompt", "finetune.states=4"],
    "new_head": ["finetune=new_head", "finetune.merges=20"],
}


def make_run(folder: Path, model: Path | str, *words: str) -> Whisper:
    """What a run that was stopped leaves: config.yaml, checkpoints and the tokenizer. The best model."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("train", [f"model.name_or_path={model}", "name=test", *words])
    (folder / "checkpoints").mkdir(parents=True)
    OmegaConf.save(config, folder / "config.yaml", resolve=True)
    finetune = build(config.finetune)
    tokens = change_tokens(finetune, load_tokens(str(model)), TEXTS)
    whisper = load_whisper(str(model), tokens)
    apply_finetuning(finetune, whisper.network)
    tokens.tokenizer.save_pretrained(folder / "model")
    module = WhisperModule(whisper, finetune, CrossEntropy(), steps=1)
    generator = torch.Generator().manual_seed(1)
    for name in ("last", "best"):
        with torch.no_grad():
            for weight in (weight for weight in whisper.network.parameters() if weight.requires_grad):
                weight.add_(0.05 * torch.randn(weight.shape, generator=generator))
        torch.save({"state_dict": module.state_dict()}, folder / "checkpoints" / f"{name}.ckpt")
    return whisper


@pytest.mark.parametrize("name", TYPES)
def test_every_kind_of_type_is_exported(name: str, nano_folder: Path, tmp_path: Path) -> None:
    trained = compute_probe(make_run(tmp_path / "run", nano_folder, *TYPES[name]), "cpu")
    done = export(tmp_path / "run", tmp_path / "out")
    loaded = load_whisper(str(tmp_path / "out"), load_tokens(str(tmp_path / "out")))
    torch.testing.assert_close(compute_probe(loaded, "cpu"), trained, atol=1e-4, rtol=1e-4)
    assert done.checkpoints == [tmp_path / "run" / "checkpoints" / "best.ckpt"]
    assert done.left_out == (["ctc_head"] if name == "ctc" else [])
    assert (done.additions is None) == (name not in ("adapter", "prompt", "prompt_in_blocks"))
    plain = WhisperForConditionalGeneration.from_pretrained(tmp_path / "out")
    assert plain.config.vocab_size == trained.shape[1]


@pytest.fixture(scope="module")
def run(nano_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    make_run(folder, nano_folder, *TYPES["lora"])
    return folder


def test_half_the_size_and_the_last_weights(run: Path, tmp_path: Path) -> None:
    sizes, probes = [], []
    for index, settings in enumerate([{}, {"dtype": "float16"}, {"checkpoint": "last"}]):
        out = tmp_path / str(index)
        export(run, out, **settings)
        sizes.append((out / "model.safetensors").stat().st_size)
        probes.append(compute_probe(load_whisper(str(out), load_tokens(str(out))), "cpu"))
    assert 0.45 < sizes[1] / sizes[0] < 0.6
    largest = probes[0].abs().max()
    assert 0 < (probes[1] - probes[0]).abs().max() < 1e-2 * largest < (probes[2] - probes[0]).abs().max()


def test_several_best_checkpoints_are_averaged(run: Path, nano_folder: Path, tmp_path: Path) -> None:
    make_run(tmp_path / "run", nano_folder, *TYPES["lora"])
    folder = tmp_path / "run" / "checkpoints"
    for step, name in enumerate(("best", "last")):
        (folder / f"{name}.ckpt").rename(folder / f"top-{step}.ckpt")
    assert len(export(tmp_path / "run", tmp_path / "out").checkpoints) == 2


def test_weights_too_large_for_half_precision(nano_folder: Path, tmp_path: Path) -> None:
    make_run(tmp_path / "run", nano_folder, *TYPES["layers"])
    path = tmp_path / "run" / "checkpoints" / "best.ckpt"
    state = torch.load(path, weights_only=True)
    state["state_dict"]["whisper.network.model.decoder.layers.0.fc1.bias"][0] = -1e5
    torch.save(state, path)
    with pytest.raises(InputError, match=r"rounding to float16 explains no more.*Try --dtype float32"):
        export(tmp_path / "run", tmp_path / "out", dtype="float16")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["NOWHERE", "OUT"], "nowhere is no run folder"),
        (["RUN/model", "OUT"], "model is no run folder"),
        (["RUN", "RUN"], "is not empty"),
        (["RUN", "RUN/config.yaml"], "is a file"),
        (["EMPTY", "OUT"], "--checkpoint=best: .* holds no such checkpoint"),
        (["DAMAGED", "OUT"], "best.ckpt is no checkpoint, or a damaged one"),
        (["OTHER", "OUT"], "does not fit the model that config.yaml describes"),
        (["RUN", "OUT", "--dtype", "int8"], "invalid choice: 'int8'"),
    ],
)
def test_bad_input_is_one_message(
    words: list[str],
    message: str,
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    places = {"NOWHERE": tmp_path / "nowhere", "OUT": tmp_path / "out", "RUN": run, "RUN/model": run / "model"}
    places["RUN/config.yaml"] = run / "config.yaml"
    for name in ("EMPTY", "DAMAGED", "OTHER"):
        places[name] = tmp_path / name
        (places[name] / "checkpoints").mkdir(parents=True)
        config = (run / "config.yaml").read_text()
        (places[name] / "config.yaml").write_text(config.replace("rank: 4", "rank: 5") if name == "OTHER" else config)
    (places["DAMAGED"] / "checkpoints" / "best.ckpt").write_bytes(b"PK nonsense")
    (places["OTHER"] / "checkpoints" / "best.ckpt").symlink_to(run / "checkpoints" / "best.ckpt")
    code, out, err = call(monkeypatch, capsys, *(str(places.get(word, word)) for word in words))
    assert (code, out) == (2, "")
    assert err.startswith("attune: ") and "Traceback" not in err
    assert re.search(message, err)
    assert not (tmp_path / "out").exists()


def test_the_command_says_what_it_wrote(
    nano_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(tmp_path / "run", nano_folder, *TYPES["ctc"])
    code, out, err = call(
        monkeypatch, capsys, str(tmp_path / "run"), str(tmp_path / "out"), "--checkpoint", "last", "--utterances", "1"
    )
    assert (code, err) == (0, "")
    assert "last.ckpt -> " in out and "Left out, because no transcript depends on it: ctc_head." in out


def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["attune", "export", *words])
    with pytest.raises(SystemExit) as stop:
        main()
    shown = capsys.readouterr()
    return int(stop.value.code or 0), shown.out, shown.err
