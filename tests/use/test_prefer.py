"""attune prefer over real HTTP: what is asked, what is written down, what is refused."""

import http.client
import json
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from test_make_pairs import WORDS
from whispers import awaken

from attune.audio.waveform import load_waveform
from attune.data.corpora.pairs import PairsCorpus
from attune.data.corpora.schema import REJECTED
from attune.errors import InputError
from attune.model.save import save_whisper
from attune.model.whisper import Whisper
from attune.report.record import RunRecord, write_record
from attune.use.candidates import Wanted, choose_two
from attune.use.cli import main
from attune.use.dpo_runs import DpoRuns
from attune.use.prefer import ANSWERS, CANDIDATES, Session, settle
from attune.use.prefer_server import LARGEST_BODY, PreferServer, open_server
from attune.use.preferences import mark_differences

HOSTILE = "<script>alert(1)</script> & </textarea>"


@pytest.fixture(scope="module", autouse=True)
def _cache(speech_cache: str) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATTUNE_CACHE", speech_cache)
        yield


@pytest.fixture(scope="module")
def model(nano_like: Whisper, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save_whisper(awaken(nano_like, seed=3), folder)
    return folder


@pytest.fixture(scope="module")
def drawn(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which all transcripts are drawn, and nobody has answered."""
    folder = tmp_path_factory.mktemp("drawn") / "folder"
    session = Session(folder, Wanted(str(model), WORDS, limit=5, samples=2))
    session.drawing.join()
    assert not session.fault
    session.close()
    return folder


@pytest.fixture
def folder(drawn: Path, tmp_path: Path) -> Path:
    return shutil.copytree(drawn, tmp_path / "folder")


class Client:
    """What a browser does, and what it would not."""

    def __init__(self, server: PreferServer):
        self.address = server.server_address[:2]
        self.host = f"127.0.0.1:{self.address[1]}"

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any, dict[str, str]]:
        connection = http.client.HTTPConnection(*self.address, timeout=10)  # type: ignore[arg-type]
        content = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        about = {"Host": self.host, "Content-Type": "application/json"}
        about |= {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, content, about)
        answer = connection.getresponse()
        said = answer.read()
        connection.close()
        is_json = answer.headers["Content-Type"] == "application/json"
        return answer.status, json.loads(said) if is_json else said, dict(answer.headers)

    def state(self, rater: str = "anna") -> dict[str, Any]:
        return self.ask("GET", f"/state?rater={quote(rater)}")[1]

    def answer(self, choice: str, rater: str = "anna", **more: Any) -> dict[str, Any]:
        number = self.state(rater)["question"]["number"]
        status, said, _ = self.ask("POST", "/answer", {"rater": rater, "number": number, "choice": choice, **more})
        assert status == 200, said
        return said


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], Client]]:
    """A folder -> its page; a second call stops the first page."""
    running: list[PreferServer] = []

    def stop() -> None:
        while running:
            server = running.pop()
            server.shutdown()
            server.server_close()
            server.session.close()

    def start(folder: Path, words: list[str] = []) -> Client:  # noqa: B006
        stop()
        server = open_server("127.0.0.1", 0)
        server.session = Session(folder, settle(folder, {}), words=words)
        server.session.drawing.join()
        running.append(server)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return Client(server)

    yield start
    stop()


def read(folder: Path, name: str = ANSWERS) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text("utf-8").splitlines()]


def test_every_answer_is_a_row_of_data_pairs(folder: Path, serve: Callable[[Path], Client]) -> None:
    client = serve(folder)
    shown = []
    for choice in ("a", "b", "tie", "bad", "correct"):
        shown.append([side["text"] for side in client.state()["question"]["sides"]])
        state = client.answer(choice, text=f"  {HOSTILE}\n ")
    assert (state["done"], state["asked"], state["question"], state["pairs"]) == (5, 5, None, 3)
    rows = read(folder)
    sides = [(row["chosen"], row["rejected"]) for row in rows]
    assert sides[:4] == [(shown[0][0], shown[0][1]), (shown[1][1], shown[1][0]), (None, None), (None, None)]
    assert sides[4][0] == HOSTILE and sides[4][1] in shown[4]
    assert [row["answer"] for row in rows[2:]] == ["tie", "bad", "corrected"]
    for row, candidate in zip(rows, read(folder, CANDIDATES), strict=True):
        assert row["texts"] == candidate["texts"] and row["utterance"] == candidate["id"]
        assert [row["texts"][index] for index in row["order"]] == shown[rows.index(row)]
    split = PairsCorpus(str(folder / ANSWERS), str(folder / "validation.jsonl")).splits()["train"]
    assert list(zip(split["text"], split[REJECTED], strict=True)) == [sides[0], sides[1], sides[4]]


def test_it_goes_on_where_each_rater_stopped(folder: Path, serve: Callable[[Path], Client]) -> None:
    client = serve(folder)
    client.answer("a")
    client.answer("tie")
    client.answer("a", rater=" Ben  & Ali")
    before = client.state()
    with (folder / ANSWERS).open("a") as file:
        file.write('{"audio": "a.wav", "chos')
    client = serve(folder)
    after = client.state()
    assert after["question"] == before["question"] and after["done"] == 2
    assert after["raters"] == {"anna": 2, "Ben & Ali": 1}
    assert "was cut off by a crash" in after["notices"][0]
    client.answer("b")
    assert len(read(folder)) == 4


def test_an_answer_is_taken_once_and_can_be_taken_back(folder: Path, serve: Callable[[Path], Client]) -> None:
    client = serve(folder)
    first = client.state()["question"]
    client.answer("a", rater="ben")
    for _ in range(2):
        client.ask("POST", "/answer", {"rater": "anna", "number": first["number"], "choice": "b"})
    assert [row["rater"] for row in read(folder)] == ["ben", "anna"]
    state = client.ask("POST", "/back", {"rater": "anna"})[1]
    assert state["question"] == first and state["done"] == 0
    assert [row["rater"] for row in read(folder)] == ["ben"]
    client.answer("a")
    assert [row["rater"] for row in read(folder)] == ["ben", "anna"]


def test_a_correction_that_changes_nothing_is_a_choice(folder: Path, serve: Callable[[Path], Client]) -> None:
    client = serve(folder)
    texts = [side["text"] for side in client.state()["question"]["sides"]]
    longer, shorter = sorted(texts, key=len, reverse=True)
    client.answer("correct", text=longer + " ")
    (row,) = read(folder)
    assert (row["chosen"], row["rejected"]) == (longer, shorter) and row["answer"] in ("first", "second")


def test_several_people_see_their_own_order_and_their_agreement(folder: Path, serve: Callable[[Path], Client]) -> None:
    client = serve(folder)
    for rater in ("anna", "ben"):
        for row in read(folder, CANDIDATES)[:3]:
            texts = [side["text"] for side in client.state(rater)["question"]["sides"]]
            client.answer("ab"[texts.index(row["texts"][0])], rater)
    client.answer("bad")
    state = client.answer("correct", "ben", text="Something else.")
    assert state["agreement"] == {"items": 4, "raters": 2, "observed": 1.0, "expected": 0.625, "kappa": 1.0}
    orders = {(row["rater"], row["utterance"]): row["order"] for row in read(folder)}
    assert len({tuple(order) for order in orders.values()}) == 2


def test_the_sound_and_nothing_else_is_served(folder: Path, serve: Callable[[Path], Client]) -> None:
    client = serve(folder)
    row = read(folder, CANDIDATES)[1]
    status, sound, about = client.ask("GET", "/audio/1")
    assert (status, about["Content-Type"]) == (200, "audio/wav")
    assert load_waveform(sound).equal(load_waveform(folder / row["audio"]))
    for path in ("/audio/5", "/audio/-1", "/audio/../session.json", "/session.json", "/audio/1.5", "//etc/passwd"):
        assert client.ask("GET", path)[0] in (400, 404), path
    (folder / row["audio"]).unlink()
    status, said, _ = client.ask("GET", "/audio/1")
    assert status == 404 and "there is no file" in said["error"]


def test_the_page_runs_its_own_script_alone(folder: Path, serve: Callable[[Path], Client]) -> None:
    client = serve(folder)
    (folder / ANSWERS).write_text("")
    pages = [client.ask("GET", "/?rater=" + "%3Cscript%3E") for _ in range(2)]
    policies = [about["Content-Security-Policy"] for _, _, about in pages]
    assert policies[0] != policies[1]
    for (_, page, _), policy in zip(pages, policies, strict=True):
        nonce = policy.split("script-src 'nonce-")[1].split("'")[0]
        assert page.count(f'<script nonce="{nonce}">'.encode()) == page.count(b"<script") == 1
        assert f'<style nonce="{nonce}">'.encode() in page and "default-src 'none'" in policy
    assert b"innerHTML" not in pages[0][1] and b"https://" not in pages[0][1]


def test_another_page_cannot_answer(folder: Path, serve: Callable[[Path], Client]) -> None:
    client = serve(folder)
    body = {"rater": "anna", "number": 0, "choice": "a"}
    for headers, status in [
        ({"Host": "attacker.example"}, 403),
        ({"Host": ""}, 403),
        ({"Origin": "http://attacker.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Content_Type": "text/plain"}, 400),
        ({"Content_Type": "application/x-www-form-urlencoded"}, 400),
    ]:
        assert client.ask("POST", "/answer", body, **headers)[0] == status
        assert "Host" not in headers or client.ask("GET", "/state?rater=anna", **headers)[0] == status
    assert read(folder) == []
    assert client.ask("POST", "/answer", body, Origin=f"http://{client.host}")[0] == 200


def test_bad_input_is_one_message(folder: Path, serve: Callable[[Path], Client]) -> None:
    client = serve(folder)
    answer = {"rater": "anna", "number": 0, "choice": "correct"}
    for body, message in [
        ({**answer, "choice": "c"}, "accepted: a, b, tie, bad, correct"),
        ({**answer, "number": 99}, "no question 99"),
        ({**answer, "number": True}, "must be of type int"),
        ({**answer, "rater": " "}, "1 to 40 characters"),
        ({**answer, "rater": "a\x07"}, "can be printed"),
        ({**answer, "text": " "}, "and this one 0"),
        ({**answer, "text": "a" * 2001}, "and this one 2001"),
        (b"[1]", "is a JSON object"),
        (b"{", "is a JSON object"),
        (b" " * (LARGEST_BODY + 1), "at most 65536 bytes"),
    ]:
        status, said, _ = client.ask("POST", "/answer", body)
        assert status == 400 and message in said["error"]
    assert read(folder) == [] and client.ask("GET", "/state?rater=")[0] == 400


def test_half_a_character_does_not_reach_the_file(folder: Path, serve: Callable[[Path], Client]) -> None:
    client = serve(folder)
    client.answer("correct", text="One \ud83d two")
    assert read(folder)[0]["chosen"] == "One ? two"
    PairsCorpus(str(folder / ANSWERS), str(folder / "validation.jsonl")).splits()


def test_the_new_model_is_offered_and_asked(
    model: Path, folder: Path, serve: Callable[[Path], Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = serve(folder, ["trainer.max_steps=2"])
    assert client.ask("POST", "/train", {"rater": "anna"})[0] == 400  # nothing to learn from
    client.answer("a")
    client.answer("tie")
    script = "import sys; print('\\rstep 1\\rstep 2 of 2'); sys.exit(3)"
    prepare = DpoRuns.prepare
    commands = []

    def note(runs: DpoRuns, answers: Path) -> list[str]:
        commands.append(prepare(runs, answers))
        return [sys.executable, "-c", script]

    monkeypatch.setattr(DpoRuns, "prepare", note)
    assert client.ask("POST", "/train", {"rater": "anna"})[1]["training"]["number"] == 1
    while (told := client.state()["training"])["state"] == "running":
        time.sleep(0.05)
    assert told == {"state": "failed", "number": 1, "said": "step 2 of 2", "log": "train_1.log"}
    assert Path(commands[0][1]).name == "train.py" and commands[0][-1] == "trainer.max_steps=2"
    assert f"model.name_or_path='{model}'" in commands[0] and f"folder='{folder}/runs/1'" in commands[0]
    assert [row["answer"] in ("first", "second") for row in read(folder, "train_1.jsonl")] == [True]

    run = folder / "runs" / "2"
    scores = {"baseline": {"test": {"wer": 0.5}}, "result": {"test": {"wer": 0.25}}}
    write_record(RunRecord(name="prefer-2", seed=0, config={}, status="running"), run)
    assert client.state()["offer"] is None
    write_record(RunRecord(name="prefer-2", seed=0, config={}, status="finished", **scores), run)
    assert client.state()["offer"] == {"number": 2, "wer": [0.5, 0.25]}
    shutil.copytree(model, run / "model")
    state = client.ask("POST", "/renew", {"rater": "anna"})[1]
    while state["drawing"]:
        time.sleep(0.05)
        state = client.state()
    assert (state["round"], state["offer"], state["notices"]) == (2, None, [])
    rows = read(folder, CANDIDATES)
    assert [row["model"] for row in rows] == [str(model)] * 5 + [str(run)] * 5
    assert state["asked"] == 5 and state["question"]["number"] >= 5
    again = serve(folder)
    assert again.state()["round"] == 2 and len(read(folder, CANDIDATES)) == 10


def test_what_is_left_out_is_told(
    model: Path, tmp_path: Path, serve: Callable[[Path], Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("attune.use.candidates.choose_two", lambda likeliest, drawn, language: None)
    session = Session(tmp_path / "new", Wanted(str(model), WORDS, limit=2, samples=1))
    session.drawing.join()
    state = session.describe("anna")
    assert (state["alike"], state["asked"], state["question"], state["drawing"]) == (2, 0, None, False)
    session.close()


def test_two_texts_differ() -> None:
    assert choose_two("One two.", ["One two.", " one, two", "One three.", "Four."]) == ("One two.", "One three.")
    assert choose_two("One two.", ["One two. ", "one two"]) == ("One two.", "one two")
    assert choose_two("One two.", ["One  two.", " One\rtwo."]) is None
    assert choose_two("", ["", "you"]) == ("", "you")
    assert choose_two("你好，世界", ["你好世界", "你好世间"], "zh") == ("你好，世界", "你好世间")


def test_differences_are_marked() -> None:
    one, other = mark_differences("The cat sat on it", "A cat sat", "en")
    assert one == [("The", True), ("cat sat", False), ("on it", True)]
    assert other == [("A", True), ("cat sat", False)]
    assert mark_differences("你好世界", "你好世间", "zh")[1] == [("你好世", False), ("间", True)]
    assert mark_differences("", "you", "en") == ([], [("you", True)])


def test_a_folder_stays_with_its_settings(drawn: Path, model: Path, tmp_path: Path) -> None:
    kept = settle(drawn, {"model": str(model), "limit": None})
    assert (kept.limit, kept.samples, list(kept.data)) == (5, 2, WORDS)
    with pytest.raises(InputError, match="was begun with limit=5, and now limit is 6"):
        settle(drawn, {"limit": 6})
    with pytest.raises(InputError, match="is not empty, and no folder of attune prefer"):
        settle(drawn / "audio", {"model": "nano"})
    (tmp_path / "session.json").write_text('{"mod')
    with pytest.raises(InputError, match="session.json cannot be read"):
        settle(tmp_path, {})
    with pytest.raises(InputError, match="a temperature above 0"):
        settle(tmp_path / "new", {"model": "nano", "temperature": 0.0})


def test_one_page_a_folder(folder: Path, serve: Callable[[Path], Client]) -> None:
    serve(folder)
    with pytest.raises(InputError, match="Another attune prefer has"):
        Session(folder, settle(folder, {}))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["MODEL", "NEW", "--port=TAKEN", "--data", *WORDS], "Is another attune prefer running? --port=0"),
        (["MODEL", "NEW", "--port=99999", "--data", *WORDS], "--port=99999"),
        (["MODEL", "NEW", "--host=no.such.name.invalid", "--data", *WORDS], "--host=no.such.name.invalid"),
        (["MODEL", "NEW", "--port=0"], "is no run folder"),
        (["nowhere/at/all", "NEW", "--port=0", "--data", *WORDS], "RUN_OR_MODEL"),
        (["MODEL", "NEW", "--port=0", "--data", "data=manifest", "data.train=a.jsonl"], "data.validation"),
        (["MODEL", "NEW", "--port=0", "--data", "data=nonsense"], "There is no data=nonsense"),
        (["MODEL", "FILE", "--port=0", "--data", *WORDS], "is not empty"),
        (["MODEL", "FILE/below", "--port=0", "--data", *WORDS], "cannot be written"),
        (["MODEL", "BROKEN", "--port=0"], "preferences.jsonl, line 1 is no JSON object"),
        (["MODEL", "UNWRITABLE", "--port=0"], "preferences.jsonl cannot be written"),
        (["MODEL", "FOLDER", "--train"], "0 answers, and none of them says"),
    ],
)
def test_the_command_refuses_in_one_message(
    words: list[str], message: str, model: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (tmp_path / "file").write_text("")
    broken, unwritable = (shutil.copytree(folder, tmp_path / name) for name in ("broken", "unwritable"))
    (broken / ANSWERS).write_text('{"audio"\n')
    (unwritable / ANSWERS).unlink()
    (unwritable / ANSWERS).mkdir()
    places = {"MODEL": model, "NEW": tmp_path / "new", "FILE": tmp_path / "file", "FOLDER": folder}
    places |= {"BROKEN": broken, "UNWRITABLE": unwritable}
    with open_server("127.0.0.1", 0) as taken:
        places["TAKEN"] = str(taken.server_address[1])  # type: ignore[assignment]
        for name, place in places.items():
            words = [word.replace(name, str(place)) for word in words]
        monkeypatch.setattr(sys, "argv", ["attune", "prefer", *words])
        monkeypatch.setattr(PreferServer, "serve_forever", lambda _: pytest.fail("it was served"))
        with pytest.raises(SystemExit) as stop:
            main()
    said = capsys.readouterr().err
    assert stop.value.code == 2 and message in said and "Traceback" not in said
    assert not (tmp_path / "new").exists()
