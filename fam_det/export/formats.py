"""Exports a detector to TorchScript and ONNX, through ``detectron2.export``.

Every exported detector takes an image (3, H, W) of any size, in the order of ``INPUT.FORMAT``, with
float32 pixels of 0 to 255, and returns detections by name:

- ``pred_boxes``: (N, 4), xyxy in pixels of that image;
- ``scores``: (N,), the highest first;
- ``pred_classes``: (N,), indices from 0;
- ``pred_masks``: (N, 1, h, w) in [0, 1], within the boxes, of a Mask R-CNN.
"""

import importlib
import importlib.util
import tempfile
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fam_det.export.compare import Runner, compare, compare_loosely
from fam_det.export.detectron2_export import TracingAdapter, scripting_with_instances
from fam_det.export.int8 import quantise
from fam_det.export.one_image import one_image

from detectron2.modeling import GeneralizedRCNN
from detectron2.structures import Boxes

OPSET = 17  # ROIAlign is as Detectron2's from 16 on
# All fields of Instances that detectors set: scripting needs their types.
FIELDS = {
    "proposal_boxes": Boxes,
    "objectness_logits": Tensor,
    "pred_boxes": Boxes,
    "scores": Tensor,
    "pred_classes": Tensor,
    "pred_masks": Tensor,
    "pred_keypoints": Tensor,
    "pred_keypoint_heatmaps": Tensor,
}


class Format(NamedTuple):
    """A file format."""

    title: str
    file: str
    # Exports a network, traced with an image, to a file, calibrated on images; returns its runner.
    write: Callable[[nn.Module, Tensor, Path, Iterable[Tensor]], Runner]
    packages: tuple[str, ...] = ()  # to install
    compare: Callable[[Runner, Runner, Tensor], Any] = compare

    def export(
        self, network: nn.Module, image: Tensor, file: Path, calibration: Iterable[Tensor] = ()
    ) -> Runner:
        """Writes a network, traced with an image, to a file; returns a runner of the file.

        An 8-bit format measures the ranges of activations on the images of ``calibration``. Hides
        the warnings of tracing: the outputs are compared instead.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return self.write(network, image, file, calibration)


@torch.no_grad()
def detect(detector: Any, image: Tensor) -> dict[str, Tensor]:
    """Returns the detections in one image, in the form of an exported detector."""
    if isinstance(detector, GeneralizedRCNN):
        # Does not paste masks into the image, as in Detectron2's export.
        instances = detector.inference([{"image": image}], do_postprocess=False)[0]
    else:
        outputs = detector([{"image": image}])[0]
        if "instances" not in outputs:
            raise TypeError(f"its outputs are {sorted(outputs)}, expected 'instances'")
        instances = outputs["instances"]
    fields = instances.get_fields()
    return {name: getattr(fields[name], "tensor", fields[name]) for name in sorted(fields)}


def _trace(detector: nn.Module, image: Tensor, file: Path, _: Any) -> Runner:
    """Writes a module that takes an image, and returns tensors in the order of their names."""
    adapter: Any = TracingAdapter(detector, image, detect).eval()
    torch.jit.trace(adapter, (image,), check_trace=False).save(str(file))
    loaded = torch.jit.load(str(file))
    names = adapter.outputs_schema.keys
    return lambda x: dict(zip(names, loaded(x), strict=True))


def _script(detector: nn.Module, image: Tensor, file: Path, _: Any) -> Runner:
    """Writes a module that takes ``[{"image": image}, ...]``, and returns a dict for each image."""
    adapter = _RCNNAdapter if isinstance(detector, GeneralizedRCNN) else _DenseAdapter
    scripting_with_instances(adapter(detector).eval(), FIELDS).save(str(file))
    loaded = torch.jit.load(str(file))
    return lambda x: loaded([{"image": x}])[0]


class _RCNNAdapter(nn.Module):
    """Returns dicts: the class of scripted Instances does not exist in another process."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: list[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
        instances = self.model.inference(inputs, do_postprocess=False)  # type: ignore[operator]
        return [x.get_fields() for x in instances]


