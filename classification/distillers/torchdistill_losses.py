"""torchdistill's losses as modules of two tensors; the package is imported when one is built.

Its losses read outputs of modules by their paths. Here the only path is ``features``, which has the
tensor to compare.
"""

from types import ModuleType
from typing import Any

from torch import Tensor, nn

# The path in the three forms of torchdistill's arguments.
PATH = "features"
MODULES = {
    "student_module_path": PATH,
    "student_module_io": "output",
    "teacher_module_path": PATH,
    "teacher_module_io": "output",
}
OUTPUTS = {"student_output_path": PATH, "teacher_output_path": PATH}
PAIR = {role: {"path": PATH, "io": "output"} for role in ("student", "teacher")}


class TorchdistillLoss(nn.Module):
    """The loss of this name in ``torchdistill.losses.mid_level``, with its options."""

    def __init__(self, name: str, **options: Any) -> None:
        super().__init__()
        self.loss = getattr(import_losses(), name)(**options)

    def forward(self, student: Any, teacher: Tensor) -> Tensor:
        """Returns the loss of the student's tensor (VID: a pair of them) beside the teacher's."""
        return self.loss({PATH: {"output": student}}, {PATH: {"output": teacher}})


def import_losses() -> ModuleType:
    """Imports ``torchdistill.losses.mid_level``."""
    try:
        from torchdistill.losses import mid_level
    except ModuleNotFoundError as error:
        raise ImportError(
            "MODEL.DISTILLER.NAME: this method takes its loss from torchdistill, which is missing: "
            "pip install torchdistill"
        ) from error
    return mid_level
