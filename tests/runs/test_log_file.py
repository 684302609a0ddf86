import logging
import re
from pathlib import Path

import pytest
from messages import line_with, missing

from cxrignite.errors import DataError
from cxrignite.runs.log_file import log_file

LOGGER = logging.getLogger("cxrignite.somewhere")


def test_lines_are_added_with_their_time_and_how_it_ended(tmp_path):
    path = tmp_path / "run.log"
    with log_file(path):
        LOGGER.warning("first")
    with pytest.raises(DataError), log_file(path):
        raise DataError("no images")
    first, second = path.read_text().splitlines()
    assert re.fullmatch(r"[\d-]{10} [\d:,]+ WARNING first", first)
    assert re.match(r"[\d-]{10} [\d:,]+ ERROR ", second)
    line_with(second.partition(" ERROR ")[2], "DataError", "no images")


def test_what_nobody_foresaw_leaves_its_traceback(tmp_path):
    with pytest.raises(KeyError), log_file(tmp_path / "run.log"):
        {}["x"]
    kept = (tmp_path / "run.log").read_text()
    assert "Traceback" in kept
    assert missing(kept, ["ERROR", "KeyError", "'x'"]) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no full device")
def test_a_full_disk_hides_no_error_and_prints_no_traceback(capsys):
    def say_and_fail():
        LOGGER.warning("a line that finds no room")
        raise DataError("no images")

    with pytest.raises(DataError, match="no images"), log_file(Path("/dev/full")):
        say_and_fail()
    assert capsys.readouterr().err == ""


def test_a_file_name_that_is_not_utf_8_is_reported_with_an_escape(tmp_path, capsys, monkeypatch):
    # pytest-xdist cannot hand over what pytest would keep of it.
    monkeypatch.setattr(logging.getLogger("cxrignite"), "propagate", False)
    with log_file(tmp_path / "run.log"):
        LOGGER.warning("a\udcff.png")
    assert r"WARNING a\udcff.png" in (tmp_path / "run.log").read_text()
    assert capsys.readouterr().err == ""
