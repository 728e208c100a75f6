"""How a training that a fault has ended exits."""

from pathlib import Path

import pytest
import torch

from fam_det.training.launch import exit_on_fault


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to"), "lower SOLVER.IMS_PER_BATCH"),
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
