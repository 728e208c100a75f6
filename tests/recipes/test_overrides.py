"""The YAML of a config: short, commented, and the same config when it is read."""

import math
from pathlib import Path

import pytest

from fam_det.config import default_config
from fam_det.recipes.overrides import Override, build_config, to_yaml

VALUES = {
    "MODEL.WEIGHTS": "",
    "MODEL.DEVICE": "cpu",
    "MODEL.PIXEL_STD": [1.5, 1e-5, 2.0],
    "MODEL.ANCHOR_GENERATOR.SIZES": [[math.pi], [64.0, 1 / 3]],
    "MODEL.RETINANET.NUM_CLASSES": 3,
    "DATASETS.TRAIN": ["a: b", "c#d"],
    "DATASETS.COCO": [["a: b", "it's here/all.json", "über " + 60 * "long "]],
    "SOLVER.STEPS": [],
    "SOLVER.CLIP_GRADIENTS.ENABLED": True,
    "INPUT.MIN_SIZE_TRAIN": [64],
}


def test_file_that_is_read_is_the_same_config(tmp_path: Path) -> None:
    cfg = build_config({key: Override(value) for key, value in VALUES.items()}, [])
    file = tmp_path / "all.yaml"
    file.write_text(to_yaml(cfg, {"MODEL.DEVICE": "two\nlines # and more"}))
    from_file = default_config()
    from_file.merge_from_file(str(file))
    assert from_file == cfg


def test_text_has_what_differs_with_its_reason() -> None:
    cfg = build_config(
        {
            "MODEL.FPN.NORM": Override("GN"),
            "MODEL.FPN.OUT_CHANNELS": Override(64),
            "MODEL.DEVICE": Override("cpu"),
        },
        ["SEED", "1"],
    )
    assert to_yaml(cfg, {"MODEL.FPN.NORM": "why", "SEED": ""}).splitlines() == [
        "MODEL:",
        "  DEVICE: cpu",
        "  FPN:",
        "    OUT_CHANNELS: 64",
        "    NORM: GN  # why",
        "SEED: 1",
        "VERSION: 2",
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["SEED"], "got 'SEED' at the end, expected pairs of KEY VALUE"),
        (["MODEL.NO", "1"], "KEY VALUE pairs: MODEL.NO: unknown key"),
        (["SEED", "one"], "KEY VALUE pairs: SEED: got .one., expected int"),
    ],
)
def test_wrong_options_are_one_line(options: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_config({}, options)
