"""`download` against a real server that does everything that servers do."""

import dataclasses
import errno
import hashlib
import http.server
import io
import json
import logging
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import pytest
from messages import error_line, line_with, missing, refused

from cxrignite.cli import run
from cxrignite.data.class_folders import ClassFolders
from cxrignite.errors import CxrIgniteError, DataError, DownloadError
from cxrignite.workflows.download.catalogue import PUBLIC_DATA, PublicData
from cxrignite.workflows.download.download import download
from cxrignite.workflows.download.fetch import Patience, part_path

RECORDS = {"train/NORMAL": 3, "train/PNEUMONIA": 5, "test/NORMAL": 2, "test/PNEUMONIA": 2}
REPOSITORY = Path(__file__).resolve().parents[2]
QUICK = Patience(timeout=1.0, tries=3, wait=0.01, longest_wait=0.05)

# A command line with one more data set in the catalogue.
DRIVER = """
import json, sys
from cxrignite.cli import run
from cxrignite.workflows.download.catalogue import PUBLIC_DATA, PublicData
PUBLIC_DATA["tiny"] = PublicData(**json.loads(sys.argv[1]))
sys.exit(run(["download", "tiny", *sys.argv[2:]]))
"""


def archive_bytes(seed=0, image_bytes=4000):
    """The same for a seed whenever and wherever it is made: without times, and not cached."""
    draw = random.Random(seed)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for folder, number in RECORDS.items():
            records = {
                f"person{n}_virus_{n}.jpeg": draw.randbytes(image_bytes) for n in range(number)
            }
            for name, content in {"": b"", ".DS_Store": b"litter", **records}.items():
                archive.writestr(zipfile.ZipInfo(f"chest_xray/{folder}/{name}"), content)
            for name in records:
                litter = zipfile.ZipInfo(f"__MACOSX/chest_xray/{folder}/._{name}")
                archive.writestr(litter, b"litter")
    return buffer.getvalue()


def honest(request, body, knows_range=True, declared=None):
    """What a good server answers; it can be made a little worse."""
    wanted = request.headers.get("Range")
    offset = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and knows_range else 0
    if offset and offset >= len(body):
        request.send_response(416)
        request.send_header("Content-Length", "0")
        request.end_headers()
        return
    request.send_response(206 if offset else 200)
    if offset:
        request.send_header("Content-Range", f"bytes {offset}-{len(body) - 1}/{len(body)}")
    if declared != "absent":
        request.send_header("Content-Length", str(declared or len(body) - offset))
    request.end_headers()
    send(request, body[offset:])


def send(request, body):
    for start in range(0, len(body), 1000):
        request.wfile.write(body[start : start + 1000])


def cut(after, then=lambda: None):
    """Say all, send `after` bytes and hang up."""

    def answer(request, body):
        wanted = request.headers.get("Range", "bytes=0-")
        offset = int(wanted.removeprefix("bytes=").rstrip("-"))
        padded = body[: offset + after]
        request.send_response(206 if offset else 200)
        if offset:
            request.send_header("Content-Range", f"bytes {offset}-{len(body) - 1}/{len(body)}")
        request.send_header("Content-Length", str(len(body) - offset))
        request.end_headers()
        send(request, padded[offset:])
        then()

    return answer


def status(code, **headers):
    def answer(request, body):
        request.send_response(code)
        for key, value in headers.items():
            request.send_header(key.replace("_", "-"), value)
        request.send_header("Content-Length", "0")
        request.end_headers()

    return answer


class Server(http.server.ThreadingHTTPServer):
    """Gives one scripted answer after the other, then honest ones."""

    daemon_threads = True

    def __init__(self, body):
        super().__init__(("127.0.0.1", 0), Request)
        self.body, self.answers, self.seen = body, [], []
        self.released = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}/file"

    def handle_error(self, request, client_address):
        """A client that has hung up is what some of these tests are about."""

    def stall(self):
        self.released.wait(20)


