"""cache=encoder: what a frozen encoder makes of the training utterances is computed once, and then read from disk.

Without the encoder a training step is the decoder's alone, and no sound is decoded for it. States are kept between
runs: another type, rate or seed on the same corpus and encoder finds them there.
"""

import hashlib
import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import lightning as L
import torch
from jaxtyping import Float, Int
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from attune.audio.context import PackedContext
from attune.data.batch import Batch
from attune.data.module import SpeechDataModule
from attune.data.sampling import Draw
from attune.data.states import BYTES, ShardWriter, StoredStates, hold, key_of, make_room
from attune.data.utterances import Stored
from attune.errors import CACHE, InputError, check_writable
from attune.model.silence import Spread, spread_silence
from attune.model.whisper import Whisper, encode
from attune.train.augmentation import Augmentation
from attune.train.module import WhisperModule
from attune.train.objective.penalty import Penalty

FORMAT = b"states and log counts"  # of what is stored: changed, earlier runs' states are another encoder's


class EncoderCache(Callback):
    """Before the first step, the states that are missing are computed and stored (data/states.py).

    A state is told by the encoder's weights, the utterance, its window and its augmentation: where one of them changes,
    it is another state. Each utterance has `draws` windows, each with a margin, and an augmentation if there is one, of
    its own: pass n hears draw n modulo `draws`. They do not depend on the run's seed, so that seeds share them.
    bfloat16 rounds a state by at most 0.4 %. The encoder has no dropout, in training as in any published Whisper's.

    Args:
        folder: where states are kept; null: ATTUNE_CACHE or ~/.cache/attune, and in it `encoder`.
        budget_gb: of all that lies there, in 10^9 bytes. Other encoders' states give way, the longest unused first.
        draws: K, at least 1. More of them vary margins and augmentation more, and take as much more time and room.

    Raises:
        InputError: `draws` or `budget_gb` are none.
    """

    def __init__(self, folder: str | None = None, budget_gb: float = 20.0, draws: int = 1):
        if draws < 1 or budget_gb <= 0:
            raise InputError(f"cache.draws={draws} and cache.budget_gb={budget_gb:g}: at least 1, and above 0.")
        cache = Path(os.environ.get("ATTUNE_CACHE") or Path.home() / ".cache" / "attune")
        self.root = Path(folder) if folder else cache / "encoder"
        self.budget_bytes = int(budget_gb * 1e9)
        self.draws = draws
        check_writable(self.root, f"cache.folder=ANOTHER/PLACE, or {CACHE}")
        self._held: IO[bytes] | None = None  # while states are read

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        data, module = trainer.datamodule, pl_module  # type: ignore[attr-defined]
        assert isinstance(data, SpeechDataModule) and isinstance(module, WhisperModule)
        network = module.whisper.network
        store = StoredStates(self.root / hash_weights(network.model.encoder), network.config.d_model + 1)
        self._held = hold(store.folder)
        windows = [data.fixed_windows(number) for number in range(self.draws)]
        keys = name_windows(data, windows, module.augmentation)
        missing = {keys[draw.number][draw.index]: draw for draws in windows for draw in draws}
        missing = {key: draw for key, draw in missing.items() if key not in store}
        needed = sum(draw.positions for draw in missing.values()) * store.width * BYTES
        make_room(self.root, store.folder, needed, self.budget_bytes)
        mine = list(missing.values())[trainer.global_rank :: trainer.world_size]
        with ShardWriter(store.folder) as writer, trainer.precision_plugin.forward_context():
            compute_states(module, data, mine, keys, writer)
        trainer.strategy.barrier()
        store.refresh()
        data.stored = Stored(store, keys)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if self._held:
            self._held.close()


