"""Files and listings from the network: continued where they stopped, checked by content, patient
with servers that fail for a while.

Knows HTTP and which server gets the hub's token; does not know which files there are.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from virnucpro import __version__
from virnucpro.errors import one_line
from virnucpro.files import MODELS, explained, git_blob_id, put_in_place, sha256_of
from virnucpro.models.contents import SECONDS_BETWEEN_LINES, Add, announced

Log = Callable[[str], object]
Answer = TypeVar("Answer")

BLOCK = 1 << 20
TIMEOUT = 60  # seconds without a byte
WAITS = (1, 2, 4, 8, 16, 32)  # seconds; each after an attempt that brought nothing new
WAITS_TO_CONNECT = 2  # of these: a server that cannot be reached at all is asked three times
LONGEST_WAIT = 300  # seconds, whatever a server asks for
LARGEST_ANSWER = 1 << 26  # bytes of a listing
PASSING = (408, 425, 429, 500, 502, 503, 504)
PART = ".part"
HINTS = {
    401: " (no such repository, or one that needs a token: set HF_TOKEN)",
    403: " (access is refused; a repository may ask for its terms to be accepted on its page)",
    407: " (the proxy wants a name and a password)",
}


class Unavailable(Exception):
    """The network, every server or the content says no; the message says which.

    gone: whether servers were reached and none of them has it (404).
    """

    def __init__(self, message: str, gone: bool = False):
        super().__init__(message)
        self.gone = gone


class _Failure(Exception):
    """One attempt's. waits: how many times it is worth to wait; after: seconds the server asks
    for.
    """

    def __init__(self, reason: str, waits: int = len(WAITS), after: float = 0, code: int = 0):
        super().__init__(reason)
        self.waits, self.after, self.code = waits, after, code


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file, the addresses that may have it, and what its bytes must be.

    content: sha256 (64 digits) or git's id of a blob (40); size: bytes, None where not known.
    """

    name: str
    urls: tuple[str, ...]
    content: str
    size: int | None = None

    @property
    def sha256(self) -> str | None:
        """Of its content, where that is what it is known by."""
        return self.content if len(self.content) == 64 else None

    def arriving(self, target: Path) -> Path:
        """Where an unfinished download lies; its name tells the content, so that nothing else is
        ever continued.
        """
        return target.with_name(f"{target.name}.{self.content[:12]}{PART}")

    def is_at(self, path: Path, add: Add = lambda _: None) -> bool:
        """Whether the file at `path` has this content."""
        if not path.is_file() or self.size not in (None, path.stat().st_size):
            return False
        return self.content == (sha256_of if self.sha256 else git_blob_id)(path, add)


def fetch(file: RemoteFile, target: Path, log: Log = lambda _: None) -> None:
    """Bring `file` to `target`, from the first of its addresses that has it, continuing what an
    earlier call left.

    Raises Unavailable where no address has the content, ModelError where it cannot be written.
    """
    part = file.arriving(target)
    if file.is_at(target):
        return

    def bring(url: str) -> None:
        had = _size(part)
        if file.size is None or had < file.size:
            _continue(url, file, part, log)
        with announced(f"{file.name}: checking its content", file.size or 0, log) as add:
            good = file.is_at(part, add)
        if not good:
            part.unlink(missing_ok=True)
            raise _Failure(
                f"{host_of(url)}: {file.name} has another content than the published one"
                f" ({file.content[:12]}...)",
                waits=len(WAITS) if had else 0,  # what was there before may be the damage
            )

    _patiently(file.urls, bring, log, lambda: _size(part))
    with explained(target, MODELS):
        put_in_place(part, target)


def _patiently(
    urls: Sequence[str],
    attempt: Callable[[str], Answer],
    log: Log,
    arrived: Callable[[], int] = lambda: 0,
) -> Answer:
    """The answer of the first of `urls` that gives one; passing failures are waited out, for longer
    each time nothing new has arrived. Raises Unavailable.
    """
    asked, failures = list(urls), dict[str, _Failure]()
    tries, before = 0, arrived()
    while True:
        for url in tuple(asked):
            try:
                return attempt(url)
            except _Failure as failure:
                failures[url] = failure
                if tries >= failure.waits:
                    asked.remove(url)
        if not asked:
            reasons = "; ".join(dict.fromkeys(map(str, failures.values())))
            raise Unavailable(reasons, all(f.code == 404 for f in failures.values()))
        tries = 0 if arrived() > before else tries
        before = arrived()
        pause = max(WAITS[tries], min(failures[url].after for url in asked))
        log(f"{failures[asked[-1]]}; trying again in {pause:.0f} s")
        time.sleep(pause)
        tries += 1


def read_json(url: str, log: Log = lambda _: None) -> Any:
    """What a server answers in JSON. Raises Unavailable."""

    def read(url: str) -> Any:
        with _open(url) as answer, _failing(answer):
            return json.loads(answer.read(LARGEST_ANSWER))

    return _patiently([url], read, log)


