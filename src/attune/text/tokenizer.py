"""A tokenizer of Whisper's kind: made small from text, or an old one with more tokens or with other pieces.

Ids keep Whisper's order whatever is added: text, <|endoftext|>, <|startoftranscript|>, languages, tasks,
<|notimestamps|>, times. Other programs rely on it: transformers takes all that stands behind <|notimestamps|> for
times, so that a word which `add_tokens` puts there is missing from the text of its pipeline. A new token goes where its
kind stands, and what is behind it moves on; no rule about ids changes.
"""

import json
from collections.abc import Iterable, Mapping, Sequence

from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers
from transformers import WhisperTokenizer
from transformers.models.whisper.tokenization_whisper import LANGUAGES

END = "<|endoftext|>"
TASKS = ("<|translate|>", "<|transcribe|>", "<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>")
TIMESTAMPS = 1501  # 0.00 to 30.00 s in steps of 0.02 s
FILLER = "<|filler_{}|>"  # pieces that only take up ids, from 0 on
SOFT_PROMPT = "<|soft_prompt_{}|>"  # a learned prompt's tokens, from 0 on, in front of <|notimestamps|>


def train_tokenizer(sentences: Iterable[str], merges: int) -> WhisperTokenizer:
    """Learn byte pairs from text.

    Ids run as in OpenAI's multilingual vocabulary: 256 bytes, merges, <|endoftext|>, <|startoftranscript|>, 100
    languages, tasks, <|notimestamps|>, timestamps.

    Args:
        sentences: the text; a space is put before each, as Whisper does.
        merges: how many pairs to learn: few, and a new word costs little more than a known one.
    """
    return build_tokenizer(learn_pieces(sentences, merges))


def learn_pieces(sentences: Iterable[str], merges: int) -> Tokenizer:
    """Byte-level BPE: 256 bytes and up to `merges` pairs, as many as the text has."""
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=256 + merges, initial_alphabet=alphabet, show_progress=False)
    learner.train_from_iterator((" " + sentence for sentence in sentences), trainer)
    return learner


def build_tokenizer(learner: Tokenizer) -> WhisperTokenizer:
    """Whisper's special tokens behind a byte-level BPE vocabulary."""
    vocab, merges = read_pieces(learner)
    tokenizer = WhisperTokenizer(vocab={**vocab, END: len(vocab)}, merges=merges, pad_token=END)
    languages = [f"<|{code}|>" for code in LANGUAGES]
    special = ["<|startoftranscript|>", *languages, *TASKS]
    tokenizer.add_tokens(_make(special, special_token=True), special_tokens=True)  # type: ignore[arg-type]
    times = [f"<|{step * 0.02:.2f}|>" for step in range(TIMESTAMPS)]
    tokenizer.add_tokens(_make(times, special_token=False))  # type: ignore[arg-type]
    return tokenizer


def _make(tokens: Iterable[str], special_token: bool) -> list[AddedToken]:
    return [AddedToken(token, special=special_token, normalized=False) for token in tokens]


def read_pieces(tokenizer: Tokenizer) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """The pieces of a BPE tokenizer with their ids, as byte letters, and the pairs that make them, in order."""
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [tuple(pair) for pair in model["merges"]]


def add_to_tokenizer(
    old: WhisperTokenizer, terms: Sequence[str] = (), languages: Sequence[str] = (), prompts: int = 0
) -> WhisperTokenizer:
    """A tokenizer with more tokens; the old one is left alone.

    Args:
        terms: text, in front of <|endoftext|>. Each is one token wherever it stands in a text, letter by letter.
        languages: codes, behind the old languages.
        prompts: how many tokens of a learned prompt, in front of <|notimestamps|>.
    """
    vocab, merges = read_pieces(old.backend_tokenizer)
    end = _find_end(old)
    pieces = {piece: id for piece, id in vocab.items() if id < end}
    before = [token for id, token in sorted(old.added_tokens_decoder.items()) if id < end]
    new = {
        "<|translate|>": [f"<|{code}|>" for code in languages],
        "<|notimestamps|>": [SOFT_PROMPT.format(number) for number in range(prompts)],
    }
    text = {term: end + index for index, term in enumerate(terms)}
    return _rebuild(old, {**pieces, **text}, merges, [*before, *_make(terms, special_token=False)], new)


def exchange_pieces(old: WhisperTokenizer, learner: Tokenizer) -> WhisperTokenizer:
    """A tokenizer that spells with other pieces; languages, tasks and times stay. The old one is left alone."""
    return _rebuild(old, *read_pieces(learner), [], {})


def fill_pieces(old: WhisperTokenizer, count: int) -> WhisperTokenizer:
    """A tokenizer with `count` more pieces behind the text, which nothing spells: what follows moves on by as many.

    Programs that know Whisper's special tokens by their ids, and not by their names, find them so in a small tokenizer
    too. The old one is left alone.
    """
    vocab, merges = read_pieces(old.backend_tokenizer)
    end = _find_end(old)
    pieces = {piece: id for piece, id in vocab.items() if id < end}
    terms = [token for id, token in sorted(old.added_tokens_decoder.items()) if id < end]
    fillers = {FILLER.format(number): end + number for number in range(count)}
    return _rebuild(old, {**pieces, **fillers}, merges, terms, {})


def _find_end(tokenizer: WhisperTokenizer) -> int:
    return int(tokenizer.convert_tokens_to_ids(END))  # type: ignore[arg-type]  # of one token, one id


def _listed(tokenizer: WhisperTokenizer) -> list[str]:
    """The special tokens that a tokenizer names one by one, beside those that have a part of their own."""
    return [str(token) for token in tokenizer.extra_special_tokens or []]  # type: ignore[union-attr]


def _rebuild(
    old: WhisperTokenizer,
    pieces: Mapping[str, int],
    merges: Sequence[tuple[str, str]],
    terms: Sequence[AddedToken],
    new: Mapping[str, Sequence[str]],
) -> WhisperTokenizer:
    """Pieces and terms, <|endoftext|>, and the old special tokens with new ones in front of some.

    The constructor is called as `from_pretrained` calls it, so that ids are those of the saved tokenizer.

    Args:
        terms: of `pieces`, those that are looked for in the text before it is cut into pieces.
        new: special token -> the new ones that go in front of it.
    """
    end, behind = len(pieces), _find_end(old)
    special: list[AddedToken] = []
    for id, token in sorted(old.added_tokens_decoder.items()):
        if id > behind:
            special += [*_make(new.get(token.content, ()), special_token=True), token]
    added = {pieces[term.content]: term for term in terms}
    added |= {end + index: token for index, token in enumerate([*_make([END], special_token=True), *special])}
    listed = {*_listed(old), *(name for names in new.values() for name in names)}
    return WhisperTokenizer(
        vocab={**pieces, END: end},
        merges=list(merges),
        added_tokens_decoder=added,
        # Where the old tokenizer listed its special tokens, the new one does, in the order of their ids.
        extra_special_tokens=[token.content for token in special if token.content in listed] if _listed(old) else [],
        unk_token=str(old.unk_token or END),
        bos_token=str(old.bos_token or END),
        eos_token=str(old.eos_token or END),
        pad_token=old.pad_token,
        add_prefix_space=old.add_prefix_space,
        language=old.language,
        task=old.task,
        predict_timestamps=old.predict_timestamps,
        model_max_length=old.model_max_length,
    )