def name_windows(
    data: SpeechDataModule, windows: Sequence[Sequence[Draw]], augmentation: Augmentation
) -> list[list[str]]:
    """Of each draw, the key of each training row's window."""
    keys: list[list[str]] = [[""] * len(draws) for draws in windows]
    changes = augmentation.sound
    for index in range(len(data.training_rows)):
        row: Any = data.training_rows[index]
        told = f"{changes}, timed" if changes and row["segments"] else changes  # speed passes by what has times
        for number, draws in enumerate(windows):
            keys[number][index] = key_of(row, draws[index].positions, number if changes else 0, told)
    return keys


@torch.no_grad()
def compute_states(
    module: WhisperModule,
    data: SpeechDataModule,
    draws: Sequence[Draw],
    keys: Sequence[Sequence[str]],
    writer: ShardWriter,
) -> None:
    """Encode windows as a training step would hear them, and hand them to the writer."""
    whisper, encoder = module.whisper, module.whisper.network.model.encoder
    was_training = encoder.training
    encoder.eval()
    loader, batches = data.windows_dataloader(draws)
    for batch, drawn in zip(loader, batches, strict=True):
        named = [keys[draw.number][draw.index] for draw in drawn]
        log_mel, spread, lengths = hear(module.augmentation, whisper, batch.to(module.device), named)
        states = encode(whisper.network, log_mel, spread)
        for key, state, samples in zip(named, states, lengths.tolist(), strict=True):
            writer.write(key, state, samples)
    encoder.train(was_training)


def hear(
    augmentation: Augmentation, whisper: Whisper, batch: Batch, keys: Sequence[str]
) -> tuple[Float[Tensor, "batch mel frame"], Spread, Int[Tensor, "batch"]]:
    """Log-mels, where their silence stands, and lengths in samples, each utterance augmented by itself: what it hears
    depends on its key alone."""
    if not augmentation.sound:
        return whisper.log_mel(batch.waveform), spread_silence(batch.waveform), batch.lengths
    log_mels, spreads, lengths = [], [], []
    for row, key in enumerate(keys):
        seed = random.Random(f"augment {key}").randrange(2**62)
        with augmentation.hear_drawn(whisper, batch.select(slice(row, row + 1)), seed) as heard:
            log_mels.append(whisper.log_mel(heard.waveform))
            spreads.append(spread_silence(heard.waveform))
            lengths.append(heard.lengths)
    return torch.cat(log_mels), Spread(*map(torch.cat, zip(*spreads, strict=True))), torch.cat(lengths)


def hash_weights(module: nn.Module) -> str:
    """The same for the same weights, wherever they lie; names, types and shapes count."""
    digest = hashlib.blake2b(FORMAT, digest_size=16)
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def check_cache(
    cache: EncoderCache | None, network: nn.Module, data: SpeechDataModule, penalty: Penalty | None
) -> None:
    """Refuse, before weights are loaded, what stored states cannot stand for.

    Args:
        network: a skeleton to which the type has been applied (model/skeleton.py).

    Raises:
        InputError: the encoder learns, windows are packed, or a penalty listens by itself.
    """
    if cache is None:
        return
    learns = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    inside = [name for name in learns if name.startswith("model.encoder.")]
    if inside:
        raise InputError(
            f"cache=encoder stores what a frozen encoder makes, and here {len(inside)} of its parameters learn, such "
            f"as {inside[0]}. Take a type that leaves the encoder alone (finetune=decoder or cross_attention, "
            "new_tokens with finetune.rank=null, prompt with finetune.blocks=['model.decoder.layers.*'], lora with "
            "finetune.targets=['model.decoder.*']), or cache=none."
        )
    if data.stream is not None:
        raise InputError(
            "cache=encoder stores the states of every training utterance, and data.streaming=shards keeps none. Take "
            "data.streaming=true, or cache=none."
        )
    if isinstance(data.context, PackedContext):
        raise InputError(
            "cache=encoder and context=packed: a packed window is never drawn twice, and without the encoder packing "
            "saves nothing. Take context=audio, or cache=none."
        )
    if penalty is not None and penalty.compares_tokens:
        raise InputError(
            "cache=encoder hands over no sound, and penalty=distill has the untouched model listen to it. Take "
            "penalty=l2sp or ewc, or cache=none."
        )
