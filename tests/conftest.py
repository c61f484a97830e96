"""Small Whispers and small corpora, made once a session.

They are shared: a test that changes one takes a copy (`whispers.copy_of`).
"""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from openai_vocabulary import build_openai_tokenizer
from transformers import GenerationConfig
from transformers.models.whisper.tokenization_whisper import LANGUAGES

from attune.audio.context import AudioContext, Context
from attune.data.corpora.synthetic import SyntheticCorpus
from attune.data.module import SpeechDataModule
from attune.model.save import save_whisper
from attune.model.scratch import Scratch, make_tokens, make_whisper
from attune.model.whisper import Whisper
from attune.text.tokens import Tokens

SIZE = Scratch(width=32, layers=2, heads=2)
PANELS = {
    "train": {"utterances": 24, "accents": ["en-us"], "variants": ["m1", "f1"]},
    "validation": {"utterances": 6, "accents": ["en-us"], "variants": ["m1"], "split": "validation"},
    "test": {"utterances": 6, "accents": ["en-gb-scotland"], "variants": ["m3"], "split": "test"},
    "retention/us": {"utterances": 4, "accents": ["en-us"], "variants": ["m1"], "split": "test"},
}


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)  # sums in one order, and a second core for whoever shares the machine


@pytest.fixture(scope="session")
def nano_tokens() -> Tokens:
    return make_tokens(50)


@pytest.fixture(scope="session")
def nano_like(nano_tokens: Tokens) -> Whisper:
    """A random Whisper of attune's own making, with its small tokenizer: 0.2 million parameters."""
    torch.manual_seed(0)
    return make_whisper(nano_tokens, SIZE)


@pytest.fixture(scope="session")
def nano_folder(nano_like: Whisper, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nano_like")
    save_whisper(nano_like, folder)
    return folder


@pytest.fixture(scope="session")
def real_tokenizer_whisper() -> Whisper:
    """A random Whisper as small as nano_like with OpenAI's 51865 tokens and the suppress lists of its checkpoints."""
    openai = pytest.importorskip("whisper", reason="openai-whisper is absent: its wheel holds the real vocabulary")
    path = Path(openai.__file__).parent / "assets" / "multilingual.tiktoken"
    tokens = Tokens(build_openai_tokenizer(path, list(LANGUAGES)))
    torch.manual_seed(1)
    whisper = make_whisper(tokens, SIZE)
    published = openai.tokenizer.get_tokenizer(multilingual=True, num_languages=99)
    config = whisper.network.generation_config
    assert isinstance(config, GenerationConfig)
    config.suppress_tokens = [*published.non_speech_tokens, tokens.start, tokens.start_of_prompt, tokens.no_speech]
    config.begin_suppress_tokens = [published.encoding.encode(" ")[0], tokens.end_of_text]
    return whisper


@pytest.fixture(scope="session", params=["nano_like", "real_tokenizer_whisper"])
def any_whisper(request: pytest.FixtureRequest) -> Whisper:
    """Each of the two in turn."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def speech_cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def corpus(speech_cache: str) -> SyntheticCorpus:
    """40 utterances of one to four seconds, rendered in the first test that asks."""
    return SyntheticCorpus(PANELS, cache_dir=speech_cache)


@pytest.fixture(scope="session")
def make_data(corpus: SyntheticCorpus) -> Callable[..., SpeechDataModule]:
    """(tokens, context, further arguments of SpeechDataModule) -> one that is prepared, of `corpus`."""

    def make(tokens: Tokens, context: Context | None = None, **settings: float | int) -> SpeechDataModule:
        data = SpeechDataModule(corpus, tokens, context or AudioContext(), **settings)  # type: ignore[arg-type]
        data.prepare()
        return data

    return make
