"""The checkpointer: whole files, and a way back when one is damaged."""

import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fam_det.files.checkpointer import SafeCheckpointer

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.layers import FrozenBatchNorm2d


def filled(value: float) -> nn.Linear:
    model = nn.Linear(3, 2)
    nn.init.constant_(model.weight, value)
    return model


def damage(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def test_plain_detectron2_reads_what_is_written(tmp_path: Path) -> None:
    SafeCheckpointer(filled(3.0), str(tmp_path)).save("model_0000004", iteration=4)
    assert sorted(x.name for x in tmp_path.iterdir()) == ["last_checkpoint", "model_0000004.pth"]
    read = filled(0.0)
    rest = DetectionCheckpointer(read, str(tmp_path)).resume_or_load("", resume=True)
    assert read.weight.eq(3.0).all()
    assert rest["iteration"] == 4


def test_a_damaged_last_checkpoint_falls_back_to_the_one_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for iteration in (1, 2, 3):
        SafeCheckpointer(filled(iteration), str(tmp_path)).save(f"model_000000{iteration}")
    damage(tmp_path / "model_0000003.pth")
    model = filled(0.0)
    SafeCheckpointer(model, str(tmp_path)).resume_or_load("", resume=True)
    assert model.weight.eq(2.0).all()
    assert "model_0000003.pth is damaged or gone: resuming from model_0000002.pth" in caplog.text
    for file in tmp_path.glob("*.pth"):
        damage(file)
    with pytest.raises(ValueError, match=r"model_0000003\.pth: damaged or gone, as are all older"):
        SafeCheckpointer(model, str(tmp_path)).resume_or_load("", resume=True)


class Unwritable(nn.Linear):
    """A model that stops in the middle of a checkpoint."""

    def state_dict(self, *args: object, **options: object) -> dict[str, object]:  # type: ignore[override]
        return {"weight": self.weight, "then": Interrupting()}


class Interrupting:
    def __reduce__(self) -> str:
        raise KeyboardInterrupt


def test_an_interrupted_save_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    SafeCheckpointer(filled(1.0), str(tmp_path)).save("model_final")
    before = {x.name: x.read_bytes() for x in tmp_path.iterdir()}
    with pytest.raises(KeyboardInterrupt):
        SafeCheckpointer(Unwritable(3, 2), str(tmp_path)).save("model_final")
    assert {x.name: x.read_bytes() for x in tmp_path.iterdir()} == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_named_and_what_was_there_is_kept(tmp_path: Path) -> None:
    SafeCheckpointer(filled(1.0), str(tmp_path)).save("model_final")
    checkpointer = SafeCheckpointer(filled(2.0), str(tmp_path))
    (tmp_path / f".model_final.pth.{os.getpid()}").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"model_final\.pth: could not be written"):
        checkpointer.save("model_final")
    model = filled(0.0)
    SafeCheckpointer(model, str(tmp_path)).resume_or_load("", resume=True)
    assert model.weight.eq(1.0).all()


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    left, other = tmp_path / f".model_final.pth.{ended.pid}", tmp_path / ".model_final.pth.old"
    of_our_number = tmp_path / f".model_final.pth.{os.getpid()}"  # as in a container
    running = tmp_path / f".model_final.pth.{os.getppid()}"
    for file in (left, other, of_our_number, running):
        file.touch()
    SafeCheckpointer(filled(0.0), str(tmp_path))
    assert sorted(tmp_path.iterdir()) == sorted([other, running])


def test_files_of_the_zoo_and_of_caffe2_are_read_as_detectron2_reads_them(tmp_path: Path) -> None:
    arrays = {"weight": np.full((2, 3), 5, np.float32), "bias": np.ones(2, np.float32)}
    contents = {
        "zoo": {"model": arrays, "__author__": "Detectron2 Model Zoo"},
        "caffe2": {"blobs": arrays | {"weight_momentum": np.zeros(1)}},
        "imagenet": arrays,
    }
    for name, content in contents.items():
        file = tmp_path / f"{name}.pkl"
        file.write_bytes(pickle.dumps(content))
        ours, theirs = filled(0.0), filled(0.0)
        SafeCheckpointer(ours).load(str(file))
        DetectionCheckpointer(theirs).load(str(file))
        for key, value in ours.state_dict().items():
            torch.testing.assert_close(value, theirs.state_dict()[key], rtol=0, atol=0)
        assert ours.weight.eq(5).all()