class Request(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        server.seen.append(dict(self.headers))
        answer = server.answers.pop(0) if server.answers else honest
        answer(self, server.body)

    def log_message(self, *_args):
        pass


@pytest.fixture(autouse=True)
def straight_to_the_server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def server():
    server = Server(archive_bytes())
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.released.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def data(server):
    return describe(server.body, server.url)


def describe(body, url, **changes):
    return PublicData(
        **{
            "name": "tiny",
            "url": url,
            "archive_name": "tiny.zip",
            "size": len(body),
            "sha256": hashlib.sha256(body).hexdigest(),
            "folder": "chest_xray",
            "num_images": RECORDS,
            "max_unpacked_bytes": 10_000_000,
            "licence": "CC BY 4.0",
            "citation": "Somebody (2018)",
            "doi": "10.1/tiny",
            **changes,
        }
    )


@pytest.fixture
def into(tmp_path):
    return tmp_path / "data"


def assert_whole(into, *others):
    """All images are there, and nothing else beside them."""
    assert sorted(path.name for path in into.iterdir()) == sorted(["chest_xray", *others])
    for folder, number in RECORDS.items():
        files = sorted((into / "chest_xray" / folder).iterdir())
        assert [file.name for file in files] == [
            f"person{each}_virus_{each}.jpeg" for each in range(number)
        ]
        assert all(file.stat().st_size == 4000 for file in files)


def ranges(server):
    return [headers.get("Range") for headers in server.seen]


def test_the_catalogue_has_the_figures_of_the_data_set():
    data = PUBLIC_DATA["chest-xray-2017"]
    assert data.size == 1_235_512_464
    assert data.sha256 == "13efc055629733dbab07877f8b3c9f81097840dbcdaa326a8542322c2281ce36"
    assert sum(data.num_images.values()) == 5856
    assert data.url.startswith("https://data.mendeley.com/public-files/datasets/rscbjbr9sj/files/")
    assert "f12eaf6d-6023-432f-acc9-80c9d7393433" in data.url
    assert (data.doi, data.licence[:9]) == ("10.17632/rscbjbr9sj.2", "CC BY 4.0")


def test_a_data_set_is_brought_in_the_layout_of_the_recipes_and_reported(
    server, data, monkeypatch, tmp_path, capsys
):
    monkeypatch.setitem(PUBLIC_DATA, "tiny", data)
    monkeypatch.chdir(tmp_path)
    assert run(["download", "tiny"]) == 0
    assert_whole(tmp_path / "data")
    printed = capsys.readouterr().out
    line_with(printed, 12, "data/chest_xray")
    line_with(printed, "CC BY 4.0")
    line_with(printed, "Somebody (2018)", "10.1/tiny")
    assert printed.splitlines()[-1].endswith("cxrignite audit --config recipes/resnet50.yaml")
    records = ClassFolders(Path("data/chest_xray")).records()
    assert len(records) == 12
    assert {record.split for record in records} == {"train", "test"}


def test_what_is_there_and_whole_is_not_fetched_again(server, data, into, capsys):
    download(data, into)
    (into / "chest_xray" / "test" / "NORMAL" / ".DS_Store").write_bytes(b"a file manager's")
    num_requests = len(server.seen)
    capsys.readouterr()
    download(data, into)
    assert len(server.seen) == num_requests
    line_with(capsys.readouterr().out.splitlines()[0], into / "chest_xray")


def test_a_folder_of_somebody_else_is_left_alone(server, data, into):
    mine = into / "chest_xray" / "train" / "mine.jpeg"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    with refused(DataError, into / "chest_xray", "download"):
        download(data, into)
    assert mine.read_bytes() == b"mine"
    assert server.seen == []


@pytest.mark.parametrize("how", ["removed", "cut", "added"])
def test_a_data_set_that_has_changed_since_is_reported(how, server, data, into):
    download(data, into)
    record = into / "chest_xray" / "test" / "NORMAL" / "person0_virus_0.jpeg"
    if how == "removed":
        record.unlink()
    elif how == "cut":
        record.write_bytes(record.read_bytes()[:100])
    else:
        record.with_name("more.jpeg").write_bytes(b"more")
    with refused(DataError, into / "chest_xray"):
        download(data, into)


def test_the_archive_is_kept_where_that_is_asked_for_and_taken_again(server, data, into):
    download(data, into, keep_archive=True)
    assert_whole(into, "tiny.zip")
    assert (into / "tiny.zip").read_bytes() == server.body
    (into / "chest_xray").rename(into.with_name("elsewhere"))
    server.seen.clear()
    download(data, into)
    assert_whole(into, "tiny.zip")
    assert server.seen == []


def test_an_archive_fetched_by_other_means_is_checked_taken_and_stays(server, data, into, tmp_path):
    archive = tmp_path / "by_hand.zip"
    archive.write_bytes(server.body)
    download(data, into, archive=archive)
    assert_whole(into)
    assert archive.exists()
    assert server.seen == []


@pytest.mark.parametrize(
    ("spoil", "facts"),
    [
        (lambda body: body[:-1], ["bytes", "SIZE", "LESS"]),
        (lambda body: body[:100] + b"\0" + body[101:], ["sha256", "RIGHT", "WRONG"]),
        (None, ["No such file"]),
    ],
)
def test_another_archive_is_refused(spoil, facts, server, data, into, tmp_path):
    archive = tmp_path / "by_hand.zip"
    wrong = spoil(server.body) if spoil else b""
    if spoil:
        archive.write_bytes(wrong)
    figures = {"SIZE": f"{data.size:,}", "LESS": f"{data.size - 1:,}", "RIGHT": data.sha256}
    figures["WRONG"] = hashlib.sha256(wrong).hexdigest()
    with refused(DataError, archive, *(figures.get(fact, fact) for fact in facts)):
        download(data, into, archive=archive)
    assert list(into.iterdir()) == []


def test_a_file_named_as_a_part_is_left_alone_and_may_be_the_archive(server, data, into):
    into.mkdir(exist_ok=True)
    mine, part = into / "tiny.zip.part", part_path(data, into)
    mine.write_bytes(b"my own")
    download(data, into)
    assert_whole(into, mine.name)
    for archive in (mine, part):
        shutil.rmtree(into / "chest_xray")
        server.seen.clear()
        archive.write_bytes(server.body)
        download(data, into, archive=archive)
        assert_whole(into, *{mine.name, archive.name})
        assert server.seen == []


def test_a_cut_is_gone_on_with_where_it_was(server, data, into, caplog):
    server.answers = [cut(20_000), cut(5_000), cut(0)]
    with caplog.at_level(logging.WARNING, logger="cxrignite"):
        download(data, into, patience=QUICK)
    assert ranges(server) == [None, "bytes=20000-", "bytes=25000-", "bytes=25000-"]
    for printed, byte in zip(caplog.messages, (20000, 25000, 25000), strict=True):
        line_with(printed, byte, data.size)
    assert_whole(into)


def test_many_cuts_are_borne_as_long_as_bytes_come(server, data, into):
    server.answers = [cut(1000)] * 20
    download(data, into, patience=QUICK)
    assert len(server.seen) == 21
    assert_whole(into)


def test_a_server_that_brings_next_to_nothing_is_given_up(server, data, into):
    server.answers = [cut(10)] * 20
    with refused(DownloadError, 3, 30, f"{data.size:,}", "--archive"):
        download(data, into, patience=QUICK)
    assert len(server.seen) == 3


def test_a_stall_ends_a_try_and_not_the_download(server, data, into):
    server.answers = [cut(30_000, then=server.stall)]
    started = time.perf_counter()
    download(data, into, patience=QUICK)
    assert 1.0 <= time.perf_counter() - started < 15
    assert ranges(server) == [None, "bytes=30000-"]
    assert_whole(into)


def test_a_server_that_never_answers_is_given_up(server, data, into):
    server.answers = [lambda request, body: server.stall()] * 3
    with refused(DownloadError, 3, "--archive"):
        download(data, into, patience=dataclasses.replace(QUICK, timeout=0.2))


def test_a_slow_start_is_waited_for(server, data, into):
    def slow(request, body):
        time.sleep(0.2)
        honest(request, body)

    server.answers = [slow]
    download(data, into, patience=QUICK)
    assert len(server.seen) == 1


def test_nobody_listens(data, into):
    with refused(DownloadError, "127.0.0.1", 3):
        download(dataclasses.replace(data, url="http://127.0.0.1:9/file"), into, patience=QUICK)


def test_a_length_may_be_absent(server, data, into):
    server.answers = [lambda request, body: honest(request, body, declared="absent")]
    download(data, into, patience=QUICK)
    assert_whole(into)


def test_an_answer_without_length_that_never_ends_is_read_to_the_known_size(server, data, into):
    def endless(request, body):
        honest(request, body, declared="absent")
        while not server.released.is_set():
            request.wfile.write(bytes(10_000))

    server.answers = [endless]
    download(data, into, patience=QUICK)
    assert_whole(into)


@pytest.mark.parametrize("declared", [500, 10_000_000])
def test_another_length_than_the_known_one_costs_nothing_that_has_come(
    declared, server, data, into
):
    """A login page has a length of its own, and so has a server that lies."""

    def login(request, length):
        request.send_response(200)
        request.send_header("Content-Length", str(length))
        request.end_headers()
        request.wfile.write(b"login" * 100)

    server.answers = [
        cut(20_000),
        *[lambda request, body: login(request, declared)] * 2,
    ]
    download(data, into, patience=QUICK)
    assert ranges(server) == [None, "bytes=20000-", "bytes=20000-", "bytes=20000-"]
    assert_whole(into)


def test_a_server_that_always_lies_about_the_length_is_reported(server, data, into):
    server.answers = [lambda request, body: honest(request, body, declared=500)] * 3
    with refused(DownloadError, 500, f"{data.size:,}"):
        download(data, into, patience=QUICK)
    assert not part_path(data, into).exists()


def test_wrong_bytes_are_removed_and_both_digests_reported(server, data, into, monkeypatch, capsys):
    wrong = archive_bytes(seed=1)
    assert len(wrong) == len(server.body)
    monkeypatch.setitem(PUBLIC_DATA, "tiny", data)
    server.body = wrong
    assert run(["download", "tiny", "--into", str(into)]) == 3
    error_line(capsys.readouterr().err, data.sha256, hashlib.sha256(wrong).hexdigest())
    assert list(into.iterdir()) == []


def test_a_server_that_knows_no_range_begins_anew(server, data, into):
    plain = [lambda request, body: honest(request, body, knows_range=False)]
    server.answers = [cut(20_000), *plain]
    download(data, into, patience=QUICK)
    assert_whole(into)


def test_a_file_that_changes_between_two_tries_is_refused_by_its_digest(server, data, into):
    server.answers = [lambda request, body: cut(20_000)(request, bytes(len(body)))]
    with refused(DataError, data.sha256):
        download(data, into, patience=QUICK)
    assert list(into.iterdir()) == []
    download(data, into, patience=QUICK)
    assert_whole(into)


def test_a_range_that_was_not_asked_for_is_not_taken(server, data, into):
    def elsewhere(request, body):
        request.send_response(206)
        request.send_header("Content-Range", f"bytes 7-{len(body) - 1}/{len(body)}")
        request.end_headers()
        send(request, body[7:])

    server.answers = [cut(20_000), elsewhere]
    download(data, into, patience=QUICK)
    assert ranges(server) == [None, "bytes=20000-", None]
    assert_whole(into)


def test_a_range_behind_the_end_begins_anew(server, data, into):
    server.answers = [cut(20_000), status(416)]
    download(data, into, patience=QUICK)
    assert ranges(server) == [None, "bytes=20000-", None]
    assert_whole(into)


def test_a_part_that_is_too_long_is_begun_again(server, data, into):
    into.mkdir()
    part_path(data, into).write_bytes(bytes(data.size + 1))
    download(data, into, patience=QUICK)
    assert ranges(server) == [None]
    assert_whole(into)


@pytest.mark.parametrize("code", [403, 404, 410])
def test_a_final_refusal_is_asked_once(code, server, data, into):
    server.answers = [status(code)]
    with refused(DownloadError, code, "--archive FILE"):
        download(data, into, patience=QUICK)
    assert len(server.seen) == 1


@pytest.mark.parametrize("code", [408, 429, 500, 502, 503])
def test_a_passing_refusal_is_waited_out(code, server, data, into):
    server.answers = [status(code), status(code)]
    download(data, into, patience=QUICK)
    assert len(server.seen) == 3
    assert_whole(into)


@pytest.mark.parametrize(("asked", "waits"), [("1", "0.05"), ("0", "0.02"), ("never", "0.02")])
def test_retry_after_is_heeded_up_to_the_longest_wait(asked, waits, server, data, into, caplog):
    server.answers = [status(503, Retry_After=asked)]
    with caplog.at_level(logging.WARNING, logger="cxrignite"):
        download(data, into, patience=QUICK)
    line_with("\n".join(caplog.messages), 503, f"{waits} s")


def test_redirects_are_followed_with_the_range(server, data, into):
    moved = status(302, Location="/elsewhere")
    server.answers = [moved, cut(20_000), moved]
    download(data, into, patience=QUICK)
    assert ranges(server) == [None, None, "bytes=20000-", "bytes=20000-"]
    assert_whole(into)


@pytest.mark.parametrize("target", ["file:///etc/hostname", "ftp://127.0.0.1/file", "data:,x"])
def test_redirects_lead_to_the_web_only(target, server, data, into):
    server.answers = [status(302, Location=target)]
    with refused(DownloadError, server.url):
        download(data, into, patience=QUICK)
    assert len(server.seen) == 1


def test_redirects_never_lead_from_https_to_http():
    from urllib.request import Request as Asked

    from cxrignite.workflows.download.fetch import _CarefulRedirects

    handler = _CarefulRedirects()
    arguments = (io.BytesIO(), 302, "Found", {})
    with refused(DownloadError, "http://b"):
        handler.redirect_request(Asked("https://a/x"), *arguments, "http://b/x?secret")
    for source, target in (("https://a/x", "https://b/x"), ("http://a/x", "https://b/x")):
        assert handler.redirect_request(Asked(source), *arguments, target).full_url == target


def test_an_answer_without_content_costs_nothing_that_has_come(server, data, into):
    server.answers = [cut(20_000), status(204)]
    download(data, into, patience=QUICK)
    assert ranges(server) == [None, "bytes=20000-", "bytes=20000-"]
    assert_whole(into)


def test_redirects_without_end_are_given_up(server, data, into):
    server.answers = [status(302, Location="/again")] * 40
    with refused(DownloadError, 302):
        download(data, into, patience=QUICK)


def test_a_disk_that_is_too_small_is_reported_before_anything_is_fetched(server, data, into):
    big = dataclasses.replace(data, max_unpacked_bytes=10**18)
    with pytest.raises(CxrIgniteError) as caught:
        download(big, into, patience=QUICK)
    assert missing(str(caught.value), [into, f"{10**18 + data.size:,}"]) == []
    assert "\n" not in str(caught.value)
    assert server.seen == []


def test_a_disk_that_fills_up_keeps_what_came_and_names_path_and_room(
    server, data, into, monkeypatch
):
    class Full(io.FileIO):
        def write(self, chunk):
            if self.tell() > 10_000:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(chunk[:4000])

    real, part = Path.open, part_path(data, into)

    def limited(path, mode="r", *args, **settings):
        is_part = path == part
        return (
            io.BufferedWriter(Full(path, "a")) if is_part else real(path, mode, *args, **settings)
        )

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", limited)
        with refused(DownloadError, part, "bytes free", "No space"):
            download(data, into, patience=QUICK)
    assert 10_000 < part.stat().st_size < data.size
    download(data, into, patience=QUICK)
    assert ranges(server)[1].startswith("bytes=1")
    assert_whole(into)


def test_a_folder_that_cannot_be_written_to_is_reported(server, data, tmp_path):
    (tmp_path / "file").write_text("no folder")
    with refused(CxrIgniteError, tmp_path / "file"):
        download(data, tmp_path / "file", patience=QUICK)


@pytest.fixture
def started(start, tmp_path, into):
    """Run the whole command line on a data set of this test's own, in a process of its own."""

    def begin(data):
        argv = ["-c", DRIVER, json.dumps(dataclasses.asdict(data)), "--into", into]
        return start(argv, cwd=tmp_path)

    return begin


def wait_for_part(part, size):
    deadline = time.monotonic() + 20
    while not part.exists() or part.stat().st_size < size:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.integration
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)]
)
def test_a_stopped_process_keeps_what_came_and_the_same_command_goes_on(
    number, code, server, data, into, started
):
    server.answers = [cut(3_000, then=server.stall)]
    process = started(data)
    wait_for_part(part_path(data, into), 3_000)
    process.send_signal(number)
    _, error = process.communicate(timeout=20)
    assert process.returncode == code
    assert "Traceback" not in error
    if code > 0:
        line_with(error.splitlines()[-1], "download", number.value, "command")
    assert part_path(data, into).stat().st_size == 3_000
    again = started(data)
    printed, error = again.communicate(timeout=20)
    assert again.returncode == 0, error
    assert missing(printed, [12, into / "chest_xray"]) == []
    assert ranges(server) == [None, "bytes=3000-"]
    assert_whole(into)


