"""When checkpoints are written, and how many of them stay."""

from pathlib import Path

from fam_det.files.checkpointer import SafeCheckpointer
from fam_det.training.evaluation import at_iteration

from detectron2.engine import hooks


class BoundedCheckpointer(hooks.PeriodicCheckpointer):
    """Detectron2's hook; a resumed run counts the checkpoints from before as well.

    Args:
        checkpointer: what writes them.
        period: iterations between two.
        keep: how many stay, beside the final one; 0 for all.
    """

    def __init__(self, checkpointer: SafeCheckpointer, period: int, keep: int) -> None:
        super().__init__(checkpointer, period, max_to_keep=keep or None)

    def before_train(self) -> None:
        """Find what the run has written so far; do what a kill has kept it from doing."""
        super().before_train()
        folder, first = Path(self.checkpointer.save_dir), self.trainer.start_iter
        written = sorted(folder.glob(f"{self.file_prefix}_[0-9]*.pth"))
        numbers = [int(file.stem.removeprefix(f"{self.file_prefix}_")) for file in written]
        before = [file for file, number in zip(written, numbers, strict=True) if number < first]
        if self.max_to_keep is not None:
            for file in before[: -self.max_to_keep]:
                file.unlink()
            before = before[-self.max_to_keep :]
        self.recent_checkpoints = [str(file) for file in before]
        if first >= self.max_iter and not (folder / f"{self.file_prefix}_final.pth").exists():
            with at_iteration(self.trainer, first - 1):  # what the checkpoint's state will say
                self.checkpointer.save(f"{self.file_prefix}_final", iteration=first - 1)
