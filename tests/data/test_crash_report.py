import pytest

from cxrignite.data.crash_report import call_named

CRASH = """
import contextlib, ctypes, sys
import simplejpeg
from PIL import Image
from cxrignite.__main__ import main
from cxrignite.data import ImageRecord, Pipeline
from cxrignite.data.image_stream import ImageStream
from cxrignite.data.inspection import inspect_images

simplejpeg.decode_jpeg = lambda *args, **options: ctypes.string_at(0)
Image.new("L", (8, 8)).save("an image.jpeg")
how, sys.argv[1:] = sys.argv[1], ["--version"]
with contextlib.suppress(SystemExit):
    main()
records = [ImageRecord("an image.jpeg", "a", 0, "", "test")]
if how == "thread":
    inspect_images(records)
with contextlib.suppress(RuntimeError):  # the worker is killed
    list(ImageStream(records, Pipeline(), (8, 8), batch_size=1, num_workers=1))
"""


@pytest.mark.integration
@pytest.mark.parametrize(("how", "code"), [("thread", -11), ("worker", 0)])
def test_a_decoder_that_crashes_names_the_file_on_the_terminal(python, how, code):
    done = python("-c", CRASH, how)
    assert done.returncode == code
    assert '"an image.jpeg"' in done.stderr


def test_a_named_call_gives_what_it_gives_and_raises_what_it_raises():
    assert call_named("a\udcff.png", divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError) as caught:
        call_named("a.png", divmod, 7, 0)
    assert str(caught.traceback[-1].path).endswith("a.png")
