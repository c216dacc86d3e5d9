"""A headless Chromium driven over its debugging pipe, with nothing but Python, for tests of pages."""

import base64
import fcntl
import itertools
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = ["--headless", "--remote-debugging-pipe", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
FLAGS += ["--no-first-run", "--mute-audio", "--autoplay-policy=no-user-gesture-required", "--hide-scrollbars"]
# Chromium reads commands from descriptor 3 and answers on 4.
START = (
    "import os, sys; [os.dup2(int(sys.argv[k]), 2 + k) for k in (1, 2)]; os.execv(sys.argv[3], sys.argv[3:])"
)
KEYS = {  # what a key is called -> its code, and what it types
    **{f"Arrow{way}": (37 + k, "") for k, way in enumerate(("Left", "Up", "Right", "Down"))},
    **{"Enter": (13, "\r"), "Backspace": (8, ""), "Tab": (9, ""), "Escape": (27, ""), " ": (32, " ")},
}
PATIENCE = 60  # seconds, of a machine that is busy


class Page:
    """A tab of a browser: its protocol's commands, and what tests ask of a page."""

    def __init__(self, commands: int, answers: int):
        self.commands, self.answers, self.session = commands, answers, ""
        self.numbers, self.rest = itertools.count(1), b""
        self.events: list[dict] = []

    def call(self, method: str, **parameters) -> dict:
        """The answer to a command of the protocol; what else comes meanwhile is kept in `events`."""
        message = {"id": next(self.numbers), "method": method, "params": parameters}
        message |= {"sessionId": self.session} if self.session else {}
        os.write(self.commands, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != message["id"]:
            self.events.append(answer)
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def _next(self) -> dict:
        """The next message, which ends with a zero byte."""
        while b"\0" not in self.rest:
            ready, _, _ = select.select([self.answers], [], [], PATIENCE)
            piece = os.read(self.answers, 1 << 20) if ready else b""
            assert piece, "the browser says nothing more"
            self.rest += piece
        message, _, self.rest = self.rest.partition(b"\0")
        return json.loads(message)

    def open(self, where: str | Path, width: int = 1000, height: int = 800) -> None:
        """Opens a file or an address in a window of this many pixels, and waits until all of it is there."""
        self.resize(width, height)
        self.call("Page.navigate", url=where.resolve().as_uri() if isinstance(where, Path) else where)
        self.wait("location.href != 'about:blank' && document.readyState == 'complete'")

    def resize(self, width: int, height: int) -> None:
        """Gives the window this many pixels."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)

    def evaluate(self, expression: str):
        """The value of a JavaScript expression, or of its promise; what it throws fails the test."""
        given = {"expression": expression, "returnByValue": True, "awaitPromise": True}
        result = self.call("Runtime.evaluate", **given)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def wait(self, condition: str) -> None:
        """Waits until a JavaScript expression is true."""
        end = time.monotonic() + PATIENCE
        while not self.evaluate(f"Boolean({condition})"):
            assert time.monotonic() < end, f"waited in vain for {condition}"
            time.sleep(0.02)

    def press(self, key: str) -> None:
        """Presses a key, a letter or one of KEYS, as a keyboard does."""
        code, text = KEYS.get(key, (ord(key.upper()[0]), key))
        named = {"key": key, "windowsVirtualKeyCode": code} | ({"text": text} if text else {})
        self.call("Input.dispatchKeyEvent", type="keyDown", **named)
        self.call("Input.dispatchKeyEvent", type="keyUp", **named)

    def type(self, text: str) -> None:
        """Types a text where the focus is."""
        self.call("Input.insertText", text=text)

    def screenshot(self, file: Path, whole: bool = True) -> Path:
        """A PNG of the page, of all of it or of what its window shows."""
        taken = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        file.write_bytes(base64.b64decode(taken["data"]))
        return file

    def sideways(self) -> int:
        """How many pixels of the page lie right of the window: 0 where nothing scrolls sideways."""
        return self.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")

    def requests(self) -> list[str]:
        """Addresses that were asked for, but for what lies inside a page."""
        self.evaluate("0")
        sent = [
            e["params"]["request"]["url"] for e in self.events if e["method"] == "Network.requestWillBeSent"
        ]
        return [url for url in sent if not url.startswith(("data:", "blob:"))]

    def complaints(self) -> list[str]:
        """What the page's scripts threw and what the browser refused it or found wrong, in its words."""
        self.evaluate("0")
        texts = [e["params"]["entry"]["text"] for e in self.events if e["method"] == "Log.entryAdded"]
        thrown = (
            e["params"]["exceptionDetails"] for e in self.events if e["method"] == "Runtime.exceptionThrown"
        )
        return texts + [e.get("exception", {}).get("description", e["text"]) for e in thrown]


def find_browser() -> str:
    """The browser of this machine, or that DIT_TEST_BROWSER names; without any the test is skipped."""
    given = os.environ.get("DIT_TEST_BROWSER", "")
    found = next(filter(None, map(shutil.which, [given] if given else NAMES)), None)
    if not found:
        pytest.skip(
            f"no browser: none of {', '.join([given] if given else NAMES)} (apt-get install chromium)"
        )
    return found


@contextmanager
def browsing(folder: Path | None = None) -> Iterator[Page]:
    """A page of a browser of its own, which has nothing of a user's; downloads go to the folder."""
    program = find_browser()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        (theirs, commands), (answers, out) = os.pipe(), os.pipe()
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (theirs, out)]  # 3 and 4 may be among them
        words = [sys.executable, "-c", START, *map(str, ends), program, *FLAGS, f"--user-data-dir={home}"]
        browser = subprocess.Popen(words, pass_fds=ends, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for end in (theirs, out, *ends):
            os.close(end)
        try:
            page = Page(commands, answers)
            target = page.call("Target.createTarget", url="about:blank")["targetId"]
            if folder:
                where = {"behavior": "allow", "downloadPath": str(folder)}
                page.call("Browser.setDownloadBehavior", **where)
            page.session = page.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            for domain in ("Page", "Runtime", "Log", "Network"):
                page.call(f"{domain}.enable")
            yield page
        finally:
            browser.kill()
            browser.wait()
            os.close(commands)
            os.close(answers)
