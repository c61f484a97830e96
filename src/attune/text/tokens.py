"""Transcript <-> label ids: language, task, timestamps, prompt.

The sequence that Whisper was pretrained on, and the part of it that is a target (underlined):

    <|startofprev|> prompt <|startoftranscript|> <|en|> <|transcribe|> <|notimestamps|> text <|endoftext|>
                                                 -------------------------------------------------------
A model with a learned prompt (finetune=prompt) has that prompt's tokens behind <|startofprev|>, in every sequence.
No id is written down here: large-v3 shifts them all by one, nano has others; every id is asked of the tokenizer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from transformers import WhisperTokenizer
from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

from attune.audio.waveform import WINDOW_S
from attune.errors import InputError
from attune.text.normalise import spells_without_spaces
from attune.text.tokenizer import SOFT_PROMPT

MAX_TOKENS = 448  # positions of Whisper's decoder, prompt and special tokens included
MAX_PROMPT_TOKENS = MAX_TOKENS // 2 - 1  # openai-whisper keeps as many
SECONDS_PER_TIMESTAMP = 0.02
IGNORED = -100  # torch's cross_entropy skips this label
SPOKEN_PER_S, SPELT_PER_S = 12, 40  # tokens that a second of fast speech needs: in words, or letter by letter in bytes
SMALL_VOCABULARY = 10_000  # text tokens; OpenAI's have 50,000
# Those whose texts take more than one token a letter in OpenAI's vocabulary (1.1 in Hindi to 3.0 in Tibetan, of one
# sentence each); Tamil, the next, takes 0.9, English 0.2.
SPELT_LANGUAGES = frozenset(
    {"am", "as", "bn", "bo", "gu", "hi", "hy", "ka", "km", "kn", "lo", "ml", "mr", "my", "ne", "pa", "sa", "si", "te"}
)


@dataclass(frozen=True)
class Segment:
    """A part of an utterance: its times in seconds from the utterance's start, and its text."""

    start_s: float
    end_s: float
    text: str


@dataclass(frozen=True)
class Sequence448:
    """What the decoder reads and what it must answer, position by position; equal lengths, at most 448.

    `labels[i]` is the target after `decoder_input_ids[: i + 1]`, or IGNORED.
    """

    decoder_input_ids: list[int]
    labels: list[int]


class UnknownLanguage(InputError):
    """A language that Whisper does not know: `fault` says so, and the message also what a corpus can do about it."""

    def __init__(self, fault: str, mend: str):
        super().__init__(f"{fault} {mend}")
        self.fault = fault