def _continue(url: str, file: RemoteFile, part: Path, log: Log) -> None:
    """Append to `part` what is missing of `url`; a server that cannot continue sends it all
    again.
    """
    have = _size(part)
    try:
        answer = _open(url, have)
    except _Failure as failure:
        if failure.code == 416 and have:  # nothing is missing, or its content will tell
            return
        raise
    continued = answer.status == 206
    have = have if continued else 0
    length = answer.headers.get("Content-Length")
    total = (file.size or 0) if length is None else have + int(length)
    meter = _Meter(file.name, have, total, log)
    # an OSError in this block is the disk's: the network's are made a _Failure
    with answer, explained(part, MODELS), part.open("ab" if continued else "wb") as out:
        while True:
            with _failing(answer):
                block = answer.read1(BLOCK)  # read() loses what a cut chunk brought
            if not block:
                break
            out.write(block)
            meter.add(len(block))
    if (missing := total - _size(part)) > 0:  # reading does not say that a connection was cut
        raise _Failure(f"{host_of(url)}: the connection ended {missing:,} bytes early")


class _Meter:
    """A line of progress now and then."""

    def __init__(self, name: str, have: int, total: int, log: Log):
        self._name, self._have, self._total, self._log = name, have, total, log
        self._start, self._first, self._told = time.monotonic(), have, time.monotonic()

    def add(self, count: int) -> None:
        self._have += count
        now = time.monotonic()
        if now - self._told < SECONDS_BETWEEN_LINES:
            return
        self._told = now
        rate = (self._have - self._first) / (now - self._start)
        self._log(
            f"{self._name}: {self._have / 1e9:.2f} of {self._total / 1e9:.2f} GB,"
            f" {rate / 1e6:.1f} MB/s, {max(self._total - self._have, 0) / rate:.0f} s left"
        )


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Carries the token to the same server only, and knows where it was sent last."""

    def __init__(self, url: str):
        self.url = url

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        new = super().redirect_request(req, fp, code, msg, headers, newurl)
        token = req.unredirected_hdrs.get("Authorization")
        if new is not None and token and host_of(newurl) == host_of(req.full_url):
            new.add_unredirected_header("Authorization", token)
        self.url = newurl
        return new


def _open(url: str, have: int = 0) -> http.client.HTTPResponse:
    """Ask for `url` from byte `have` on. Raises _Failure."""
    redirects = _Redirects(url)
    with _failing(redirects):
        accepted = "application/vnd.github.raw+json, */*"
        headers = {"User-Agent": f"virnucpro/{__version__}", "Accept": accepted}
        request = urllib.request.Request(url, headers=headers)
        if have:
            request.add_header("Range", f"bytes={have}-")
        if url.startswith(endpoint() + "/") and (token := _token()):
            request.add_unredirected_header("Authorization", f"Bearer {token}")
        return urllib.request.build_opener(redirects).open(request, timeout=TIMEOUT)


@contextlib.contextmanager
def _failing(asked: _Redirects | http.client.HTTPResponse) -> Iterator[None]:
    """Whatever the network raises, as a _Failure that names the server and the cause."""
    try:
        yield
    except urllib.error.HTTPError as error:
        hint = HINTS.get(error.code, "")
        if error.code == 401 and _token():
            hint = " (the token is not accepted: renew or unset HF_TOKEN, or log in anew)"
        reason = f"{host_of(asked.url)}: {error.code} {error.reason}{hint}"
        waits = len(WAITS) if error.code in PASSING else 0
        after = _retry_after(error.headers.get("Retry-After", ""))
        raise _Failure(reason, waits, after, error.code) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _unanswered(error, asked.url) from None


def _unanswered(error: Exception, url: str) -> _Failure:
    reason = getattr(error, "reason", error)
    text = f"{host_of(url)}: {one_line(getattr(reason, 'strerror', None) or str(reason))}"
    if isinstance(reason, ssl.SSLCertVerificationError):
        return _Failure(f"{text}; set SSL_CERT_FILE to the certificates of your site", waits=0)
    if isinstance(error, ValueError):  # an address that is none, or a page instead of JSON
        return _Failure(f"{text} (is HF_ENDPOINT right, or a log-in page in between?)", waits=0)
    parts = urlsplit(url)
    proxy = urllib.request.getproxies().get(parts.scheme)
    if proxy and not urllib.request.proxy_bypass(parts.hostname or ""):
        name = urlsplit(proxy).hostname or proxy
        text += f" (through the proxy {name}; see {parts.scheme.upper()}_PROXY)"
    connected = not isinstance(error, urllib.error.URLError)
    return _Failure(text, len(WAITS) if connected else WAITS_TO_CONNECT)


def _retry_after(value: str) -> float:
    """Seconds; servers may also give a date, which is waited for as if they had said nothing."""
    return min(float(value), LONGEST_WAIT) if value.isdecimal() else 0.0


def _token() -> str | None:
    """The user's token for the hub, from HF_TOKEN or where its client keeps it, if that can be
    read.
    """
    from huggingface_hub import get_token

    with contextlib.suppress(OSError):
        return get_token()
    return None


def endpoint() -> str:
    """Address of the hub."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def host_of(url: str) -> str:
    """Server of an address, without credentials."""
    return urlsplit(url).netloc.rpartition("@")[2] or url


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0
