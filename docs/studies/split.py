"""Split the training images of a data set in two halves, and a tenth of the labels of both.

python split.py DATA OUTPUT: DATA has annotations/train.json, val.json and images. Writes first.json
(the teacher's), second.json, tenth.json, rest.json and the folders of images first, second, rest.
"""

import json
import random
import shutil
import sys
from pathlib import Path

data, output = map(Path, sys.argv[1:])


def write(name: str, content: dict, part: list) -> None:
    """Writes a data set of some of the images."""
    ids = {x["id"] for x in part}
    own = [x for x in content["annotations"] if x["image_id"] in ids]
    (output / f"{name}.json").write_text(json.dumps(content | {"images": part, "annotations": own}))
    print(name, len(part), len(own))


content = json.loads((data / "annotations/train.json").read_text())
images = sorted(content["images"], key=lambda x: x["file_name"])
random.Random(0).shuffle(images)
half = len(images) // 2
parts = {
    "first": images[:half],
    "second": images[half:],
    "tenth": images[: len(images) // 10],
    "rest": images[len(images) // 10 :],
}
output.mkdir(parents=True, exist_ok=True)
for name, part in parts.items():
    write(name, content, part)
    (output / name).mkdir(exist_ok=True)
    for image in part:
        shutil.copy(data / "images" / image["file_name"], output / name)
