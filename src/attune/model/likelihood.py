"""How likely tokens are: log-probabilities of given texts, one number a token and never more logits than fit."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from attune.data.batch import pad_tokens
from attune.model.sample import Hypothesis
from attune.model.whisper import Whisper
from attune.text.tokens import IGNORED

ScoreTokens = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
LOWEST = torch.finfo(torch.float32).min
LOGITS_AT_ONCE = 2**25  # 128 MB in fp32: whisper's vocabulary times 647 tokens


@dataclass(frozen=True)
class TokenScores:
    """Of all labelled tokens, row by row.

    Args:
        log_probabilities: in nats, at most 0, with their gradient.
        entropies: of the distribution that each token was taken from, in nats, without gradient.
        rows: which row of the batch a token is in.
        lengths: how many tokens each row has.
    """

    log_probabilities: Float[Tensor, "token"]
    entropies: Float[Tensor, "token"]
    rows: Int[Tensor, "token"]
    lengths: Int[Tensor, "row"]

    def sum_rows(self, values: Float[Tensor, "token"]) -> Float[Tensor, "row"]:
        """A value a token -> its sum over each row."""
        return values.new_zeros(len(self.lengths)).index_add(0, self.rows, values)

    @property
    def of_rows(self) -> Float[Tensor, "row"]:
        """log p(text) of each row: the sum over its tokens."""
        return self.sum_rows(self.log_probabilities)


def compute_token_scores(
    whisper: Whisper,
    states: Float[Tensor, "row position told"],
    decoder_input_ids: Int[Tensor, "row token"],
    labels: Int[Tensor, "row token"],
    temperature: float = 1.0,
    first: Bool[Tensor, "row token"] | None = None,
) -> TokenScores:
    """Teacher-forced: log p(label | audio, tokens before it), wherever a label is not IGNORED.

    Args:
        temperature: logits are divided by it.
        first: marks each row's first token behind its prefix. If given, the distribution is the one that decoding draws
            from: without the tokens that generation_config suppresses, everywhere or in the first place.
    """
    is_taken = labels != IGNORED
    hidden, targets = whisper.decode(states, decoder_input_ids)[is_taken], labels[is_taken]
    starts = torch.zeros_like(targets, dtype=torch.bool) if first is None else first[is_taken]
    suppressed = find_suppressed(whisper) if first is not None else ([], [])

    def score(hidden: Tensor, targets: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
        logits = forbid(whisper.project(hidden).float(), *suppressed, starts)
        scores = (logits if temperature == 1 else logits / temperature).log_softmax(dim=-1)
        with torch.no_grad():  # 0 times the lowest number is 0, as 0 log 0 should be
            entropies = scores.exp().mul_(scores.clamp(min=LOWEST)).sum(dim=-1).neg()
        return scores.gather(1, targets[:, None])[:, 0], entropies

    size = max(1, LOGITS_AT_ONCE // len(whisper.tokens.tokenizer))
    parts = [score_part(score, hidden, targets, starts, start, size) for start in range(0, len(targets), size)]
    none = hidden.new_zeros(0, dtype=torch.float32)
    scores, entropies = zip(*parts, strict=True) if parts else ([none], [none])
    rows = is_taken.nonzero()[:, 0]
    return TokenScores(torch.cat(scores), torch.cat(entropies), rows, is_taken.sum(dim=1))


def score_part(
    score: ScoreTokens, hidden: Tensor, targets: Tensor, starts: Tensor, start: int, size: int
) -> tuple[Tensor, Tensor]:
    """Some of the tokens. Where there are more, their logits are made again for the backward pass, not kept for it."""
    part = slice(start, start + size)
    inputs = hidden[part], targets[part], starts[part]
    if len(targets) <= size or not torch.is_grad_enabled():
        return score(*inputs)
    return checkpoint(score, *inputs, use_reentrant=False, preserve_rng_state=False)  # type: ignore[return-value]


def forbid(
    logits: Float[Tensor, "token vocabulary"],
    everywhere: Sequence[int],
    at_first: Sequence[int],
    starts: Bool[Tensor, "token"],
) -> Float[Tensor, "token vocabulary"]:
    """Logits with -inf for some ids in all rows, and for others where a hypothesis begins."""
    if not everywhere and not at_first:
        return logits
    is_forbidden = torch.zeros(2, logits.shape[1], dtype=torch.bool, device=logits.device)
    is_forbidden[:, list(everywhere)] = True
    is_forbidden[1, list(at_first)] = True
    return logits.masked_fill(is_forbidden[starts.long()], -torch.inf)


def find_suppressed(whisper: Whisper) -> tuple[list[int], list[int]]:
    """Ids that decoding never writes, and those that it does not begin with."""
    config = whisper.network.generation_config
    names = ("suppress_tokens", "begin_suppress_tokens")
    never, not_first = (list(getattr(config, name, None) or []) for name in names)
    return never, not_first


def score_hypotheses(
    whisper: Whisper,
    states: Float[Tensor, "row position told"],
    prefixes: Sequence[Sequence[int]],
    hypotheses: Sequence[Hypothesis],
    temperature: float = 1.0,
) -> TokenScores:
    """Log-probabilities of what was drawn, under the distribution that it was drawn from, its <|endoftext|> included.

    Args:
        states, prefixes, hypotheses: of each row; an utterance with several hypotheses stands there as often.
    """
    end, device = whisper.tokens.end_of_text, states.device
    targets = [[*each.ids, *[end] * each.ended] for each in hypotheses]
    pairs = list(zip(prefixes, targets, strict=True))
    inputs = pad_tokens([[*prefix, *target][:-1] for prefix, target in pairs], end)
    labels = pad_tokens([[IGNORED] * (len(prefix) - 1) + target for prefix, target in pairs], IGNORED)
    first = torch.zeros_like(labels, dtype=torch.bool)
    for row, prefix in zip(first, prefixes, strict=True):
        row[len(prefix) - 1 : len(prefix)] = True
    return compute_token_scores(whisper, states, inputs.to(device), labels.to(device), temperature, first.to(device))
