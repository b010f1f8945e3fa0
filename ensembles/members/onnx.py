"""Members that run in this process, on ONNX Runtime. The only place that imports it."""

import asyncio
import time
from concurrent.futures import Executor
from contextlib import suppress
from functools import cache
from typing import Any

import numpy as np

from ensembles.member_spec import MemberSpec
from ensembles.members import SHORT_SECONDS, MemberError, Occupation, Rows, Scores
from ensembles.members.microbatch import MicroBatchSize
from ensembles.members.parts import joined
from ensembles.members.timing import TimeByRows
from ensembles.wording import one_line

try:
    import onnxruntime as ort
except ImportError:
    raise MemberError(
        "no ONNX Runtime is installed: pip install 'scrutin[cpu]', or 'scrutin[gpu]' on a machine with CUDA"
    ) from None

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class OnnxMember:
    """One ONNX graph in its own session, with the threads that the manifest grants it and no spinning."""

    def __init__(
        self, spec: MemberSpec, content: bytes, executor: Executor, micro_batch: MicroBatchSize | None = None
    ) -> None:
        """`micro_batch`: how many rows at a time go through the graph on the CPU; all of a run at once, if None.

        Raises MemberError when the session cannot be made, or runs elsewhere than `run_on.device` asked for.
        """
        self.name = spec.name
        self.timing = TimeByRows()
        self._executor = executor
        self._logits = spec.emits == "logits"
        self._session = _session(spec, content)
        self.provider: str = self._session.get_providers()[0]
        self.device = _device(spec, self.provider)
        self._row: Rows | None = None
        self._micro_batch = micro_batch if self.device == "cpu" else None
        self._input: str = self._session.get_inputs()[0].name
        self._outputs: list[str] = [self._session.get_outputs()[0].name]

    def brief(self, rows: int, at_most: float = SHORT_SECONDS) -> bool:
        predicted = self.timing.predict(rows)
        return predicted is not None and predicted < at_most

    def predict(self, rows: int) -> float | None:
        return self.timing.predict(rows)

    async def run(self, rows: Rows, occupation: Occupation, at_most: float = SHORT_SECONDS) -> Scores:
        if self.brief(len(rows), at_most):
            return self.compute(rows, occupation)
        options = ort.RunOptions()
        work = self._executor.submit(self.compute, rows, occupation, options)
        running = asyncio.wrap_future(work)
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            options.terminate = True  # between two nodes of the graph; a run that has not begun never does
            if not work.cancel():
                await asyncio.gather(running, return_exceptions=True)
            raise

    def compute(self, rows: Rows, occupation: Occupation, options: ort.RunOptions | None = None) -> Scores:
        """`run` on the calling thread, for those who have no event loop. Raises MemberError."""
        with occupation:
            start = time.perf_counter()
            size = self._micro_batch.choose(len(rows)) if self._micro_batch else len(rows)
            scores = self._infer(rows, options) if size >= len(rows) else self._by_parts(rows, size, options)
            seconds = time.perf_counter() - start
            if self._row is None:
                self._row = rows[:1].copy()
            self.timing.observe(len(rows), seconds)
            if self._micro_batch:
                self._micro_batch.observe(len(rows), size, seconds)
        return softmax(scores) if self._logits else scores

    def _by_parts(self, rows: Rows, size: int, options: ort.RunOptions | None) -> Scores:
        parts = [self._infer(rows[start : start + size], options) for start in range(0, len(rows), size)]
        return joined(parts, len(rows), size)

    def _infer(self, rows: Rows, options: ort.RunOptions | None) -> Scores:
        try:
            scores: Scores = self._session.run(self._outputs, {self._input: rows}, options)[0]
        except Exception as error:
            raise MemberError(f"{type(error).__name__} in ONNX Runtime") from error
        return scores

    def close(self) -> None:
        """Takes as long as a run of one row."""
        if self._row is not None:
            with suppress(MemberError):
                self._infer(self._row, _releasing())
        del self._session


def _session(spec: MemberSpec, content: bytes) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = spec.run_on.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    providers = _providers(spec.run_on.device)
    if providers == [PROVIDERS["cpu"]]:
        _share_memory()
        options.add_session_config_entry("session.use_env_allocators", "1")
        # What stays as long as its session goes with it, and leaves no holes in what all share.
        options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
    try:
        return ort.InferenceSession(content, options, providers=providers)
    except Exception as error:
        raise MemberError(f"ONNX Runtime cannot load the model: {one_line(error)}") from None


@cache
def _share_memory() -> None:
    """Sessions on the CPU work in the same memory: what one has just left is still in the processor's caches for the next, where
    memory of its own would have to be fetched each time, and push out what else the server needs."""
    arena = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    ort.create_and_register_allocator(arena, None)


def _releasing() -> ort.RunOptions:
    """Of a run after which memory in which nobody works goes back to the system."""
    options = ort.RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    return options


def _providers(device: str) -> list[Any]:
    available = ort.get_available_providers()
    kind, _, number = device.partition(":")
    if kind == "cuda" and PROVIDERS["cuda"] not in available:
        raise MemberError(
            f"run_on.device: found {device}, expected cpu or auto: this ONNX Runtime has {', '.join(available)}"
        )
    if kind == "cpu" or PROVIDERS["cuda"] not in available:
        return [PROVIDERS["cpu"]]
    # Heuristic search: the exhaustive default tunes anew, for up to a second, at each batch size it has not seen.
    cuda = (PROVIDERS["cuda"], {"device_id": int(number or 0), "cudnn_conv_algo_search": "HEURISTIC"})
    return [cuda, PROVIDERS["cpu"]]


def _device(spec: MemberSpec, provider: str) -> str:
    """What the session really runs on. ONNX Runtime falls back to the CPU in silence; only `auto` accepts that."""
    asked, _, number = spec.run_on.device.partition(":")
    if asked == "cuda" and provider != PROVIDERS["cuda"]:
        raise MemberError(f"run_on.device: asked for {spec.run_on.device}, the session got {provider}")
    return f"cuda:{number or 0}" if provider == PROVIDERS["cuda"] else "cpu"


def softmax(logits: Scores) -> Scores:
    """Probabilities [n, K] from logits [n, K]; infinite ones become NaN. Raises MemberError for another number of dimensions."""
    if logits.ndim != 2:
        raise MemberError(f"found logits of shape {list(logits.shape)}, expected [rows, classes]")
    with np.errstate(invalid="ignore"):  # infinite logits become NaN, which is no vote and is refused as such
        shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    scores: Scores = shifted / shifted.sum(axis=1, keepdims=True)
    return scores
