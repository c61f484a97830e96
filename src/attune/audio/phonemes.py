"""A pronunciation as people write it -> what espeak-ng speaks: IPA and ARPAbet become its own phoneme names.

espeak-ng reads phonemes between double brackets, in a notation like Kirshenbaum's: [[h|@|l|'|oU]]. A bar keeps two
names from being read as one. It leaves out what it does not know, and everything behind it, without a word; so every
name is looked up in the tables that come with it.
"""

import re
import unicodedata
from functools import cache
from pathlib import Path

from attune.errors import InputError

IPA = {
    **{letter: letter for letter in "pbtdkfvszhmnljwx"}, "ɡ": "g", "g": "g", "θ": "T", "ð": "D", "ʃ": "S", "ʒ": "Z",
    "ŋ": "N", "ɹ": "r", "r": "r", "ɾ": "t#", "ɫ": "l", "ʍ": "w", "ç": "C", "ʔ": "?", "ɲ": "n^", "ʎ": "l^", "β": "B",
    "ɣ": "Q", "χ": "X", "ʁ": "R", "tʃ": "tS", "ʧ": "tS", "dʒ": "dZ", "ʤ": "dZ", "n̩": "n-", "l̩": "@L", "m̩": "m-",
    "iː": "i:", "i": "i", "ɪ": "I", "ᵻ": "I2", "ɨ": "I2", "eɪ": "eI", "e": "e", "eː": "e:", "ɛ": "E", "æ": "a",
    "a": "a",
    "ɑː": "A:", "ɑ": "A:", "ɒ": "0", "ɔː": "O:", "ɔ": "O", "oʊ": "oU", "əʊ": "oU", "o": "o", "oː": "o:", "ʊ": "U",
    "uː": "u:", "u": "u:", "ʌ": "V", "ə": "@", "ɚ": "3", "ɝ": "3:", "ɜː": "3:", "ɜ": "3:", "ɐ": "a#", "aɪ": "aI",
    "aʊ": "aU", "ɔɪ": "OI", "ɪə": "i@3", "eə": "e@", "ɛə": "e@", "ʊə": "U@", "ɑ̃": "A~", "ɔ̃": "O~",
}  # fmt: skip
ARPABET = {
    "AA": "A:", "AE": "a", "AH": "V", "AO": "O:", "AW": "aU", "AX": "@", "AY": "aI", "B": "b", "CH": "tS", "D": "d",
    "DH": "D", "DX": "t#", "EH": "E", "ER": "3:", "EY": "eI", "F": "f", "G": "g", "HH": "h", "IH": "I", "IX": "I2",
    "IY": "i:", "JH": "dZ", "K": "k", "L": "l", "M": "m", "N": "n", "NG": "N", "OW": "oU", "OY": "OI", "P": "p",
    "R": "r", "S": "s", "SH": "S", "T": "t", "TH": "T", "UH": "U", "UW": "u:", "V": "v", "W": "w", "Y": "j", "Z": "z",
    "ZH": "Z",
}  # fmt: skip
REDUCED = {"AH": "@", "ER": "3", "IY": "i"}  # without stress
ARPABET_STRESS = {"": "", "0": "", "1": "'", "2": ","}
IPA_STRESS = {"ˈ": "'", "'": "'", "ˌ": ","}
SILENT = {".", "͡", "‿", "ʰ", "̯"}  # of syllables and of narrow transcriptions: espeak-ng decides by itself
VOWEL = re.compile(r"[aeiouAEIOUVO03@]")
LONGEST_IPA = max(map(len, IPA))


def translate(pronunciation: str) -> str:
    """What espeak-ng is given for a pronunciation.

    Args:
        pronunciation: IPA between slashes or brackets (/vænkoʊˈmaɪsɪn/); ARPAbet in capitals between spaces
            (V AE2 NG K OW0 M AY1 S AH0 N); anything else is taken as words that sound like it (vanko my sin).

    Returns:
        [[...]] with espeak-ng's phoneme names, words between spaces; words that sound alike as they are.

    Raises:
        InputError: a symbol has no counterpart; the message names it.
    """
    text = pronunciation.strip()
    if len(text) > 2 and (text[0], text[-1]) in {("/", "/"), ("[", "]")}:
        words = [_join(_read_ipa(word, text)) for word in text[1:-1].split()]
        return f"[[{' '.join(words)}]]"
    symbols = text.split()
    if symbols and all(_is_arpabet(symbol) for symbol in symbols) and text.isupper():
        return f"[[{_join([name for symbol in symbols for name in _read_arpabet(symbol)])}]]"
    if not any(letter.isalpha() for letter in text) or "[[" in text:
        raise InputError(
            f"the pronunciation {pronunciation!r} has nothing to say. Accepted: IPA between slashes, /ˈmaɪsɪn/; "
            "ARPAbet in capitals, M AY1 S IH0 N; or words that sound like it, my sin."
        )
    return text


