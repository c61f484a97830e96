"""What a vocabulary does for a model that is being scored: terms in its prompt, and a bias towards them."""

from dataclasses import dataclass

from attune.data.module import SpeechDataModule
from attune.data.vocabulary import CustomVocabulary
from attune.errors import InputError
from attune.model.bias import TermBias, make_bias
from attune.model.finetune.ctc import find_writer
from attune.model.finetune.new_tokens import NewTokens
from attune.model.whisper import Whisper


@dataclass(frozen=True)
class Aid:
    """How a scored model is helped.

    Args:
        vocabulary: whose terms stand in prompts, where it says so.
        bias: of decoding; None is none.
    """

    vocabulary: CustomVocabulary
    bias: TermBias | None = None

    @property
    def needs_first_pass(self) -> bool:
        """Whether the terms of a prompt are chosen by what was written without one."""
        return self.vocabulary.prompt == "found"


def check_languages(finetune: object, data: SpeechDataModule) -> None:
    """Refuse, before weights are loaded, a new language that no utterance would teach.

    Raises:
        InputError: with the language.
    """
    if not isinstance(finetune, NewTokens) or data.stream is not None:
        return
    taught = {str(code).lower() for code in data.training_rows.unique("language")}
    for code in sorted(finetune.languages.keys() - taught):
        raise InputError(
            f"finetune.languages: no training utterance is in {code!r}, so its token would learn nothing. They are in "
            f"{', '.join(sorted(taught))}. Write {code!r} into the column 'language' of the rows that are in it; where "
            f"rows have no such column, data.language={code} gives it to all."
        )


def check_vocabulary(data: SpeechDataModule, whisper: Whisper, interpolates: bool) -> TermBias | None:
    """The bias of the run's vocabulary, yet without a weight, if the model can be helped in the ways asked for.

    Raises:
        InputError: with what is in the way; or a term that no token spells.
    """
    vocabulary = data.vocabulary
    if vocabulary is None:
        return None
    bias = make_bias(whisper, vocabulary.terms, 0.0)
    helps = max(vocabulary.weights) > 0 or vocabulary.prompt
    if helps and find_writer(whisper.network) is not None:
        raise InputError(
            "vocabulary.bias and vocabulary.prompt help a decoder, and here a CTC head writes. Set vocabulary.bias=0 "
            "vocabulary.prompt=null (synthetic speech and measures stay), or finetune=ctc finetune.writes=decoder."
        )
    if helps and interpolates:
        raise InputError(
            "interpolate scores the weights by themselves: vocabulary.bias=0 vocabulary.prompt=null, or "
            "interpolate=null."
        )
    if vocabulary.prompt and data.examples:
        raise InputError(
            "data.in_context and vocabulary.prompt share the place before the transcript. Set data.in_context=0, or "
            "vocabulary.prompt=null."
        )
    return bias if max(vocabulary.weights) > 0 else None
