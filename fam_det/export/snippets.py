"""Python code that runs each deployed file, for ``deploy.md``, without this package's tools."""

from collections.abc import Collection

DETECTRON2 = """{first}import cv2
from detectron2.config import get_cfg
from detectron2.engine import DefaultPredictor

cfg = get_cfg()
{keys}cfg.merge_from_file("config.yaml")
cfg.MODEL.WEIGHTS = "model.pth"
cfg.MODEL.DEVICE = "cpu"  # or "cuda"
print(DefaultPredictor(cfg)(cv2.imread("image.jpg"))["instances"])
"""
# Added if the student's backbone is this package's.
PACKAGE = """import fam_det.modeling  # first: it registers the backbone
from fam_det.config import add_distillation_config
"""
KEYS = "add_distillation_config(cfg)\n"
IMAGE = """import numpy as np
from PIL import Image, ImageOps

image = ImageOps.exif_transpose(Image.open("image.jpg")).convert("RGB")
scale = {scale}  # INPUT.MIN_SIZE_TEST, MAX_SIZE_TEST
image = image.resize([round(side * scale) for side in image.size], Image.Resampling.BILINEAR)
pixels = np.asarray(image, dtype=np.float32).transpose(2, 0, 1){flip}  # (3, H, W), {order}
"""
ONNX = """import json

import onnxruntime

session = onnxruntime.InferenceSession("{file}", providers=["CPUExecutionProvider"])
outputs = "pred_boxes", "pred_classes", "scores"
boxes, classes, scores = session.run(outputs, {{"image": pixels}})
"""
TORCHSCRIPT = """import json

import torch
import torchvision  # its operators

detect = torch.jit.load("model.ts")
boxes, classes, *_, scores = detect(torch.from_numpy(pixels.copy()))
"""
OBJECTS = """categories = json.load(open("deploy.json"))["categories"]  # none if not known
names = dict(enumerate(x["name"] for x in categories))
for box, index, score in zip(boxes / scale, map(int, classes), scores):
    print(names.get(index, index), float(score), box.tolist())
"""
FILES = {
    "model.onnx": ("ONNX", ONNX.format(file="model.onnx")),
    "model_int8.onnx": ("ONNX, int8", ONNX.format(file="model_int8.onnx")),
    "model.ts": ("TorchScript", TORCHSCRIPT),
}


def usage(
    files: Collection[str], sizes: tuple[int, int], order: str, *, needs_package: bool
) -> str:
    """Returns sections of Markdown with the code for each file.

    ``needs_package`` says that the student's backbone is this package's.
    """
    shortest, longest = sizes  # INPUT.MIN_SIZE_TEST, 0 for no resizing, and INPUT.MAX_SIZE_TEST
    scale = f"min({shortest} / min(image.size), {longest} / max(image.size))" if shortest else "1.0"
    flip = "[::-1]" if order == "BGR" else ""
    image = IMAGE.format(scale=scale, flip=flip, order=order)
    first, keys = (PACKAGE, KEYS) if needs_package else ("", "")
    codes = {"Detectron2": DETECTRON2.format(first=first, keys=keys)}
    codes |= {
        title: image + code + OBJECTS for file, (title, code) in FILES.items() if file in files
    }
    return "\n".join(f"## {title}\n\n```python\n{code}```\n" for title, code in codes.items())
