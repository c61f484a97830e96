"""What a run will need: bytes at the fullest moment of a step, from the network's shapes and what learns in it.

Nothing is run. Counted is what autograd keeps for the backward pass, module by module. With d the width, f the
feed-forward's, s the bytes of what autocast computes in (2 in half precision, else 4), one block keeps for a position

    4 d in front of each norm, 4 s d of self-attention (query, key, value, output), of cross-attention 2 s d and 2 s d
    a position of the encoder, s f in front of the GELU, and the input of each linear layer whose weight learns

and nothing where no gradient flows. Under autocast inputs are copied, those that layers share once for all of them
(model/whisper.py), and each linear layer keeps a copy of its weight.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from torch import nn
from transformers import WhisperForConditionalGeneration

from attune.audio.waveform import POSITIONS_PER_S
from attune.data.audit import encode_row
from attune.data.module import SpeechDataModule
from attune.model.additions import ADAPTER
from attune.text.tokens import IGNORED
from attune.train.objective.cross_entropy import LOGITS_BYTES

SINGLE = 4  # bytes of a number in fp32
MOMENTS = 2  # that AdamW keeps of each parameter that learns
LOOKED_AT = 64  # batches of the first pass
# What a CPU process takes beside what is counted (benchmarks/memory.py): kernels and buffers that torch and Lightning
# make in the first steps, and what lies unused between blocks, as a share of the activations.
LIBRARIES = 100_000_000
GAPS = 0.1


@dataclass(frozen=True)
class Load:
    """A batch: windows of so many encoder positions and decoder tokens, and how many tokens of all are taught."""

    windows: int
    positions: int
    tokens: int
    supervised: int

    def fill(self, batch_window_s: float) -> "Load":
        """The same kind of utterances, as many as data.batch_window_s allows."""
        windows = max(1, int(batch_window_s * POSITIONS_PER_S) // self.positions)
        return replace(self, windows=windows, supervised=-(-self.supervised * windows // self.windows))


@dataclass(frozen=True)
class Need:
    """Bytes at the fullest moment. `process` is what is there beside the model, on a CPU."""

    parameters: int
    gradients: int
    optimiser: int
    activations: int
    logits: int
    process: int

    @property
    def total(self) -> int:
        return sum(vars(self).values())


@dataclass(frozen=True)
class Job:
    """A run, as memory sees it.

    Args:
        network: with its type applied; a skeleton will do.
        load: its costliest batch.
        half: autocast in 16 bits.
        accumulates: gradients are there while the next micro-batch goes forward.
        cached: the encoder's states are read from disk.
        scored_positions: encoder positions of a batch of scoring.
        beside: bytes beside the model: a moving average, what a penalty remembers.
        process: bytes of the process without the model; 0 on a GPU.
        shards: devices that share the weights, the gradients and the moments (trainer=fsdp).
    """

    network: WhisperForConditionalGeneration
    load: Load
    half: bool = False
    accumulates: bool = False
    cached: bool = False
    scored_positions: int = 12_000
    beside: int = 0
    process: int = 0
    shards: int = 1

    def need(self) -> Need:
        network = self.network
        tensors = [*network.parameters(), *network.buffers()]
        whole = sum(tensor.nbytes for tensor in tensors)
        learning = [parameter for parameter in network.parameters() if parameter.requires_grad]
        gradients = SINGLE * sum(parameter.numel() for parameter in learning)
        # Of the parts what is gathered at a time are the weights outside the blocks and two blocks; for scoring, all.
        gathered = _gathered(network) if self.shards > 1 else 0
        scoring = self._scoring() + (whole - gathered if self.shards > 1 else 0)
        moments = [*self._moments(gradients // self.shards), (scoring, 0, 0)]
        activations, logits, kept = max(moments, key=sum)
        return Need(
            parameters=whole // self.shards + gathered + self.beside,
            gradients=kept,
            optimiser=MOMENTS * gradients // self.shards,
            activations=activations,
            logits=logits,
            process=self.process + round(LIBRARIES + GAPS * activations) if self.process else 0,
        )

    def _moments(self, gradients: int) -> Iterable[tuple[int, int, int]]:
        """(activations, logits, gradients) when each of them is at its height."""
        network, load = self.network, self.load
        accumulated = gradients if self.accumulates else 0
        width, positions = network.config.d_model, load.windows * load.positions
        states = 0 if self.cached else _encoder(network, positions, self.half)
        passing = 0 if self.cached else _passing(network, positions, self.half)
        flows = states > 0
        states += SINGLE * positions * width
        decoder = _decoder(network, load, self.half, flows)
        yield states + decoder, _logits(network, load, self.half), accumulated
        # While the gradient goes through the encoder, the decoder's parameters have theirs.
        above = SINGLE * sum(each.numel() for each in network.model.decoder.parameters() if each.requires_grad)
        above //= self.shards
        yield states + passing, 0, max(accumulated, above if flows else 0)
        yield 0, 0, gradients  # the fused AdamW works in place

    def _scoring(self) -> int:
        """States, the keys and values of all decoder blocks, and what passes through one encoder block."""
        config = self.network.config
        kept = SINGLE + 2 * config.decoder_layers * _bytes(self.half)
        return self.scored_positions * config.d_model * kept + _passing(self.network, self.scored_positions, self.half)


def _gathered(network: WhisperForConditionalGeneration) -> int:
    sides: Any = (network.model.encoder, network.model.decoder)
    blocks = [sum(each.nbytes for each in block.parameters()) for side in sides for block in side.layers]
    return sum(each.nbytes for each in network.parameters()) - sum(blocks) + 2 * max(blocks)


def _bytes(half: bool) -> int:
    return 2 if half else SINGLE


def _passing(network: WhisperForConditionalGeneration, positions: int, half: bool) -> int:
    """What one encoder block holds at a time where nothing is kept: its feed-forward, before and behind the GELU."""
    config = network.config
    return positions * (2 * config.encoder_ffn_dim * _bytes(half) + 3 * config.d_model * SINGLE)


def _encoder(network: WhisperForConditionalGeneration, positions: int, half: bool) -> int:
    encoder, width = network.model.encoder, network.config.d_model
    flows = _learns(encoder.conv1) or _learns(encoder.conv2)
    # The log-mel, two frames a position, and both convolutions with their GELUs: 2 + 2 frames a position, and 1.
    kept = (5 * width + 2 * network.config.num_mel_bins) * _bytes(half) * positions if flows else 0
    for block in encoder.layers:
        flows = flows or _learns(block)
        if flows:
            kept += positions * (_attention(block.self_attn, half) + _feed_forward(block, half)) + _casts(block, half)
    return kept + (SINGLE * width * positions if flows or _learns(encoder.layer_norm) else 0)


def _decoder(network: WhisperForConditionalGeneration, load: Load, half: bool, flows: bool) -> int:
    decoder, width = network.model.decoder, network.config.d_model
    rows, positions = load.windows * load.tokens, load.windows * load.positions
    flows = flows or _learns(decoder.embed_tokens) or _learns(decoder.embed_positions)
    kept = 0
    block: Any
    for block in decoder.layers:
        flows = flows or _learns(block)
        if not flows:
            continue
        cross = block.encoder_attn
        kept += rows * (_attention(block.self_attn, half) + _feed_forward(block, half)) + _casts(block, half)
        kept += rows * width * (SINGLE + 2 * _bytes(half) + _inputs([cross.q_proj], half))
        kept += rows * (_own(cross.out_proj, half) + _bottleneck(cross.out_proj, half))
        kept += positions * width * 2 * _bytes(half)  # keys and values
    if half:  # one copy of the states for all blocks; in fp32 it is the states themselves
        kept += positions * width * 2
    return kept + 2 * SINGLE * rows * width


def _attention(attention: Any, half: bool) -> int:
    """Bytes a position of self-attention with the norm in front of it."""
    inputs = _inputs([attention.q_proj, attention.k_proj, attention.v_proj], half)
    prompted = 2 * _bytes(half) * hasattr(attention, "soft_prompt")  # its queries and what it has heard
    behind = _own(attention.out_proj, half) + _bottleneck(attention.out_proj, half)
    return attention.embed_dim * (SINGLE + 4 * _bytes(half) + inputs + prompted) + behind


def _feed_forward(block: Any, half: bool) -> int:
    """Bytes a position, of the norm and the two layers behind it."""
    kept = block.embed_dim * (SINGLE + _inputs([block.fc1], half)) + block.fc1.out_features * _bytes(half)
    return kept + _own(block.fc2, half) + _bottleneck(block.fc2, half)


def _inputs(layers: Sequence[nn.Module], half: bool) -> int:
    """Bytes a number of an input that some layers share."""
    return _bytes(half) * any(map(_keeps_input, layers))


def _own(layer: nn.Linear, half: bool) -> int:
    """Bytes a position of an input that is computed in the precision of autocast, and that nothing else keeps."""
    return _bytes(half) * layer.in_features * _keeps_input(layer)


def _keeps_input(layer: nn.Module) -> bool:
    """Whether a matrix learns that is multiplied with it: the layer's own or a low-rank one; a bias needs no input."""
    named = layer.named_parameters()
    return any(each.requires_grad and each.ndim > 1 and not name.startswith(f"{ADAPTER}.") for name, each in named)


