"""A learner as one ONNX file for a small box: exported, checked against PyTorch, run without either."""