class _DenseAdapter(_RCNNAdapter):
    """The same for dense detectors, which have no masks to paste."""

    def forward(self, inputs: list[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
        return [x.get_fields() for x in self.model(inputs)]


def _write_onnx(detector: nn.Module, image: Tensor, file: Path, _: Any) -> Runner:
    """Writes a graph with the input ``image`` and outputs by name."""
    adapter: Any = TracingAdapter(detector, image, detect).eval()
    adapter(image)  # sets the names of the outputs
    names = adapter.outputs_schema.keys
    axes = {"image": {1: "height", 2: "width"}} | {name: {0: "detections"} for name in names}
    with one_image(detector):
        return export_onnx(adapter, image, file, axes)


def export_onnx(
    model: nn.Module, image: Tensor, file: Path, axes: Mapping[str, Mapping[int, str]]
) -> Runner:
    """Writes a graph with dynamic ``axes``, by the names of its input and then of its outputs.

    PyTorch's newer exporter (``dynamo=True``) refuses shapes that depend on the image's content,
    which Detectron2 has from the padding on.
    """
    name, *outputs = axes
    torch.onnx.export(
        model,
        (image,),
        str(file),
        dynamo=False,
        opset_version=OPSET,
        input_names=[name],
        output_names=outputs,
        dynamic_axes=axes,
    )
    return open_onnx(file)


def _write_int8(
    detector: nn.Module, image: Tensor, file: Path, calibration: Iterable[Tensor]
) -> Runner:
    """Writes the graph of ``_write_onnx`` in 8 bits."""
    with tempfile.TemporaryDirectory() as folder:
        float_file = Path(folder) / "model.onnx"
        _write_onnx(detector, image, float_file, None)
        quantise(float_file, file, calibration)
    return open_onnx(file)


def open_onnx(file: Path) -> Runner:
    """Returns a runner of an exported ONNX file on the CPU."""
    return run_session(open_session(file, "CPUExecutionProvider"))


def open_session(file: Path, provider: str) -> Any:
    """Opens an ONNX file in onnxruntime, in as many threads as PyTorch."""
    onnxruntime: Any = importlib.import_module("onnxruntime")  # optional
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors
    return onnxruntime.InferenceSession(str(file), options, providers=[provider])


def run_session(session: Any) -> Runner:
    """Returns a runner of an onnxruntime session."""
    names = [output.name for output in session.get_outputs()]
    (image,) = [x.name for x in session.get_inputs()]

    def run(x: Tensor) -> dict[str, Tensor]:
        outputs = session.run(names, {image: x.numpy()})
        return {name: torch.from_numpy(y) for name, y in zip(names, outputs, strict=True)}

    return run


def write_metadata(file: Path, **texts: str) -> None:
    """Adds texts to the metadata of an ONNX file, which a session's ``get_modelmeta`` returns."""
    onnx: Any = importlib.import_module("onnx")
    model = onnx.load(str(file))
    onnx.helper.set_model_props(model, texts)
    onnx.save(model, str(file))


ONNX_PACKAGES = ("onnx", "onnxruntime")
FORMATS = {
    "torchscript": Format("TorchScript, traced", "model.ts", _trace),
    "scripted": Format("TorchScript, scripted", "model_scripted.ts", _script),
    "onnx": Format("ONNX", "model.onnx", _write_onnx, ONNX_PACKAGES),
    "onnx-int8": Format(
        "ONNX, int8", "model_int8.onnx", _write_int8, ONNX_PACKAGES, compare_loosely
    ),
}


def check_packages(names: list[str]) -> None:
    """Raises an ImportError that says what to install for these formats."""
    for name in names:
        missing = [x for x in FORMATS[name].packages if importlib.util.find_spec(x) is None]
        if missing:
            raise ImportError(
                f"--format {name}: {' and '.join(missing)} not installed; "
                f"pip install {' '.join(missing)}"
            )
