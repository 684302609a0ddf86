import csv
import io
import re

import pytest
import torch
from messages import line_with

from cxrignite.functional import UNKNOWN_LABEL
from cxrignite.handlers import Explanation
from cxrignite.handlers.explanation import explanations_table

CLASSES = ("NORMAL", "PNEUMONIA")


def explained(**changes):
    known = {
        "about": {"path": "a/b.png", "patient": "p1"},
        "selection": ["errors", "random"],
        "y_score": 0.9,
        "y_true": 0,
        "threshold": 0.25,
        "image": torch.zeros(1, 2, 2),
        "importance": torch.zeros(2, 2),
        "raw_max": 0.5,
        "strength": 0.125,
        "name": "000007_b",
    }
    return Explanation(**{**known, **changes})


def rows(table):
    return list(csv.DictReader(io.StringIO(table.decode(errors="surrogateescape"), newline="")))


def test_the_caption_says_what_was_found_and_where():
    found, where, which = explained().caption(CLASSES, "grad_cam at backbone.4")
    line_with(found, "0.9000", "0.2500", *CLASSES)
    line_with(where, "PNEUMONIA", "grad_cam at backbone.4", "0.12")
    assert which == "a/b.png, p1"


def test_the_caption_says_what_it_is_called_and_what_it_is():
    ends = {}
    for y_score, y_true in ((0.25, 1), (0.2499, 1), (0.1, 0), (0.9, 0), (0.1, UNKNOWN_LABEL)):
        each = explained(y_score=y_score, y_true=y_true)
        found = line_with(each.caption(CLASSES, "here")[0], f"{y_score:.4f}", "0.2500")
        decided = int(y_score >= 0.25)
        assert each.decision == ("positive" if decided else "negative")
        named = [CLASSES[number] for number in (decided, y_true) if number != UNKNOWN_LABEL]
        assert re.findall("|".join(CLASSES), found) == named
        ends[y_true, decided] = found.rpartition(named[-1])[2]
    right, wrong, unknown = ends[1, 1], ends[1, 0], ends[UNKNOWN_LABEL, 0]
    assert (ends[0, 0], ends[0, 1]) == (right, wrong)
    assert len({right, wrong, unknown}) == 3


def test_the_caption_of_an_empty_map_has_no_number():
    line = explained(raw_max=0.0, strength=0.0).caption(CLASSES, "here")[1]
    line_with(line, "PNEUMONIA", "here")
    assert not re.search(r"\d", line)


def test_what_is_not_known_of_an_image_leaves_no_comma():
    each = explained(about={"path": "a.png", "patient": "", "sex": "f"})
    assert each.caption(CLASSES, "here")[2] == "a.png, f"


def test_the_table_has_a_row_an_image_and_every_figure_in_full():
    third = 1 / 3
    table = explanations_table(
        [explained(y_score=third), explained(y_true=UNKNOWN_LABEL, selection=["fixed"])]
    )
    first, second = rows(table)
    assert first == {
        "path": "a/b.png",
        "patient": "p1",
        "label": "0",
        "score": repr(third),
        "threshold": "0.25",
        "lower_threshold": "",
        "decision": "positive",
        "selection": "errors random",
        "raw_max": "0.5",
        "strength": "0.125",
        "picture": "000007_b.png",
        "overlay": "000007_b.overlay.png",
    }
    assert (second["label"], second["selection"]) == ("", "fixed")
    [referred] = rows(explanations_table([explained(y_score=0.2, lower=0.125)]))
    assert [referred[key] for key in ("lower_threshold", "decision")] == ["0.125", "refer"]
    assert b"\r" not in table


def test_a_table_of_nothing_has_a_header():
    header = explanations_table([]).decode().splitlines()
    assert len(header) == 1
    assert header[0].startswith("label,score,")


@pytest.mark.parametrize("path", ['a,"b".png', "two\nlines.png", "Röntgen/肺炎.png"])
def test_any_path_is_read_back_as_it_was(path):
    assert rows(explanations_table([explained(about={"path": path})]))[0]["path"] == path


def test_a_file_name_that_is_not_utf_8_keeps_its_bytes():
    table = explanations_table([explained(about={"path": "a\udcff.png"})])
    assert table.splitlines()[1].startswith(b"a\xff.png,")


def test_a_weak_map_is_drawn_paler_and_is_still_seen():
    opacities = [explained(strength=strength).opacity for strength in (1.0, 0.25, 0.04, 0.0)]
    assert opacities == pytest.approx([0.6, 0.3, 0.12, 0.12])


def test_a_map_that_is_held_against_no_other_tells_its_highest_value():
    alone = explained(raw_max=0.0123, strength=None)
    line_with(alone.caption(CLASSES, "here")[1], "PNEUMONIA", "here", "0.0123")
    assert alone.opacity == pytest.approx(0.6)
    assert explained(raw_max=0.0, strength=None).opacity == pytest.approx(0.12)
    assert rows(explanations_table([alone]))[0]["strength"] == ""
