"""`attune audit`: what is in a corpus and what is wrong with it, before anything is trained on it."""

from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from attune.data.audit import SHOWN, Audit, audit_corpus, check_leakage, find_text_faults
from attune.data.corpora.schema import OffersMore
from attune.data.findings import ALWAYS, Rejection
from attune.data.reading import check_settings
from attune.errors import InputError
from attune.model.scratch import obtain_tokens
from attune.report.audit_page import describe_audit, leave_audit
from attune.text.counted import count_of
from attune.use.config import build, build_corpus, plain


def run_audit(console: Console, config: Any, out: Path) -> bool:
    """Read and listen to a corpus; write audit.html, audit.csv and rejected.csv.

    Returns:
        whether a run could be started on it as it is: nothing stands in learning and in scoring, and no split has more
        unusable rows than data.max_rejected, and every text is one that Whisper can hold.
    """
    check_settings({"data.max_rejected": config.data.max_rejected}, {}, {})
    corpus, tokens = build_corpus(config.data), obtain_tokens(config.model.name_or_path, build(config.model.scratch))
    splits = dict(corpus.splits())
    if config.data.replay and isinstance(corpus, OffersMore) and "replay" in (more := corpus.more()):
        splits["replay"] = more["replay"]()
    found = audit_corpus(splits, tokens, plain(config.data.audit))
    faults = list_faults(found, config)
    for split, row, reason in find_text_faults(splits, tokens):
        found.findings.add(ALWAYS, split, row, reason)
        found.rejections.append(Rejection(split, row["id"], row["place"], reason))
        faults.append(f"{row['place']}: {reason}")
    out.mkdir(parents=True, exist_ok=True)
    leave_audit(out, found, "The corpus")
    tell = partial(console.print, highlight=False, markup=False)  # a place or a folder may hold brackets
    for line in describe_audit(found):
        tell(line)
    for fault in faults[:SHOWN]:
        tell(fault, style="red")
    tell(f"{count_of(len(found.rejections), 'row')} cannot be used -> {out / 'rejected.csv'}")
    tell(f"the page: {out / 'audit.html'}, the list: {out / 'audit.csv'}")
    return not faults


def list_faults(found: Audit, config: Any) -> list[str]:
    """Why a run would be refused."""
    faults = [
        f"{len(bad)} of {len(sounds.usable)} utterances of {split} cannot be used, more than "
        f"data.max_rejected={config.data.max_rejected:g} allows."
        for split, sounds in found.sounds.items()
        if len(bad := {(each.id, each.place) for each in found.rejections if each.split == split})
        > config.data.max_rejected * len(sounds.usable)
    ]
    try:
        check_leakage(found, config.data.allow_leakage)
    except InputError as error:
        faults.append(str(error))
    return faults
