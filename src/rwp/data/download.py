"""Files over HTTP(S): resumed where they broke off, checked before they get their name."""

from __future__ import annotations

import errno
import hashlib
import http.client
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from rwp.errors import UserError, passing_cause
from rwp.files import atomic_write

# Raises UserError when a file is not what it should be.
Check = Callable[[Path], None]

_BLOCK = 1 << 20
_TIMEOUT_S = 30
_ATTEMPTS = 5  # in a row without a new byte
_PAUSE_S = 0.5
_TRANSIENT = {429, 500, 502, 503, 504}
_HTML_STARTS = (b"<!doctype html", b"<html", b"<head", b"<script", b"<?xml")


def checksum(algorithm: Literal["md5", "sha256"], digest: str) -> Check:
    """A check that a file has this digest."""

    def check(path: Path) -> None:
        refuse_html(path)
        with path.open("rb") as stream:
            found = hashlib.file_digest(stream, algorithm).hexdigest()
        if found != digest.lower():
            raise UserError(
                f"expected {algorithm} {digest}, got {found}: another or a damaged file; "
                "fetch it again or give a mirror that has it"
            )

    return check


def refuse_html(path: Path) -> None:
    """Refuse a web page, which is what broken links and download limits answer with.

    Raises:
        UserError: the file starts like one.
    """
    with path.open("rb") as stream:
        _refuse_html_start(stream.read(512))


def member_of(origin: str, filename: str) -> str:
    """Where `filename` lies in a mirror: a folder, an address, or the file itself."""
    if "://" not in origin and Path(origin).is_file():
        return origin
    base = origin.rstrip("/")
    return base if base.endswith(f"/{filename}") else f"{base}/{filename}"


def obtain(origin: str, target: Path, check: Check) -> None:
    """Bring a file from an address or a path to `target`, unless a sound one is there.

    Raises:
        UserError: it cannot be had, fails its check, or has no place to go.
    """
    if target.is_file() and _is_sound(target, check):
        return
    if "://" in origin:
        download(origin, target, check)
    else:
        _copy(Path(origin), target, check)


def download(url: str, target: Path, check: Check) -> None:
    """Fetch `url`; what has come so far waits in `target`.part for the next try.

    Raises:
        UserError: the address does not answer with the file, the transfer keeps breaking off,
            the file fails its check, or there is no space.
    """
    if not url.startswith(("http://", "https://")):
        raise UserError(f"{url}: expected an http or https address, got another; give a path")
    part = target.with_name(target.name + ".part")
    with atomic_write(target) as temporary:
        resumed = _size(part) > 0
        if not (resumed and _is_sound(part, check)):
            _transfer(url, part)
        try:
            _passes(part, url, check)
        except UserError as error:
            if passing_cause(error.__cause__):
                raise
            part.unlink()
            _state_file(part).unlink(missing_ok=True)
            if not resumed:
                raise
            _transfer(url, part)  # the part was of another file: once more from its start
            _passes(part, url, check, remove=True)
        part.replace(temporary)
        _state_file(part).unlink(missing_ok=True)


def _copy(source: Path, target: Path, check: Check) -> None:
    if not source.is_file():
        raise UserError(f"{source}: expected a file, found none; complete the mirror")
    with atomic_write(target) as temporary:
        shutil.copyfile(source, temporary)
        _passes(temporary, str(source), check)


def _is_sound(path: Path, check: Check) -> bool:
    try:
        check(path)
    except UserError as error:
        if passing_cause(error.__cause__):
            raise
        return False
    return True


def _passes(path: Path, origin: str, check: Check, *, remove: bool = False) -> None:
    try:
        check(path)
    except UserError as error:
        if remove:
            path.unlink()
            _state_file(path).unlink(missing_ok=True)
        raise UserError(f"{origin}: {error}") from error


