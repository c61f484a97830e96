"""Speech that this machine speaks itself: the embedded corpora, rendered by espeak-ng in seconds and cached.

A corpus is described by panels of voices; each panel draws its own sentences from a grammar, of a split of its own, so
that no sentence of a test panel is ever heard in training.
"""

import hashlib
import json
import os
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from datasets import Dataset
from datasets.arrow_writer import ArrowWriter
from jaxtyping import Float
from rich.progress import track
from torch import Tensor

from attune.audio.speech import Voice, speak
from attune.audio.waveform import SAMPLE_RATE_HZ, WINDOW_S, encode_wav
from attune.data.corpora.environments import ENVIRONMENTS, place
from attune.data.corpora.schema import FEATURES, OPTIONAL
from attune.errors import InputError
from attune.text.sentences import EVERYDAY, draw_sentences

RENDERING = 2  # raise it when the rendering changes: it is part of the cache's key
CHUNK = 16  # utterances a worker renders before it hands them over


@dataclass(frozen=True)
class Panel:
    """Voices and a number of sentences.

    Args:
        utterances: how many to render.
        accents: espeak-ng voices, such as "en-us".
        variants: vocal tracts, such as "m1"; each pair of accent and variant is a speaker.
        split: of which split the sentences are drawn: train, validation or test.
        words_per_minute, pitch: lowest and highest; each speaker has its own, each utterance a little of its own.
        noise_db: lowest and highest signal-to-noise ratio of added white noise, in dB; None for a clean recording.
        environments: noisy places of data/corpora/environments.py instead of white noise; utterances take them in turn.
        grammar: which sentences are spoken: everyday, clinical, russian.
        language: Whisper's code; None is the corpus's.

    Raises:
        InputError: there is no such environment, or no noise_db for it.
    """

    utterances: int
    accents: Sequence[str]
    variants: Sequence[str]
    split: str = "train"
    words_per_minute: tuple[int, int] = (150, 190)
    pitch: tuple[int, int] = (35, 65)
    noise_db: tuple[float, float] | None = None
    environments: Sequence[str] = ()
    grammar: str = EVERYDAY
    language: str | None = None

    def __post_init__(self) -> None:
        unknown = [each for each in self.environments if each not in ENVIRONMENTS]
        if unknown or (self.environments and not self.noise_db):
            raise InputError(
                f"data.corpus: a panel has environments={list(self.environments)} and noise_db={self.noise_db}. "
                f"Accepted: {', '.join(ENVIRONMENTS)}, with a range of signal-to-noise ratios, as in noise_db: [0, 20]."
            )


@dataclass(frozen=True)
class Utterance:
    """What is to be rendered: enough to make the same sound again.

    Args:
        parts: sentences, spoken one after the other with pauses between; none is an utterance without speech.
        noise_db: signal-to-noise ratio of added white noise in dB; None for a clean recording.
        environment: a noisy place instead of white noise.
        spoken: what espeak-ng is given instead of `parts`, one for one, where it holds phonemes; else empty.
        prompt: text that the decoder sees before the transcript.
        timestamps: whether the row carries its parts' times.
    """

    id: str
    parts: tuple[str, ...]
    voice: Voice
    seed: int
    noise_db: float | None = None
    prompt: str | None = None
    timestamps: bool = False
    environment: str | None = None
    spoken: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rendering:
    """Utterances of one dataset, and Whisper's code for their language."""

    utterances: Sequence[Utterance]
    language: str


