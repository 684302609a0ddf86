"""Errors that arrive while an image is read, and that are not about the image."""

from __future__ import annotations

# torch raises the first from a signal handler, in whatever code the main process is running, and
# pydicom quotes it. The second is how torch says that memory ran out.
_FOREIGN = ("DataLoader worker (pid", "DefaultCPUAllocator")


def raise_if_foreign(error: BaseException) -> None:
    """Raises an error again, or what it was raised from, if that is no fault of an image.

    For code that has to catch everything: decoders of DICOM and transforms raise anything.

    Args:
        error: The error that was caught.

    Raises:
        MemoryError: If memory ran out.
        RuntimeError: If a worker process of a loader was killed, or torch found no memory.
    """
    each: BaseException | None = error
    while each is not None:
        if isinstance(each, MemoryError) or any(words in str(each) for words in _FOREIGN):
            raise each
        each = each.__cause__ or each.__context__
