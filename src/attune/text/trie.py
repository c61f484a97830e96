"""A trie of token ids: how far into a term a text is, and what it has earned by that.

A text is read as a person with a list would read it: from left to right, the longest term that begins at a place. Each
token that goes on in a term earns the term's weight at once. If the term is completed, that is kept, and reading goes
on behind it; if it breaks off, what the broken part had earned is taken back, and reading begins again one token
further on, with the tokens that were already read. So

    earned(text) = weights of the tokens in completed terms + those of the tokens in a term that may still be completed

and the bonus of a next token is earned(text + token) - earned(text). Because what is read again after a break depends
only on the broken part, every node has one node to fall to, as in Aho and Corasick 1975, and a text is one node.

A term that begins without a space (after a quotation mark, a hyphen or a time) may do so only where no word is under
way, or the "or" of "aorta" would be looked for in every word. Scripts without spaces begin a term anywhere.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import regex

from attune.errors import InputError
from attune.text.tokens import Tokens
from attune.text.vocabulary import Term

INSIDE, BETWEEN = 0, 1  # the two roots: within a word that is no term, and where a word without a space may begin
UNSPACED = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Myanmar}\p{Khmer}]")
# Last letters of a piece, in the byte alphabet, behind which a word begins without a space: space, line ends, tab.
OPENS = frozenset("ĠĊčĉ") | frozenset('"#$%&()*+,-./:;<=>?@[\\]^_`{|}~')


@dataclass(frozen=True)
class Spelling:
    """One way to write a term.

    Args:
        ids: its tokens.
        weight: what each of them earns.
        anywhere: it may begin behind any token; else only where no word is under way.
    """

    ids: tuple[int, ...]
    weight: float
    anywhere: bool


class Trie:
    """The nodes of all spellings, as lists that a device can hold; a node's children follow each other in them.

    Nodes are sorted by (parent, token). Spellings that share a beginning share its nodes, each of which earns the
    largest of their weights.

    Args:
        spellings: at least one.
        opens: of every token, whether a word may begin behind it without a space.
    """

    def __init__(self, spellings: Iterable[Spelling], opens: Sequence[bool]):
        self.opens = opens
        branches, steps, ends = _grow(spellings)
        self.parent, self.token = [INSIDE, INSIDE], [-1, -1]
        self.value = [0.0, 0.0]  # earned on the way from the root
        self.children: list[dict[int, int]] = []
        self.is_end = [False, False]
        order = [INSIDE, BETWEEN]
        for node, branch in enumerate(order):  # level by level, and `order` grows
            self.children.append({})
            for token in sorted(branches[branch]):
                below = branches[branch][token]
                self.children[node][token] = len(order)
                order.append(below)
                self.parent.append(node)
                self.token.append(token)
                self.value.append(self.value[node] + steps[below])
                self.is_end.append(below in ends)
        self.fail = [INSIDE, INSIDE]  # where reading goes on when no child fits
        self.lost = [0.0, 0.0]  # what that takes back, at most 0
        for node in range(2, len(order)):
            fail, kept = self._fall(node)
            self.fail.append(fail)
            self.lost.append(kept - self.value[node])

    def __len__(self) -> int:
        return len(self.parent)

    def _fall(self, node: int) -> tuple[int, float]:
        """The node to fall to, and what is earned there in all."""
        parent, token = self.parent[node], self.token[node]
        if self.is_end[node]:
            return self._root_behind(token), self.value[node]
        if parent in (INSIDE, BETWEEN):
            return self._root_behind(token), 0.0
        reached, earned = self.walk(self.fail[parent], token)
        return reached, self.value[parent] + self.lost[parent] + earned

    def walk(self, node: int, token: int) -> tuple[int, float]:
        """The node behind one more token, and the bonus of that token."""
        bonus = 0.0
        while True:
            child = self.children[node].get(token)
            if child is not None:
                return child, bonus + self.value[child] - self.value[node]
            if node == INSIDE:
                return self._root_behind(token), bonus
            bonus, node = bonus + self.lost[node], self.fail[node]

    def _root_behind(self, token: int) -> int:
        return BETWEEN if self.opens[token] else INSIDE


def _grow(spellings: Iterable[Spelling]) -> tuple[list[dict[int, int]], list[float], set[int]]:
    """Of every node its children, what its token earns, and whether a spelling ends there; in the order of arrival."""
    branches: list[dict[int, int]] = [{}, {}]
    steps, ends = [0.0, 0.0], set()

    def plant(root: int, spelling: Spelling) -> None:
        node = root
        for token in spelling.ids:
            if token not in branches[node]:
                branches[node][token] = len(branches)
                branches.append({})
                steps.append(0.0)
            node = branches[node][token]
            steps[node] = max(steps[node], spelling.weight)
        ends.add(node)

    spelt = list(spellings)
    for spelling in spelt:
        plant(INSIDE if spelling.anywhere else BETWEEN, spelling)
    for spelling in spelt:  # what begins with the same token must not be hidden behind the other root
        if spelling.anywhere and spelling.ids[0] in branches[BETWEEN]:
            plant(BETWEEN, spelling)
    return branches, steps, ends


def find_openings(tokens: Tokens, size: int) -> list[bool]:
    """Of `size` token ids, whether a word without a space may follow: special tokens, spaces and most punctuation."""
    names = tokens.tokenizer.convert_ids_to_tokens(list(range(min(size, len(tokens.tokenizer)))))
    opens = [token in tokens.special or (name or "")[-1:] in OPENS for token, name in enumerate(names)]
    return opens + [True] * (size - len(opens))


def spell_terms(terms: Sequence[Term], tokens: Tokens, suppressed: Iterable[int] = ()) -> list[Spelling]:
    """Each term as written, in small letters and with a capital; each with a space before it and without.

    Args:
        suppressed: tokens that the model may not write.

    Raises:
        InputError: no token that may be written spells a term; with the term's place.
    """
    texts = [(term, text) for term in terms for text in _vary(term.spelling)]
    # One call for all: ten thousand terms are sixty thousand texts.
    encodings = tokens.tokenizer.backend_tokenizer.encode_batch([text for _, text in texts], add_special_tokens=False)
    banned = {*suppressed, *tokens.special}
    spellings: list[Spelling] = []
    spelt: set[str] = set()
    for (term, text), encoding in zip(texts, encodings, strict=True):
        ids = tuple(encoding.ids)
        if ids and not banned.intersection(ids):
            anywhere = text.startswith(" ") or UNSPACED.match(text) is not None
            spellings.append(Spelling(ids, term.weight, anywhere))
            spelt.add(term.spelling)
    for term in terms:
        if term.spelling not in spelt or tokens.transcript(tokens.text(term.spelling, None)) != term.spelling:
            raise InputError(
                f"{term.place}: no tokens that this Whisper may write spell the term {term.spelling!r}. Write it in "
                "the letters in which it is transcribed, or leave it out."
            )
    return spellings


def _vary(spelling: str) -> list[str]:
    """The ways in which a text may write a term."""
    cases = dict.fromkeys((spelling, spelling.lower(), spelling[0].upper() + spelling[1:]))
    return [text for case in cases for text in (f" {case}", case)]
