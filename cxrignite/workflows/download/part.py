"""The bytes of an archive that have come so far, and of which file at the server they are."""

from __future__ import annotations

import json
from email.message import Message
from pathlib import Path
from typing import IO

from cxrignite.durable_write import write_durably

_VALIDATORS = ("ETag", "Last-Modified")


class Part:
    """`<archive>.part`, with what the server said of the file that it is a part of beside it.

    Bytes without that, or of an archive with another digest, are not gone on with. To make one
    removes nothing: the file of that name may be the user's own.

    Args:
        archive: The file that the part will be when it is whole.
        sha256: The digest that it will then have.
    """

    def __init__(self, archive: Path, sha256: str) -> None:
        self.path = archive.with_name(f"{archive.name}.part")
        self._facts_path = archive.with_name(f"{archive.name}.part.json")
        self._sha256 = sha256

    @property
    def is_known(self) -> bool:
        """Whether it was begun by a fetch of this archive."""
        return bool(self._facts())

    @property
    def size(self) -> int:
        """The bytes that have come."""
        return self.path.stat().st_size if self.path.exists() else 0

    def range_headers(self) -> dict[str, str]:
        """The headers that ask for what is missing, on condition that the file is the same."""
        if not self.size:
            return {}
        headers = {"Range": f"bytes={self.size}-"}
        facts = self._facts()
        # A weak ETag says that two files mean the same, not that they are: RFC 9110, 13.1.5.
        tag = facts.get("ETag") or ""
        condition = tag if tag.startswith('"') else facts.get("Last-Modified")
        return headers | ({"If-Range": condition} if condition else {})

    def continues(self, headers: Message) -> bool:
        """Whether an answer's headers speak of the file that the part was begun with.

        A server may honour `Range` and have never heard of `If-Range`.
        """
        facts = self._facts()
        known = [key for key in _VALIDATORS if facts.get(key) and key in headers]
        return all(facts[key] == headers[key] for key in known)

    def begin(self, headers: Message) -> None:
        """Drop what there is, and note of which file the bytes to come are."""
        self.path.unlink(missing_ok=True)
        facts = {"sha256": self._sha256, **{key: headers.get(key) for key in _VALIDATORS}}
        write_durably(self._facts_path, json.dumps(facts).encode())

    def open_to_append(self) -> IO[bytes]:
        """The file, to write behind what has come."""
        return self.path.open("ab")

    def remove(self) -> None:
        """Remove the bytes and what is known of them."""
        self.path.unlink(missing_ok=True)
        self._facts_path.unlink(missing_ok=True)

    def finish(self, archive: Path) -> None:
        """Give the whole archive its name."""
        self.path.replace(archive)
        self._facts_path.unlink(missing_ok=True)

    def _facts(self) -> dict[str, str | None]:
        try:
            facts = json.loads(self._facts_path.read_bytes())
        except (OSError, ValueError):
            return {}
        ours = isinstance(facts, dict) and facts.get("sha256") == self._sha256
        return facts if ours else {}
