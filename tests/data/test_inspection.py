import hashlib
import os
import re
import sys
import threading
from errno import ENOENT

from messages import line_with, refused

from cxrignite.data.inspection import MAX_THREADS, inspect_images
from cxrignite.data.sources import ImageRecord
from cxrignite.errors import UnreadableImageError


def test_every_image_gets_its_digest_in_order(make_images):
    records = make_images()
    inspection = inspect_images(records)
    assert inspection.unreadable == []
    assert inspection.records == [
        record._replace(sha256=hashlib.sha256(record.path.read_bytes()).hexdigest())
        for record in records
    ]


def test_the_first_unreadable_in_order_is_named_and_the_others_counted(make_images):
    records = make_images()
    for index in (20, 3, 7):
        records[index].path.write_bytes(records[index].path.read_bytes()[:60])
    with refused(UnreadableImageError, records[3].path, 2) as caught:
        inspect_images(records).check_all_readable()
    assert caught.value.path == records[3].path


def test_a_single_unreadable_image_counts_no_others(make_images):
    records = make_images()
    records[5].path.unlink()
    with refused(UnreadableImageError, records[5].path, os.strerror(ENOENT)) as caught:
        inspect_images(records).check_all_readable()
    assert not re.search(r"\d", str(caught.value).replace(str(records[5].path), ""))


def test_the_unreadable_are_left_out_and_returned(make_images):
    records = make_images()
    records[20].path.write_text("<html>")
    records[3].path.write_bytes(b"")
    inspection = inspect_images(records)
    assert [error.path for error in inspection.unreadable] == [records[3].path, records[20].path]
    kept = [record for index, record in enumerate(records) if index not in (3, 20)]
    assert [record.name for record in inspection.records] == [record.name for record in kept]


def test_a_image_whose_pixels_are_cut_is_found_though_its_header_is_whole(make_images):
    record = make_images()[0]
    record.path.write_bytes(record.path.read_bytes()[:-40])
    assert len(inspect_images([record]).unreadable) == 1


def test_no_images_are_no_failure():
    assert inspect_images([]).records == []


def test_progress_is_silent_where_stderr_is_no_terminal(make_images, capfd):
    assert len(inspect_images(make_images(), progress=True).records) == 26
    assert capfd.readouterr() == ("", "")


def test_progress_shows_on_a_terminal(make_images, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    inspect_images(make_images(), progress=True)
    assert "/26 [" in capsys.readouterr().err


def test_no_more_files_are_open_at_a_time_than_there_are_threads(make_images, monkeypatch):
    from cxrignite.data import inspection

    most, now, lock = 0, 0, threading.Lock()
    real = inspection.decode_image

    def counting(data, path, size, grey_scaling):
        nonlocal most, now
        with lock:
            now += 1
            most = max(most, now)
        try:
            return real(data, path, size, grey_scaling)
        finally:
            with lock:
                now -= 1

    monkeypatch.setattr(inspection, "decode_image", counting)
    records: list[ImageRecord] = make_images() * 5
    inspect_images(records)
    assert 1 <= most <= min(MAX_THREADS, os.cpu_count() or 1)
    assert now == 0


def test_a_file_that_many_images_name_is_read_once(make_images, monkeypatch):
    from cxrignite.data import inspection

    records = make_images(num_normal=2, num_pneumonia=3)
    many = [
        record._replace(name=f"{record.name}-{copy}") for copy in range(4) for record in records
    ]
    read, real = [], inspection.read_bytes
    monkeypatch.setattr(inspection, "read_bytes", lambda path: (read.append(path), real(path))[1])
    found = inspect_images(many).records
    assert sorted(read) == sorted(record.file for record in records)
    assert [record.name for record in found] == [record.name for record in many]
    assert [record.sha256 for record in found] == [
        each.sha256 for each in inspect_images(records).records
    ] * 4


def test_without_decoding_a_file_of_any_content_has_its_digest(tmp_path, make_images):
    records = make_images(num_normal=2, num_pneumonia=2)
    records[1].path.write_bytes(b"no image")
    records[2].path.unlink()
    found = inspect_images(records, decode=False)
    assert [record.name for record in found.records] == [records[i].name for i in (0, 1, 3)]
    assert found.records[1].sha256 == hashlib.sha256(b"no image").hexdigest()
    assert [error.path for error in found.unreadable] == [records[2].path]


def test_many_that_are_left_out_are_one_line_and_all_of_them_go_to_the_log_file(tmp_path, caplog):
    names = [f"{number}.png" for number in range(1200)]
    records = [ImageRecord(str(tmp_path / name), name, 0, name, "train") for name in names]
    inspect_images(records).log_unreadable()
    *others, last = caplog.records
    assert len(others) == 1200
    assert all(record.in_file_only for record in others)
    assert not hasattr(last, "in_file_only")
    line_with(last.message, "1,200 of 1,200", "run.log", tmp_path / "0.png", tmp_path / "2.png")
