"""Batched greedy decoding from encoder states, at any audio context: by the decoder, or by a CTC head."""

import inspect
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import EncoderDecoderCache
from transformers.models.whisper.modeling_whisper import WhisperDecoder

from attune.audio.waveform import SAMPLE_RATE_HZ
from attune.model.additions import read_ctc
from attune.model.bias import TermBias
from attune.model.finetune.ctc import count_positions, find_writer
from attune.model.lean import lean
from attune.model.silence import split_states
from attune.model.whisper import Whisper, narrow
from attune.text.tokens import Tokens

TOKENS_AT_LEAST = 16
# What the decoder calls the keys and values of earlier tokens: transformers 5.24 renamed it, 5.40 drops the old name.
CACHE = "cache" if "cache" in inspect.signature(WhisperDecoder.forward).parameters else "past_key_values"
DROP_BELOW = 0.75  # finished rows leave the batch once this share is left: each cut copies the cache


def cap_tokens(tokens: Tokens, prefixes: Sequence[Sequence[int]], lengths: Int[Tensor, "batch"]) -> list[int]:
    """How many new tokens each utterance can need: so many a second of audio (`Tokens.pace`), plus 16.

    Nobody speaks faster, and a decoder that loops would otherwise run to 448.

    Args:
        prefixes: what each decoder is given; it says in which language.
        lengths: of each utterance, in samples.
    """
    paces = [tokens.pace(prefix) for prefix in prefixes]
    seconds = [length / SAMPLE_RATE_HZ for length in lengths.tolist()]
    return [TOKENS_AT_LEAST + int(pace * second) for pace, second in zip(paces, seconds, strict=True)]


def decode(
    whisper: Whisper,
    states: Float[Tensor, "batch position told"],
    prefixes: Sequence[Sequence[int]],
    lengths: Int[Tensor, "batch"],
    bias: TermBias | None = None,
) -> list[list[int]]:
    """What the model writes: its CTC head, where it has one that writes (finetune=ctc), else its decoder.

    Args:
        prefixes: what each decoder is given; a CTC head is given nothing.
        lengths: of each utterance, in samples.
        bias: terms that the decoder is drawn to; a CTC head is not.

    Returns:
        The new ids of each utterance, <|endoftext|> left out.
    """
    head = find_writer(whisper.network)
    if head is not None:
        return read_ctc(head, states, count_positions(lengths, states.shape[1]).tolist())
    return decode_greedily(whisper, states, prefixes, cap_tokens(whisper.tokens, prefixes, lengths), bias)


@torch.no_grad()
def decode_greedily(
    whisper: Whisper,
    states: Float[Tensor, "batch position told"],
    prefixes: Sequence[Sequence[int]],
    max_new_tokens: Sequence[int],
    bias: TermBias | None = None,
) -> list[list[int]]:
    """The likeliest next token until <|endoftext|>, for each utterance.

    The same tokens as transformers' `generate` with `num_beams=1`: tokens that generation_config suppresses are
    suppressed here. Prefixes may differ in length and in language.

    Args:
        states: encoder states.
        prefixes: what each decoder is given: prompt, start, language, task, <|notimestamps|>.
        max_new_tokens: of each utterance, beside the prefix; never beyond the decoder's 448 positions.
        bias: terms whose tokens gain in every step (model/bias.py).

    Returns:
        The new ids of each utterance, <|endoftext|> left out.
    """
    run = _Run(whisper, states, prefixes, max_new_tokens, bias)
    with lean(whisper.network):
        while run.rows.numel():
            run.step()
    return run.found


def choose_likeliest(logits: Float[Tensor, "batch vocabulary"]) -> Int[Tensor, "batch"]:
    """argmax of each row, the first of equals. On a CPU by NumPy, which takes a tenth of torch's time for it."""
    if logits.device.type != "cpu":
        return logits.argmax(dim=-1)
    return torch.from_numpy(logits.numpy().argmax(axis=-1))


