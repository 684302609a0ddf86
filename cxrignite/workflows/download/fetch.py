"""Download of a file over HTTP, resumed whenever the connection ends early."""

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
_OTHERWISE = "fetch the archive by other means, then use --archive FILE"
_TEMPORARY_STATUSES = frozenset({408, 425, 429})
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")


@dataclass(frozen=True)
class Patience:
    """Time limits and number of retries.

    Attributes:
        timeout: Seconds without a byte, also while connecting, after which a try has failed.
        tries: Number of failed tries in a row before the download fails. A try that receives at
            least a hundredth of the file resets the count. So a bad connection succeeds at last,
            and a bad server is not retried for ever.
        wait: Seconds before the next try; doubled by each failed try in a row.
        longest_wait: Longest wait in seconds, even if the server requests more.
    """

    timeout: float = 30.0
    tries: int = 6
    wait: float = 1.0
    longest_wait: float = 60.0


class _TryFailed(Exception):
    """Failure of one try, after which another may succeed.

    Args:
        reason: The reason in a few words.
        wait: Seconds to wait, as requested by the server.
    """

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


def part_path(data: PublicData, folder: Path) -> Path:
    """Return the path of the partial file; its name has the digest of the whole archive."""
    return folder / f"{data.archive_name}.{data.sha256[:12]}.part"


def fetch(data: PublicData, part: Path, patience: Patience) -> None:
    """Download the missing bytes of a partial file.

    If the file on the server changes in between, the digest of the archive reveals it.

    Raises:
        DownloadError: The server cannot be reached, refuses, has a file of another size, or the
            disk is full. The received bytes are kept.
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
                    f"{now:,} of {data.size:,} bytes are downloaded; {_OTHERWISE}"
                ) from failure
            wait = min(max(patience.wait * 2**failures, failure.wait), patience.longest_wait)
            _logger.warning(
                "%s at byte %d of %d; next try in %.3g s", failure, now, data.size, wait
            )
            time.sleep(wait)


def _fetch_once(opener: OpenerDirector, data: PublicData, part: Path, timeout: float) -> None:
    """Download as many bytes as one response has.

    Raises:
        _TryFailed: Bytes are missing.
        DownloadError: Another try would fail too.
    """
    here = _size(part)
    request = Request(data.url, headers={"User-Agent": f"cxrignite/{__version__}"})
    if here:
        request.add_header("Range", f"bytes={here}-")
    with _answer(opener, request, part, timeout) as response:
        offset = _offset(response, part, here, data.size)
        missing = data.size - offset
        # Checked before existing bytes are replaced: the response may be a login page.
        if response.length is not None and response.length != missing:
            raise _TryFailed(
                f"the server offers {response.length:,} bytes, but {missing:,} are missing"
            )
        try:
            # `disable=None` hides the bar if stderr is not a terminal.
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
                    file.flush()  # keeps the bytes if the process is killed
                    bar.update(len(chunk))
        except OSError as error:  # of the disk; `_chunks` has converted those of the network
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
                f"{request.full_url}: its certificate is not trusted: {reason.verify_message}"
            ) from error
        raise _TryFailed(_in_words(reason)) from error
    return response


def _refusal(request: Request, error: HTTPError, part: Path) -> Exception:
    """Convert an error status to the exception for it."""
    # The reason may have line breaks (urllib, on endless redirects) or anything from the server.
    words = "".join(filter(str.isprintable, " ".join(str(error.reason).split())))
    reason = f"the server answers {error.code} {words:.200}"
    if error.code == 416:
        # The range begins after the file's end: the part belongs to another file.
        part.unlink(missing_ok=True)
        return _TryFailed(reason)
    if error.code in _TEMPORARY_STATUSES or error.code >= 500:
        delay = error.headers.get("Retry-After") or ""
        return _TryFailed(reason, float(delay) if delay.isascii() and delay.isdigit() else 0.0)
    return DownloadError(f"{request.full_url}: {reason}; {_OTHERWISE}")


def _offset(response: HTTPResponse, part: Path, here: int, size: int) -> int:
    """Return the first byte of a response: the end of the part, or 0.

    Raises:
        _TryFailed: It is another byte, or of another file; the next try begins at 0.
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
    """Yield the bytes of a response as they arrive, at most the missing ones."""
    while missing:
        try:
            # Not `read`, which waits for all bytes: a slow connection would time out.
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
        return "no byte arrived in time"
    if isinstance(reason, OSError) and reason.strerror:
        return reason.strerror
    return str(reason) or type(reason).__name__


class _CarefulRedirects(HTTPRedirectHandler):
    """Redirect handler that allows only http and https, and never https to http."""

    def redirect_request(
        self,
        req: Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: HTTPMessage,
        newurl: str,
    ) -> Request | None:
        """Return the request that follows a redirect."""
        scheme, host = urlsplit(newurl)[:2]
        if scheme not in {"https", req.type} or req.type not in {"http", "https"}:
            raise DownloadError(
                f"{req.full_url} must redirect to https, or from http to http, got {scheme}://{host}"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)
