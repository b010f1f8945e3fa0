"""Runs inside Triton's python backend: the three sessions in one model, fed by Triton's dynamic batching."""

from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as triton  # type: ignore[import-not-found]  # is there only inside Triton

from benchmarks.ensemble import INPUT, Ensemble, Vote


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        self.ensemble = Ensemble(Path(args["model_repository"]).parents[1] / "members")

    def execute(self, requests: list[Any]) -> list[Any]:
        rows = [triton.get_input_tensor_by_name(request, INPUT).as_numpy() for request in requests]
        vote = self.ensemble(rows[0] if len(rows) == 1 else np.concatenate(rows))
        ends = np.cumsum([len(part) for part in rows])
        return [self.response(vote, end - len(part), end) for part, end in zip(rows, ends, strict=True)]

    def response(self, vote: Vote, start: int, end: int) -> Any:
        outputs = [
            triton.Tensor(name, np.ascontiguousarray(array[start:end])) for name, array in vote._asdict().items()
        ]
        return triton.InferenceResponse(outputs)
