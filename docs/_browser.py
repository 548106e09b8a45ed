"""Pages opened in headless Chromium, over the DevTools protocol on a pair of pipes: nothing to install beside it.

Messages are JSON that a zero byte ends; Chromium reads them from its file 3 and writes to its file 4.
https://chromedevtools.github.io/devtools-protocol/
"""

from __future__ import annotations

import json
import os
import select
import shlex
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

#: Without these, Chromium asks hosts of its own at every start.
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--remote-debugging-pipe",
]
SECONDS_A_PAGE = 30

#: Pictures further down are loaded at once, and awaited.
DRAWN = """
(async () => {
    const pictures = [...document.images];
    await Promise.all(pictures.map(picture => {
        picture.loading = "eager";
        return picture.complete || new Promise(done => { picture.onload = picture.onerror = done; });
    }));
    return {
        title: document.title,
        heading: !!document.querySelector("h1") && document.querySelector("h1").getBoundingClientRect().height > 0,
        broken: pictures.filter(picture => !picture.naturalWidth).map(picture => picture.src),
    };
})()
"""


class Chromium:
    """A browser with one tab."""

    def __init__(self, command: str, profile: str) -> None:
        to_read, self._write = os.pipe()
        self._read, to_write = os.pipe()
        # The shell gives Chromium the two ends as its files 3 and 4.
        line = f'exec {shlex.quote(command)} "$@" 3<&{to_read} 4>&{to_write}'
        self._process = subprocess.Popen(
            ["bash", "-c", line, "bash", *FLAGS, f"--user-data-dir={profile}"],
            pass_fds=(to_read, to_write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_read)
        os.close(to_write)
        self._buffer, self._n_sent, self._session = b"", 0, {}
        self._events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self._session = {"sessionId": session}
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def close(self) -> None:
        """End the browser."""
        os.close(self._write)
        os.close(self._read)
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command, and wait for its answer."""
        self._n_sent += 1
        message = {"id": self._n_sent, "method": method, "params": params, **self._session}
        os.write(self._write, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + SECONDS_A_PAGE
        while (answer := self._next(deadline)).get("id") != self._n_sent:
            self._events.append(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        return answer["result"]

    def open(self, url: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """What a page says of itself once it is loaded, and the events until then.

        What scripts have asked for by then may be answered after the page's load, so these answers are awaited too.
        """
        self._events.clear()
        page = self.call("Page.navigate", url=url)["loaderId"]
        deadline = time.monotonic() + SECONDS_A_PAGE
        while not any(event["method"] == "Page.loadEventFired" for event in self._events):
            self._events.append(self._next(deadline))
        answer = self.call("Runtime.evaluate", expression=DRAWN, awaitPromise=True, returnByValue=True)
        while unanswered(self._events, page):
            self._events.append(self._next(deadline))
        return answer["result"]["value"], list(self._events)

    def _next(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], max(0.0, deadline - time.monotonic()))
            received = os.read(self._read, 1 << 16) if ready else b""
            if not received:
                raise TimeoutError("the browser has ended" if ready else "the browser does not answer")
            self._buffer += received
        message, self._buffer = self._buffer.split(b"\0", 1)
        return json.loads(message)


def unanswered(events: list[dict[str, Any]], page: str) -> set[str]:
    """Requests of a page, by their ids, that have neither an answer nor an error yet.

    An answer is one as soon as its header is there: the end of a body that no script reads may never be told. Nor may
    that of a request that went out for the page before, or of the browser's own.
    """
    sent, answered = set(), set()
    for event in events:
        params = event["params"]
        if event["method"] == "Network.requestWillBeSent":
            if params["loaderId"] == page and not is_browsers_own(params["request"]["url"]):
                sent.add(params["requestId"])
        elif event["method"] in ("Network.responseReceived", "Network.loadingFailed"):
            answered.add(params["requestId"])
    return sent - answered


def is_browsers_own(url: str) -> bool:
    """Whether the browser asks by itself, whatever the page says."""
    return url.endswith("/favicon.ico")


class QuietServer(ThreadingHTTPServer):
    """One that takes it for granted that a browser may hang up before the end of an answer."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print all other errors."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class QuietHandler(SimpleHTTPRequestHandler):
    """Files, without a line for each."""

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing."""


def faults_of_page(answer: Mapping[str, Any], events: list[dict[str, Any]], title: str) -> Iterator[str]:
    """What is wrong with a page, from what it says of itself and the events of its loading."""
    if " ".join(answer["title"].split()) != " ".join(title.split()):
        yield f"its title is {answer['title']!r}"
    if not answer["heading"]:
        yield "no heading is drawn"
    for picture in answer["broken"]:
        yield f"not drawn: {picture}"
    for event in events:
        params = event["params"]
        if event["method"] == "Network.responseReceived" and params["response"]["status"] >= 400:
            if not is_browsers_own(params["response"]["url"]):
                yield f"answer {params['response']['status']}: {params['response']['url']}"
        elif event["method"] == "Network.loadingFailed" and not params.get("canceled"):
            yield f"not loaded: {params['errorText']}"
        elif event["method"] == "Runtime.exceptionThrown":
            thrown = params["exceptionDetails"].get("exception", {}).get("description", "")
            yield f"script failed: {thrown.split(chr(10))[0]}"
        elif event["method"] == "Runtime.consoleAPICalled" and params["type"] == "error":
            yield f"console: {[argument.get('value') for argument in params['args']]}"
        elif event["method"] == "Log.entryAdded":
            entry = params["entry"]
            if entry["level"] == "error" and entry["source"] != "network":  # what the network said is above
                yield f"log: {entry['text']}"


def rendering_faults(command: str, root: Path, titles: Mapping[str, str]) -> list[str]:
    """A line for each fault of pages, given with their titles, that lie under a folder."""
    server = QuietServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(root)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    base = f"http://127.0.0.1:{server.server_port}/"
    faults = []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        browser = Chromium(command, profile)
        try:
            for page, title in titles.items():
                answer, events = browser.open(base + page)
                found = dict.fromkeys(faults_of_page(answer, events, title))
                faults += [f"{page}: {fault.replace(base, '')}" for fault in found]
        finally:
            browser.close()
            server.shutdown()
            server.server_close()
    return faults
