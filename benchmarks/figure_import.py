"""Measure the time of `import cxrignite.handlers`, compared with importing torch and Ignite only.

python benchmarks/figure_import.py
"""

from __future__ import annotations

import argparse
import compileall
import importlib.util
import json
import statistics
import subprocess
import sys

STATEMENTS = {
    "handlers": "import cxrignite.handlers",
    "parts": "import torch, ignite.engine, ignite.handlers",
    "whole": "import torch, ignite",
}
"""The measured import, and two versions of importing torch and Ignite only."""

TIMED = """
import json, sys, time
wall, cpu = time.perf_counter(), time.process_time()
exec(sys.argv[1])
print(json.dumps([time.perf_counter() - wall, time.process_time() - cpu]))
"""


def seconds_of(statement: str) -> tuple[float, float]:
    """Return wall and CPU seconds (user and system) of an import in a new process."""
    command = [sys.executable, "-c", TIMED, statement]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    wall, cpu = json.loads(done.stdout)
    return wall, cpu


def measure_import(num_rounds: int) -> None:
    """Time the imports alternately, so that the machine's load affects all of them equally."""
    # pip compiles packages such as torch during installation; a checkout may not be compiled yet.
    compileall.compile_dir(
        importlib.util.find_spec("cxrignite").submodule_search_locations[0], quiet=2
    )
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in STATEMENTS}
    for number in range(num_rounds + 1):
        # Rotate the order, since the first import loads files into memory for the next.
        names = list(STATEMENTS)
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            seconds = seconds_of(STATEMENTS[name])
            if number > 0:  # the first round fills the page cache
                times[name].append(seconds)
    for column, clock in enumerate(("wall", "cpu")):
        middle = {name: statistics.median(each[column] for each in times[name]) for name in times}
        print(f"{clock:>4}  handlers {middle['handlers']:.2f} s")
        for base in ("parts", "whole"):
            pairs = zip(times["handlers"], times[base], strict=True)
            paired = statistics.median(ours[column] / theirs[column] for ours, theirs in pairs)
            print(
                f"      {STATEMENTS[base]}: {middle[base]:.2f} s, "
                f"{middle['handlers'] / middle[base]:.3f} x, "
                f"{paired:.3f} x as the median of {num_rounds} rounds (target <= 1.1)"
            )


def main() -> None:
    """Run the measurements."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=21, help="rounds of all three imports")
    measure_import(parser.parse_args().rounds)


if __name__ == "__main__":
    main()
