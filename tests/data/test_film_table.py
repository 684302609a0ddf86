import pickle

from cxrignite.data.loading import FilmTable
from cxrignite.data.sources import Film


def film(path: str, label: int) -> Film:
    return Film(path, path, label, path, "train")


def test_paths_and_labels_come_back_as_they_were():
    paths = ["a/b.jpeg", "ä/Röntgen 1.png", "日本/1.png", "not-utf8-\udcff.png", "z"]
    table = FilmTable([film(path, number % 2) for number, path in enumerate(paths)])
    assert len(table) == 5
    assert [table.path(index) for index in range(5)] == paths
    assert table.labels.tolist() == [0.0, 1.0, 0.0, 1.0, 0.0]


def test_a_table_of_no_films_is_empty():
    assert len(FilmTable([])) == 0


def test_a_table_costs_a_few_bytes_a_film():
    films = [film(f"train/NORMAL/IM-{number:06}.jpeg", 0) for number in range(2000)]
    assert len(pickle.dumps(FilmTable(films))) < 2000 * (len(str(films[0].path)) + 4 + 8) + 4000
