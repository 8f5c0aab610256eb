"""A headless Chromium, driven through chromedriver's own HTTP interface (the W3C WebDriver
protocol).
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--window-size=1200,1600",
)
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
DRIVER = shutil.which("chromedriver")
MISSING = (
    ""
    if CHROMIUM and DRIVER
    else "no Chromium with chromedriver here (Debian: chromium chromium-driver)"
)


class Browser:
    """One page at a time."""

    def __init__(self, address: str) -> None:
        self._address = address

    def _call(self, path: str, body: dict) -> object:
        request = urllib.request.Request(
            self._address + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
            request, timeout=60
        ) as answer:
            return json.load(answer)["value"]

    def open(self, path: Path) -> None:
        self._call("/url", {"url": path.absolute().as_uri()})

    def run(self, script: str) -> object:
        """What the script returns."""
        return self._call("/execute/sync", {"script": script, "args": []})

    def log(self) -> list[dict]:
        """Messages of the page's console since the last call."""
        return self._call("/se/log", {"type": "browser"})


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """A browser with a new profile; ended, with its driver, when the block ends."""
    with open(profile.parent / "driver.log", "w+") as log:
        driver = subprocess.Popen([DRIVER, "--port=0"], stdout=log, stderr=subprocess.STDOUT)
        try:
            port = None
            for _ in range(300):
                log.seek(0)
                for line in log:
                    if "on port " in line and "started" in line:
                        port = int(line.rsplit("on port ", 1)[1].strip(" .\n"))
                if port:
                    break
                time.sleep(0.1)
            options = {
                "goog:chromeOptions": {
                    "binary": CHROMIUM,
                    "args": [*FLAGS, f"--user-data-dir={profile}"],
                },
                "goog:loggingPrefs": {"browser": "ALL"},
            }
            session = Browser(f"http://127.0.0.1:{port}/session")
            new = session._call("", {"capabilities": {"alwaysMatch": options}})
            address = f"http://127.0.0.1:{port}/session/{new['sessionId']}"
            try:
                yield Browser(address)
            finally:  # the browser outlives its driver otherwise
                delete = urllib.request.Request(address, method="DELETE")
                urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
                    delete, timeout=60
                )
        finally:
            driver.terminate()
            driver.wait(30)
