"""Quantises ONNX files to 8 bits, through onnxruntime's static quantisation.

The convolutions and matrix products of backbone, RPN and heads have uint8 activations, and int8
weights with a scale for each output channel. The first convolution, which is slower in 8 bits, and
the last layers of the heads, but not the RPN's, stay in float32, as do box decoding and NMS.
"""

import importlib
import platform
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from torch import Tensor

COMPUTE = ("Conv", "ConvTranspose", "Gemm", "MatMul")
# Nodes between them that onnxruntime computes in 8 bits too.
BETWEEN = ("Add", "Clip", "MaxPool", "Relu", "Resize")
# Prefixes of the nodes to quantise; "/roi_heads/Add" is of the boxes' coordinates.
HEADS = ("/roi_heads/box_head", "/roi_heads/mask_head", "/roi_heads/keypoint_head", "/head/")
NETWORKS = ("/backbone/", "/proposal_generator/rpn_head/", *HEADS)
PREDICTORS = ("predictor", "cls_score", "bbox_pred", "ctrness")
INT32_FLAGS = ("vnni", "amx_int8", "asimddp")  # of processors that accumulate in 32 bits


def quantise(source: Path, file: Path, images: Iterable[Tensor]) -> None:
    """Quantises a float32 ONNX file to 8 bits.

    Args:
        source: written by ``formats.export_onnx``.
        file: to write.
        images: (3, H, W), as the detector expects them, to calibrate on.
    """
    quantization: Any = importlib.import_module("onnxruntime.quantization")
    pre_process: Any = importlib.import_module("onnxruntime.quantization.shape_inference")
    onnx: Any = importlib.import_module("onnx")

    inputs = ({"image": image.numpy()} for image in images)
    reader = SimpleNamespace(get_next=lambda: next(inputs, None))
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        # Folds constants; shapes that depend on the image cannot be inferred.
        pre_process.quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        quantization.quantize_static(
            str(prepared),
            str(file),
            reader,
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=[*COMPUTE, *BETWEEN],
            nodes_to_quantize=quantised_nodes(onnx.load(str(prepared)).graph.node),
            per_channel=True,
            reduce_range=not accumulates_in_int32(),
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )


def quantised_nodes(nodes: Sequence[Any]) -> list[str]:
    """Returns the names of the nodes of a graph, in its order, to compute in 8 bits."""
    first = next((x.name for x in nodes if x.op_type in COMPUTE), None)
    names = [x.name for x in nodes if x.op_type in COMPUTE + BETWEEN and x.name != first]
    return [x for x in names if x.startswith(NETWORKS) and not any(y in x for y in PREDICTORS)]


def accumulates_in_int32() -> bool:
    """Returns whether this processor says that it sums 8-bit products without overflow."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.machine() == "arm64"
    return any(flag in flags for flag in INT32_FLAGS)
