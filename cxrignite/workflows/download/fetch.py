"""A file over HTTP, however often the connection ends before the file does."""

from __future__ import annotations

import logging
import re
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPException, HTTPMessage, HTTPResponse
from typing import IO
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, OpenerDirector, Request, build_opener

from tqdm import tqdm

from cxrignite import __version__
from cxrignite.durable_write import free_bytes
from cxrignite.errors import DownloadError
from cxrignite.workflows.download.catalogue import PublicData
from cxrignite.workflows.download.part import Part

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


def fetch(data: PublicData, part: Part, patience: Patience) -> None:
    """Bring a part to its full size; the bytes that it has stay as they are.

    Args:
        data: Names the address and the size.
        part: Goes on where it ends, unless the file at the server is another by now.
        patience: With the server.

    Raises:
        DownloadError: The server cannot be reached, refuses, has a file of another size, or the
            disk is full. What has come is kept.
    """
    opener = build_opener(_CarefulRedirects())
    failures = 0
    if part.size > data.size:
        part.remove()
    while part.size != data.size:
        before = part.size
        try:
            _fetch_once(opener, data, part, patience.timeout)
        except _TryFailed as failure:
            gained = part.size - before
            failures = 0 if gained * 100 >= data.size else failures + 1
            if failures >= patience.tries:
                raise DownloadError(
                    f"{data.url}: {failure}; {failures} tries in a row failed, "
                    f"{part.size:,} of {data.size:,} bytes are here; {_OTHERWISE}"
                ) from failure
            wait = min(max(patience.wait * 2**failures, failure.wait), patience.longest_wait)
            _logger.warning(
                "%s at byte %d of %d; trying again in %.3g s", failure, part.size, data.size, wait
            )
            time.sleep(wait)


def _fetch_once(opener: OpenerDirector, data: PublicData, part: Part, timeout: float) -> None:
    """Take what one answer gives.

    Raises:
        _TryFailed: It was not all.
        DownloadError: There is no point in asking again.
    """
    agent = {"User-Agent": f"cxrignite/{__version__}"}
    request = Request(data.url, headers={**agent, **part.range_headers()})
    with _answer(opener, request, part, timeout) as response:
        offset = _offset(response, part, data.size)
        missing = data.size - offset
        # Read before anything is thrown away for it: a login page is an answer, too.
        if response.length is not None and response.length != missing:
            raise _TryFailed(
                f"the server offers {response.length:,} bytes where {missing:,} are missing"
            )
        try:
            if not offset:
                part.begin(response.headers)
            # `disable=None` keeps the bar off where stderr is not a terminal.
            with (
                part.open_to_append() as file,
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
                f"cannot write {part.path} ({free_bytes(part.path):,} bytes free): "
                f"{error.strerror or error}"
            ) from error


def _answer(opener: OpenerDirector, request: Request, part: Part, timeout: float) -> HTTPResponse:
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


def _refusal(request: Request, error: HTTPError, part: Part) -> Exception:
    """What a status other than success means."""
    said = f"the server answers {error.code} {error.reason}"
    if error.code == 416:
        # What is asked for lies behind the file's end: this is no part of that file.
        part.remove()
        return _TryFailed(said)
    if error.code in _PASSING_STATUSES or error.code >= 500:
        asked = error.headers.get("Retry-After") or ""
        return _TryFailed(said, float(asked) if asked.isascii() and asked.isdigit() else 0.0)
    return DownloadError(f"{request.full_url}: {said}; {_OTHERWISE}")


def _offset(response: HTTPResponse, part: Part, size: int) -> int:
    """Where the bytes of an answer begin: where the part ends, or at 0.

    Raises:
        _TryFailed: Somewhere else, or they are of another file; the next try begins anew.
    """
    if response.status == 200:
        return 0
    said = response.headers.get("Content-Range", "")
    found = _CONTENT_RANGE.fullmatch(said)
    if response.status == 206 and found and int(found[1]) == part.size:
        if found[2] in (str(size), "*") and part.continues(response.headers):
            return part.size
        said = "the file at the server has changed"
    part.remove()
    raise _TryFailed(f"the server answers {response.status} with {said or 'no Content-Range'}")


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
