import pytest

from cxrignite.data.crash_report import call_named

CRASH = """
import contextlib, ctypes, sys
import simplejpeg
from PIL import Image
from cxrignite.__main__ import main
from cxrignite.data import Film, Pipeline
from cxrignite.data.film_stream import FilmStream
from cxrignite.data.inspection import inspect_films

simplejpeg.decode_jpeg = lambda *args, **options: ctypes.string_at(0)
Image.new("L", (8, 8)).save("a film.jpeg")
how, sys.argv[1:] = sys.argv[1], ["--version"]
with contextlib.suppress(SystemExit):
    main()
films = [Film("a film.jpeg", "a", 0, "", "test")]
if how == "thread":
    inspect_films(films)
with contextlib.suppress(RuntimeError):  # the worker is killed
    list(FilmStream(films, Pipeline(), (8, 8), batch_size=1, num_workers=1))
"""


@pytest.mark.integration
@pytest.mark.parametrize(("how", "code"), [("thread", -11), ("worker", 0)])
def test_a_decoder_that_crashes_names_the_file_on_the_terminal(python, how, code):
    done = python("-c", CRASH, how)
    assert done.returncode == code
    assert '"a film.jpeg"' in done.stderr


def test_a_named_call_gives_what_it_gives_and_raises_what_it_raises():
    assert call_named("a\udcff.png", divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError) as caught:
        call_named("a.png", divmod, 7, 0)
    assert str(caught.traceback[-1].path).endswith("a.png")
