"""What a loader needs to know of each film, in a few arrays that processes share."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import numpy as np
import torch

from cxrignite.data.sources import Film


class FilmTable:
    """Paths and labels of films.

    A list of a million objects would be copied by every worker process, page by page, since Python
    counts references inside the objects. These arrays are shared: after a fork they are never
    written to, and torch sends tensors to a process that is started afresh by shared memory.

    Args:
        films: The films, of which it keeps none.

    Attributes:
        labels: Shape `(N,)`, float32, 0 or 1.
    """

    def __init__(self, films: Sequence[Film]) -> None:
        paths = [film.file.encode("utf-8", "surrogateescape") for film in films]
        self.labels = torch.tensor([film.label for film in films], dtype=torch.float32)
        self._ends = torch.tensor(list(accumulate(map(len, paths), initial=0)), dtype=torch.int64)
        # A copy, since torch takes writable memory only.
        self._text = torch.from_numpy(np.frombuffer(b"".join(paths), dtype=np.uint8).copy())

    def __len__(self) -> int:
        return len(self.labels)

    def path(self, index: int) -> str:
        """The file of a film.

        Args:
            index: Its position, from 0.
        """
        start, end = self._ends[index : index + 2].tolist()
        return self._text[start:end].numpy().tobytes().decode("utf-8", "surrogateescape")
