"""Lists of terms: how they are read, what is refused and where, and where terms stand in a text."""

from pathlib import Path

import pytest

from attune.errors import InputError
from attune.text.finder import Found, TermFinder
from attune.text.vocabulary import Term, list_terms, read_grammar, read_terms

TABLE = "term,pronunciation,weight,context\nXeljanz,/ˈzɛldʒænz/|zel jans,2,She takes Xeljanz daily.\nfemur,,,\n"
YAML = """
- femur
- term: Xeljanz
  pronunciation: [/ˈzɛldʒænz/, zel jans]
  weight: 2
  context: She takes Xeljanz daily.
"""


def write(folder: Path, name: str, text: str) -> str:
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


def test_three_ways_to_write_a_list(tmp_path: Path) -> None:
    table, yaml = read_terms(write(tmp_path, "a.csv", TABLE)), read_terms(write(tmp_path, "a.yaml", YAML))
    text = read_terms(write(tmp_path, "a.txt", "# drugs\nXeljanz\n\nfemur\n"))
    assert [term.spelling for term in text] == [term.spelling for term in table] == ["Xeljanz", "femur"]
    assert table[0].pronunciations == yaml[1].pronunciations == ("/ˈzɛldʒænz/", "zel jans")
    assert table[0].weight == yaml[1].weight == 2 and table[1].weight == yaml[0].weight == 1
    assert table[0].contexts == yaml[1].contexts == ("She takes Xeljanz daily.",)
    assert text[1].place.endswith("a.txt, line 4") and table[1].place.endswith("a.csv, line 3")
    assert yaml[1].place.endswith("a.yaml, line 3")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "# nothing\n\n", "a.txt holds no term"),
        ("a.yaml", "", "a.yaml holds no term"),
        ("a.txt", "femur\ntibia\nFemur\n", r"a.txt, line 3: 'Femur' stands already in .*a.txt, line 1"),
        ("a.txt", "femur\n???\n", r"a.txt, line 2: the term '\?\?\?' has no letter"),
        ("a.csv", "word\nfemur\n", "line 1: there is no column 'term'"),
        ("a.csv", "term,weight\nfemur,-1\n", "a.csv, line 2: the weight '-1' is no number above 0"),
        ("a.csv", "term,weight\nfemur\n", "line 2: it has more or fewer cells"),
        ("a.csv", "term,pronunciation\nfemur,\ntibia,/tʘ/\n", r"a.csv, line 3: .* 'ʘ' \(U\+0298\), which espeak-ng"),
        ("a.csv", "term,context\nfemur,The thigh.\n", "a.csv, line 2: the context 'The thigh.' does not hold"),
        ("a.yaml", "- {term: femur, wieght: 2}\n", "a.yaml, line 1: there is no 'wieght'. Accepted: term,"),
        ("a.yaml", "femur: 1\n", "must be a list of terms"),
        ("a.yaml", "- [\n", "a.yaml, line [12]: this is not YAML"),
    ],
)
def test_bad_input_is_one_message_with_its_line(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        read_terms(write(tmp_path, name, text))
    assert "\n" not in str(raised.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="vocabulary.file=.*none.txt cannot be read"):
        read_terms(str(tmp_path / "none.txt"))


def test_the_words_of_a_grammar() -> None:
    terms = [term.spelling for term in read_grammar("clinical", ["drug", "anatomy"])]
    assert {"warfarin", "femur"} <= set(terms) and len(terms) == len(set(terms)) > 70


def test_a_list_in_a_prompt() -> None:
    assert list_terms(["femur", "ulna"]) == "femur, ulna." and list_terms([]) == ""


FINDER = TermFinder([Term("New York"), Term("new"), Term("York"), Term("Xeljanz", ("zel jans", "/x/")), Term("北京")])


def test_terms_are_found_whatever_their_case_the_longest_first() -> None:
    found = FINDER.find("In NEW YORK, a new york? York!", "en")
    assert [each.spelling for each in found] == ["New York", "New York", "York"]
    assert found[0] == Found(1, 3, "New York")
    assert FINDER.find("newer", "en") == [] == FINDER.find("", "en")


def test_terms_are_found_between_characters() -> None:
    assert FINDER.find("我在北京工作。", "zh") == [Found(2, 4, "北京")]


def test_terms_that_were_almost_heard() -> None:
    assert FINDER.find_alike("he takes sel jans twice", "en")[0] == "Xeljanz"  # by the words that it sounds like
    assert FINDER.find_alike("in new yorck", "en")[0] in {"new", "New York"}
    assert FINDER.find_alike("", "en") == []
