import random

import jiwer
import pytest
import torch

from attune.score.metrics import CorpusErrorRate, Errors, align, count_character_errors, count_word_errors


def random_pairs(count: int) -> list[tuple[str, str]]:
    """References of 1 to 12 words over a small vocabulary, so that alignments are ambiguous; hypotheses of 0 to 12."""
    rng, vocabulary = random.Random(0), ["a", "b", "ab", "ba", "cat", "can't", "हिन्दी"]

    def sentence(fewest: int) -> str:
        return " ".join(rng.choices(vocabulary, k=rng.randint(fewest, 12)))

    return [(sentence(1), sentence(0)) for _ in range(count)]


@pytest.mark.parametrize(("reference", "hypothesis"), random_pairs(300))
def test_counts_are_those_of_jiwer(reference: str, hypothesis: str) -> None:
    by_word, by_character = jiwer.process_words(reference, hypothesis), jiwer.process_characters(reference, hypothesis)
    for ours, theirs in [
        (count_word_errors(reference, hypothesis), by_word),
        (count_character_errors(reference, hypothesis), by_character),
    ]:
        counts = (theirs.substitutions, theirs.deletions, theirs.insertions)
        assert (ours.substitutions, ours.deletions, ours.insertions) == counts
        assert ours.words == theirs.hits + theirs.substitutions + theirs.deletions
    assert count_word_errors(reference, hypothesis).rate == pytest.approx(by_word.wer)
    assert count_character_errors(reference, hypothesis).rate == pytest.approx(by_character.cer)


@pytest.mark.parametrize(("unit", "expected"), [("word", jiwer.wer), ("character", jiwer.cer)])
def test_corpus_rate_is_that_of_jiwer(unit, expected) -> None:
    references, hypotheses = (list(side) for side in zip(*random_pairs(300), strict=True))
    metric = CorpusErrorRate(unit, normalised=False)
    metric.update(references, hypotheses)
    assert metric.compute().item() == pytest.approx(expected(references, hypotheses), abs=1e-6)


def test_counts_worked_out_by_hand() -> None:
    # the CAT (sat) on a* mat + now: one substitution, one deletion, one insertion in five words
    assert count_word_errors("the cat sat on mat", "the hat on mat now") == Errors(1, 1, 1, 5)
    assert count_word_errors("a b", "a b").rate == 0.0
    assert count_word_errors("a b", "") == Errors(0, 2, 0, 2)
    assert count_word_errors("a", "a b c d").rate == 3.0
    assert count_character_errors("kitten", "sitting") == Errors(2, 0, 1, 6)
    assert Errors(1, 2, 3, 4) + Errors(10, 20, 30, 40) == Errors(11, 22, 33, 44)
    assert Errors(1, 2, 3, 4).total == 6


def test_an_empty_reference_has_a_finite_rate() -> None:
    assert count_word_errors("", "a b").rate == 2.0
    assert count_word_errors("", "").rate == 0.0


def test_alignment_names_the_words() -> None:
    assert align("the cat sat on mat", "the hat on mat now") == [
        ("equal", "the", "the"),
        ("substitute", "cat", "hat"),
        ("delete", "sat", ""),
        ("equal", "on", "on"),
        ("equal", "mat", "mat"),
        ("insert", "", "now"),
    ]
    assert align("", "") == []


@pytest.mark.parametrize(("reference", "hypothesis"), random_pairs(40))
def test_alignment_gives_both_sides_back_and_agrees_with_the_counts(reference: str, hypothesis: str) -> None:
    pairs, errors = align(reference, hypothesis), count_word_errors(reference, hypothesis)
    assert " ".join(said for _, said, _ in pairs if said) == reference
    assert " ".join(heard for _, _, heard in pairs if heard) == hypothesis
    operations = [operation for operation, _, _ in pairs]
    counts = [operations.count(operation) for operation in ("substitute", "delete", "insert")]
    assert counts == [errors.substitutions, errors.deletions, errors.insertions]
    assert all(said == heard for operation, said, heard in pairs if operation == "equal")


def test_the_rate_is_of_the_corpus_not_a_mean_of_utterances() -> None:
    # Field notes, section 6: one error in two words and none in four is 1/6, while the mean of the rates is 1/4.
    metric = CorpusErrorRate()
    metric.update(["one two"], ["one too"])
    metric.update(["one two three four"], ["one two three four"])
    assert metric.compute().item() == pytest.approx(1 / 6)
    assert metric.errors == Errors(1, 0, 0, 6)


def test_normalised_and_raw() -> None:
    for normalised, rate in [(True, 0.0), (False, 1.0)]:
        metric = CorpusErrorRate(normalised=normalised)
        metric.update(["Hello, world."], ["hello world"])
        assert metric.compute().item() == rate


def test_empty_references_are_counted_apart() -> None:
    metric = CorpusErrorRate()
    metric.update(["", "...", "", "a b"], ["thank you", " . ", "", "a c"])
    assert (metric.silences.item(), metric.hallucinations.item()) == (3, 1)
    assert metric.errors == Errors(1, 0, 0, 2)
    assert metric.compute().item() == 0.5


def test_without_reference_words_there_is_no_rate() -> None:
    metric = CorpusErrorRate()
    metric.update([""], ["noise"])
    assert torch.isnan(metric.compute())


def test_punctuation_is_no_character_of_an_unspaced_language() -> None:
    metric = CorpusErrorRate("character")
    metric.update(["你好，世界"], ["你好世间"], ["zh"])
    assert metric.errors == Errors(1, 0, 0, 4)


def test_states_merge_as_if_there_had_been_one_metric() -> None:
    pairs = [*random_pairs(20), ("", "noise")]
    whole, left, right = CorpusErrorRate(), CorpusErrorRate(), CorpusErrorRate()
    for metric, part in [(whole, pairs), (left, pairs[:7]), (right, pairs[7:])]:
        metric.update([reference for reference, _ in part], [hypothesis for _, hypothesis in part])
    left.merge_state(right)
    assert left.errors == whole.errors
    assert (left.silences.item(), left.hallucinations.item()) == (1, 1)
    assert left.compute() == whole.compute()


def test_batch_value_and_reset() -> None:
    metric = CorpusErrorRate()
    assert metric(["a b"], ["a c"]) == 0.5
    assert metric(["a b"], ["a b"]) == 0.0
    assert metric.compute() == 0.25
    metric.reset()
    assert metric.errors == Errors()


@pytest.mark.parametrize(
    ("references", "hypotheses", "languages", "message"),
    [
        (["a", "b"], ["a"], None, "2 references, 1 hypotheses"),
        (["a"], ["a"], ["en", "en"], "2 languages"),
        ("ab", "ac", None, "one string was given"),
    ],
)
def test_what_does_not_belong_together_is_refused(references, hypotheses, languages, message: str) -> None:
    metric = CorpusErrorRate()
    with pytest.raises(ValueError, match=message):
        metric.update(references, hypotheses, languages)


def test_unknown_unit_lists_what_is_accepted() -> None:
    with pytest.raises(ValueError, match="'word' or 'character'"):
        CorpusErrorRate("phone")  # pyright: ignore[reportArgumentType]
