"""Commands in processes that a server forks, which spares each the imports of an interpreter."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).resolve().parents[2]
ADDRESS = "CXRIGNITE_TESTS_FORK_SERVER"  # the path of its socket
SESSION = "CXRIGNITE_TESTS_PROCESS"  # the process whose end is that of the tests


class Done(NamedTuple):
    """What `subprocess.CompletedProcess` says of a process."""

    returncode: int
    stdout: str
    stderr: str


class Forked:
    """A process like `python ARGV...`, as `subprocess.Popen` has it; its output lies in files."""

    def __init__(
        self,
        argv,
        *,
        cwd,
        environment=None,
        stdin: int | None = None,
        stdout: int | None = None,
        stderr: int | None = None,
    ) -> None:
        self.returncode: int | None = None
        self._files = [os.memfd_create(name) for name in ("output", "errors")]
        self._texts = ["", ""]
        null = os.open(os.devnull, os.O_RDONLY)
        descriptors = [
            null if stdin is None else stdin,
            self._files[0] if stdout is None else stdout,
            self._files[1] if stderr is None else stderr,
        ]
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.connect(os.environ[ADDRESS])
        request = {
            "argv": [str(word) for word in argv],
            "cwd": str(cwd),
            "environment": {**os.environ, **(environment or {})},
        }
        content = json.dumps(request).encode() + b"\n"
        sent = socket.send_fds(self._connection, [content], descriptors)
        self._connection.sendall(content[sent:])
        os.close(null)
        self._connection.settimeout(60)
        self.pid = self._reported()

    def _reported(self) -> int:
        """The next number from the server: of a short command two may arrive at once."""
        line = b""
        while not line.endswith(b"\n"):
            if not (part := self._connection.recv(1)):
                raise EOFError("the fork server has ended")
            line += part
        return int(line)

    def _text(self, number: int) -> str:
        if self._files:
            size = os.fstat(self._files[number]).st_size
            content = os.pread(self._files[number], size, 0)
            self._texts[number] = content.decode(errors="backslashreplace")
        return self._texts[number]

    @property
    def output(self) -> str:
        """What it has printed so far."""
        return self._text(0)

    @property
    def errors(self) -> str:
        """What it has printed on the standard error so far."""
        return self._text(1)

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(timeout=0.001)
        return self.returncode

    def wait(self, timeout: float = 240) -> int:
        if self.returncode is None:
            self._connection.settimeout(timeout)
            try:
                self.returncode = self._reported()
            except TimeoutError:
                raise subprocess.TimeoutExpired("a forked process", timeout) from None
            self.close()
        return self.returncode

    def close(self) -> None:
        """Keep what it has printed, and end it if it has not ended."""
        if self._files:
            if self.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self.pid, signal.SIGKILL)
            self._texts = [self._text(number) for number in (0, 1)]
            for file in self._files:
                os.close(file)
            self._files = []
            self._connection.close()

    def wait_for_output(self, words: str, timeout: float = 60) -> None:
        """Wait until it has printed some words."""
        end = time.monotonic() + timeout
        while words not in self.output:
            assert self.poll() is None, self.errors
            assert time.monotonic() < end, f"no {words!r} in {self.output!r}"
            time.sleep(0.01)

    def communicate(self, timeout: float = 240) -> tuple[str, str]:
        self.wait(timeout)
        return self.output, self.errors

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def send_signal_to_group(self, number: int) -> None:
        os.killpg(self.pid, number)

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


def run_forked(argv, *, cwd, timeout: float = 240, environment=None) -> Done:
    """`python ARGV...` to its end."""
    with contextlib.closing(Forked(argv, cwd=cwd, environment=environment)) as process:
        process.wait(timeout)
    return Done(process.returncode, process.output, process.errors)


def start_server(folder: Path) -> None:
    """Start the server of this test session, which all its processes use.

    Args:
        folder: For its socket and its log.
    """
    os.environ[ADDRESS] = str(folder / "fork_server")
    with (folder / "fork_server.log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("fork_server.py"), os.environ[ADDRESS]],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)},
        )
    server.returncode = 0  # it ends with the session, without being waited for


def wait_for_server(timeout: float = 120) -> None:
    """Wait until the server can be asked for a process."""
    path, end = Path(os.environ[ADDRESS]), time.monotonic() + timeout
    while not path.exists():
        log = path.with_suffix(".log").read_text()
        assert "Traceback" not in log, log
        assert time.monotonic() < end, log
        time.sleep(0.05)
