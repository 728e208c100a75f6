"""Metrics and logs: a full disk, half a line, and what is kept in memory."""

import json
import logging
from pathlib import Path
from types import SimpleNamespace

import pytest

from fam_det.files.metrics_file import read_metrics
from fam_det.training import metrics
from fam_det.training.launch import exit_on_fault
from fam_det.training.metrics import MetricsWriter, ShortHistory, UnweightedLoss
from tests.training.small_training import every_second, trainer, with_checkpoints

from detectron2.utils.events import EventStorage, JSONWriter

FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="needs a device that is always full")


@needs_full
def test_a_disk_that_is_full_of_metrics_ends_in_a_line_and_keeps_the_checkpoint(
    tmp_path: Path,
) -> None:
    (tmp_path / "metrics.json").symlink_to(FULL)
    writer = MetricsWriter([JSONWriter(str(tmp_path / "metrics.json"))], str(tmp_path), period=3)
    run, _ = with_checkpoints(tmp_path, every_second(keep=0), lambda _: writer)
    line = r"metrics could not be written \(No space left.*kept: .*/model_0000001.pth; continue"
    with pytest.raises(SystemExit, match=line), exit_on_fault(str(tmp_path)):
        run.train(0, 10)


@needs_full
def test_a_disk_that_is_full_of_logs_does_not_stop_a_training(tmp_path: Path) -> None:
    log = logging.FileHandler(FULL)
    logging.getLogger("detectron2").addHandler(log)
    try:
        run = trainer(tmp_path, broken=(1,), max_non_finite=1)
        run.train(0, 4)
    finally:
        logging.getLogger("detectron2").removeHandler(log)
    assert run.iter == 4


def test_half_a_line_spoils_no_other(tmp_path: Path) -> None:
    file = tmp_path / "metrics.json"
    file.write_text('{"iteration": 0, "total_loss": 1.0}\n{"iterat')
    run = trainer(tmp_path)
    run.register_hooks([MetricsWriter([JSONWriter(str(file))], str(tmp_path), period=2)])
    run.train(1, 4)
    assert [line["iteration"] for line in read_metrics(file)] == [0, 1, 3]
    assert len(file.read_text().splitlines()) == 4
    assert json.loads(file.read_text().splitlines()[-1])["iteration"] == 3


def test_memory_holds_the_last_values_of_each_metric(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "HISTORY", 10)
    run = trainer(tmp_path)
    run.register_hooks([ShortHistory()])
    run.train(0, 25)
    values = run.storage.history("total_loss").values()
    assert [iteration for _, iteration in values] == list(range(15, 25))


def test_the_unweighted_loss_is_that_of_each_iteration() -> None:
    hook = UnweightedLoss()
    with EventStorage() as storage:
        hook.trainer = SimpleNamespace(storage=storage)
        for weight, loss in ((0.0, 0.0), (27.0, 108.0), (54.0, 162.0)):  # as the weight rises
            storage.put_scalars(**{"loss_distill": loss, "distiller/loss_weight": weight})
            hook.after_step()
            storage.step()
    assert [x for x, _ in storage.history("distiller/loss_unweighted").values()] == [4.0, 3.0]
