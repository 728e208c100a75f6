"""The detection demo: its trainings, on scenes of handwritten digits."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tools.demo.pipeline import Demo, Stage
from tools.demo.scenes import RECORD_FILE, SceneParams, build_dataset, discard, split_paths

TEACHER = Stage("teacher", "teacher", 1.0)
BASELINE = Stage("student_baseline", "student alone", 0.65)
FAM = Stage("student_fam", "student with FAM", 1.1, teacher=TEACHER)


@dataclass
class DetectionDemo(Demo):
    """Runs of ``tools/train_net.py``.

    Args:
        params: of the data set.
    """

    params: SceneParams = field(default_factory=SceneParams)

    stages = (TEACHER, BASELINE, FAM)
    tool = "train_net.py"
    configs = "Demo"
    scores = {  # noqa: RUF012
        name: f"bbox/{name}" for name in ("AP", "AP50", "AP75", "APs", "APm", "APl")
    }

    @property
    def data(self) -> Path:
        """Folder of the data set."""
        return self.output / "data"

    def prepare(self) -> None:
        """Build the data set.

        Raises:
            FileExistsError: something else lies in its place.
        """
        build_dataset(self.data, self.params)

    def remove_prepared(self) -> None:
        """Remove the data set.

        Raises:
            FileExistsError: something else lies in its place.
        """
        discard(self.data, RECORD_FILE)

    def ingredients(self) -> list[Any]:
        """What the data set is made of."""
        return [asdict(self.params)]

    def options(self, stage: Stage) -> list[str]:
        """The scenes, and where the teacher lies."""
        coco = [
            [f"digits_{split}", *map(str, split_paths(self.data, split))]
            for split in ("train", "val")
        ]
        options = ["DATASETS.COCO", str(coco)]
        if stage.teacher:
            teacher = self.folder(stage.teacher)
            options += ["MODEL.TEACHER.CONFIG", str(teacher / "config.yaml")]
            options += ["MODEL.TEACHER.WEIGHTS", str(teacher / "model_final.pth")]
        return options
