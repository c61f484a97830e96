"""A tokenizer of Whisper's kind made small: byte-level BPE, which spells any script, and all of Whisper's tokens."""

from collections.abc import Iterable

from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers
from transformers import WhisperTokenizer
from transformers.models.whisper.tokenization_whisper import LANGUAGES

END = "<|endoftext|>"
TASKS = ("<|translate|>", "<|transcribe|>", "<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>")
TIMESTAMPS = 1501  # 0.00 to 30.00 s in steps of 0.02 s


def train_tokenizer(sentences: Iterable[str], merges: int) -> WhisperTokenizer:
    """Learn byte pairs from text.

    Ids run as in OpenAI's multilingual vocabulary: 256 bytes, merges, <|endoftext|>, <|startoftranscript|>, 100
    languages, tasks, <|notimestamps|>, timestamps.

    Args:
        sentences: the text; a space is put before each, as Whisper does.
        merges: how many pairs to learn: few, and a new word costs little more than a known one.
    """
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=256 + merges, initial_alphabet=alphabet, show_progress=False)
    learner.train_from_iterator((" " + sentence for sentence in sentences), trainer)
    return build_tokenizer(learner)


def build_tokenizer(learner: Tokenizer) -> WhisperTokenizer:
    """Whisper's special tokens behind a byte-level BPE vocabulary."""
    import json

    learnt = json.loads(learner.to_str())["model"]
    vocab = {**learnt["vocab"], END: len(learnt["vocab"])}
    tokenizer = WhisperTokenizer(vocab=vocab, merges=[tuple(pair) for pair in learnt["merges"]], pad_token=END)
    languages = [f"<|{code}|>" for code in LANGUAGES]
    special = ["<|startoftranscript|>", *languages, *TASKS]
    tokenizer.add_tokens(_make(special, special_token=True), special_tokens=True)  # type: ignore[arg-type]
    times = [f"<|{step * 0.02:.2f}|>" for step in range(TIMESTAMPS)]
    tokenizer.add_tokens(_make(times, special_token=False))  # type: ignore[arg-type]
    return tokenizer


def _make(tokens: Iterable[str], special_token: bool) -> list[str | AddedToken]:
    return [AddedToken(token, special=special_token, normalized=False) for token in tokens]
