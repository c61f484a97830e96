"""What is told on the console before a run begins."""

from attune.report.finish import _describe_examples


def test_one_example_is_called_one() -> None:
    counts = {"examples": 1, "utterances": 4, "left_out": 0}
    assert _describe_examples(counts) == ("in context: 1 training utterance before each that is scored, in the result")
    assert "3 training utterances before each" in _describe_examples({**counts, "examples": 3})
