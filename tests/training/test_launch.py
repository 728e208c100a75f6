"""How a training that a fault has ended exits."""

from pathlib import Path

import pytest
import torch

from fam_det.training.launch import exit_on_fault


def test_an_assertion_ends_in_a_line_and_keeps_its_traceback(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In an evaluation here; that of a training Detectron2 logs."""
    with pytest.raises(SystemExit, match=r"^AssertionError \(.*\.py:\d+: raise AssertionError; "):
        with exit_on_fault(None):
            raise AssertionError
    assert "Traceback (most recent call last)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to"), "lower SOLVER.IMS_PER_BATCH"),
        (
            AssertionError("class=7, but there are 3"),
            "^class=7, but there are 3 .*traceback is in .*log.txt",
        ),
        (OSError(28, "No space left on device"), "No space left on device"),
        (
            ValueError("Caught ValueError in worker 0.\nTraceback\nValueError: a.png: no"),
            "^ValueErr",
        ),
    ],
)
def test_a_fault_ends_in_a_line_that_says_what_is_kept(
    error: Exception, line: str, tmp_path: Path
) -> None:
    with pytest.raises(SystemExit, match=f"{line}.*; no checkpoint was written yet"):
        with exit_on_fault(str(tmp_path)):
            raise error
    (tmp_path / "last_checkpoint").write_text("model_0000003.pth")
    with pytest.raises(SystemExit, match=f"{line}.*kept: .*/model_0000003.pth; continue with"):
        with exit_on_fault(str(tmp_path)):
            raise error
