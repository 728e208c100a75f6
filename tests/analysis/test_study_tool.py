"""tools/study.py as a user calls it, with a stand-in for its trainings."""

import csv
import json
import os
import signal
import subprocess
import sys

import pytest

from tests.analysis.small_study import ALL, Studio, make_studio, wait_for

FILES = {"runs.jsonl", "README.md", "table.csv", "table.json", "scores.png"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Studio:
    studio = make_studio(tmp_path_factory.mktemp("finished"))
    status, _, err = studio.call("--jobs", "2")
    assert status == 0, err
    return studio


def test_all_is_done_once_and_written(finished: Studio) -> None:
    assert sorted(finished.names()) == sorted(ALL)
    assert finished.files() == FILES
    assert sorted(finished.lines()) == sorted(ALL)
    # alone: 30 + 3 s; taught at 5: 34 + 5 + s; teacher: 60 + 2 s (see fake_training.score)
    rows = {row["run"]: row for row in csv.DictReader((finished.results / "table.csv").open())}
    assert [rows["alone"][key] for key in ("n", "mean", "seed 2")] == ["2", "37.5", "36.0"]
    assert [rows["taught"][key] for key in ("chosen", "mean")] == ["LOSS_WEIGHT 5.0", "41.5"]
    assert float(rows["taught"]["baseline_mean"]) == 4.0
    assert rows["teacher"]["baseline_mean"] == ""  # no seed in common


def test_second_call_does_nothing(finished: Studio) -> None:
    table, count = finished.table(), len(finished.names())
    status, out, _ = finished.call()
    assert status == 0 and table == f"# small\n\n{out}"
    assert (finished.table(), len(finished.names())) == (table, count)


def test_choice_comes_first_and_is_not_in_the_means(finished: Studio) -> None:
    order = finished.names()
    trials = [order.index(f"taught_{weight}_seed1") for weight in ("1.0", "5.0", "15.0")]
    assert order.index("teacher_seed1") < min(trials) < max(trials) < order.index("taught_seed2")
    options = {name: opts for name, *_, opts in finished.started()}
    assert options["taught_seed2"]["MODEL.DISTILLER.LOSS_WEIGHT"] == "5.0"
    assert "1.0: 36.0, 5.0: 40.0, 15.0: 38.0" in finished.table()
    assert "40.0, " not in finished.table().partition("Chosen on")[0]


@pytest.mark.skipif(sys.platform != "linux", reason="the system ends the trainings on Linux only")
def test_killed_at_any_moment_it_resumes(studio: Studio, finished: Studio) -> None:
    studio.kill_when_held("teacher_seed1", "alone_seed2")
    assert not studio.results.exists()
    studio.kill_when_held("taught_5.0_seed1")
    assert studio.call("--jobs", "2")[0] == 0
    how = [(name, how) for name, how, *_ in studio.started()]
    for name in ("teacher_seed1", "alone_seed2", "taught_5.0_seed1"):
        assert (name, "resumed") in how
        assert how.count((name, "started")) == 1
    assert studio.table() == finished.table()


def test_trainings_have_their_own_cores_and_end_when_it_is_stopped(studio: Studio) -> None:
    studio.control("hold", "teacher_seed1", "alone_seed2")
    process = studio.start("--jobs", "2")
    wait_for(lambda: len(studio.started()) == 2)  # both wait: they run at once
    first, second = studio.started()
    if sys.platform == "linux" and len(os.sched_getaffinity(0)) > 1:
        assert not set(first[4]) & set(second[4])
        assert first[3] == str(len(first[4]))
    status, _, err = studio.call()  # a second one is refused
    assert status == 1
    assert err.count("\n") == 1 and "another call of this study is running" in err
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command resumes" in err
    for _, _, pid, *_ in studio.started():
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_under_nohup_a_closed_terminal_ends_nothing(studio: Studio) -> None:
    studio.control("hold", "teacher_seed1")
    process = studio.start("--only", "teacher", ignoring=[signal.SIGHUP])
    wait_for(lambda: len(studio.started()) == 1)
    process.send_signal(signal.SIGHUP)
    studio.control("hold")
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert "teacher_seed1" in studio.lines()


def test_failure_is_a_row_and_tried_again(studio: Studio) -> None:
    studio.control("fail", "alone_seed2")
    status, out, _ = studio.call("--only", "alone")
    assert status == 1
    assert "1 of 2" in out
    reason = (
        "exit status 1: ValueError: no good in {DATA}/images; see output/studies/small/alone_seed2"
    )
    assert f"alone, seed 2: {reason}" in out
    studio.control("fail")
    status, out, _ = studio.call("--only", "alone")
    assert status == 0 and "Failed" not in out
    assert sorted(studio.names()) == ["alone_seed2", "alone_seed2", "alone_seed3"]


def test_failed_resume_starts_from_scratch_next(studio: Studio) -> None:
    studio.control("fail", "alone_seed2")
    for _ in range(3):
        studio.call("--only", "alone")
    how = [how for name, how, *_ in studio.started() if name == "alone_seed2"]
    assert how == ["started", "resumed", "started"]


def test_failed_teacher_holds_up_its_students_alone(studio: Studio) -> None:
    studio.control("fail", "teacher_seed1")
    assert studio.call("--jobs", "2")[0] == 1
    assert set(studio.names()) == {"teacher_seed1", "alone_seed2", "alone_seed3"}


def test_failed_trial_loses(studio: Studio) -> None:
    studio.control("fail", "taught_5.0_seed1")
    status, out, _ = studio.call("--jobs", "2")
    assert status == 1
    assert "LOSS_WEIGHT 15.0" in out and "5.0: failed" in out
    studio.control("fail")
    status, out, _ = studio.call("--jobs", "2")  # the choice falls on 5.0 now
    assert status == 0
    assert "LOSS_WEIGHT 5.0" in out
    assert studio.names().count("taught_seed2") == 2


def test_stale_result_is_done_again(studio: Studio) -> None:
    studio.call("--only", "alone", "--jobs", "2")
    before = len(studio.names())
    (studio.folder / "alone.yaml").write_text("MODEL: {DEVICE: cpu, WIDTH: 2}\n")
    status, _, err = studio.call("--only", "alone", "--jobs", "2")
    assert status == 0
    assert "alone, seed 2: its result is of another definition; done again" in err
    again = [(name, how) for name, how, *_ in studio.started()[before:]]
    assert sorted(again) == [("alone_seed2", "started"), ("alone_seed3", "started")]


def test_another_clone_needs_the_results_alone(studio: Studio) -> None:
    studio.call("--jobs", "2")
    lines = studio.lines()
    subprocess.run(["rm", "-r", str(studio.outputs)], check=True)
    assert studio.call()[0] == 0
    assert studio.names() == []  # the teacher is of no use to anyone
    kept = [line for job, line in lines.items() if job != "taught_seed3"]
    (studio.results / "runs.jsonl").write_text("\n".join(kept))  # and the last one has no end
    assert studio.call("--jobs", "2")[0] == 0
    assert studio.names() == ["teacher_seed1", "taught_seed3"]
    assert studio.lines()["teacher_seed1"] == lines["teacher_seed1"]
    assert set(studio.lines()) == set(lines)


def test_only_does_the_named_runs_and_what_they_need(studio: Studio) -> None:
    studio.call("--only", "taught", "--jobs", "2")
    assert set(studio.names()) == {name for name in ALL if not name.startswith("alone")}


def test_results_have_no_paths_of_this_machine(studio: Studio) -> None:
    studio.control("fail", "alone_seed3")
    studio.call("--only", "alone")
    for file in studio.results.glob("*.json*"):
        text = file.read_text()
        assert str(studio.folder) not in text and "data/bccd" not in text
    for line in studio.lines().values():
        assert {"run", "seed", "config", "overrides", "figures", "versions"} <= set(
            json.loads(line)
        )


def test_listing_needs_no_data_and_says_that_a_run_does(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.analysis.small_study.GIVEN", [])
    status, out, err = studio.call("--list")
    assert (status, err) == (0, "to run it, add: --set DATA=PATH\n")
    assert out.splitlines()[0] == "teacher, seed 1"
    assert out.splitlines()[-1] == "taught, seeds 2, 3: when its value is chosen"


def test_tables_stand_beside_the_trainings_unless_told_otherwise(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.analysis.small_study.GIVEN", ["--set", "DATA=data/bccd"])
    assert studio.call("--only", "alone", "--jobs", "2")[0] == 0
    assert not studio.results.exists()
    assert {*FILES, "alone_seed2"} <= {file.name for file in studio.outputs.iterdir()}


def test_folder_of_somebody_else_is_left_alone(studio: Studio) -> None:
    folder = studio.outputs / "alone_seed2"
    folder.mkdir(parents=True)
    (folder / "thesis.tex").write_text("years of work")
    status, _, err = studio.call("--only", "alone")
    assert status == 1 and "not a study's" in err
    assert (folder / "thesis.tex").exists()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--set", "DAT=x"], "--set: got 'DAT=x', expected NAME=PATH with NAME of ['DATA']"),
        (["--list", "--set", "DATA=gone"], "--set: got 'DATA=gone', but gone is not there"),
        (["--only", "nobody"], "--only: no run matches 'nobody'"),
        (["--only", "("], "small.yaml: "),
        (["SOLVER.BASE_LR", "1"], "SOLVER.BASE_LR: expected a key that changes no result"),
        (["MODEL.DEVICE"], "expected pairs of KEY VALUE"),
    ],
)
def test_wrong_command_line_is_one_line(studio: Studio, args: list[str], message: str) -> None:
    status, _, err = studio.call(*args)
    assert status == 1
    assert message in err and err.count("\n") == 1
    assert studio.names() == []


def test_detector_that_finds_nothing_counts_as_zero(studio: Studio) -> None:
    studio.control("nan", "alone_seed2")
    assert studio.call("--only", "alone", "--jobs", "2", "MODEL.DEVICE", "cpu")[0] == 0
    rows = {row["run"]: row for row in csv.DictReader((studio.results / "table.csv").open())}
    assert (rows["alone"]["seed 2"], rows["alone"]["n"]) == ("0.0", "2")
    assert [opts["MODEL.DEVICE"] for *_, opts in studio.started()] == ["cpu", "cpu"]
