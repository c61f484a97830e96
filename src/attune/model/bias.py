"""Decoding that is drawn to the terms of a list: shallow fusion with a token trie (text/trie.py says how it reads).

    score(token) = log p(token | text) + weight * (earned(text + token) - earned(text))

in every step, for every row at once and for any number of terms. Greedy decoding, sampling and beam search use the same
two calls: `favour` the scores of the next token, `follow` the token that was taken. In a beam, a row is a hypothesis,
and its state moves with it: `states[beams]`.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import LogitsProcessor

from attune.model.whisper import Whisper
from attune.text.trie import BETWEEN, Trie, find_openings, spell_terms
from attune.text.vocabulary import Term


class TermBias:
    """A trie as tensors. Rows of a batch are nodes of it, integers.

    Args:
        trie: of the terms.
        weight: nats that a token in a term of weight 1 gains; 0 changes nothing.
    """

    def __init__(self, trie: Trie, weight: float):
        self.trie, self.weight = trie, weight
        self.vocabulary = len(trie.opens)
        value, parent = torch.tensor(trie.value), torch.tensor(trie.parent)
        self.token, self.fail = torch.tensor(trie.token), torch.tensor(trie.fail)
        self.gain = weight * (value - value[parent])
        self.lost = weight * torch.tensor(trie.lost)
        self.opens = torch.tensor(trie.opens).long()  # the root behind each token
        self.keys = parent[2:] * self.vocabulary + self.token[2:]  # sorted: the place of a key is its node, less 2
        self.count = torch.tensor([len(children) for children in trie.children])
        self.first = 2 + self.count.cumsum(dim=0) - self.count
        self.roots = self._lay_out_roots()  # by far the largest families, so they are not gathered but looked up
        self.count[:2] = 0

    def _lay_out_roots(self) -> Float[Tensor, "2 vocabulary"]:
        """The bonus of every token at either root; what only the inner one has is found from the other too."""
        roots = torch.zeros(2, self.vocabulary)
        for root in range(2):
            children = slice(int(self.first[root]), int(self.first[root] + self.count[root]))
            roots[root:, self.token[children]] = self.gain[children]
        return roots

    def reweigh(self, weight: float) -> "TermBias":
        """The same terms at another weight."""
        return TermBias(self.trie, weight)

    def start(self, rows: int, device: torch.device | str = "cpu") -> Int[Tensor, "row"]:
        """The state of rows without text. The trie moves to their device."""
        for name in ("token", "fail", "gain", "lost", "opens", "keys", "count", "first", "roots"):
            setattr(self, name, getattr(self, name).to(device))
        return torch.full((rows,), BETWEEN, device=device)

    def favour(
        self, scores: Float[Tensor, "row vocabulary"], states: Int[Tensor, "row"]
    ) -> Float[Tensor, "row vocabulary"]:
        """Scores (logits, or log-probabilities) of the next token, each with its bonus."""
        lost = self.lost.new_zeros(len(states))
        levels: list[tuple[Tensor, Tensor]] = []
        while bool((states > BETWEEN).any()):  # a root falls to a root, and loses nothing
            levels.append((states, lost))
            lost, states = lost + self.lost[states], torch.where(states > BETWEEN, self.fail[states], states)
        bonus = self.roots[states] + lost[:, None]
        for nodes, before in reversed(levels):  # children of the node itself have the last word
            rows, children = self._list_children(nodes)
            bonus[rows, self.token[children]] = before[rows] + self.gain[children]
        return scores + bonus

    def _list_children(self, nodes: Int[Tensor, "row"]) -> tuple[Int[Tensor, "child"], Int[Tensor, "child"]]:
        """Of all rows' nodes, roots aside, the row and the node of every child."""
        counts = self.count[nodes]
        rows = torch.repeat_interleave(torch.arange(len(nodes), device=nodes.device), counts)
        before = counts.cumsum(dim=0) - counts
        return rows, self.first[nodes][rows] + torch.arange(len(rows), device=nodes.device) - before[rows]

    def follow(self, states: Int[Tensor, "row"], tokens: Int[Tensor, "row"]) -> Int[Tensor, "row"]:
        """The states behind one more token each."""
        reached = self.opens[tokens]
        searching = torch.ones_like(states, dtype=torch.bool)
        while bool(searching.any()):
            keys = states * self.vocabulary + tokens
            places = torch.searchsorted(self.keys, keys).clamp(max=len(self.keys) - 1)
            is_child = searching & (self.keys[places] == keys)
            reached = torch.where(is_child, places + 2, reached)
            searching = searching & ~is_child & (states > 0)
            states = self.fail[states]
        return reached


class TermProcessor(LogitsProcessor):
    """The same for transformers' `generate`, which hands over all ids in every step and may reorder its rows."""

    def __init__(self, bias: TermBias):
        self.bias = bias
        self.seen: Int[Tensor, "row token"] | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # type: ignore[override]
        if self.seen is None or not torch.equal(input_ids[:, :-1], self.seen):
            self.states = self.bias.start(len(input_ids), input_ids.device)
            for tokens in input_ids[:, :-1].T:  # the prefix; its special tokens end what a prompt began
                self.states = self.bias.follow(self.states, tokens)
        self.states, self.seen = self.bias.follow(self.states, input_ids[:, -1]), input_ids
        return self.bias.favour(scores, self.states)


def make_bias(whisper: Whisper, terms: Sequence[Term], weight: float) -> TermBias:
    """The bias of a list of terms, for a Whisper with its tokens.

    Raises:
        InputError: no token that it may write spells one of them.
    """
    config = whisper.network.generation_config
    suppressed = getattr(config, "suppress_tokens", None) or []
    spellings = spell_terms(terms, whisper.tokens, suppressed)
    opens = find_openings(whisper.tokens, whisper.network.config.vocab_size)
    return TermBias(Trie(spellings, opens), weight)
