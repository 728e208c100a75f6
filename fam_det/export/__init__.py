"""The student out of a training: a plain Detectron2 checkpoint, TorchScript and ONNX."""
