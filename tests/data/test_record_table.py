import pickle

from cxrignite.data.loading import RecordTable
from cxrignite.data.sources import ImageRecord


def record(path: str, label: int) -> ImageRecord:
    return ImageRecord(path, path, label, path, "train")


def test_paths_and_labels_come_back_as_they_were():
    paths = ["a/b.jpeg", "ä/Röntgen 1.png", "日本/1.png", "not-utf8-\udcff.png", "z"]
    table = RecordTable([record(path, number % 2) for number, path in enumerate(paths)])
    assert len(table) == 5
    assert [table.path(index) for index in range(5)] == paths
    assert table.labels.tolist() == [0.0, 1.0, 0.0, 1.0, 0.0]


def test_a_table_of_no_images_is_empty():
    assert len(RecordTable([])) == 0


def test_a_table_costs_a_few_bytes_a_image():
    records = [record(f"train/NORMAL/IM-{number:06}.jpeg", 0) for number in range(2000)]
    assert (
        len(pickle.dumps(RecordTable(records))) < 2000 * (len(str(records[0].path)) + 4 + 8) + 4000
    )
