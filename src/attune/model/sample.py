"""Several hypotheses of each utterance: drawn from the model, or its likeliest ones by beam search.

Both feed the encoder's states and the prefix once an utterance and repeat the rows of the cache behind that. Drawing is
by inverse transform: one number in [0, 1) a token, all of them drawn beforehand from the utterance's own seed. So what
an utterance's hypotheses are depends neither on its neighbours in the batch, nor on the device, nor on what else the
run has drawn: a resumed run repeats them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from attune.model.decode import _Run
from attune.model.lean import lean
from attune.model.whisper import Whisper

NEVER = -torch.inf
BLOCK = 256  # tokens: about the square root of a vocabulary's size


@dataclass(frozen=True)
class Hypothesis:
    """What a decoder wrote behind its prefix.

    Args:
        ids: without <|endoftext|>.
        ended: whether <|endoftext|> was reached; else the limit cut it off.
    """

    ids: tuple[int, ...]
    ended: bool


@torch.no_grad()
def sample(
    whisper: Whisper,
    states: Float[Tensor, "batch position told"],
    prefixes: Sequence[Sequence[int]],
    max_new_tokens: Sequence[int],
    seeds: Sequence[int],
    samples: int,
    temperature: float = 1.0,
) -> list[list[Hypothesis]]:
    """Draw token by token from softmax(logits / temperature), nothing cut off at the top or the tail.

    Tokens that generation_config suppresses have no chance; `compute_token_scores` in model/likelihood.py gives the
    same distribution.

    Args:
        states: of each utterance, once.
        max_new_tokens: of each utterance.
        seeds: of each utterance.
        samples: hypotheses of each utterance; they may be equal.
        temperature: above 0.

    Returns:
        For each utterance its hypotheses.
    """
    uniforms = draw_uniforms(seeds, samples, max_new_tokens).to(states.device)
    run = _Sampling(whisper, states, prefixes, max_new_tokens, uniforms, temperature)
    with lean(whisper.network):
        while run.rows.numel():
            run.step()
    written = [Hypothesis(tuple(ids), ended) for ids, ended in zip(run.found, run.ended.tolist(), strict=True)]
    return [written[start : start + samples] for start in range(0, len(written), samples)]


def draw_uniforms(seeds: Sequence[int], samples: int, steps: Sequence[int]) -> Float[Tensor, "batch sample step"]:
    """Numbers in [0, 1). Those of an utterance depend on its own seed and its own steps alone; the rest is 0."""
    drawn = torch.zeros(len(seeds), samples, max(steps))
    for row, seed, count in zip(drawn, seeds, steps, strict=True):
        row[:, :count] = torch.rand(samples, count, generator=torch.Generator().manual_seed(seed))
    return drawn


class _Sampling(_Run):
    """A run of the decoder in which rows are multiplied behind the prefix, and tokens are drawn."""

    def __init__(
        self,
        whisper: Whisper,
        states: Float[Tensor, "batch position told"],
        prefixes: Sequence[Sequence[int]],
        max_new_tokens: Sequence[int],
        uniforms: Float[Tensor, "batch sample step"],
        temperature: float,
    ):
        super().__init__(whisper, states, prefixes, max_new_tokens)
        self.samples = uniforms.shape[1]
        self.uniforms = uniforms.flatten(0, 1)
        self.temperature = temperature
        self.found = [[] for _ in range(len(self.uniforms))]
        self.ended = torch.zeros(len(self.uniforms), dtype=torch.bool, device=states.device)

    def _choose(self, logits: Float[Tensor, "batch vocabulary"]) -> Int[Tensor, "batch"]:
        if self.made == 0:
            logits = _multiply(self, logits, self.samples)
        tokens = invert(logits, self.uniforms[self.rows, self.made], self.temperature)
        has_ended = self.alive & (tokens == self.whisper.tokens.end_of_text)
        self.ended[self.rows[has_ended]] = True
        return tokens


def _multiply(run: _Run, logits: Float[Tensor, "batch vocabulary"], times: int) -> Float[Tensor, "row vocabulary"]:
    """Repeat every row of a run, its cache included; rows are numbered anew, those of an utterance side by side."""
    run._drop(torch.arange(len(run.rows), device=logits.device).repeat_interleave(times))
    run.rows = torch.arange(len(run.rows), device=logits.device)
    return logits.repeat_interleave(times, dim=0)


def invert(
    logits: Float[Tensor, "row vocabulary"], uniforms: Float[Tensor, "row"], temperature: float = 1.0
) -> Int[Tensor, "row"]:
    """The first token at which the cumulative chance, by softmax(logits / temperature), is above a number in [0, 1).

    First the block of BLOCK tokens is found in which it lies, then the token, each by sums in double precision: in
    single the sum over 50,000 tokens is off by more than a rare token's chance, and on a GPU it may even fall.
    """
    # Apple's GPUs have no doubles.
    wide = logits.cpu() if logits.device.type == "mps" else logits
    rows, size = wide.shape
    chances = wide.new_zeros(rows, -(-size // BLOCK) * BLOCK)
    torch.sub(wide, wide.amax(dim=-1, keepdim=True), out=chances[:, :size])
    chances[:, :size].div_(temperature).exp_()
    blocks = chances.view(rows, -1, BLOCK)
    sums = blocks.sum(dim=-1).double()
    left = uniforms.to(sums)[:, None] * sums.sum(dim=-1, keepdim=True)
    block, left = _step_over(sums, left)
    inside = blocks[torch.arange(rows, device=wide.device), block[:, 0]].double()
    token, _ = _step_over(inside, left)
    return (block * BLOCK + token)[:, 0].to(logits.device)


def _step_over(
    chances: Float[Tensor, "row part"], wanted: Float[Tensor, "row 1"]
) -> tuple[Int[Tensor, "row 1"], Float[Tensor, "row 1"]]:
    """The first part at which the cumulative chance is above what is wanted, and how far into that part this is. A part
    without a chance is never met: where rounding leaves more wanted than there is, the last that has one is taken."""
    cumulative = chances.cumsum(dim=-1)
    total = cumulative[:, -1:]
    below = torch.minimum(wanted, torch.nextafter(total, torch.zeros_like(total)))
    found = torch.searchsorted(cumulative, below, right=True)
    before = cumulative.gather(1, (found - 1).clamp(min=0)).where(found > 0, 0.0)
    return found, (below - before).clamp(min=0)


@torch.no_grad()
def search(
    whisper: Whisper,
    states: Float[Tensor, "batch position told"],
    prefixes: Sequence[Sequence[int]],
    max_new_tokens: Sequence[int],
    beams: int,
) -> list[list[Hypothesis]]:
    """The `beams` likeliest hypotheses that a beam of that width finds, the likeliest first, by their whole
    log-probability: not divided by the length, because the posteriors of an n-best list are not either.

    Returns:
        For each utterance at most `beams` hypotheses, all different. With one beam it is greedy decoding.
    """
    with lean(whisper.network):
        return _Beams(whisper, states, prefixes, max_new_tokens, beams).find()


class _Beams(_Run):
    """Rows of an utterance stand side by side; a finished one stays where it is and goes on for nothing."""

    def __init__(
        self,
        whisper: Whisper,
        states: Float[Tensor, "batch position told"],
        prefixes: Sequence[Sequence[int]],
        max_new_tokens: Sequence[int],
        beams: int,
    ):
        super().__init__(whisper, states, prefixes, max_new_tokens)
        self.beams = beams
        self.totals = torch.full((len(self.rows), beams), NEVER, device=states.device)
        self.totals[:, 0] = 0.0  # at first there is one hypothesis, the empty one
        self.ended = torch.zeros(len(self.rows) * beams, dtype=torch.bool, device=states.device)
        self.lengths = torch.zeros_like(self.ended, dtype=torch.long)
        self.history = self.lengths.new_zeros(len(self.ended), 0)

    def find(self) -> list[list[Hypothesis]]:
        done = torch.zeros_like(self.ended)
        while not done.all():
            logits = self._suppress(self._compute_logits())
            if self.made == 0:
                logits = _multiply(self, logits, self.beams)
                done = self.limits <= 0
                if done.all():
                    break
            done = self._extend(logits.log_softmax(dim=-1), done)
        return [self._read(utterance) for utterance in range(len(self.totals))]

    def _extend(self, scores: Float[Tensor, "row vocabulary"], done: Tensor) -> Tensor:
        """The best continuations of each utterance's hypotheses; returns which of them are finished."""
        end, vocabulary = self.whisper.tokens.end_of_text, scores.shape[1]
        scores[done] = NEVER
        scores[done, end] = 0.0  # what is finished continues in one way, for nothing
        totals = (self.totals.flatten()[:, None] + scores).view(len(self.totals), -1)
        self.totals, places = totals.topk(self.beams, dim=1)
        first_row = torch.arange(len(places), device=places.device)[:, None] * self.beams
        parents, tokens = (first_row + places // vocabulary).flatten(), (places % vocabulary).flatten()
        self._drop(parents)
        was_done = done[parents]
        self.history = torch.cat([self.history[parents], tokens[:, None]], dim=1)
        self.ended = self.ended[parents] | (~was_done & (tokens == end))
        self.lengths = self.lengths[parents] + (~was_done & (tokens != end))
        self.made += 1
        self._continue(tokens)
        return self.ended | (self.limits <= self.made)

    def _read(self, utterance: int) -> list[Hypothesis]:
        rows = range(utterance * self.beams, (utterance + 1) * self.beams)
        found = [row for row, total in zip(rows, self.totals[utterance].tolist(), strict=True) if total > NEVER]
        return [
            Hypothesis(tuple(self.history[row, : self.lengths[row]].tolist()), bool(self.ended[row])) for row in found
        ]