class SyntheticCorpus:
    """Rendered panels. The same arguments give the same bytes; a second run finds them in the cache.

    Args:
        panels: train, validation and test -> a Panel, or its fields as a mapping.
        retention: NAME -> the panel `retention/NAME`: what the model could do before.
        language: Whisper's code for all of them.
        seed: of the sentences and of the voices' settings.
        cache_dir: where rendered panels are kept; default ATTUNE_CACHE or ~/.cache/attune.
        replay: voices of what the model could do before, to be trained on; rendered only where a run replays.
        retention_validation: NAME -> a panel like `retention/NAME` to make choices on; rendered only where one is made.

    Raises:
        InputError: a panel draws its sentences from a split that could leak into a score.
    """

    def __init__(
        self,
        panels: Mapping[str, Panel | Mapping[str, Any]],
        retention: Mapping[str, Panel | Mapping[str, Any]] | None = None,
        language: str = "en",
        seed: int = 0,
        cache_dir: str | None = None,
        replay: Panel | Mapping[str, Any] | None = None,
        retention_validation: Mapping[str, Panel | Mapping[str, Any]] | None = None,
    ):
        self.panels = _read_panels({**panels, **_under("retention", retention)})
        self.extra_panels = _read_panels(
            {**({"replay": replay} if replay else {}), **_under("retention_validation", retention_validation)}
        )
        _check_splits(self.panels, self.extra_panels)
        self.language = language
        self.seed = seed
        self.cache_dir = locate_cache(cache_dir)

    def splits(self) -> dict[str, Dataset]:
        return self._load(self.panels)

    def more(self) -> dict[str, Callable[[], Dataset]]:
        return {name: partial(self._load_one, name, panel) for name, panel in self.extra_panels.items()}

    def _load(self, panels: Mapping[str, Panel]) -> dict[str, Dataset]:
        folders = {name: self._locate(name, panel) for name, panel in panels.items()}
        missing = {folder: name for name, folder in folders.items() if not folder.is_dir()}
        render(
            {
                folder: Rendering(self._plan(name, panels[name]), panels[name].language or self.language)
                for folder, name in missing.items()
            }
        )
        return {name: Dataset.load_from_disk(str(folder)) for name, folder in folders.items()}

    def _load_one(self, name: str, panel: Panel) -> Dataset:
        return self._load({name: panel})[name]

    def _locate(self, name: str, panel: Panel) -> Path:
        key = json.dumps(self._key(name, panel), sort_keys=True)
        return self.cache_dir / "speech" / hashlib.sha256(key.encode()).hexdigest()[:16]

    def _key(self, name: str, panel: Panel) -> list[Any]:
        """What the sound depends on. Fields that came later stand in it only where they are set: a panel that was
        rendered before they came is found where it lies."""
        described = asdict(panel)
        language = described.pop("language") or self.language
        later = {"environments": panel.environments, "grammar": panel.grammar != EVERYDAY}
        described = {key: value for key, value in described.items() if later.get(key, True)}
        return [RENDERING, name, described, language, self.seed]

    def _plan(self, name: str, panel: Panel) -> list[Utterance]:
        return plan_panel(name, panel, self.seed)


def locate_cache(cache_dir: str | None) -> Path:
    """Where what was rendered is kept, from one run to the next."""
    return Path(cache_dir or os.environ.get("ATTUNE_CACHE") or Path.home() / ".cache" / "attune")


def _under(room: str, panels: Mapping[str, Any] | None) -> dict[str, Any]:
    return {f"{room}/{name}": panel for name, panel in (panels or {}).items()}


def _read_panels(panels: Mapping[str, Panel | Mapping[str, Any]]) -> dict[str, Panel]:
    return {name: panel if isinstance(panel, Panel) else Panel(**panel) for name, panel in panels.items()}


def _check_splits(panels: Mapping[str, Panel], extra: Mapping[str, Panel]) -> None:
    """Sentences belong to one split each: where every panel draws from its own, nothing that is scored was heard."""
    for name, panel in extra.items():
        _demand(name, panel, "train" if name == "replay" else "validation")
    for name, panel in panels.items():
        if extra and name.split("/")[0] in ("test", "retention"):
            _demand(name, panel, "test")


def _demand(name: str, panel: Panel, split: str) -> None:
    if panel.split != split:
        raise InputError(
            f"data.corpus: {name} draws sentences of the split {panel.split!r}, so the same ones could be trained on "
            f"and scored. Give it split: {split}."
        )


def plan_panel(name: str, panel: Panel, seed: int) -> list[Utterance]:
    """Who says what: sentences go round the speakers in turn, each speaker with a rate and a pitch of its own.

    `test/NAME` says what `test` says, in the same voices and places: only what its panel sets otherwise differs.
    """
    rng = random.Random(f"{seed} {'test' if name.startswith('test/') else name}")
    speakers = [Voice(accent, variant) for accent in panel.accents for variant in panel.variants]
    rng.shuffle(speakers)
    settings = [(rng.randint(*panel.words_per_minute), rng.randint(*panel.pitch)) for _ in speakers]
    sentences = draw_sentences(panel.utterances, seed=rng.randrange(2**31), split=panel.split, grammar=panel.grammar)
    planned = []
    for index, sentence in enumerate(sentences):
        speaker, (rate, pitch) = speakers[index % len(speakers)], settings[index % len(speakers)]
        voice = Voice(speaker.accent, speaker.variant, rate + rng.randint(-8, 8), pitch + rng.randint(-3, 3))
        noise_db = rng.uniform(*panel.noise_db) if panel.noise_db else None
        utterance = Utterance(f"{name.replace('/', '-')}-{index:05d}", (sentence,), voice, index, noise_db)
        if panel.environments:  # a seed of its own: the places of one panel are not those of another
            environment = panel.environments[index % len(panel.environments)]
            utterance = replace(utterance, seed=rng.randrange(2**31), environment=environment)
        planned.append(utterance)
    return planned


def render(renderings: Mapping[Path, Rendering]) -> None:
    """Speak on all cores, and leave each rendering in its folder as a dataset of the schema.

    All of them share one pool of workers: a small panel keeps no core waiting.
    """
    if not renderings:
        return
    chunks = {folder: _cut(each.utterances) for folder, each in renderings.items()}
    count = sum(map(len, chunks.values()))
    with ProcessPoolExecutor(max_workers=os.cpu_count()) as pool:
        spoken = iter(track(pool.map(_speak_chunk, chain(*chunks.values())), "rendering speech", count, transient=True))
        for folder, each in renderings.items():
            rows = chain.from_iterable(islice(spoken, len(chunks[folder])))
            _write(({**OPTIONAL, "segments": [], "language": each.language, **row} for row in rows), folder)


