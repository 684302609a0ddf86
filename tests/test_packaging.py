"""What an installed cxrignite says of itself, and brings with it."""

from importlib.metadata import entry_points, metadata
from importlib.resources import files

import cxrignite


def test_the_metadata_is_what_an_index_shows():
    about = metadata("cxrignite")
    assert about["Version"] == cxrignite.__version__
    assert about["License-Expression"] == "Apache-2.0"
    assert about["Requires-Python"] == ">=3.11"
    assert about["Description"].startswith("# cxrignite\n")
    assert set(about.get_all("Provides-Extra")) >= {"dicom", "docs", "parquet", "test", "timm"}


def test_type_checkers_are_reported_that_there_are_types():
    assert files("cxrignite").joinpath("py.typed").is_file()
    assert "Typing :: Typed" in metadata("cxrignite").get_all("Classifier")


def test_the_console_script_is_the_command_line():
    (script,) = entry_points(group="console_scripts", name="cxrignite")
    assert script.value == "cxrignite.__main__:main"
