"""The domain of Scrutin and its workbench: what a vote is, how good it is, what it costs. Knows nothing of servers."""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # ONNX Runtime else reports to its maker what it runs
