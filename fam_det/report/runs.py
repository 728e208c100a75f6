"""A run's output folder, read: its config, its metrics and what its checkpoint holds."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from fam_det.metrics_file import read_metrics

# Main score of an evaluation, in the order of preference, and its name.
SCORES = {"accuracy/top1": "top-1", "bbox/AP": "box AP", "segm/AP": "mask AP"}
BUFFERS = ("running_mean", "running_var", "num_batches_tracked")
# Keys that may differ between the seeds of one experiment.
OWN_KEYS = {"SEED", "OUTPUT_DIR"}
METHODS = {
    ("cross_attention", "fam"): "FAM-KD",
    ("abf", "fam"): "FAM + ReviewKD",
    ("abf", "conv3x3"): "ReviewKD",
}


@dataclass(frozen=True)
class Run:
    """An output folder of ``tools/train_net.py`` or ``tools/train_classifier.py``.

    Attributes:
        folder: of the run.
        config: what its ``config.yaml`` says.
        metrics: the lines of its ``metrics.json``.
    """

    folder: Path
    config: dict[str, Any]
    metrics: list[dict[str, float]]

    @property
    def is_classifier(self) -> bool:
        """Whether it is a run of ``tools/train_classifier.py``."""
        return "META_ARCHITECTURE" not in self.config["MODEL"]

    @property
    def pair(self) -> str:
        """Teacher and student, or the student alone."""
        return f"{self.teacher} → {self.student}" if self.distilled else self.student

    @property
    def student(self) -> str:
        """Name of the student."""
        model = self.config["MODEL"]
        if self.is_classifier:
            return str(model["STUDENT"]["NAME"])
        backbone = str(model["BACKBONE"]["NAME"]).removeprefix("build_").removesuffix("_backbone")
        name = (model["STUDENT"] if self.distilled else model)["META_ARCHITECTURE"]
        return f"{name} {backbone}"

    @property
    def teacher(self) -> str:
        """Name of the teacher."""
        node = self.config["MODEL"]["TEACHER"]
        if self.is_classifier:
            return str(node["NAME"])
        config = Path(node["CONFIG"])
        return config.parent.name if config.stem == "config" else config.stem

    @property
    def distilled(self) -> bool:
        """Whether it has a distiller."""
        model = self.config["MODEL"]
        if self.is_classifier:
            return bool(model["DISTILLER"]["NAME"])
        return bool(model["META_ARCHITECTURE"] == "DistilledDetector")

    @property
    def method(self) -> str:
        """Name of the method, as the papers call it; ``alone`` without a distiller."""
        if not self.distilled:
            return "alone"
        node = self.config["MODEL"]["DISTILLER"]
        if node["NAME"] == "LayerToLayerDistiller":
            return "layer-to-layer FAM"
        if node["NAME"] == "KnowledgeReviewDistiller":
            parts = (node["FUSION"], node["TRANSFORM"])
            return METHODS.get(parts, " + ".join(parts))
        return str(node["NAME"])

    @property
    def data_set(self) -> str:
        """Name of what it is evaluated on."""
        node = self.config["DATASETS"]
        return str(node["NAME"]) if self.is_classifier else ", ".join(node["TEST"])

    def same_experiment(self, other: "Run") -> bool:
        """Whether two runs differ in nothing but their seed, as far as both know a key.

        A run of an earlier version lacks the keys that were added since.
        """
        mine, theirs = flatten(self.config), flatten(other.config)
        return all(mine[key] == theirs[key] for key in mine.keys() & theirs.keys() - OWN_KEYS)

    @property
    def score_key(self) -> str | None:
        """Key of the main score in the metrics, None before the first evaluation."""
        return next((key for key in SCORES if any(key in line for line in self.metrics)), None)

    @property
    def curve(self) -> list[tuple[int, float]]:
        """(iterations done, main score) of each evaluation."""
        key, last = self.score_key, int(self.config["SOLVER"]["MAX_ITER"])
        # Detectron2 counts from 0, except in the line of the evaluation after the last iteration.
        return [
            (min(int(line["iteration"]) + 1, last), line[key])
            for line in self.metrics
            if key is not None and key in line
        ]

    @property
    def score(self) -> float | None:
        """Main score of the last evaluation, in percent."""
        return self.curve[-1][1] if self.curve else None

    @property
    def seconds(self) -> float:
        """Time of all iterations: each line has the median one since the line before."""
        seconds, done = 0.0, -1.0
        for line in self.metrics:
            if "time" in line:
                seconds += (line["iteration"] - done) * line["time"]
                done = line["iteration"]
        return seconds

    def gammas(self) -> dict[str, list[tuple[int, float, float]]]:
        """(iteration, gamma1, gamma2) over time of each stage, shallow to deep."""
        prefix = "distiller/gamma_global_"
        stages = {
            key.removeprefix(prefix) for line in self.metrics for key in line if prefix in key
        }
        return {
            stage: [
                (
                    int(line["iteration"]),
                    line[f"{prefix}{stage}"],
                    line[f"distiller/gamma_local_{stage}"],
                )
                for line in self.metrics
                if f"{prefix}{stage}" in line
            ]
            for stage in sorted(stages, key=lambda stage: (stage == "pooled", stage))
        }

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        """The model of the last checkpoint, empty before the first."""
        file = last_checkpoint(self.folder)
        if file is None:
            return {}
        loaded = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        weights: dict[str, Tensor] = loaded["model"]
        return weights

    def count_parameters(self, *, distiller: bool) -> int | None:
        """Real numbers that are trained, of the student or of the distiller."""
        if not self.weights:
            return None
        return sum(
            tensor.numel()
            for name, tensor in self.weights.items()
            if name.startswith("distiller.") == distiller and not name.endswith(BUFFERS)
        )


def read_run(folder: Path) -> Run:
    """Read an output folder.

    Raises:
        ValueError: a file that is missing or not as a training writes it; the message names it.
    """
    file = folder / "config.yaml"
    if not file.exists():
        raise ValueError(f"{file}: not there; expected the output folder of a training")
    try:
        config = yaml.safe_load(file.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{file}: {error}") from error
    if not isinstance(config, dict) or not {"MODEL", "SOLVER"} <= set(config):
        raise ValueError(
            f"{file}: has no MODEL and SOLVER; expected a config that a training wrote"
        )
    metrics = read_metrics(folder / "metrics.json")
    if not metrics:
        raise ValueError(f"{folder / 'metrics.json'}: not there or empty; nothing to report yet")
    return Run(folder, config, metrics)


def last_checkpoint(folder: Path) -> Path | None:
    """The final checkpoint of a run, or its newest."""
    final = folder / "model_final.pth"
    if final.exists():
        return final
    numbered = sorted(folder.glob("model_[0-9]*.pth"))
    return numbered[-1] if numbered else None


def flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of a config by their full keys, such as ``SOLVER.BASE_LR``."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        flat |= flatten(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return flat
