"""What a message must hold, and the file that keeps its full text.

A test asserts facts: the exception, that the message is one line, the key, the value, the file. The
full text is in `tests/messages.txt`, under the name of the test; `python -m pytest
--rewrite-messages` writes it again, and the change is reviewed in the diff.
"""

import os
import re
from contextlib import contextmanager
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
SNAPSHOT = REPOSITORY / "tests" / "messages.txt"
# What differs from run to run or from machine to machine.
VARIABLE = {
    re.escape(str(REPOSITORY)): "REPOSITORY",
    r"\b(process|pid) \d+": r"\1 N",
    r"[\d,]+ (bytes )?free": r"N \1free",
    r"\b[0-9a-f]{64}\b": "SHA256",
    r'"[0-9a-f]{11}\.\.\."': '"SHA256..."',
    r"127\.0\.0\.1:\d{4,5}": "127.0.0.1:PORT",
    r"\d+ bytes, N free": "N bytes, N free",
    r"\d\.\d{3,}(e-\d+)?": "#.###",
    r"\b\d(\.\d+)?e-\d\d\b": "#e-##",
}


class Snapshot:
    """The messages by test, as the file has them and as this run has seen them."""

    def __init__(self) -> None:
        self.kept: dict[str, list[str]] = {}
        self.seen: dict[str, list[str]] = {}
        self.passed: set[str] = set()
        self.partial: set[str] = set()  # of which a case was skipped, left out or failed
        self.path = SNAPSHOT
        self.rewrite = False
        self.variable = dict(VARIABLE)

    def open(self, path: Path, *, rewrite: bool) -> None:
        self.path, self.rewrite = path, rewrite
        if path.exists():
            self.kept = parse(path.read_text(encoding="utf-8"))

    def stale(self) -> dict[str, list[str]]:
        """The kept messages that no case gave of a test all of whose cases ran."""
        unseen = {
            name: [each for each in self.kept.get(name, []) if each not in self.seen.get(name, [])]
            for name in self.passed - self.partial
        }
        return {name: messages for name, messages in unseen.items() if messages}

    def save(self) -> None:
        stale = self.stale()
        both = {
            name: {*self.kept.get(name, []), *self.seen.get(name, [])} - {*stale.get(name, [])}
            for name in {*self.kept, *self.seen}
        }
        self.path.write_text(as_text(both), encoding="utf-8")

    def hide_folder(self, base: Path) -> None:
        """Leave out where the temporary folders of the tests lie, below those of the workers."""
        here = re.escape(str(base)) + r"(/popen-gw\d+)?/[^/\s'\",;:)]+"
        self.variable = {here: "TMP", **VARIABLE}

    def check(self, message: str) -> None:
        name = current_test()
        for pattern, instead in self.variable.items():
            message = re.sub(pattern, instead, message)
        message = " ".join(message.split())
        seen = self.seen.setdefault(name, [])
        kept = self.kept.get(name, [])
        assert self.rewrite or message in kept, (
            f"a message is not the one in {self.path.name}; if it is better, run "
            f"`python -m pytest --rewrite-messages {name}`\n"
            f"now:  {message}\nkept: " + "\n      ".join(kept or ["none"])
        )
        if message not in seen:
            seen.append(message)


def current_test() -> str:
    """The name of the test function that runs, without its parameters."""
    return function_of(os.environ["PYTEST_CURRENT_TEST"].rpartition(" (")[0])


def function_of(nodeid: str) -> str:
    return nodeid.partition("[")[0]


def exists(name: str) -> bool:
    """Whether a test function is still there."""
    file, _, function = name.partition("::")
    path = REPOSITORY / file
    function = function.rpartition("::")[2]  # of a class, maybe
    return path.is_file() and f"def {function}(" in path.read_text(encoding="utf-8")


def parse(content: str) -> dict[str, list[str]]:
    messages: dict[str, list[str]] = {}
    name = ""
    for line in content.splitlines():
        if line.startswith("    "):
            messages[name].append(line[4:])
        elif line:
            name = line
            messages[name] = []
    return messages


def as_text(messages: dict[str, set[str]]) -> str:
    lines = []
    for name in sorted(filter(exists, messages)):
        if messages[name]:
            lines += [name, *(f"    {message}" for message in sorted(messages[name]))]
    return "\n".join(lines) + "\n"


snapshot = Snapshot()


def missing(message: str, facts) -> list[str]:
    """The facts that a message does not hold; a fact ends where a word or a number ends."""
    return [str(fact) for fact in facts if not re.search(_whole(str(fact)), message)]


def _whole(fact: str) -> str:
    before = r"(?<![\w.])" if re.match(r"\d", fact) else r"(?<!\w)" if re.match(r"\w", fact) else ""
    after = r"(?!\w|\.\d)" if re.search(r"\w$", fact) else ""
    return before + re.escape(fact) + after


@contextmanager
def refused(error: type[BaseException], *facts: object):
    """Assert that what is done inside is refused in one line which holds the facts."""
    with pytest.raises(error) as caught:
        yield caught
    message = str(caught.value)
    assert "\n" not in message, message
    assert not (lost := missing(message, facts)), f"{lost} not in {message!r}"
    del caught  # or the error's frames, and the sockets that they hold, would live in a cycle
    snapshot.check(message)


def line_with(text: str, *facts: object) -> str:
    """Assert that a line of what was printed holds the facts; gives the line."""
    lines = [line for line in text.splitlines() if not missing(line, facts)]
    assert lines, f"no line with {facts} in:\n{text}"
    snapshot.check(lines[-1])
    return lines[-1]


def sentence_with(text: str, *facts: object) -> str:
    """Assert that one sentence of a page's text holds the facts; gives the sentence."""
    return line_with(re.sub(r"(?<=[.!?:]) (?=[A-Z])", "\n", text), *facts)


def error_line(text: str, *facts: object) -> str:
    """Assert that what was printed ends in the one line of an error, which holds the facts."""
    assert "Traceback" not in text, text
    errors = [line for line in text.splitlines() if ": error: " in line]
    assert len(errors) == 1, text
    assert text.splitlines()[-1] == errors[0], text
    return line_with(errors[0], *facts)


def unwrapped(text: str) -> str:
    """What was printed, with the lines of each remark as one."""
    return re.sub(r"\n {3,}(?=\S)", " ", text)