def test_a_partial_folder_of_a_killed_process_is_swept_and_others_are_not(server, data, into):
    stale = into / "chest_xray.4194305.partial"
    (stale / "train").mkdir(parents=True)
    (into / "chest_xray.mine.partial").mkdir()
    download(data, into)
    assert_whole(into, "chest_xray.mine.partial")


@pytest.mark.integration
def test_of_two_at_once_the_second_refuses_and_names_the_first(server, data, into, started):
    server.answers = [cut(3_000, then=server.stall)]
    first = started(data)
    wait_for_part(part_path(data, into), 3_000)
    second = started(data)
    _, error = second.communicate(timeout=20)
    assert second.returncode == 1
    error_line(error, into / "chest_xray", first.pid)
    server.released.set()
    _, error = first.communicate(timeout=20)
    assert first.returncode == 0, error
    assert_whole(into)


@pytest.mark.integration
def test_the_command_line_needs_no_torch(server, data, into):
    # Whoever asks for what takes long to import gets an error.
    barred = "sys.modules.update(dict.fromkeys(['torch', 'numpy', 'ignite', 'jsonargparse']))"
    program = DRIVER.replace("import json, sys\n", f"import json, sys\n{barred}\n")
    assert barred in program
    argv = [sys.executable, "-c", program, json.dumps(dataclasses.asdict(data)), "--into", into]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    assert missing(done.stdout, [12, into / "chest_xray"]) == []
    assert_whole(into)
