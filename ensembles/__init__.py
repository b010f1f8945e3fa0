"""Votes of trained classifiers: what they say, what they cost, and whether the ensemble is worth it."""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # ONNX Runtime else reports to its maker what it runs
