"""What the tests share: commands in forked processes, trained runs, the kept messages."""

import gc
import io
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from forked import ADDRESS, SESSION, Done, Forked, run_forked, start_server, wait_for_server
from messages import SNAPSHOT, current_test, function_of, snapshot
from PIL import Image
from shared_run import RECIPE_OF_CLASSES, RECIPE_OF_FINDINGS, shared_run, write_classes

REPOSITORY = Path(__file__).resolve().parent.parent
# Two workers on two cores: with a thread each they do not wait for one another, and a process may
# be forked after it has computed.
os.environ.setdefault("OMP_NUM_THREADS", "1")
LONGEST = {"test_documentation.py", "test_fit.py"}
MAX_STARTERS = 12  # of tests, each of which says why the fork server cannot serve it
STARTERS: set[str] = set()


def note_interpreters(event, arguments):
    """Note the tests that start an interpreter of their own."""
    if event == "subprocess.Popen" and "PYTEST_CURRENT_TEST" in os.environ:
        program, argv = Path(os.fsdecode(arguments[0])).name, list(map(str, arguments[1]))
        # Which the fork server is, and what jsonargparse asks for its path once a process.
        exempt = any("fork_server.py" in word or "json.dumps(sys.path)" in word for word in argv)
        if program.startswith(("python", "cxrignite")) and not exempt:
            STARTERS.add(current_test())


sys.addaudithook(note_interpreters)


def pytest_addoption(parser):
    group = parser.getgroup("messages", "the texts of user-facing messages")
    group.addoption("--rewrite-messages", action="store_true", help="write their file again")
    group.addoption("--messages-file", type=Path, default=SNAPSHOT, help="instead of %(default)s")


def pytest_xdist_auto_num_workers(config):
    """A worker a core for many files; a few take less time than workers to start."""
    return 0 if all(Path(each.partition("::")[0]).is_file() for each in config.args) else None


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
    for item in items:
        if {"_server", "trained", "trained_findings", "trained_classes"} & {*item.fixturenames}:
            item.add_marker("integration")
    files = {item.path: item.path.name not in LONGEST for item in items}
    integration = {item.path for item in items if item.get_closest_marker("integration")}
    items.sort(key=lambda item: (files[item.path], item.path not in integration))


def pytest_deselected(items):
    snapshot.partial.update(function_of(item.nodeid) for item in items)


def pytest_collection_finish():
    """Spare the garbage collector the libraries and the collected tests."""
    gc.collect()
    gc.freeze()


def pytest_runtest_logreport(report):
    if not report.passed:
        snapshot.partial.add(function_of(report.nodeid))
    elif report.when == "call":
        snapshot.passed.add(function_of(report.nodeid))


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    output = getattr(node, "workeroutput", {})
    for name, messages in output.get("messages", {}).items():
        snapshot.seen.setdefault(name, []).extend(messages)
    snapshot.partial.update(output.get("partial", []))
    STARTERS.update(output.get("starters", []))


def pytest_sessionfinish(session, exitstatus):
    config = session.config
    if is_worker(config):
        config.workeroutput["messages"] = snapshot.seen
        config.workeroutput["partial"] = [*snapshot.partial]
        config.workeroutput["starters"] = [*STARTERS]
        return
    snapshot.partial.update(function_of(each) for each in config.args if "[" in each)
    if exitstatus != 0:  # some may not have run
        snapshot.partial |= snapshot.passed
    if config.option.rewrite_messages:
        snapshot.save()
    elif any(faults_of_the_run()):
        session.exitstatus = 1


def faults_of_the_run():
    """Find the faults that no single test can see."""
    for name, messages in snapshot.stale().items():
        for message in messages:
            yield f"no longer given by {name}, see --rewrite-messages: {message}"
    if len(STARTERS) > MAX_STARTERS:
        yield f"{len(STARTERS)} tests start an interpreter, above {MAX_STARTERS}: {STARTERS}"


def pytest_terminal_summary(terminalreporter, config):
    """List what the long proofs have proved: the name of a test is a sentence."""
    if not config.option.rewrite_messages:
        for fault in faults_of_the_run():
            terminalreporter.line(fault, red=True)
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


@pytest.fixture(scope="session")
def trained_findings(_server, shared_folder) -> Path:
    """The run folder of the shared run with three findings side by side."""
    return shared_run(shared_folder, "run_of_findings", RECIPE_OF_FINDINGS)


@pytest.fixture(scope="session")
def trained_classes(_server, shared_folder) -> Path:
    """The run folder of the shared run with three exclusive classes."""
    return shared_run(shared_folder, "run_of_classes", RECIPE_OF_CLASSES, write_classes)


@pytest.fixture
def run_dir(trained, tmp_path) -> Path:
    """A copy of it, to be changed."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture(scope="session")
def smoke_arguments(tmp_path_factory, recipes_dir):
    """Options that turn any recipe into two steps on a few synthetic images, made once."""
    root = tmp_path_factory.mktemp("smoke") / "phantom"
    overlay = recipes_dir / "overlays" / "smoke.yaml"
    return ["--config", str(overlay), "--data.source.root", str(root)]


@pytest.fixture
def assert_nothing_is_cut():
    """Check that a figure's border is white, so that nothing drawn reaches over it."""

    def check(figure):
        file = io.BytesIO()
        figure.savefig(file, format="png")
        image = np.asarray(Image.open(file).convert("RGB"))
        border = np.concatenate([image[:2], image[-2:]]).reshape(-1, 3)
        sides = np.concatenate([image[:, :2], image[:, -2:]]).reshape(-1, 3)
        assert (border == 255).all()
        assert (sides == 255).all()

    return check
