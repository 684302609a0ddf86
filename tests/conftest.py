"""What the tests share: commands in forked processes, one trained run, the kept messages."""

import gc
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from forked import ADDRESS, SESSION, Done, Forked, run_forked, start_server, wait_for_server
from messages import SNAPSHOT, snapshot
from shared_run import shared_run

REPOSITORY = Path(__file__).resolve().parent.parent
# Two workers on two cores: with a thread each they do not wait for one another, and a process may
# be forked after it has computed.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_addoption(parser):
    group = parser.getgroup("messages", "the texts of user-facing messages")
    group.addoption("--rewrite-messages", action="store_true", help="write their file again")
    group.addoption("--messages-file", type=Path, default=SNAPSHOT, help="instead of %(default)s")


def pytest_xdist_auto_num_workers(config):
    """A worker a core for the whole suite; a few files take less time than workers to start."""
    return None if config.args == config.getini("testpaths") else 0


def is_worker(config) -> bool:
    return hasattr(config, "workerinput")


def pytest_configure(config):
    os.environ.setdefault(SESSION, str(os.getpid()))
    options = config.option
    snapshot.open(options.messages_file, rewrite=options.rewrite_messages)


def pytest_sessionstart(session):
    """Have the server import while the workers do; without workers it is started when needed."""
    if getattr(session.config.option, "numprocesses", None):
        folder = tempfile.TemporaryDirectory(prefix="cxrignite-tests-")
        session.config.add_cleanup(folder.cleanup)
        start_server(Path(folder.name))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Tests that take long come first, so that the workers finish at the same time."""
    items.sort(key=lambda item: item.get_closest_marker("integration") is None)


def pytest_collection_finish():
    """Spare the garbage collector the libraries and the collected tests."""
    gc.collect()
    gc.freeze()


def pytest_runtest_logreport(report):
    snapshot.ran.add(report.nodeid.partition("[")[0])


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    for name, messages in getattr(node, "workeroutput", {}).get("messages", {}).items():
        snapshot.seen.setdefault(name, []).extend(messages)


def pytest_sessionfinish(session):
    if is_worker(session.config):
        session.config.workeroutput["messages"] = snapshot.seen
    else:
        snapshot.save()


def pytest_terminal_summary(terminalreporter, config):
    """List what the long proofs have proved: the name of a test is a sentence."""
    if config.option.markexpr == "slow":
        terminalreporter.section("proved")
        for report in terminalreporter.getreports("passed"):
            name = report.nodeid.rpartition("::test_")[2].replace("_", " ")
            terminalreporter.line(f"{report.duration:6.0f} s  {name}")


@pytest.fixture(scope="session", autouse=True)
def _folder_of_messages(shared_folder):
    snapshot.hide_folder(shared_folder)


@pytest.fixture(scope="session")
def recipes_dir():
    return REPOSITORY / "recipes"


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory) -> Path:
    """One folder for all workers of this session."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def _server(shared_folder) -> None:
    if ADDRESS not in os.environ:
        start_server(shared_folder)
    wait_for_server()


@pytest.fixture
def start(_server) -> Iterator[Callable[..., Forked]]:
    """Start `python ARGV...` in a process that is forked from one with all imports."""
    started: list[Forked] = []

    def begin(*args, **settings) -> Forked:
        started.append(Forked(*args, **settings))
        return started[-1]

    yield begin
    for process in started:
        process.close()


@pytest.fixture
def python(_server, tmp_path) -> Callable[..., Done]:
    """Run `python ARGV...` to its end in the test's own folder."""

    def run(*argv: str | Path, timeout: float = 240, **environment: str) -> Done:
        return run_forked(argv, cwd=tmp_path, timeout=timeout, environment=environment)

    return run


@pytest.fixture
def command(python) -> Callable[..., Done]:
    """Run `python -m cxrignite ...` in an empty folder, as a user would."""

    def run(*argv: str | Path, timeout: float = 240, **environment: str) -> Done:
        return python("-m", "cxrignite", *argv, timeout=timeout, **environment)

    return run


@pytest.fixture(scope="session")
def trained(_server, shared_folder) -> Path:
    """The run folder of the shared run, to be looked at and not changed."""
    return shared_run(shared_folder)


@pytest.fixture
def run_dir(trained, tmp_path) -> Path:
    """A copy of it, to be changed."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture(scope="session")
def smoke_arguments(tmp_path_factory, recipes_dir):
    """Options that turn any recipe into two steps on a few synthetic films, made once."""
    root = tmp_path_factory.mktemp("smoke") / "phantom"
    overlay = recipes_dir / "overlays" / "smoke.yaml"
    return ["--config", str(overlay), "--data.source.root", str(root)]
