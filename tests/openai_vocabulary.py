"""OpenAI's multilingual vocabulary of 51865 tokens as a WhisperTokenizer, from the file in the openai-whisper wheel.

The file lists byte strings by rank. A BPE tokenizer also wants to know of which two parts each was made: those that
remain of its bytes when every earlier merge has been applied.
"""

import base64
from collections.abc import Iterator
from pathlib import Path

from tokenizers import AddedToken, pre_tokenizers
from transformers import WhisperTokenizer

END = "<|endoftext|>"
LANGUAGES_OF_2022 = 99  # large-v3 came with Cantonese as the hundredth


def load_ranks(path: Path) -> dict[bytes, int]:
    lines = (line.split() for line in path.read_bytes().splitlines() if line)
    return {base64.b64decode(token): int(rank) for token, rank in lines}


def find_merges(ranks: dict[bytes, int]) -> Iterator[tuple[bytes, bytes]]:
    """The two parts of every token of more than one byte, in the order in which they were learnt."""
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        if len(token) > 1:
            yield _last_two(token, rank, ranks)


def _last_two(token: bytes, rank: int, ranks: dict[bytes, int]) -> tuple[bytes, bytes]:
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        merged = [ranks.get(left + right, rank) for left, right in zip(parts, parts[1:], strict=False)]
        first = min(merged)
        if first >= rank:
            raise ValueError(f"{token!r} is not made of two earlier tokens")
        at = merged.index(first)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts[0], parts[1]


def byte_letters() -> dict[int, str]:
    """GPT-2's letter for every byte: itself where it can be seen, else the next of the letters from U+0100 on."""
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in visible]
    letters = {byte: chr(byte) for byte in visible} | {byte: chr(256 + i) for i, byte in enumerate(hidden)}
    assert set(letters.values()) == set(pre_tokenizers.ByteLevel.alphabet())
    return letters


def build_openai_tokenizer(path: Path, languages: list[str]) -> WhisperTokenizer:
    ranks, letters = load_ranks(path), byte_letters()
    spell = lambda token: "".join(letters[byte] for byte in token)  # noqa: E731
    vocabulary = {spell(token): rank for token, rank in ranks.items()} | {END: len(ranks)}
    merges = [(spell(left), spell(right)) for left, right in find_merges(ranks)]
    tokenizer = WhisperTokenizer(vocab=vocabulary, merges=merges, pad_token=END)
    tasks = ("translate", "transcribe", "startoflm", "startofprev", "nospeech", "notimestamps")
    names = ["startoftranscript", *languages[:LANGUAGES_OF_2022], *tasks]
    special = [AddedToken(f"<|{name}|>", special=True, normalized=False) for name in names]
    tokenizer.add_tokens(special, special_tokens=True)
    times = [AddedToken(f"<|{step / 50:.2f}|>", special=False, normalized=False) for step in range(1501)]
    tokenizer.add_tokens(times)
    return tokenizer
