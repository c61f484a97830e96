"""A CTC head: alone, with the encoder, beside the decoder; what is read from it; what a folder keeps of it."""

from pathlib import Path

import pytest
import torch
from whispers import awaken, change, copy_of, make_batch, make_sound

from attune.audio.waveform import SAMPLE_RATE_HZ, load_waveform
from attune.errors import InputError
from attune.model.additions import HEAD, CtcHead, load, read_ctc
from attune.model.decode import cap_tokens, decode, decode_greedily
from attune.model.finetune.base import apply_finetuning, merge_additions, parameter_groups
from attune.model.finetune.ctc import Ctc, count_positions, find_writer
from attune.model.finetune.full import Full
from attune.model.finetune.layers import Layers
from attune.model.finetune.new_head import NewHead
from attune.model.finetune.new_tokens import NewTokens
from attune.model.finetune.prompt import Prompt
from attune.model.save import NOTE, explain_additions, save_whisper
from attune.model.whisper import Whisper, load_tokens, load_whisper
from attune.train.objective import ctc as objective
from attune.train.objective.cross_entropy import CrossEntropy
from attune.train.objective.ctc import Ctc as ByCtc
from attune.train.objective.joint_ctc import JointCtc
from attune.train.objective.preparation import prepare_objective


def with_head(whisper: Whisper, **arguments: object) -> tuple[Whisper, Ctc]:
    changed, finetune = awaken(whisper, seed=4), Ctc(**arguments)  # type: ignore[arg-type]
    torch.manual_seed(0)
    apply_finetuning(finetune, changed.network)
    return changed, finetune


def test_repetitions_and_blanks_are_left_out() -> None:
    head = CtcHead(4, 3)  # tokens 0 to 2, and 3 for the blank
    with torch.no_grad():
        head.weight.copy_(torch.eye(4))
        head.bias.zero_()
    path = [3, 1, 1, 3, 1, 2, 2, 0, 3, 0]
    states = torch.nn.functional.one_hot(torch.tensor([path, path]), 4).float()
    assert read_ctc(head, states, [10, 6]) == [[1, 1, 2, 0, 0], [1, 1, 2]]
    assert read_ctc(head, states, [0, 1]) == [[], []]


@pytest.mark.parametrize(
    ("train", "trainable"),
    [([], {HEAD}), (["model.encoder.*"], {HEAD, "model.encoder"}), (["*"], {HEAD, "model.encoder", "model.decoder"})],
)
def test_what_learns_beside_the_head(train: list[str], trainable: set[str], any_whisper: Whisper) -> None:
    whisper, finetune = with_head(any_whisper, train=train)
    learning = [name for name, parameter in whisper.network.named_parameters() if parameter.requires_grad]
    assert {".".join(name.split(".")[:2]) if name.startswith("model") else HEAD for name in learning} == trainable
    assert (find_writer(whisper.network) is None) == (train == ["*"])
    rates = {group["lr"] for group in parameter_groups(finetune, whisper.network, 0.01, 1e-3)}
    assert rates == ({1e-2} if not train else {1e-2, 1e-3})


def test_a_head_that_writes_is_taught(nano_like: Whisper) -> None:
    """Else the decoder learns, and every WER, that of the best weights too, is the head's."""
    writes, _ = with_head(nano_like, train=["model.encoder.*"])
    for taught in (ByCtc(), JointCtc()):
        assert prepare_objective(taught, writes, {"trainable": 9}, 0, False) == {"trainable": 9}
    with pytest.raises(InputError, match=r"A CTC head writes .* finetune=ctc finetune.writes=decoder"):
        prepare_objective(CrossEntropy(), writes, {"trainable": 9}, 0, False)
    assert prepare_objective(CrossEntropy(), writes, {"trainable": 0}, 0, False)  # it is only scored
    decoder, _ = with_head(nano_like, train=["*"])
    assert prepare_objective(CrossEntropy(), decoder, {"trainable": 9}, 0, False)


