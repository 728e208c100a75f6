"""Reads runs: output folders of ``tools/train_net.py`` and ``tools/train_classifier.py``."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from fam_det.files import one_line
from fam_det.files.data_file import read_data_file
from fam_det.files.metrics_file import parse_metrics, read_metrics, training_seconds

# Scores by task, the main one first: key in metrics.json, title, decimal places.
SCORES = {
    "classification": {"accuracy/top1": ("top-1, %", 2), "accuracy/top5": ("top-5, %", 2)},
    "detection": {
        "bbox/AP": ("box AP", 1),
        "bbox/AP50": ("AP50", 1),
        "bbox/AP75": ("AP75", 1),
        "segm/AP": ("mask AP", 1),
    },
}
GAMMA_GLOBAL, GAMMA_LOCAL = "distiller/gamma_global_", "distiller/gamma_local_"
OLD_NAMES = {"loss_fam": "loss_distill"}  # keys in the metrics.json of earlier versions


@dataclass(frozen=True)
class Run:
    """The config and the logged metrics of a run."""

    folder: Path
    config: dict[str, Any]  # contents of config.yaml
    metrics: list[dict[str, float]]  # lines of metrics.json, ordered by iteration
    notes: list[str] = field(default_factory=list)  # warnings about the files, for the user
    data: Mapping[str, str] = field(default_factory=dict)  # digest or path by data set
    names: Mapping[str, str] = field(default_factory=dict)  # of data sets, see unify_names

    @property
    def task(self) -> str:
        """Returns ``classification`` or ``detection``."""
        return "classification" if "NAME" in self.config["DATASETS"] else "detection"

    @property
    def main_score(self) -> str:
        """Returns the key of the score by which methods are compared."""
        return next(iter(SCORES[self.task]))

    @property
    def max_iter(self) -> int:
        """Returns the number of iterations of the whole training."""
        return int(self.config["SOLVER"]["MAX_ITER"])

    @property
    def iterations(self) -> int:
        """Returns the number of done iterations, as far as they are logged."""
        return self._done(self.metrics[-1]) if self.metrics else 0

    @property
    def finished(self) -> bool:
        """Returns whether all iterations are done, or the training ended early."""
        if self.iterations >= self.max_iter or self.config["SOLVER"].get("PATIENCE", 0) <= 0:
            return self.iterations >= self.max_iter
        last = self.folder / "last_checkpoint"
        return last.is_file() and last.read_text().strip() == "model_final.pth"

    @property
    def seconds(self) -> float:
        """Returns the seconds of all iterations."""
        return training_seconds(self.metrics)

    def series(self, key: str) -> list[tuple[int, float]]:
        """Returns (iterations done, value) of each line with a number under the key."""
        lines = [line for line in self.metrics if not math.isnan(line.get(key, math.nan))]
        return [(self._done(line), line[key]) for line in lines]

    def stages(self) -> list[str]:
        """Returns the names of the stages with gammas, shallow to deep, ``pooled`` last."""
        keys = {key for line in self.metrics for key in line if key.startswith(GAMMA_GLOBAL)}
        names = [key.removeprefix(GAMMA_GLOBAL) for key in keys]
        return sorted(names, key=lambda name: (name == "pooled", len(name), name))

    def _done(self, line: dict[str, float]) -> int:
        # Detectron2 counts from 0, but writes the last evaluation as MAX_ITER.
        return min(int(line["iteration"]) + 1, self.max_iter)


def read_run(folder: Path) -> Run:
    """Reads an output folder.

    With several test sets Detectron2 prefixes keys with their names; the first one's scores count.

    Raises:
        ValueError: a file is missing or invalid; the message names it.
    """
    config = read_config(folder / "config.yaml")
    file = folder / "metrics.json"
    if not file.exists():
        raise ValueError(f"{file}: not there; the run has logged nothing yet")
    notes = [
        f"{file}: line {number} is not whole, as of a stopped run; skipped"
        for number, line in parse_metrics(file)
        if line is None
    ]
    prefix = f"{next(iter(config['DATASETS'].get('TEST') or ()), '')}/"
    metrics = [
        {OLD_NAMES.get(key, key.removeprefix(prefix)): value for key, value in line.items()}
        for line in read_metrics(file)
    ]
    for line, task in product(metrics, ("bbox", "segm", "keypoints")):
        # Without detections every AP is NaN. Leaving such runs out would raise the mean.
        if math.isnan(line.get(f"{task}/AP", 0.0)):
            line |= {key: 0.0 for key in line if key.startswith(f"{task}/AP")}
    return Run(folder, config, metrics, notes, read_data(folder, config["DATASETS"]))


def read_data(folder: Path, node: Mapping[str, Any]) -> Mapping[str, str]:
    """Returns a digest or path of each data set, to tell contents apart, by name."""
    if "NAME" not in node:
        return read_data_file(folder, node.get("COCO", []))
    root = str(Path(node.get("ROOT", "")).resolve())
    if node["NAME"] == "folder":
        return {Path(root).name: root}
    return {node["NAME"]: root if node["NAME"] == "imagenet" else ""}  # others cannot differ


def read_config(file: Path) -> dict[str, Any]:
    """Reads the ``config.yaml`` of a training; a ValueError names a missing or invalid one."""
    if not file.exists():
        tools = "tools/train_net.py or tools/train_classifier.py"
        raise ValueError(f"{file}: not there; expected an output folder of {tools}")
    try:
        config = yaml.safe_load(file.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: {one_line(error)}") from error
    missing = {"DATASETS", "MODEL", "SOLVER"} - set(config if isinstance(config, dict) else ())
    if missing:
        raise ValueError(f"{file}: has no {sorted(missing)}; expected the config of a training")
    return dict(config)


def flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns the values of a config by their full keys, such as ``SOLVER.BASE_LR``."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        flat |= flatten(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return flat