def test_counters_that_a_frozen_norm_has_not_are_not_listed_as_unused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    weights = nn.ModuleDict({"norm": nn.BatchNorm2d(2), "top": nn.Linear(2, 2)}).state_dict()
    torch.save({"model": weights}, tmp_path / "a.pth")
    SafeCheckpointer(nn.ModuleDict({"norm": FrozenBatchNorm2d(2)})).load(str(tmp_path / "a.pth"))
    assert "not used by the model" in caplog.text
    assert "top.{bias, weight}" in caplog.text
    assert "num_batches_tracked" not in caplog.text


def test_no_weights_are_nothing_to_load() -> None:
    for nothing in (None, ""):
        assert SafeCheckpointer(nn.Linear(1, 1)).resume_or_load(nothing, resume=False) == {}


def test_a_missing_file_and_an_unguarded_download_are_named() -> None:
    with pytest.raises(ValueError, match=r"gone\.pth: there is no such checkpoint"):
        SafeCheckpointer(filled(0.0)).load("gone.pth")
    for scheme in ("http", "ftp"):
        with pytest.raises(ValueError, match=rf"{scheme}://example\.com/a\.pth: refused"):
            SafeCheckpointer(filled(0.0)).load(f"{scheme}://example.com/a.pth")


def test_a_download_that_fails_names_where_the_file_can_be_put(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    url = "https://localhost:1/detectron2/R101/model.pkl"  # nothing listens there
    file = tmp_path / "detectron2" / "R101" / "model.pkl"
    with pytest.raises(ValueError, match=re.escape(f"put that file at {file}")) as caught:
        SafeCheckpointer(filled(0.0)).load(url)
    assert str(caught.value).startswith(f"{url}: cannot download it (")
    arrays = {"weight": np.full((2, 3), 5, np.float32), "bias": np.ones(2, np.float32)}
    file.write_bytes(pickle.dumps({"model": arrays, "__author__": "zoo"}))
    SafeCheckpointer(model := filled(0.0)).load(url)
    assert model.weight.eq(5).all()


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.pth"
    for weights in ({"other": torch.ones(1)}, {"weight": torch.ones(1), "bias": torch.ones(7)}):
        torch.save({"model": weights}, file)
        with pytest.raises(ValueError, match=r"a\.pth: has none of the model's weights"):
            SafeCheckpointer(filled(0.0)).load(str(file))
        frozen = nn.Sequential(FrozenBatchNorm2d(1))  # fills in statistics that are not there
        with pytest.raises(ValueError, match=r"a\.pth: has none of the model's weights"):
            SafeCheckpointer(frozen).load(str(file))
    torch.save({"model": {"weight": "text"}}, file)
    with pytest.raises(ValueError, match=r"a\.pth: holds a str for 'weight', expected weights"):
        SafeCheckpointer(filled(0.0)).load(str(file))


def test_weights_that_are_needed_may_not_be_missing_or_of_another_shape(tmp_path: Path) -> None:
    file = tmp_path / "a.pth"
    two = nn.ModuleDict({"body": nn.Linear(2, 2), "head": nn.Linear(2, 9)})
    torch.save({"model": two.state_dict()}, file)
    model = nn.ModuleDict({"body": nn.Linear(2, 2), "head": nn.Linear(2, 3)})
    SafeCheckpointer(model).load(str(file))  # to train on other classes
    SafeCheckpointer(model, needed=["body"]).load(str(file))
    torch.testing.assert_close(model["body"].weight, two["body"].weight)
    message = r"a\.pth: 2 weights are missing or of another shape, the first is head\.bias"
    with pytest.raises(ValueError, match=message):
        SafeCheckpointer(model, needed=["body", "head"]).load(str(file))
    with pytest.raises(ValueError, match="MODEL.WEIGHTS: got '', expected a checkpoint"):
        SafeCheckpointer(model, needed=["body"]).load("")


def test_a_run_is_not_resumed_with_another_model(tmp_path: Path) -> None:
    two = nn.ModuleDict({"body": nn.Linear(2, 2), "head": nn.Linear(2, 9)})
    SafeCheckpointer(two, str(tmp_path)).save("model_0000001")
    model = nn.ModuleDict({"body": nn.Linear(2, 2), "head": nn.Linear(2, 3)})
    with pytest.raises(ValueError, match="the first is head.bias; is it the checkpoint of this"):
        SafeCheckpointer(model, str(tmp_path)).resume_or_load("", resume=True)