class Tokens:
    """A Whisper tokenizer, and the sequences built with it.

    Args:
        tokenizer: of any Whisper: multilingual or English-only, 99 or 100 languages, any vocabulary.
        is_multilingual: False for the English-only Whispers, which take no language and no task token.
        max_tokens: positions of the decoder (448 in every published Whisper).
    """

    def __init__(self, tokenizer: WhisperTokenizer, is_multilingual: bool = True, max_tokens: int = MAX_TOKENS):
        self.tokenizer = tokenizer
        self.is_multilingual = is_multilingual
        self.max_tokens = max_tokens
        known = tokenizer.get_vocab()
        self.end_of_text = self._id("<|endoftext|>")
        self.start = self._id("<|startoftranscript|>")
        self.no_timestamps = self._id("<|notimestamps|>")
        self.start_of_prompt = self._id("<|startofprev|>")
        self.no_speech = self._id("<|nospeech|>", "<|nocaptions|>")
        # Some published tokenizers do not name the timestamps, but in every Whisper they follow <|notimestamps|>.
        self.first_timestamp = self.no_timestamps + 1
        self.last_timestamp = self.first_timestamp + round(WINDOW_S / SECONDS_PER_TIMESTAMP)
        self.tasks = {task: self._id(f"<|{task}|>") for task in ("transcribe", "translate")}
        between = range(self.start + 1, min(self.tasks.values()))
        self.languages = {str(tokenizer.convert_ids_to_tokens(i)).strip("<|>"): i for i in between}
        self.special = set(range(min(self.end_of_text, self.start), self.last_timestamp + 1))
        self.paces: dict[str, float] = {}  # language code -> tokens per second, where a corpus knows better (`pace`)
        self.relatives: dict[str, str] = {}  # a language that a new token was made for -> the one that it started from
        # A saved model knows its learned prompt by these names; all others have none.
        names = map(SOFT_PROMPT.format, range(self.no_timestamps - self.no_speech - 1))
        self.soft_prompt = [known[name] for name in names if name in known]

    def _id(self, *names: str) -> int:
        known = self.tokenizer.get_vocab()
        for name in names:
            if name in known:
                return known[name]
        raise InputError(
            f"This tokenizer has no token {' or '.join(names)}, so it is not Whisper's. "
            "Set model.name_or_path to a folder or hub name that holds a Whisper with its tokenizer."
        )

    def language_code(self, language: str) -> str:
        """ "en" for "en", "English" or "english".

        Raises:
            InputError: Whisper knows no such language; the message gives the nearest names.
        """
        wanted = language.lower()
        if wanted not in self.languages:
            wanted = self.relatives.get(wanted, wanted)
        code = wanted if wanted in self.languages else TO_LANGUAGE_CODE.get(wanted, "")
        if code in self.languages:
            return code
        names = [*self.languages, *(name for name, code in TO_LANGUAGE_CODE.items() if code in self.languages)]
        near = get_close_matches(wanted, names, n=4, cutoff=0.5)
        told = f"Nearest: {', '.join(near)}" if near else f"There are: {', '.join(sorted(self.languages))}"
        raise UnknownLanguage(
            f"Whisper knows no language {language!r}. {told}.",
            "Give a code ('en') or an English name in data.language or in the corpus' column; for a new language use "
            "the code of its nearest relative, or give it a token: finetune=new_tokens.",
        )

    def prefix(self, language: str, task: str = "transcribe", timestamps: bool = False) -> list[int]:
        """The ids that stand before the text: start, language, task and, unless `timestamps`, <|notimestamps|>.

        Raises:
            InputError: Whisper knows no such language or task.
        """
        if task not in self.tasks:
            raise InputError(f"Whisper knows no task {task!r}; the corpus' column 'task' is {' or '.join(self.tasks)}.")
        ids = [self.start]
        if self.is_multilingual:
            ids += [self.languages[self.language_code(language)], self.tasks[task]]
        return ids if timestamps else [*ids, self.no_timestamps]

    def pace(self, prefix: Sequence[int]) -> float:
        """Tokens that a second of fast speech can need in the language that a prefix asks for: what a decoder is
        allowed to write, for one that loops would go on to the end of its positions."""
        asked = set(prefix)
        code = next((code for code, id in self.languages.items() if id in asked), "en")
        is_spelt = self.end_of_text < SMALL_VOCABULARY or code in SPELT_LANGUAGES
        return self.paces.get(code, SPELT_PER_S if is_spelt else SPOKEN_PER_S)

    def prompt(self, prompt: str | None, room: int) -> list[int]:
        """<|startofprev|>, the learned prompt if there is one, and the last tokens of the prompt that fit into `room`.

        [] for no prompt of either kind. The learned one is never cut: `room` must hold it.
        """
        ids = self.text(prompt, None) if prompt else []
        kept = max(min(len(ids), min(MAX_PROMPT_TOKENS, room - 1) - len(self.soft_prompt)), 0)
        before = [*self.soft_prompt, *ids[len(ids) - kept :]]
        return [self.start_of_prompt, *before] if before else []

    def text(self, text: str, language: str | None) -> list[int]:
        """A transcript's ids. Whisper writes a space before the first word, in languages that write spaces at all."""
        stripped = text.strip()
        spaced = stripped if spells_without_spaces(language) or not stripped else " " + stripped
        return self.tokenizer.encode(spaced, add_special_tokens=False)

    def segments(self, segments: Sequence[Segment], language: str | None) -> list[int]:
        """<|start|> text <|end|> for each segment, times rounded to 0.02 s."""
        ids: list[int] = []
        for segment in segments:
            ids += [self._timestamp(segment.start_s), *self.text(segment.text, language)]
            ids += [self._timestamp(segment.end_s)]
        return ids

    def _timestamp(self, time_s: float) -> int:
        return min(self.first_timestamp + round(time_s / SECONDS_PER_TIMESTAMP), self.last_timestamp)

    def sequence(
        self,
        text: str,
        language: str,
        task: str = "transcribe",
        prompt: str | None = None,
        segments: Sequence[Segment] = (),
    ) -> Sequence448:
        """Decoder input and labels of one utterance, the prompt cut to what the label leaves free.

        An utterance without speech (empty text) is taught twice in one pass: <|nospeech|> directly after the start,
        and <|endoftext|> directly after the prefix that other programs force.

        Raises:
            InputError: the text needs more than `max_tokens` positions.
        """
        prefix = self.prefix(language, task, timestamps=bool(segments))
        learned = self.prompt(None, room=self.max_tokens)
        if not text.strip():
            unasked = [IGNORED] * (len(prefix) - 2)
            labels = [*[IGNORED] * len(learned), self.no_speech, *unasked, self.end_of_text]
            return Sequence448([*learned, *prefix], labels)
        label = self.segments(segments, language) if segments else self.text(text, language)
        ids = [*prefix, *label, self.end_of_text]
        if len(learned) + len(ids) - 1 > self.max_tokens:
            before = len(learned) + len(prefix)
            raise InputError(
                f"The text has {len(label)} tokens; with {before} special ones before it Whisper holds "
                f"{self.max_tokens}. Cut the utterance (start_s, end_s): {text[:60]!r}..."
            )
        prompt_ids = self.prompt(prompt, room=self.max_tokens - (len(ids) - 1))
        labels = [IGNORED] * len(prompt_ids) + ids[1:]
        return Sequence448([*prompt_ids, *ids[:-1]], labels)

    def transcript(self, ids: Sequence[int]) -> str:
        """The text of generated ids: special tokens and timestamps left out, outer spaces stripped."""
        words = [i for i in ids if i not in self.special]
        return self.tokenizer.decode(words, skip_special_tokens=False, clean_up_tokenization_spaces=False).strip()
