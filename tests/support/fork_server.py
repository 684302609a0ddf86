"""A server that has imported the heavy libraries once and forks a process for each command line.

A new interpreter imports torch, Ignite, MONAI and the package for seconds; a forked one has them.
The server computes nothing itself and has one thread: OpenMP does not survive a fork after its
first parallel region. `forked.py` is its client.
"""

import array
import contextlib
import gc
import importlib
import io
import json
import os
import runpy
import select
import signal
import socket
import sys
from pathlib import Path

MODULES = (
    *("torch", "torch.utils.data", "torch.utils.tensorboard", "torchvision.models"),
    *("ignite.engine", "ignite.handlers", "ignite.metrics", "ignite.distributed"),
    *("monai.transforms", "sklearn.metrics", "scipy.stats", "matplotlib.pyplot", "jinja2"),
    *("jsonargparse", "yaml", "PIL.Image", "pydicom", "timm", "cxrignite.cli"),
    *("cxrignite.data", "cxrignite.engines", "cxrignite.functional", "cxrignite.handlers"),
    *("cxrignite.nn", "cxrignite.cli.parsing", "cxrignite.recipe", "cxrignite.workflows.fit"),
)


def serve(path: str, until: int) -> None:
    """Serve at a path until a process ends."""
    for module in MODULES:
        importlib.import_module(module)
    # jsonargparse asks an interpreter for its path once a process, for the first recipe it reads.
    recipe = Path(__file__).resolve().parents[2] / "recipes" / "quickstart.yaml"
    sys.modules["cxrignite.cli.parsing"].parse_recipe("fit", ["--config", str(recipe)])
    threads = os.listdir("/proc/self/task")
    if len(threads) != 1:
        raise RuntimeError(f"a server must have one thread to fork from, got {len(threads)}")
    gc.freeze()  # neither copied nor looked through by those that are forked
    # The process that waits for a command is never waited for.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    end = os.pidfd_open(until)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{path}.new")
        server.listen()
        os.rename(f"{path}.new", path)
        while True:
            ready, _, _ = select.select([server, end], [], [])
            if end in ready:
                return
            connection, _ = server.accept()
            if os.fork() == 0:
                server.close()
                attend(connection)
                return
            connection.close()


def attend(connection: socket.socket) -> None:
    """Fork a command and report its process id and its end; in the command, run it."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    content, ancillary, _, _ = connection.recvmsg(1 << 20, socket.CMSG_SPACE(12))
    descriptors = array.array("i")
    for _, _, data in ancillary:
        descriptors.frombytes(data)
    while not content.endswith(b"\n"):
        content += connection.recv(1 << 20)
    pid = os.fork()
    if pid == 0:
        os.setsid()  # before the test knows the group's number
        connection.sendall(b"%d\n" % os.getpid())
        connection.close()
        become(json.loads(content), list(descriptors))
        return
    for descriptor in descriptors:
        os.close(descriptor)
    ended = os.pidfd_open(pid)
    ready, _, _ = select.select([ended, connection], [], [])
    if ended not in ready:  # the test has closed its end, or died
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    with contextlib.suppress(OSError):
        connection.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))
    os._exit(0)


def become(request: dict, descriptors: list[int]) -> None:
    """Be the interpreter that this command line would have started.

    What an interpreter reads from its environment at its start (PYTHONHASHSEED, PYTHONIOENCODING,
    OMP_NUM_THREADS) has no effect; a test that needs it starts a new one.
    """
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
    os.closerange(3, max(descriptors) + 1)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        file = open(number, "rb" if number == 0 else "wb", closefd=False)  # noqa: SIM115
        errors = "backslashreplace" if number == 2 else "strict"
        text = io.TextIOWrapper(file, encoding="utf-8", errors=errors, line_buffering=number == 2)
        setattr(sys, name, text)
        setattr(sys, f"__{name}__", text)
    kind, *arguments = request["argv"]
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    first = os.path.dirname(kind) if kind not in ("-c", "-m") else os.getcwd()
    sys.path[:0] = [first, *paths]
    importlib.invalidate_caches()
    if kind == "-m":
        sys.argv[:] = arguments
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    elif kind == "-c":
        program, *arguments = arguments
        sys.argv[:] = ["-c", *arguments]
        exec(compile(program, "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv[:] = [kind, *arguments]
        runpy.run_path(kind, run_name="__main__")


if __name__ == "__main__":
    serve(sys.argv[1], int(os.environ["CXRIGNITE_TESTS_PROCESS"]))