def _cut(utterances: Sequence[Utterance]) -> list[Sequence[Utterance]]:
    return [utterances[start : start + CHUNK] for start in range(0, len(utterances), CHUNK)]


def _write(rows: Iterable[dict[str, Any]], folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent) as partial:
        # ArrowWriter writes row by row: forty hours of speech never stand in memory.
        with ArrowWriter(features=FEATURES, path=f"{partial}/data-00000-of-00001.arrow") as writer:
            for row in rows:
                writer.write(row)
            writer.finalize()
        Dataset.from_file(f"{partial}/data-00000-of-00001.arrow").save_to_disk(f"{partial}/ready")
        _publish(Path(partial) / "ready", folder)


def _publish(ready: Path, folder: Path) -> None:
    """Rename into place, whole or not at all; another run may have rendered the same panel meanwhile."""
    try:
        ready.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise


def _speak_chunk(chunk: Sequence[Utterance]) -> list[dict[str, Any]]:
    torch.set_num_threads(1)  # one process a core: more threads would only wait for each other
    return [_speak_row(utterance) for utterance in chunk]


def _speak_row(utterance: Utterance) -> dict[str, Any]:
    rng = random.Random(f"{utterance.seed} {utterance.id}")
    waveform, segments = _speak_parts(utterance, rng) if utterance.parts else (make_non_speech(rng), [])
    where = ""
    if utterance.environment and utterance.noise_db is not None and utterance.parts:
        waveform = place(waveform, utterance.environment, utterance.noise_db, utterance.seed)
        where = f", {utterance.environment} at {utterance.noise_db:.1f} dB"
    elif utterance.noise_db is not None and utterance.parts:
        waveform = add_white_noise(waveform, utterance.noise_db, utterance.seed)
    return {
        "id": utterance.id,
        "audio": {"path": None, "bytes": encode_wav(waveform)},
        "text": " ".join(part["text"] for part in segments),
        "speaker": utterance.voice.name,
        "duration_s": waveform.shape[0] / SAMPLE_RATE_HZ,
        "prompt": utterance.prompt,
        "segments": segments if utterance.timestamps else [],
        "place": f"rendered, {utterance.voice}{where}",
    }


def _speak_parts(utterance: Utterance, rng: random.Random) -> tuple[Float[Tensor, "sample"], list[dict[str, Any]]]:
    """The parts one after the other, as many as Whisper's window holds, and where each of them lies."""
    pieces: list[Tensor] = []
    segments: list[dict[str, Any]] = []
    length = 0
    for text, said in zip(utterance.parts, utterance.spoken or utterance.parts, strict=True):
        pause = int(SAMPLE_RATE_HZ * rng.uniform(0.0, 0.6)) if utterance.timestamps or length else 0
        spoken = speak(said, utterance.voice, phonemes=bool(utterance.spoken))
        if segments and length + pause + spoken.shape[0] > WINDOW_S * SAMPLE_RATE_HZ:
            break
        start = length + pause
        length = start + spoken.shape[0]
        pieces += [torch.zeros(pause), spoken]
        segments.append({"start_s": start / SAMPLE_RATE_HZ, "end_s": length / SAMPLE_RATE_HZ, "text": text})
    return torch.cat(pieces), segments


def make_non_speech(rng: random.Random) -> Float[Tensor, "sample"]:
    """One to eight seconds in which nobody speaks: coloured noise, sometimes with a hum, at any loudness."""
    count = int(SAMPLE_RATE_HZ * rng.uniform(1.0, 8.0))
    generator = torch.Generator().manual_seed(rng.randrange(2**31))
    spectrum = torch.fft.rfft(torch.randn(count, generator=generator))
    colour = rng.uniform(0.0, 1.0)  # 0 is white, 0.5 pink, 1 brown
    noise = torch.fft.irfft(spectrum / torch.arange(1, spectrum.shape[0] + 1).pow(colour), n=count)
    noise = noise / noise.abs().max()
    if rng.random() < 0.4:
        time_s = torch.arange(count) / SAMPLE_RATE_HZ
        noise = noise + rng.uniform(0.2, 1.0) * torch.sin(2 * torch.pi * rng.uniform(50, 2000) * time_s)
    return noise / noise.abs().max() * 10 ** rng.uniform(-2.5, -0.2)


def add_white_noise(waveform: Float[Tensor, "sample"], snr_db: float, seed: int) -> Float[Tensor, "sample"]:
    """Gaussian noise at a signal-to-noise ratio, over the whole utterance, in dB."""
    noise = torch.randn(waveform.shape, generator=torch.Generator().manual_seed(seed))
    return waveform + noise * waveform.square().mean().sqrt() * 10 ** (-snr_db / 20)
