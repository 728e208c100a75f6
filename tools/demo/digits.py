"""The classification demo: its trainings, on handwritten digits."""

from classification.engine import load_config
from tools.demo.pipeline import Demo, Stage

from detectron2.config import CfgNode

TEACHER = Stage("teacher", "teacher", 1.0)
BASELINE = Stage("student_baseline", "student alone", 0.35, config="student")
FAM_KD = Stage("student_fam_kd", "student with FAM-KD", 1.3, config="fam_kd", teacher=TEACHER)


class DigitsDemo(Demo):
    """Runs of ``tools/train_classifier.py``."""

    stages = (TEACHER, BASELINE, FAM_KD)
    tool = "train_classifier.py"
    configs = "Digits"
    scores = {"top-1": "accuracy/top1", "top-5": "accuracy/top5"}  # noqa: RUF012

    def options(self, stage: Stage) -> list[str]:
        """Where the teacher's weights lie."""
        if stage.teacher is None:
            return []
        return ["MODEL.TEACHER.WEIGHTS", str(self.folder(stage.teacher) / "model_final.pth")]

    def cfg(self, stage: Stage, *opts: str) -> CfgNode:
        """The config that a stage is trained with, and KEY VALUE changes.

        Raises:
            ValueError: an unknown key or an impossible value.
        """
        try:
            return load_config(str(self.config(stage)), [*self.opts, *opts])
        except (AssertionError, KeyError) as error:  # an unknown key is yacs's AssertionError
            raise ValueError(f"KEY VALUE: {error}") from error

    def max_iter(self, stage: Stage) -> int:
        """Iterations of a stage, also where its schedule is given in epochs.

        Raises:
            ValueError: an unknown key or an impossible value among `opts`.
        """
        return int(self.cfg(stage).SOLVER.MAX_ITER)
