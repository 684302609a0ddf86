"""What differs on Windows and macOS: workers that are not forked, no POSIX-only modules."""

import os
import subprocess
import sys

import pytest

from cxrignite.cli.main import run

pytestmark = pytest.mark.slow  # each starts an interpreter, and its workers start others

PROGRAM = """\
import multiprocessing, os, signal, sys

for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[name] = None
for name in ("SIGHUP", "SIGUSR1", "SIGUSR2", "SIGALRM", "pthread_kill", "setitimer"):
    delattr(signal, name)
del os.sched_getaffinity
if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    from cxrignite.cli.main import run

    sys.exit(run(sys.argv[1:]))
"""


@pytest.mark.parametrize("recipe", ["baseline_cnn", "resnet50", "quickstart"])
def test_a_run_with_spawned_workers_is_the_same(recipe, recipes_dir, smoke_arguments, tmp_path):
    fit = ["fit", "--config", str(recipes_dir / f"{recipe}.yaml"), *smoke_arguments]
    fit += ["--trainer.profile", "reproducible", "--trainer.device", "cpu"]
    fit += ["--data.num_workers", "1", "--data.cache", "off", "--model", "LightCNN"]
    (tmp_path / "program.py").write_text(PROGRAM, encoding="utf-8")
    assert run([*fit, "--run_dir", str(tmp_path / "forked")]) == 0
    command = [sys.executable, "program.py", *fit, "--run_dir", str(tmp_path / "spawned")]
    path = os.pathsep.join(each for each in sys.path if each)
    subprocess.run(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, check=True)
    forked, spawned = (
        (tmp_path / each / "predictions" / "val.csv").read_bytes() for each in ("forked", "spawned")
    )
    assert forked == spawned
