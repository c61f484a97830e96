"""The page of `attune prefer` over HTTP, with Python's own server: six routes need no framework.

Python's manual warns that http.server is not for production. What it warns of is met here: nothing is served from the
disk by its name, bodies are small, and only this machine is answered unless --host says otherwise.

    GET  /                 the page, which holds no data
    GET  /state?rater=NAME what it shows
    GET  /audio/NUMBER     the sound of a drawn utterance
    POST /answer /back     {"rater": ...}: one more answer, or one less
    POST /train /renew     train on the answers; go on with the new model (from this machine alone)
"""

import ipaddress
import json
import re
import secrets
import socket
import socketserver
import sys
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qs, urlsplit

from attune.audio.waveform import AudioError
from attune.errors import InputError
from attune.use.prefer import ANSWERS, Session
from attune.use.preferences import check_rater

LARGEST_BODY = 64 * 1024
PATIENCE_S = 60  # for a client that says nothing
POLICY = (
    "default-src 'none'; script-src 'nonce-{0}'; style-src 'nonce-{0}'; connect-src 'self'; media-src blob:; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class PreferServer(ThreadingHTTPServer):
    """A port that is taken at once, so that a taken one is told of before a model is loaded."""

    daemon_threads = True
    session: Session

    def __init__(self, host: str, port: int):
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.host = host
        super().__init__((host, port), Handler)

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)  # HTTPServer's asks the network for this machine's full name

    @property
    def is_local(self) -> bool:
        """Whether only this machine can ask."""
        return ipaddress.ip_address(str(self.server_address[0])).is_loopback

    @property
    def url(self) -> str:
        is_any = ipaddress.ip_address(str(self.server_address[0])).is_unspecified  # 0.0.0.0, which is no place to go
        host = socket.gethostname() if is_any else f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.server_address[1]}/"

    def knows(self, host: str) -> bool:
        """Whether a request's Host is ours. A page elsewhere whose name was made to point here (DNS rebinding) has its
        own name there; a bare address it cannot have."""
        name = urlsplit(f"//{host}").hostname or ""
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name in {"localhost", self.host.lower(), socket.gethostname().lower()}
        return True

    def serve_session(self, session: Session) -> None:
        """Answer until Ctrl-C."""
        self.session = session
        print(f"{len(session.poll.answers.rows)} answers so far, in {session.folder / ANSWERS}.")
        if session.notice:
            print(f"attune: {session.notice}", file=sys.stderr)
        if not self.is_local:
            print("Everybody who reaches this machine can listen and answer: there is no password.")
        print(f"Open {self.url} (Ctrl-C stops; every answer is on the disk)", flush=True)
        try:
            self.serve_forever()
        except KeyboardInterrupt:
            print()
        finally:
            session.close()


def open_server(host: str, port: int) -> PreferServer:
    """Raises InputError where the address is taken, or none of this machine's."""
    try:
        return PreferServer(host, port)
    except (OSError, OverflowError) as error:
        raise InputError(
            f"--host={host} --port={port}: {getattr(error, 'strerror', None) or error}. Is another attune prefer "
            "running? --port=0 takes a free one."
        ) from None


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "attune", ""
    timeout = PATIENCE_S
    server: PreferServer  # type: ignore[assignment]

    def do_GET(self) -> None:
        self._respond(self._get)

    def do_POST(self) -> None:
        self._respond(self._post)

    def _respond(self, handle: Any) -> None:
        if not self.server.knows(self.headers.get("Host", "")):
            self._refuse(403, f"This page is reached at {self.server.url}")
            return
        try:
            handle(urlsplit(self.path))
        except (ConnectionError, TimeoutError):  # the browser has left
            self.close_connection = True
        except InputError as error:
            self._refuse(400, str(error))
        except AudioError as error:
            self._refuse(404, str(error))
        except OSError as error:
            self._refuse(500, f"Nothing was written ({error.strerror or error}). Make room, and answer again.")

    def _get(self, url: Any) -> None:
        if url.path == "/":
            nonce = secrets.token_urlsafe(16)
            page = files("attune").joinpath("assets/prefer_page.html").read_text("utf-8").replace("NONCE", nonce)
            self._send(page.encode(), "text/html; charset=utf-8", {"Content-Security-Policy": POLICY.format(nonce)})
        elif url.path == "/state":
            self._send_state(parse_qs(url.query).get("rater", [""])[0])
        elif found := re.fullmatch(r"/audio/(\d{1,9})", url.path):
            self._send(self.server.session.load_audio(int(found[1])), "audio/wav")
        else:
            self._refuse(404, "There is nothing here.")

    def _post(self, url: Any) -> None:
        origin = self.headers.get("Origin")
        if origin is not None and origin != f"http://{self.headers['Host']}":
            self._refuse(403, "Another page may not answer here.")
            return
        said, session = self._read_body(), self.server.session
        rater = check_rater(_take(said, "rater", str))
        if url.path == "/answer":
            text = said.get("text") or ""
            session.poll.answer(_take(said, "number", int), rater, _take(said, "choice", str), str(text))
        elif url.path == "/back":
            session.poll.take_back(rater)
        elif url.path in ("/train", "/renew"):
            if not self.server.is_local:
                raise InputError("The page is open to others, so it does not train: attune prefer ... --train does.")
            session.train() if url.path == "/train" else session.renew()
        else:
            self._refuse(404, "There is nothing here.")
            return
        self._send_state(rater)

    def _read_body(self) -> Mapping[str, Any]:
        """JSON, and only as such: a form of another page cannot send that without asking first."""
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > LARGEST_BODY:
            self.close_connection = True
            raise InputError(f"A request has a Content-Length of at most {LARGEST_BODY} bytes.")
        body = self.rfile.read(int(length))
        if self.headers.get_content_type() != "application/json":
            raise InputError("A request is application/json.")
        try:
            said = json.loads(body)
        except ValueError:
            said = None
        if not isinstance(said, dict):
            raise InputError("A request is a JSON object.")
        return said

    def _send_state(self, rater: str) -> None:
        state = {**self.server.session.describe(rater), "local": self.server.is_local}
        self._send(_to_bytes(state), "application/json")

    def _refuse(self, status: int, reason: str) -> None:
        if self.command == "POST" and "Content-Length" in self.headers and status == 403:
            self.close_connection = True  # its body was not read
        self._send(_to_bytes({"error": reason}), "application/json", status=status)

    def _send(self, content: bytes, kind: str, headers: Mapping[str, str] | None = None, status: int = 200) -> None:
        about = {"Content-Type": kind, "Content-Length": str(len(content)), "Cache-Control": "no-store"}
        about |= {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", **(headers or {})}
        about |= {"Connection": "close"} if self.close_connection else {}
        self.send_response(status)
        for name, value in about.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """The screen is for what matters."""


def _take(said: Mapping[str, Any], name: str, kind: type) -> Any:
    value = said.get(name)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise InputError(f"{name!r} is {value!r}, and must be of type {kind.__name__}.")
    return value


def _to_bytes(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content).encode()