def check_names(sound: str, accent: str) -> None:
    """Refuse what a voice has no phoneme for.

    Args:
        sound: as `translate` returns it.
        accent: an espeak-ng voice, such as "en-us".

    Raises:
        InputError: with espeak-ng's name of the phoneme, and the voice.
    """
    known = load_names(accent)
    names = sound[2:-2].replace(" ", "|").split("|") if sound.startswith("[[") else []
    missing = [name for name in names if known and name not in known]
    if missing:
        letters = [letter for letter, name in IPA.items() if name == missing[0]]
        raise InputError(
            f"espeak-ng's voice {accent!r} has no sound {' or '.join(letters) or missing[0]!r}. Write the "
            "pronunciation with sounds of that language, or in words that sound like it."
        )


@cache
def load_names(accent: str) -> frozenset[str]:
    """The phonemes that a voice can speak; nothing where espeak-ng has no table for it by itself."""
    import espeakng_loader

    data = Path(espeakng_loader.get_data_path())
    tables = _read_tables((data / "phontab").read_bytes())
    for path in sorted((data / "lang").rglob("*")):
        text = path.read_text("utf-8", errors="replace") if path.is_file() else ""
        if re.search(rf"^language\s+{re.escape(accent)}\b(?!-)", text, re.MULTILINE | re.IGNORECASE):
            named = re.search(r"^phonemes\s+(\S+)", text, re.MULTILINE)
            wanted = [named[1]] if named else [accent, accent.split("-")[0]]
            return next((tables[name] for name in wanted if name in tables), frozenset())
    return frozenset()


def _read_tables(content: bytes) -> dict[str, frozenset[str]]:
    """espeak-ng's phontab: how many tables; of each its size, the table before it that it builds on (from 1; 0 none),
    its name in 32 bytes, and 16 bytes a phoneme, which begin with the name in 4."""
    tables: list[tuple[str, frozenset[str]]] = []
    place = 4
    for _ in range(content[0]):
        size, below = content[place], content[place + 1]
        name = content[place + 4 : place + 36].split(b"\0")[0].decode("latin-1")
        place += 36
        rows = [content[place + 16 * row : place + 16 * row + 4] for row in range(size)]
        own = {row.rstrip(b"\0").decode("latin-1") for row in rows}
        tables.append((name, frozenset(own | (tables[below - 1][1] if below else frozenset()))))
        place += 16 * size
    return dict(tables)


def _read_ipa(word: str, whole: str) -> list[str]:
    """Names with their stress in front of the vowel, where espeak-ng has it; IPA has it in front of the syllable."""
    letters, names, stress, place = unicodedata.normalize("NFD", word).replace("c\u0327", "ç"), [], "", 0
    while place < len(letters):
        if letters[place] in IPA_STRESS:
            stress, place = IPA_STRESS[letters[place]], place + 1
            continue
        if letters[place] in SILENT:
            place += 1
            continue
        untied = letters[place : place + LONGEST_IPA + 1].replace("͡", "")
        length = next((n for n in range(LONGEST_IPA, 0, -1) if untied[:n] in IPA and len(untied) >= n), 0)
        if not length:
            raise InputError(
                f"the pronunciation {whole!r} holds {letters[place]!r} (U+{ord(letters[place]):04X}), which espeak-ng "
                f"cannot speak. Known: {' '.join(IPA)} and the stress marks ˈ ˌ."
            )
        name = IPA[untied[:length]]
        if stress and VOWEL.match(name):
            names, stress = [*names, stress], ""
        names.append(name)
        tied = letters[place : place + length + 1]
        place += length + ("͡" in tied[:length])
    return names


def _is_arpabet(symbol: str) -> bool:
    return symbol.rstrip("012") in ARPABET and len(symbol) - len(symbol.rstrip("012")) <= 1


def _read_arpabet(symbol: str) -> list[str]:
    letters = symbol.rstrip("012")
    stress = ARPABET_STRESS[symbol[len(letters) :]]
    is_reduced = symbol.endswith("0")
    name = REDUCED.get(letters, ARPABET[letters]) if is_reduced else ARPABET[letters]
    return [stress, name] if stress else [name]


def _join(names: list[str]) -> str:
    return "|".join(names)
