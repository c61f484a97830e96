"""Texts of others in the cells of a table that a spreadsheet may open."""

import re

# What makes Excel or LibreOffice take a cell for a formula (OWASP, "CSV injection"), full-width forms included.
_FORMULA = re.compile(r"'*[=+\-@\t\r\n＝＋－＠]")


def defuse(text: str) -> str:
    """A text that a spreadsheet would run as a formula ("=1+1", "-5", "@home") gets an apostrophe in front."""
    # Apostrophes before a formula sign are counted in, so that "'=1" gets a second one and comes back as it was.
    return "'" + text if _FORMULA.match(text) else text


def restore(cell: str) -> str:
    """What `defuse` was given."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell
