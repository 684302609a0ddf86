"""A file over HTTP, however often the connection ends before the file does."""

from __future__ import annotations

import logging
import re
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPException, HTTPMessage, HTTPResponse
from pathlib import Path
from typing import IO
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, OpenerDirector, Request, build_opener

from tqdm import tqdm

from cxrignite import __version__
from cxrignite.durable_write import free_bytes
from cxrignite.errors import DownloadError
from cxrignite.workflows.download.catalogue import PublicData

_logger = logging.getLogger(__name__)

_CHUNK_BYTES = 2**20
_OTHERWISE = "an archive that was fetched by other means is taken with --archive FILE"
_PASSING_STATUSES = frozenset({408, 425, 429})
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")


@dataclass(frozen=True)
class Patience:
    """How long and how often a server is waited for.

    Attributes:
        timeout: Seconds without a byte, when connecting too, after which a try has failed.
        tries: Failed tries in a row after which there is no other. One that brings a hundredth of
            the file starts the count anew: a bad line gets there, and no bad server is asked for
            ever.
        wait: Seconds after a try that brought that much; doubled by each that did not.
        longest_wait: Seconds that no wait is longer than, whatever the server asks for.
    """

    timeout: float = 30.0
    tries: int = 6
    wait: float = 1.0
    longest_wait: float = 60.0


class _TryFailed(Exception):
    """This try failed, the next one may not.

    Args:
        reason: Why, in a few words.
        wait: Seconds that the server asks to be left alone.
    """

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


def part_path(data: PublicData, folder: Path) -> Path:
    """The file for the bytes that have come; its name holds the digest of the whole archive."""
    return folder / f"{data.archive_name}.{data.sha256[:12]}.part"


def fetch(data: PublicData, part: Path, patience: Patience) -> None:
    """Bring a part to its full size; the bytes that it has stay as they are.

    If the file at the server changes in between, the digest of the whole reveals it.

    Args:
        data: Names the address and the size.
        part: What was fetched before, or no file.
        patience: With the server.

    Raises:
        DownloadError: The server cannot be reached, refuses, has a file of another size, or the
            disk is full. What has come is kept.
    """
    opener = build_opener(_CarefulRedirects())
    failures = 0
    if _size(part) > data.size:
        part.unlink()
    while (before := _size(part)) != data.size:
        try:
            _fetch_once(opener, data, part, patience.timeout)
        except _TryFailed as failure:
            now = _size(part)
            gained = now - before
            failures = 0 if gained * 100 >= data.size else failures + 1
            if failures >= patience.tries:
                raise DownloadError(
                    f"{data.url}: {failure}; {failures} tries in a row failed, "
                    f"{now:,} of {data.size:,} bytes are here; {_OTHERWISE}"
                ) from failure
            wait = min(max(patience.wait * 2**failures, failure.wait), patience.longest_wait)
            _logger.warning(
                "%s at byte %d of %d; trying again in %.3g s", failure, now, data.size, wait
            )
            time.sleep(wait)


def _fetch_once(opener: OpenerDirector, data: PublicData, part: Path, timeout: float) -> None:
    """Take what one answer gives.

    Raises:
        _TryFailed: It was not all.
        DownloadError: There is no point in asking again.
    """
    here = _size(part)
    request = Request(data.url, headers={"User-Agent": f"cxrignite/{__version__}"})
    if here:
        request.add_header("Range", f"bytes={here}-")
    with _answer(opener, request, part, timeout) as response:
        offset = _offset(response, part, here, data.size)
        missing = data.size - offset
        # Read before anything is thrown away for it: a login page is an answer, too.
        if response.length is not None and response.length != missing:
            raise _TryFailed(
                f"the server offers {response.length:,} bytes where {missing:,} are missing"
            )
        try:
            # `disable=None` keeps the bar off where stderr is not a terminal.
            with (
                part.open("ab" if offset else "wb") as file,
                tqdm(
                    desc=data.archive_name,
                    initial=offset,
                    total=data.size,
                    unit="B",
                    unit_scale=True,
                    leave=False,
                    disable=None,
                ) as bar,
            ):
                for chunk in _chunks(response, missing):
                    file.write(chunk)
                    file.flush()  # what has come outlives a process that is killed
                    bar.update(len(chunk))
        except OSError as error:  # of the disk: those of the network have become another
            raise DownloadError(
                f"cannot write {part} ({free_bytes(part):,} bytes free): {error.strerror or error}"
            ) from error


def _answer(opener: OpenerDirector, request: Request, part: Path, timeout: float) -> HTTPResponse:
    try:
        response: HTTPResponse = opener.open(request, timeout=timeout)
    except HTTPError as error:
        with error:
            raise _refusal(request, error, part) from error
    except (OSError, HTTPException) as error:
        reason = error.reason if isinstance(error, URLError) else error
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise DownloadError(
                f"{request.full_url}: its certificate cannot be trusted: {reason.verify_message}"
            ) from error
        raise _TryFailed(_in_words(reason)) from error
    return response


def _refusal(request: Request, error: HTTPError, part: Path) -> Exception:
    """What a status other than success means."""
    # urllib tells of a redirect without end on three lines, and a server says what it likes.
    words = "".join(filter(str.isprintable, " ".join(str(error.reason).split())))
    said = f"the server answers {error.code} {words:.200}"
    if error.code == 416:
        # What is asked for lies behind the file's end: this is no part of that file.
        part.unlink(missing_ok=True)
        return _TryFailed(said)
    if error.code in _PASSING_STATUSES or error.code >= 500:
        asked = error.headers.get("Retry-After") or ""
        return _TryFailed(said, float(asked) if asked.isascii() and asked.isdigit() else 0.0)
    return DownloadError(f"{request.full_url}: {said}; {_OTHERWISE}")


def _offset(response: HTTPResponse, part: Path, here: int, size: int) -> int:
    """Return where the bytes of an answer begin: where the part ends, or at 0.

    Raises:
        _TryFailed: Somewhere else, or they are of another file; the next try begins at 0.
    """
    if response.status == 200:
        return 0
    if response.status != 206:
        raise _TryFailed(f"the server answers {response.status}")
    content_range = response.headers.get("Content-Range", "")
    found = _CONTENT_RANGE.fullmatch(content_range)
    if found and int(found[1]) == here and found[2] in (str(size), "*"):
        return here
    part.unlink(missing_ok=True)
    raise _TryFailed(f"the server answers with the range {content_range!a:.100}")


def _chunks(response: HTTPResponse, missing: int) -> Iterator[bytes]:
    """The bytes of an answer as they come, and never more than are missing.

    Raises:
        _TryFailed: They end too early, or none comes for too long.
    """
    while missing:
        try:
            # `read` waits until all is there, and a byte now and then is no stall.
            chunk = response.read1(min(_CHUNK_BYTES, missing))
        except (OSError, HTTPException) as error:
            raise _TryFailed(_in_words(error)) from error
        if not chunk:
            raise _TryFailed("the connection ended")
        missing -= len(chunk)
        yield chunk


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _in_words(reason: object) -> str:
    if isinstance(reason, TimeoutError):
        return "no byte came in time"
    if isinstance(reason, OSError) and reason.strerror:
        return reason.strerror
    return str(reason) or type(reason).__name__


class _CarefulRedirects(HTTPRedirectHandler):
    """Follows to http and https only, and never from https to http."""

    def redirect_request(
        self,
        req: Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: HTTPMessage,
        newurl: str,
    ) -> Request | None:
        """The request that follows a redirect.

        Raises:
            DownloadError: It leads to where bytes are not to come from.
        """
        scheme, host = urlsplit(newurl)[:2]
        if scheme not in {"https", req.type} or req.type not in {"http", "https"}:
            raise DownloadError(f"{req.full_url} leads to {scheme}://{host}, which is refused")
        return super().redirect_request(req, fp, code, msg, headers, newurl)