def test_a_head_that_writes_is_heard_to_learn(nano_like: Whisper) -> None:
    """Head and encoder frozen, whatever joint_ctc does to the decoder is never read."""
    writes, _ = with_head(nano_like, train=["model.encoder.*"])
    apply_finetuning(Layers(["model.decoder.*"]), writes.network)
    for taught in (ByCtc(), JointCtc()):
        with pytest.raises(InputError, match=r"A CTC head writes .* Go on with the head \(finetune=ctc\), or"):
            prepare_objective(taught, writes, {"trainable": 9}, 0, False)
    apply_finetuning(Layers(["model.encoder.layers.1.*"]), writes.network)
    assert prepare_objective(JointCtc(), writes, {"trainable": 9}, 0, False)


@pytest.mark.parametrize("finetune", [NewHead(merges=9), NewTokens(count=5)], ids=["new_head", "new_tokens"])
def test_a_head_writes_in_its_own_vocabulary_alone(finetune: NewHead | NewTokens, nano_like: Whisper) -> None:
    """Its ids would be read as other pieces, and a new term's id is that of its blank."""
    writes, _ = with_head(nano_like, train=[])
    with pytest.raises(InputError, match=r"has a CTC head, .* finetune=ctc finetune.writes=decoder drops the head"):
        change(writes, finetune)


@pytest.mark.parametrize("finetune", [NewTokens(terms=[], languages={"gsw": "de"}), Prompt(3, states=0)])
def test_tokens_behind_the_text_leave_the_head_its_ids(finetune: NewTokens | Prompt, nano_like: Whisper) -> None:
    writes, _ = with_head(nano_like, train=[])
    head = find_writer(writes.network)
    change(writes, finetune)
    assert head is not None and head.out_features == writes.tokens.end_of_text + 1


def test_the_head_alone_learns_and_then_writes(nano_like: Whisper) -> None:
    whisper, finetune = with_head(nano_like, train=[], head_rate=1.0)
    batch = make_batch(whisper.tokens, 250)
    optimizer = torch.optim.AdamW(parameter_groups(finetune, whisper.network, 0.0, 3e-2), lr=3e-2)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        terms = objective.Ctc().loss(whisper, batch)
        losses.append(terms.total.item() / terms.tokens)
        terms.total.backward()
        optimizer.step()
    assert losses[-1] < 0.5 * losses[0]
    text = [[id for id in row if 0 <= id < whisper.tokens.end_of_text] for row in batch.labels.tolist()]
    assert terms.tokens == sum(map(len, text)) + len(batch)
    with torch.no_grad():
        states = whisper.encode(batch.waveform)
    written = decode(whisper, states, batch.prefixes, batch.lengths)
    head = find_writer(whisper.network)
    assert head is not None
    assert written == read_ctc(head, states, count_positions(batch.lengths, 250).tolist())
    assert all(id < whisper.tokens.end_of_text for row in written for id in row)


def test_silence_is_all_blank(nano_like: Whisper) -> None:
    whisper, _ = with_head(nano_like, train=[])
    batch = make_batch(whisper.tokens, 100, texts=["", "No."], lengths_s=[1.0, 1.0])
    terms = objective.Ctc().loss(whisper, batch)
    assert terms.tokens == 2 + len(whisper.tokens.text("No.", "en"))
    assert torch.isfinite(terms.total) and terms.total > 0


def test_beside_the_decoder_merging_drops_the_head(nano_like: Whisper, tmp_path: Path) -> None:
    whisper, finetune = with_head(nano_like)
    batch = make_batch(whisper.tokens, 150)
    states = whisper.encode(batch.waveform).detach()
    limits = cap_tokens(whisper.tokens, batch.prefixes, batch.lengths)
    by_the_decoder = decode_greedily(whisper, states, batch.prefixes, limits)
    assert decode(whisper, states, batch.prefixes, batch.lengths) == by_the_decoder
    merge_additions(finetune, whisper.network)
    save_whisper(whisper, tmp_path)
    assert not hasattr(whisper.network, HEAD) and explain_additions(tmp_path) is None