def _bottleneck(layer: nn.Linear, half: bool) -> int:
    """Bytes a position of an adapter behind the layer: what it is given, and its middle before and behind the GELU."""
    adapter: Any = getattr(layer, ADAPTER, None)
    return _bytes(half) * (layer.out_features + 2 * adapter.down.out_features) if adapter is not None else 0


def _casts(block: nn.Module, half: bool) -> int:
    """Under autocast the matrices that a gradient passes through are kept in 16 bits beside themselves."""
    return 2 * sum(each.numel() for each in block.parameters() if each.ndim > 1) if half else 0


def _logits(network: WhisperForConditionalGeneration, load: Load, half: bool) -> int:
    """The log-probabilities and two gradients of their size; more than LOGITS_BYTES are made in chunks."""
    config = network.config
    at_once = min(SINGLE * load.supervised * config.vocab_size, LOGITS_BYTES)
    return 3 * at_once + (2 * config.vocab_size * config.d_model if half else 0)


def _learns(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())


def measure_loads(data: SpeechDataModule) -> list[Load]:
    """Of the batches that a run begins with; packed windows as they are in the end."""
    rows: Any = data.training_rows.remove_columns("audio")
    loads, batches = [], data.training_batches()
    batches.total = None
    for batch in islice(batches, LOOKED_AT):
        lengths = [_count_tokens(data, [rows[i] for i in (draw.index, *draw.more)]) for draw in batch]
        tokens, supervised = (list(column) for column in zip(*lengths, strict=True))
        loads.append(Load(len(batch), batch[0].positions, max(tokens), sum(supervised)))
    return loads


def _count_tokens(data: SpeechDataModule, rows: Sequence[Any]) -> tuple[int, int]:
    """Decoder positions of a window, and how many are taught. Packed ones share a prefix; the few ids are left in."""
    sequences = [encode_row(row, data.tokens) for row in rows]
    taught = [sum(label != IGNORED for label in sequence.labels) for sequence in sequences]
    return min(sum(len(each.labels) for each in sequences), data.tokens.max_tokens), sum(taught)
