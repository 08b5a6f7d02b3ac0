"""Assay: labelled images in; a judged, registered model bundle out."""

import os

__version__ = "0.1.0"

# ONNX Runtime reads it when it is loaded; without it, it writes a device id to the home directory and calls home.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