def test_where_the_head_writes_the_folder_keeps_it_and_says_so(any_whisper: Whisper, tmp_path: Path) -> None:
    whisper, finetune = with_head(any_whisper, train=["model.encoder.*"])
    merge_additions(finetune, whisper.network)
    save_whisper(whisper, tmp_path)
    assert "cannot hold this model's CTC head, which writes its transcripts (" in (tmp_path / NOTE).read_text()
    loaded = load_whisper(str(tmp_path), load_tokens(str(tmp_path))).eval()
    batch = make_batch(loaded.tokens, 150)
    with torch.no_grad():
        ours, theirs = (
            decode(each, each.encode(batch.waveform), batch.prefixes, batch.lengths) for each in (whisper, loaded)
        )
    assert ours == theirs
    assert torch.equal(load(tmp_path).get_submodule(HEAD).weight, whisper.network.get_submodule(HEAD).weight)
    again = Ctc(train=[])  # a second run goes on with the head that is there
    counts = apply_finetuning(again, loaded.network)
    assert counts["added"] == 0 and counts["trainable"] == 33 * (whisper.tokens.end_of_text + 1)
    assert torch.equal(loaded.network.get_submodule(HEAD).weight, whisper.network.get_submodule(HEAD).weight)


def test_attune_transcribes_with_the_head(nano_like: Whisper, tmp_path: Path) -> None:
    import soundfile

    from attune.use.transcribe import load_listening, transcribe

    whisper, _ = with_head(nano_like, train=[])
    save_whisper(whisper, tmp_path / "model")
    file = str(tmp_path / "a.wav")
    soundfile.write(file, make_sound(2.0, 1).numpy(), SAMPLE_RATE_HZ)
    listening = load_listening(str(tmp_path / "model"), "cpu")
    heard = transcribe(listening, file, "en", timestamps=True)  # times are the decoder's to write
    padded = torch.nn.functional.pad(load_waveform(file), (0, 28 * SAMPLE_RATE_HZ))
    with torch.no_grad():
        ids = decode(listening, listening.encode(padded[None]), [[]], torch.tensor([2 * SAMPLE_RATE_HZ]))[0]
    assert heard.text == listening.tokens.transcript(ids)


def test_objectives_that_miss_their_head(nano_like: Whisper) -> None:
    whisper, batch = copy_of(nano_like), make_batch(nano_like.tokens, 100)
    for needs_head in (objective.Ctc(), JointCtc()):
        with pytest.raises(InputError, match="need a CTC head on the encoder: add finetune=ctc"):
            needs_head.loss(whisper, batch)
        with pytest.raises(InputError, match=r"finetune=ctc finetune.train=\[model.decoder.\*\]"):
            prepare_objective(needs_head, whisper, {"trainable": 9}, 0, False)
        assert prepare_objective(needs_head, whisper, {"trainable": 0}, 0, False)  # it is only scored
    change(whisper, Ctc())
    with pytest.raises(InputError, match=r"objective=ctc teaches the decoder nothing.*objective=joint_ctc"):
        prepare_objective(objective.Ctc(), whisper, {"trainable": 9}, 0, False)
    with pytest.raises(InputError, match=r"finetune.writes=both: accepted are decoder, head"):
        Ctc(writes="both")


def test_a_writer_can_be_chosen(nano_like: Whisper) -> None:
    assert find_writer(with_head(nano_like, writes="head")[0].network) is not None
    assert find_writer(with_head(nano_like, train=[], writes="decoder")[0].network) is None
    for finetune in (Full(), NewTokens()):  # other types have no head
        whisper = copy_of(nano_like)
        change(whisper, finetune)
        assert find_writer(whisper.network) is None
