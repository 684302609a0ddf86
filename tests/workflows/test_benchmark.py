"""`benchmark`: every row measured, and told as CSV, figure and Markdown in the run folder."""

import csv
import math
import time
from dataclasses import replace

import pytest
import torch
from messages import error_line, missing
from PIL import Image

from cxrignite.cli import run
from cxrignite.engines.precision import FP32
from cxrignite.reporting.benchmark_tables import benchmark_csv, benchmark_markdown
from cxrignite.reporting.plots.benchmark_figure import benchmark_figure
from cxrignite.runs.benchmark_result import BenchmarkResult, Settings, Stage, Steps, Variant
from cxrignite.runs.environment import describe_start
from cxrignite.workflows.benchmark import stages
from cxrignite.workflows.benchmark.memory import PeakMemory

ROWS = [
    *("plain loop, Pillow", "scaled decode", "cache", "workers", "channels_last", "precision"),
    "allocator tuning",
]


def variants() -> list[Variant]:
    settings, found = Settings(), []
    for name, switch, seconds, wait in (
        ("plain loop, Pillow", None, 8.0, 6.0),
        ("cache", "cache", 4.0, 1.0),
        ("compile", "compile", 2.0, 1.0),
        ("fit (engine, handlers)", "engine", 4.0, 1.0),
    ):
        if switch is not None:
            settings = replace(settings, **{switch: True})
        if switch == "engine":
            settings = replace(settings, compile=False)
        found.append(Variant(name, settings, [Steps(64, seconds, wait)] * 2, 3 * 2**20))
    return found


def result_of(found, *parts: Stage) -> BenchmarkResult:
    return BenchmarkResult(
        describe_start([], device="cuda:0", precision="fp32", num_processes=1),
        torch="2.14.1+cu130",
        gpu="a GPU",
        num_cores=6,
        precision=FP32,
        model="LightCNN",
        image_size=(64, 48),
        num_workers=3,
        num_images=1600,
        batch_size=32,
        variants=tuple(found),
        stages=parts,
    )


def test_each_row_is_compared_with_the_one_that_it_builds_on():
    # The recipe does not compile: the row after it builds on the row before it.
    assert result_of(variants()).own_shares == [1.0, 2.0, 2.0, 1.0]


def test_the_table_tells_rates_shares_and_waiting():
    text = benchmark_csv(result_of(variants(), Stage("read", 100.0, 400.0, "one core"))).decode()
    rows = list(csv.DictReader(text.splitlines()))
    assert [row["part"] for row in rows] == ["input"] + ["training"] * 4
    assert float(rows[0]["times_the_plain_way"]) == 4.0
    cache = rows[2]
    assert float(cache["images_per_second"]) == 16.0
    assert float(cache["times_the_plain_way"]) == 2.0
    assert float(cache["milliseconds_a_step"]) == 2000.0
    assert float(cache["epoch_seconds"]) == 100.0
    assert float(cache["data_wait_share"]) == 0.25
    assert float(cache["peak_memory_mb"]) == 3.0


def test_machine_and_recipe_are_above_the_tables():
    above = benchmark_markdown(result_of(variants())).partition("## Input")[0]
    facts = ["cuda:0 (a GPU)", "6 cores", "torch 2.14.1+cu130", "fp32", "LightCNN"]
    assert missing(above, [*facts, "64 x 48", "batches of 32", "3 workers"]) == []


def test_what_was_not_measured_says_why():
    found = variants()
    found[2] = Variant("compile", found[2].settings, failure="trainer.compile: no compiler")
    assert math.isnan(found[2].images_per_second)
    table = benchmark_markdown(result_of(found, Stage("read", 1, 2, "")))
    assert "trainer.compile: no compiler" in table
    assert "nan" not in table


def test_the_figure_is_whole(assert_nothing_is_cut):
    parts = [Stage("read an image, first pass", 100.0, 400.0, "one core")] * 3
    assert_nothing_is_cut(benchmark_figure(result_of(variants(), *parts)))


def test_memory_is_seen_while_it_is_held():
    with PeakMemory(torch.device("cpu"), interval=0.005) as before:
        torch.zeros(10).sum()
        torch.ones(100, 100).mm(torch.ones(100, 100))
        time.sleep(0.05)
    with PeakMemory(torch.device("cpu"), interval=0.005) as after:
        held = torch.ones(2**26)  # 256 MiB
        time.sleep(0.3)
    assert after.num_bytes - before.num_bytes > 0.8 * held.nbytes


@pytest.mark.integration
def test_a_recipe_is_measured_beside_the_plain_loop(
    recipes_dir, smoke_arguments, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(stages, "_SECONDS", 0)  # one pass over the images
    argv = ["--config", str(recipes_dir / "baseline_cnn.yaml"), *smoke_arguments]
    argv += ["--run_dir", str(tmp_path / "run"), "--trainer.precision", "bf16"]
    argv += ["--data.num_workers", "1"]
    assert run(["benchmark", *argv, "--num_steps", "2", "--repeats", "1"]) == 0
    said = capsys.readouterr().out
    folder = tmp_path / "run" / "benchmark"
    assert sorted(path.name for path in folder.glob("[!.]*")) == [
        "benchmark.csv",
        "benchmark.md",
        "benchmark.png",
    ]
    assert said == (folder / "benchmark.md").read_text()
    rows = list(csv.DictReader((folder / "benchmark.csv").read_text().splitlines()))
    training = [row for row in rows if row["part"] == "training"]
    assert [row["name"] for row in training] == [*ROWS, "fit (engine, handlers)"]
    assert all(float(row["images_per_second"]) > 0 for row in rows)
    assert all(0 <= float(row["data_wait_share"]) <= 1 for row in training)
    with Image.open(folder / "benchmark.png") as figure:
        assert figure.size > (500, 300)
    # It leaves no run, so `fit` may still begin here.
    assert not (tmp_path / "run" / "history.csv").exists()


@pytest.mark.integration
def test_a_recipe_of_several_findings_is_measured(
    recipes_dir, smoke_arguments, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(stages, "_SECONDS", 0)
    argv = ["--config", str(recipes_dir / "baseline_cnn.yaml"), *smoke_arguments]
    argv += ["--data.source.root", str(tmp_path / "phantom"), "--data.num_workers", "0"]
    argv += ["--data.source.findings=[Opacity, Effusion]", "--data.source.unknown_fraction=0.1"]
    argv += ["--run_dir", str(tmp_path / "run"), "--num_steps", "2", "--repeats", "1"]
    assert run(["benchmark", *argv]) == 0, capsys.readouterr().err
    table = (tmp_path / "run/benchmark/benchmark.csv").read_text()
    training = [row for row in csv.DictReader(table.splitlines()) if row["part"] == "training"]
    assert training[-1]["name"] == "fit (engine, handlers)"
    assert all(float(row["images_per_second"]) > 0 for row in training)


@pytest.mark.parametrize(
    ("argv", "code", "facts"),
    [
        (["--num_steps", "1"], 2, ["--num_steps", 2]),
        (["--repeats", "0"], 2, ["--repeats", 1]),
        (["--data.batch_size", "40"], 3, [40]),
        (["--with_compile", "perhaps"], 2, ["with_compile", "perhaps"]),
    ],
)
def test_what_cannot_be_measured_is_one_line(
    argv, code, facts, recipes_dir, smoke_arguments, tmp_path, capsys
):
    fixed = ["--config", str(recipes_dir / "baseline_cnn.yaml"), *smoke_arguments]
    assert run(["benchmark", *fixed, "--run_dir", str(tmp_path / "run"), *argv]) == code
    error_line(capsys.readouterr().err, *facts)
