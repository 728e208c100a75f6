"""A study's file of results: half lines, other processes, and the folders of earlier versions."""

import json
import multiprocessing
from pathlib import Path
from typing import Any

import pytest

from fam_det.analysis.jobs import Job
from fam_det.analysis.results import Result, Results, append_line, read_output
from fam_det.analysis.study import RunDefinition


def job_of(seed: int, definition: str = "a") -> Job:
    return Job(RunDefinition("FAM-KD", "config.yaml", {}, [seed]), seed, definition)


def result_of(score: float, definition: str = "a", failure: str = "") -> Result:
    return Result(definition, {"bbox/AP": score}, [[40, score]], 1.5, failure)  # type: ignore[list-item]


def test_half_a_line_is_skipped_by_readers_and_ended_by_the_next_writer(tmp_path: Path) -> None:
    results = Results(tmp_path)
    results.write(job_of(1), result_of(1.0))
    with results.file.open("a") as file:
        file.write('{"job": "FAM-KD_seed2", "figu')
    assert results.read(job_of(2)) is None
    results.write(job_of(3), result_of(3.0))
    assert Results(tmp_path).read(job_of(1)) == result_of(1.0)
    assert Results(tmp_path).read(job_of(3)) == results.read(job_of(3)) == result_of(3.0)


def test_newest_line_of_a_definition_counts(tmp_path: Path) -> None:
    results = Results(tmp_path)
    results.write(job_of(1), result_of(0.0, failure="killed"))
    results.write(job_of(1), result_of(2.0))
    results.write(job_of(1, "b"), result_of(3.0, "b"))
    assert results.read(job_of(1)) == result_of(2.0)
    assert results.read(job_of(1, "b")) == result_of(3.0, "b")
    assert results.read(job_of(1, "c")) is None and results.is_stale(job_of(1, "c"))
    assert not results.is_stale(job_of(2))


def add_lines(file: Path, name: str) -> None:
    for number in range(50):
        append_line(file, json.dumps([name, number, "x" * 5000]))


def test_processes_that_write_at_once_lose_no_line(tmp_path: Path) -> None:
    file = tmp_path / "runs.jsonl"
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=add_lines, args=(file, name)) for name in "abc"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    lines = [tuple(json.loads(line)[:2]) for line in file.read_text().splitlines()]
    assert sorted(lines) == [(name, number) for name in "abc" for number in range(50)]


def test_folder_of_an_earlier_version_is_read_and_added_to(tmp_path: Path) -> None:
    for seed in (1, 2):
        text = json.dumps({"run": "FAM-KD", "seed": seed, **vars(result_of(seed))}, indent=1)
        (tmp_path / f"FAM-KD_seed{seed}.json").write_text(text)
    results = Results(tmp_path)
    assert results.read(job_of(1)) == result_of(1)
    results.write(job_of(2), result_of(5.0))
    assert results.read(job_of(1)) == result_of(1)
    assert results.read(job_of(2)) == result_of(5.0)


@pytest.mark.parametrize("metric", ["bbox/AP", "train/top1"])
def test_metric_is_among_the_figures(make_run: Any, metric: str) -> None:
    folder = make_run("a", DATASETS__TEST=["val", "test"])
    line = '{"iteration": 100, "val/bbox/AP": 3.0, "test/bbox/AP": 4.0, "train/top1": 5.0}\n'
    (folder / "metrics.json").write_text(line)
    figures = read_output(job_of(1), folder, metric).figures
    assert figures == {"bbox/AP": 3.0} | ({"train/top1": 5.0} if metric == "train/top1" else {})


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("runs.jsonl", '{"job": "x"}\n'),
        ("runs.jsonl", "[1]\n"),
        ("FAM-KD_seed1.json", "{"),
        ("FAM-KD_seed1.json", "[1]"),
    ],
)
def test_file_without_a_result_is_named(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=f"{name}: .*is no result of a study"):
        Results(tmp_path).read(job_of(1))
