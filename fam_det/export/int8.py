"""ONNX in 8 bits, through onnxruntime's static quantisation.

The convolutions and matrix products of backbone, RPN and heads take and give uint8, with int8
weights, a scale for each output channel. The first convolution, for which 8 bits are slower, and
the last layers of the heads, but not the RPN's, stay in float32, as does all that places and
selects boxes.
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
# Nodes between them that onnxruntime computes in 8 bits too, so that maps stay in them.
BETWEEN = ("Add", "Clip", "MaxPool", "Relu", "Resize")
# How the names of a network's nodes begin; "/roi_heads/Add" is of the boxes' coordinates.
HEADS = ("/roi_heads/box_head", "/roi_heads/mask_head", "/roi_heads/keypoint_head", "/head/")
NETWORKS = ("/backbone/", "/proposal_generator/rpn_head/", *HEADS)
PREDICTORS = ("predictor", "cls_score", "bbox_pred", "ctrness")
IN_32_BITS = ("vnni", "amx_int8", "asimddp")  # flags of processors that sum products in them


def quantise(source: Path, file: Path, images: Iterable[Tensor]) -> None:
    """Writes a float32 ONNX file in 8 bits.

    Args:
        source: of ``formats.export``.
        file: to write.
        images: (3, H, W), as the detector expects them, that the ranges of its maps are found on.
    """
    quantization: Any = importlib.import_module("onnxruntime.quantization")
    pre_process: Any = importlib.import_module("onnxruntime.quantization.shape_inference")
    onnx: Any = importlib.import_module("onnx")

    inputs = ({"image": image.numpy()} for image in images)
    reader = SimpleNamespace(get_next=lambda: next(inputs, None))
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        # Folds what is constant; shapes that depend on the image cannot be inferred.
        pre_process.quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        quantization.quantize_static(
            str(prepared),
            str(file),
            reader,
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=[*COMPUTE, *BETWEEN],
            nodes_to_quantize=quantised_nodes(onnx.load(str(prepared)).graph.node),
            per_channel=True,
            reduce_range=not sums_in_32_bits(),
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )


def quantised_nodes(nodes: Sequence[Any]) -> list[str]:
    """Returns the names of the nodes of a graph, in its order, to compute in 8 bits."""
    names = [x.name for x in nodes if x.op_type in COMPUTE + BETWEEN]
    names = [name for name in names if name.startswith(NETWORKS)]
    convolutions = [x.name for x in nodes if x.op_type in COMPUTE]
    return [
        name
        for name in names
        if name != convolutions[0] and not any(part in name for part in PREDICTORS)
    ]


def sums_in_32_bits() -> bool:
    """Whether this processor multiplies 8-bit numbers without overflow, as far as it says so."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.machine() == "arm64"
    return any(flag in flags for flag in IN_32_BITS)