def _transfer(url: str, part: Path) -> None:
    failures = 0
    while True:
        before = _size(part)
        try:
            _transfer_once(url, part)
            return
        except (http.client.HTTPException, ConnectionError, TimeoutError) as error:
            failures = 1 if _size(part) > before else failures + 1
            if failures == _ATTEMPTS:
                raise UserError(
                    f"{url}: expected the whole file, got {_size(part)} bytes before it broke "
                    f"off ({error}); run the same command again to go on from there"
                ) from error
            time.sleep(_PAUSE_S)


def _transfer_once(url: str, part: Path) -> None:
    have = _size(part)
    headers = {"User-Agent": "rwp", "Accept-Encoding": "identity"}
    state = _state_file(part)
    if have:
        headers["Range"] = f"bytes={have}-"
        if state.exists():  # the rest of the same file, or a changed one from its start
            headers["If-Range"] = state.read_text(encoding="latin-1")
    with _open(urllib.request.Request(url, headers=headers), part) as response:
        resumed = response.status == 206
        if resumed and not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            part.unlink()
            raise ConnectionError("the server resumed at another place")
        length = response.headers.get("Content-Length")
        expected = None if length is None else int(length) + (have if resumed else 0)
        _require_space(part, int(length or 0))
        block = _read(response)
        if not resumed:
            try:
                _refuse_html_start(block)
            except UserError as error:
                raise UserError(f"{url}: {error}") from error
        with part.open("ab" if resumed else "wb") as stream:
            if not resumed:  # what was there is gone by now
                _note_state(response, state)
            while block:
                stream.write(block)
                block = _read(response)
    if expected is not None and _size(part) < expected:
        raise ConnectionError(f"of {expected} announced")


def _state_file(part: Path) -> Path:
    """Beside a part: by what its server tells whether the file is still the same."""
    return part.with_name(part.name + ".state")


def _note_state(response: http.client.HTTPResponse, path: Path) -> None:
    tag = response.headers.get("ETag", "")
    found = tag if tag.startswith('"') else response.headers.get("Last-Modified")
    if found:
        path.write_text(found, encoding="latin-1")
    else:
        path.unlink(missing_ok=True)


def _read(response: http.client.HTTPResponse) -> bytes:
    """The next bytes; a network that is gone or a broken encryption is a broken connection, too."""
    try:
        return response.read(_BLOCK)
    except OSError as error:
        raise ConnectionError(str(error)) from error


def _open(request: urllib.request.Request, part: Path) -> http.client.HTTPResponse:
    url = request.full_url
    try:
        response: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing after what we have: it was whole, or of another file
            part.unlink(missing_ok=True)
            raise ConnectionError("the server has no more bytes") from error
        if error.code in _TRANSIENT:
            raise ConnectionError(f"HTTP {error.code} {error.reason}") from error
        raise UserError(
            f"{url}: expected the file, got HTTP {error.code} {error.reason}; "
            "check the address or name a mirror"
        ) from error
    except urllib.error.URLError as error:
        if isinstance(error.reason, ConnectionError | TimeoutError) or _is_gone(error.reason):
            raise ConnectionError(str(error.reason)) from error
        raise UserError(
            f"{url}: expected an answer, got {error.reason}; check the network or name a mirror"
        ) from error
    except OSError as error:  # before the first line of the answer
        raise ConnectionError(str(error)) from error
    return response


def _is_gone(reason: object) -> bool:
    """Whether the network is gone, for a moment perhaps."""
    return isinstance(reason, OSError) and reason.errno in (errno.EHOSTUNREACH, errno.ENETUNREACH)


def _refuse_html_start(start: bytes) -> None:
    if start.lstrip().lower().startswith(_HTML_STARTS):
        raise UserError(
            "expected the file, got a web page (a login, limit or error page); open the address "
            "in a browser, save the file and give its path"
        )


def _require_space(part: Path, needed: int) -> None:
    free = shutil.disk_usage(part.parent).free
    if needed > free:
        raise UserError(
            f"{part.parent}: expected {needed} free bytes for {part.name}, got {free}; free some "
            "and run the same command again"
        )


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
