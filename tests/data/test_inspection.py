import hashlib
import os
import re
import sys
import threading
from errno import ENOENT

from messages import line_with, refused

from cxrignite.data.inspection import MAX_THREADS, inspect_films
from cxrignite.data.sources import Film
from cxrignite.errors import UnreadableImageError


def test_every_film_gets_its_digest_in_order(make_films):
    films = make_films()
    inspection = inspect_films(films)
    assert inspection.unreadable == []
    assert inspection.films == [
        film._replace(sha256=hashlib.sha256(film.path.read_bytes()).hexdigest()) for film in films
    ]


def test_under_raise_the_first_in_order_is_named_and_the_others_counted(make_films):
    films = make_films()
    for index in (20, 3, 7):
        films[index].path.write_bytes(films[index].path.read_bytes()[:60])
    with refused(UnreadableImageError, films[3].path, 2) as caught:
        inspect_films(films)
    assert caught.value.path == films[3].path


def test_a_single_unreadable_film_counts_no_others(make_films):
    films = make_films()
    films[5].path.unlink()
    with refused(UnreadableImageError, films[5].path, os.strerror(ENOENT)) as caught:
        inspect_films(films)
    assert not re.search(r"\d", str(caught.value).replace(str(films[5].path), ""))


def test_under_skip_the_unreadable_are_left_out_and_returned(make_films):
    films = make_films()
    films[20].path.write_text("<html>")
    films[3].path.write_bytes(b"")
    inspection = inspect_films(films, on_unreadable="skip")
    assert [error.path for error in inspection.unreadable] == [films[3].path, films[20].path]
    kept = [film for index, film in enumerate(films) if index not in (3, 20)]
    assert [film.name for film in inspection.films] == [film.name for film in kept]


def test_a_film_whose_pixels_are_cut_is_found_though_its_header_is_whole(make_films):
    film = make_films()[0]
    film.path.write_bytes(film.path.read_bytes()[:-40])
    assert len(inspect_films([film], on_unreadable="skip").unreadable) == 1


def test_no_films_are_no_failure():
    assert inspect_films([]).films == []


def test_progress_is_silent_where_stderr_is_no_terminal(make_films, capfd):
    assert len(inspect_films(make_films(), progress=True).films) == 26
    assert capfd.readouterr() == ("", "")


def test_progress_shows_on_a_terminal(make_films, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    inspect_films(make_films(), progress=True)
    assert "/26 [" in capsys.readouterr().err


def test_no_more_files_are_open_at_a_time_than_there_are_threads(make_films, monkeypatch):
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
    films: list[Film] = make_films() * 5
    inspect_films(films)
    assert 1 <= most <= min(MAX_THREADS, os.cpu_count() or 1)
    assert now == 0


def test_a_file_that_many_films_name_is_read_once(make_films, monkeypatch):
    from cxrignite.data import inspection

    films = make_films(num_normal=2, num_pneumonia=3)
    many = [film._replace(name=f"{film.name}-{copy}") for copy in range(4) for film in films]
    read, real = [], inspection.read_bytes
    monkeypatch.setattr(inspection, "read_bytes", lambda path: (read.append(path), real(path))[1])
    found = inspect_films(many).films
    assert sorted(read) == sorted(film.file for film in films)
    assert [film.name for film in found] == [film.name for film in many]
    assert [film.sha256 for film in found] == [
        each.sha256 for each in inspect_films(films).films
    ] * 4


def test_without_decoding_a_file_of_any_content_has_its_digest(tmp_path, make_films):
    films = make_films(num_normal=2, num_pneumonia=2)
    films[1].path.write_bytes(b"no image")
    films[2].path.unlink()
    found = inspect_films(films, decode=False, on_unreadable="skip")
    assert [film.name for film in found.films] == [films[i].name for i in (0, 1, 3)]
    assert found.films[1].sha256 == hashlib.sha256(b"no image").hexdigest()
    assert [error.path for error in found.unreadable] == [films[2].path]


def test_many_that_are_left_out_are_one_line_and_all_of_them_go_to_the_log_file(tmp_path, caplog):
    names = [f"{number}.png" for number in range(1200)]
    films = [Film(str(tmp_path / name), name, 0, name, "train") for name in names]
    inspect_films(films, on_unreadable="skip").log_unreadable()
    *others, last = caplog.records
    assert len(others) == 1200
    assert all(record.in_file_only for record in others)
    assert not hasattr(last, "in_file_only")
    line_with(last.message, "1,200 of 1,200", "run.log", tmp_path / "0.png", tmp_path / "2.png")
