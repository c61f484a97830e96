"""A W&B server on the loopback: as much of one as a run needs, and as much trouble as it is told to make."""

import gzip
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TROUBLES = ("hangs", "answers 500", "hangs up")
OWNER = {"id": "e", "name": "me"}
EMPTY = {
    "historyLineCount": 0, "eventsLineCount": 0, "logLineCount": 0, "historyTail": "[]", "eventsTail": "[]",
    "summaryMetrics": "{}", "config": "{}", "wandbConfig": "{}", "tags": [],
}  # fmt: skip


class WandbServer(ThreadingHTTPServer):
    """Call `serve()`; `url` is for WANDB_BASE_URL.

    Args:
        mode: "good", or one of TROUBLES; it may change while it serves.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, mode: str = "good"):
        super().__init__(("127.0.0.1", 0), Answer)
        self.mode = mode
        self.asked = 0
        self.runs: list[str] = []  # the id of each run that was begun or continued, as often as that happened
        self.history: list[dict[str, Any]] = []  # rows that arrived
        self.over = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def serve(self) -> "WandbServer":
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def end(self) -> None:
        self.over.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, *args: Any) -> None:
        """A client that has gone is no news here."""


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: WandbServer

    def answer(self) -> None:
        self.server.asked += 1
        mode = self.server.mode
        if mode == "hangs":
            self.server.over.wait()
        if mode in ("hangs", "hangs up"):
            self.close_connection = True
            return
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Content-Encoding") == "gzip":
            content = gzip.decompress(content)
        found = {} if mode == "answers 500" else self.find(content)
        body = json.dumps(found).encode()
        self.send_response(500 if mode == "answers 500" else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PUT = answer

    def find(self, content: bytes) -> dict[str, Any]:
        if self.path.endswith("/file_stream"):
            lines = json.loads(content).get("files", {}).get("wandb-history.jsonl", {}).get("content", [])
            self.server.history += [json.loads(line) for line in lines]
        return self.find_in_graph(json.loads(content)) if self.path == "/graphql" else {}

    def find_in_graph(self, asked: dict[str, Any]) -> dict[str, Any]:
        name, values = asked.get("operationName"), asked.get("variables") or {}
        project = {"id": "p", "name": "attune", "entity": OWNER}
        if name == "RunResumeStatus":
            known = values["name"] in self.server.runs
            bucket = {"id": "b", "name": values["name"], **EMPTY} if known else None
            return {"data": {"model": {**project, "bucket": bucket}}}
        if name == "UpsertBucket":
            self.server.runs += [values["name"]] if values.get("name") else []
            bucket = {"id": "b", "name": values.get("name"), "displayName": "d", "project": project, **EMPTY}
            return {"data": {"upsertBucket": {"bucket": bucket, "inserted": True}}}
        if name == "Viewer":
            return {"data": {"viewer": {**OWNER, "entity": "me", "username": "me", "flags": "{}"}}}
        return {"data": None, "errors": [{"message": "this server has none of that"}]}

    def log_message(self, *args: Any) -> None:
        """The screen is the run's."""