class _Run:
    """The rows that are still being decoded, and what was found for all of them."""

    def __init__(
        self,
        whisper: Whisper,
        states: Float[Tensor, "batch position told"],
        prefixes: Sequence[Sequence[int]],
        max_new_tokens: Sequence[int],
        bias: TermBias | None = None,
    ):
        self.whisper = whisper
        self.states, silence = split_states(narrow(states), whisper.network.config.d_model)
        self.silence = states.new_zeros(len(states), 0) if silence is None else silence
        self.found: list[list[int]] = [[] for _ in prefixes]
        self.rows = torch.arange(len(prefixes), device=states.device)
        longest = max(map(len, prefixes))
        room = whisper.tokens.max_tokens - longest
        self.limits = torch.tensor([min(limit, room) for limit in max_new_tokens], device=states.device)
        self.inputs, self.attention_mask = self._pad_left(prefixes, longest)
        self.positions = (self.attention_mask.cumsum(dim=1) - 1).clamp(min=0)
        self.is_padded = bool((self.attention_mask == 0).any())
        self.alive = torch.ones_like(self.rows, dtype=torch.bool)
        self.cache: EncoderDecoderCache | None = None
        self.made = 0
        self.bias = bias
        self.terms = self.rows if bias is None else bias.start(len(prefixes), states.device)  # how far in a term

    def _pad_left(
        self, prefixes: Sequence[Sequence[int]], longest: int
    ) -> tuple[Int[Tensor, "batch token"], Int[Tensor, "batch token"]]:
        end = self.whisper.tokens.end_of_text
        ids = [[end] * (longest - len(prefix)) + list(prefix) for prefix in prefixes]
        mask = [[0] * (longest - len(prefix)) + [1] * len(prefix) for prefix in prefixes]
        return torch.tensor(ids, device=self.states.device), torch.tensor(mask, device=self.states.device)

    def step(self) -> None:
        """One more token for every row that is left."""
        tokens = self._choose(self._favour(self._suppress(self._compute_logits())))
        self._follow(tokens)
        self.made += 1
        self.alive &= tokens != self.whisper.tokens.end_of_text
        self._keep(tokens, self.alive)
        self.alive &= self.limits > self.made
        self._continue(tokens)

    def _choose(self, logits: Float[Tensor, "batch vocabulary"]) -> Int[Tensor, "batch"]:
        return choose_likeliest(logits)

    def _compute_logits(self) -> Float[Tensor, "batch vocabulary"]:
        """Of the next token of every row, from what was chosen last."""
        output = self.whisper.network.model.decoder(
            input_ids=self.inputs,
            attention_mask=self.attention_mask if self.is_padded else None,  # None is the faster kernel
            position_ids=self.positions,
            encoder_hidden_states=self.states,
            silence=self.silence if self.silence.shape[1] else None,
            use_cache=True,
            **{CACHE: self.cache},
        )
        self.cache = output.past_key_values
        return self.whisper.project(output.last_hidden_state[:, -1]).float()

    def _suppress(self, logits: Float[Tensor, "batch vocabulary"]) -> Float[Tensor, "batch vocabulary"]:
        config = self.whisper.network.generation_config
        banned = list(config.suppress_tokens or [])
        if self.made == 0:
            banned += list(getattr(config, "begin_suppress_tokens", None) or [])
        if banned:
            logits[:, banned] = -torch.inf
        return logits

    def _favour(self, logits: Float[Tensor, "batch vocabulary"]) -> Float[Tensor, "batch vocabulary"]:
        return logits if self.bias is None else self.bias.favour(logits, self.terms)

    def _follow(self, tokens: Int[Tensor, "batch"]) -> None:
        if self.bias is not None:
            self.terms = self.bias.follow(self.terms, tokens)

    def _keep(self, tokens: Int[Tensor, "batch"], alive: Bool[Tensor, "batch"]) -> None:
        for row, token, is_alive in zip(self.rows.tolist(), tokens.tolist(), alive.tolist(), strict=True):
            if is_alive:
                self.found[row].append(token)

    def _continue(self, tokens: Int[Tensor, "batch"]) -> None:
        """Make the next step's input; rows that are finished leave once enough of them are."""
        one = self.attention_mask.new_ones(len(tokens), 1)
        self.inputs, self.positions = tokens[:, None], self.positions[:, -1:] + 1
        self.attention_mask = torch.cat([self.attention_mask, one], dim=1)
        share = self.alive.float().mean().item()
        if share == 0:
            self.rows = self.rows[:0]
        elif share < DROP_BELOW:
            self._drop(self.alive.nonzero()[:, 0])

    def _drop(self, kept: Int[Tensor, "kept"]) -> None:
        names = ("rows", "states", "silence", "limits", "inputs", "positions", "attention_mask", "alive", "terms")
        for name in names:
            setattr(self, name, getattr(self, name)[kept])
        if self.cache is not None:
            self.cache.batch_select_indices(kept)
