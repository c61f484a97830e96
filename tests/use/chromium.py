"""A headless Chromium, driven through its DevTools protocol."""

import asyncio
import base64
import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any, Self

import aiohttp

PATIENCE_S = 30.0
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
KEYS = {" ": ("Space", 32), "Enter": ("Enter", 13), "Escape": ("Escape", 27)}
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--mute-audio")


def find_chromium() -> str | None:
    return next(filter(None, map(shutil.which, NAMES)), None)


class Page:
    """One tab.

    Args:
        profile: an empty folder for what the browser keeps.
    """

    def __init__(self, url: str, profile: Path, width: int = 1280, height: int = 900):
        flags = [*FLAGS, "--remote-debugging-port=0", f"--user-data-dir={profile}", f"--window-size={width},{height}"]
        command = [find_chromium() or "chromium", *flags, "about:blank"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(command, **quiet, start_new_session=True)
        self.loop = asyncio.new_event_loop()
        self.number = 0
        self.faults: list[str] = []  # what the page complained of
        port = _wait(lambda: _read_port(profile / "DevToolsActivePort"))
        self.loop.run_until_complete(self._connect(port))
        self.resize(width, height)
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        self.call("Page.navigate", url=url)

    async def _connect(self, port: int) -> None:
        self.client = aiohttp.ClientSession()
        async with self.client.get(f"http://127.0.0.1:{port}/json/list") as answer:
            tabs = [tab for tab in await answer.json() if tab["type"] == "page"]
        self.socket = await self.client.ws_connect(tabs[0]["webSocketDebuggerUrl"], max_msg_size=0)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self.loop.run_until_complete(asyncio.wait_for(self._call(method, parameters), PATIENCE_S))

    async def _call(self, method: str, parameters: dict[str, Any]) -> dict[str, Any]:
        self.number += 1
        await self.socket.send_json({"id": self.number, "method": method, "params": parameters})
        while True:
            told = json.loads((await self.socket.receive()).data)
            if told.get("id") == self.number:
                assert "error" not in told, told
                return told["result"]
            if told.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
                self.faults.append(json.dumps(told["params"]))

    def ask(self, expression: str) -> Any:
        """The value of a JavaScript expression, awaited."""
        said = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in said, said["exceptionDetails"]
        return said["result"].get("value")

    def wait(self, expression: str) -> Any:
        """Until it holds."""
        return _wait(lambda: self.ask(expression), expression)

    def press(self, key: str, modifiers: int = 0) -> None:
        code, number = KEYS.get(key, (f"Key{key.upper()}", ord(key.upper()[0])))
        about = {"key": key, "code": code, "windowsVirtualKeyCode": number, "modifiers": modifiers}
        text = {} if modifiers or key in ("Escape", "Enter") else {"text": key}
        self.call("Input.dispatchKeyEvent", type="keyDown", **about, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **about)

    def click(self, selector: str) -> None:
        self.ask(f"document.querySelector({json.dumps(selector)}).scrollIntoView({{block: 'center'}})")
        box = self.ask(f"document.querySelector({json.dumps(selector)}).getBoundingClientRect().toJSON()")
        place = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2, "button": "left", "clickCount": 1}
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, **place)

    def resize(self, width: int, height: int, dark: bool = False) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        feature = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[feature])

    def photograph(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.run_until_complete(self.client.close())
        self.loop.close()
        os.killpg(self.process.pid, 9)  # the browser is a family of processes, and this session is its own
        self.process.wait()


def _read_port(path: Path) -> int | None:
    lines = path.read_text().splitlines() if path.is_file() else []
    return int(lines[0]) if len(lines) > 1 else None


def _wait(found: Any, what: str = "the browser") -> Any:
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        if value := found():
            return value
        time.sleep(0.05)
    raise TimeoutError(f"waited {PATIENCE_S:g} s for {what}")
