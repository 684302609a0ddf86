import os
import signal

import pytest

from cxrignite.locks import lock_file


def test_a_lock_ends_with_its_process_while_a_forked_child_lives_on(tmp_path):
    path = tmp_path / "lock"
    with path.open("a+") as other:
        with path.open("a+") as file:
            lock_file(file)
            with pytest.raises(BlockingIOError):
                lock_file(other)
            reader, writer = os.pipe()
            child = os.fork()
            if child == 0:
                os.write(writer, b"!")
                signal.pause()
            os.read(reader, 1)
            with pytest.raises(BlockingIOError):  # the child has not given up ours
                lock_file(other)
        # Closed, as by the end of this process; the child is a worker that has not noticed.
        try:
            lock_file(other)
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            os.close(reader)
            os.close(writer)
