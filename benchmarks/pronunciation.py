"""What a pronunciation is worth for names that are not spelt as they sound: python benchmarks/pronunciation.py

Two lists of the same British and Irish names, one with their IPA and one without it, are each learnt by nano from
synthetic speech alone (data.train=null vocabulary.synthetic=1). Both are scored on sentences in which the names are
said as they sound, by voices that spoke nothing of what was learnt. Prints the recall of the names of every run, with
its interval.
"""

import argparse
import csv
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from attune.data.corpora.spoken_terms import Speakers, speak_terms
from attune.text.vocabulary import Term, read_terms

NAMES = {
    "Alnwick": "ˈænɪk", "Aoife": "ˈiːfə", "Beauchamp": "ˈbiːtʃəm", "Belvoir": "ˈbiːvə", "Caoimhe": "ˈkwiːvə",
    "Cholmondeley": "ˈtʃʌmli", "Cockburn": "ˈkoʊbɜːn", "Culzean": "kəˈleɪn", "Dalziel": "diːˈɛl", "Eoghan": "ˈoʊən",
    "Featherstonehaugh": "ˈfænʃɔː", "Happisburgh": "ˈheɪzbrə", "Kirkcudbright": "kəˈkuːbri", "Leominster": "ˈlɛmstə",
    "Mainwaring": "ˈmænərɪŋ", "Marjoribanks": "ˈmɑːtʃbæŋks", "Menzies": "ˈmɪŋɪs", "Milngavie": "mʌlˈɡaɪ",
    "Mousehole": "ˈmaʊzəl", "Niamh": "niːv", "Saoirse": "ˈsɜːʃə", "Siobhan": "ʃɪˈvɔːn", "Strachan": "strɔːn",
    "Tadhg": "taɪɡ", "Wriothesley": "ˈraɪəθsli", "Wymondham": "ˈwɪndəm",
}  # fmt: skip
LISTS = ("spelt", "ipa")
OTHER_VOICES = ("m5", "m6", "m7", "f5")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("words", nargs="*", help="more words for train.py")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for kind in LISTS:
            write_list(folder / f"{kind}.csv", with_sounds=kind == "ipa")
        terms = read_terms(str(folder / "ipa.csv"))
        for split, times, seed in (("validation", 2, 100), ("test", 8, 200)):
            write_panel(folder, split, terms, times, seed)
        print(f"{'list':6} {'seed':>4} {'WER %':>15} {'recall of the names %':>24} {'written, not said':>18}")
        for seed in range(1, wanted.seeds + 1):
            for kind in LISTS:
                show(kind, seed, learn(folder, kind, seed, wanted.words))


def write_list(path: Path, with_sounds: bool) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["term", "pronunciation"])
        rows.writerows([name, f"/{sound}/" if with_sounds else ""] for name, sound in NAMES.items())


def write_panel(folder: Path, split: str, terms: Sequence[Term], times: int, seed: int) -> None:
    """A manifest of the names as they sound, in sentences."""
    rows = []
    for row in speak_terms(terms, times, Speakers(variants=OTHER_VOICES), "en", seed, str(folder / "cache")):
        path = folder / f"{split}-{row['id']}.wav"  # type: ignore[index, call-overload]
        path.write_bytes(row["audio"]["bytes"])  # type: ignore[index, call-overload]
        rows.append(json.dumps({"audio": path.name, "text": row["text"], "language": "en"}))  # type: ignore[index, call-overload]
    (folder / f"{split}.jsonl").write_text("\n".join(rows))


def learn(folder: Path, kind: str, seed: int, words: Sequence[str]) -> dict:
    run = folder / f"{kind}-{seed}"
    panels = [f"data.{split}={folder / split}.jsonl" for split in ("validation", "test")]
    synthetic = ["vocabulary=file", f"vocabulary.file={folder / kind}.csv", "vocabulary.synthetic=1"]
    command = [sys.executable, str(Path(__file__).parents[1] / "train.py"), "data=manifest", "data.train=null", *panels]
    command += [*synthetic, "vocabulary.bias=0", "vocabulary.times=16", f"seed={seed}", "logger=csv", f"folder={run}"]
    subprocess.run([*command, *words], check=True, stdout=subprocess.DEVNULL)
    return json.loads((run / "run.json").read_text())["result"]["test"]


def show(kind: str, seed: int, panel: dict) -> None:
    terms = panel["terms"]
    low, high = (100 * each for each in terms["recall_ci95"])
    low_wer, high_wer = (100 * each for each in panel["wer_ci95"])
    print(
        f"{kind:6} {seed:4} {100 * panel['wer']:5.1f} [{low_wer:.1f}, {high_wer:.1f}] "
        f"{100 * terms['recall']:10.1f} [{low:.1f}, {high:.1f}] {terms['false_insertions']:18}",
        flush=True,
    )


if __name__ == "__main__":
    main()
