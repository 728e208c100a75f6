"""Python that runs each file of a deployed classifier, for ``deploy.md``."""

from collections.abc import Collection

from classification.data.loader import evaluation_resize

from detectron2.config import CfgNode

IMAGE = """import json
import numpy as np
from PIL import Image{ops}

image = Image.open("image.jpg").convert("RGB")
{resize}
images = np.asarray(image, dtype=np.float32).transpose(2, 0, 1)[None]  # (N, 3, S, S), 0 to 255
"""
FIT = "image = ImageOps.fit(image, ({size}, {size}), Image.Resampling.BILINEAR)"
CROP = """size = [int({shorter} * side / min(image.size)) for side in image.size]
image = image.resize(size, Image.Resampling.BILINEAR)
left, top = [round((side - {size}) / 2) for side in size]
image = image.crop((left, top, left + {size}, top + {size}))"""
PYTORCH = """import torch
from classification.models import build_model

mean, std = (255 * torch.tensor(x)[:, None, None] for x in ({mean}, {std}))
model = build_model("{name}", {classes}, weights="model.pth").eval()
logits = model((torch.from_numpy(images) - mean) / std)[0].detach().numpy()
"""
TORCHSCRIPT = """import torch

logits = torch.jit.load("model.ts")(torch.from_numpy(images))[0].detach().numpy()
"""
ONNX = """import onnxruntime

session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
(logits,) = session.run(["logits"], {"images": images})[0]
"""
CLASSES = """classes = [x["name"] for x in json.load(open("deploy.json"))["categories"]]
scores = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
print(classes[scores.argmax()] if classes else scores.argmax(), scores.max())
"""


def usage(files: Collection[str], cfg: CfgNode) -> str:
    """Returns sections of Markdown with the code for each file."""
    size = cfg.INPUT.SIZE
    is_cropped = cfg.DATASETS.NAME == "imagenet"
    resize = (CROP if is_cropped else FIT).format(size=size, shorter=evaluation_resize(size))
    image = IMAGE.format(ops="" if is_cropped else ", ImageOps", resize=resize)
    pytorch = PYTORCH.format(
        mean=list(cfg.INPUT.PIXEL_MEAN),
        std=list(cfg.INPUT.PIXEL_STD),
        name=cfg.MODEL.STUDENT.NAME,
        classes=cfg.MODEL.NUM_CLASSES,
    )
    codes = {
        "model.pth": ("PyTorch", pytorch),
        "model.ts": ("TorchScript", TORCHSCRIPT),
        "model.onnx": ("ONNX", ONNX),
    }
    return "\n".join(
        f"## {title}\n\n```python\n{image}\n{code}{CLASSES}```\n"
        for file, (title, code) in codes.items()
        if file in files
    )
