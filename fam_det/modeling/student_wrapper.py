"""A student with a teacher that is in no checkpoint, optimiser or gradient bucket."""

from collections.abc import Callable
from typing import Any, TypeVar

from torch import Tensor, nn

Wrapper = TypeVar("Wrapper", bound="StudentWrapper")


class StudentWrapper(nn.Module):
    """Base of what trains a student beside a frozen teacher.

    The wrapper has the student's parameters, buffers and submodules under the student's names, and
    those that a subclass adds. So its checkpoint is a checkpoint of the student with extra keys.
    The teacher is no submodule: it is in no state dict, no optimiser and no DDP bucket, and it
    never trains.

    Args:
        student: the network to train.
        teacher: the network to learn from, or None; it is moved along with the student.
    """

    student: nn.Module
    teacher: nn.Module | None

    def __init__(self, student: nn.Module, teacher: nn.Module | None) -> None:
        super().__init__()
        # Both share one set of dictionaries: what is moved, replaced or added later in one is so in
        # the other.
        self._parameters = student._parameters
        self._buffers = student._buffers
        self._non_persistent_buffers_set = student._non_persistent_buffers_set
        self._modules = student._modules
        # nn.Module.__setattr__ would register them as submodules.
        object.__setattr__(self, "student", student)
        object.__setattr__(self, "teacher", teacher)

    def __getattr__(self, name: str) -> Any:
        """Falls back to the student for what the wrapper lacks (``inference``, ``device``, ...)."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if "student" not in self.__dict__:
                raise
            return getattr(self.student, name)

    def train(self: Wrapper, mode: bool = True) -> Wrapper:
        """Switches the student and added modules; the teacher stays in eval mode."""
        super().train(mode)
        self.student.training = mode
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "StudentWrapper":
        """Moves the teacher along with the student."""
        if self.teacher is not None:
            self.teacher._apply(fn, recurse)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self
