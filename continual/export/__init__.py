"""A learner as one ONNX file for an edge device: exported, checked against PyTorch, run without either."""
