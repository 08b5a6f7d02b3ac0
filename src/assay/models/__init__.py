"""Models: backbones, export to ONNX, the bundle, and classifying with it."""
