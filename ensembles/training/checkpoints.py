"""Where a training stands: weights and the optimizer's memory in one safetensors file, which no code can hide in."""

from collections.abc import Iterator
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ensembles import atomic
from ensembles.training.experiment import CHECKPOINT, ExperimentError
from ensembles.wording import one_line


def save(folder: Path, net: nn.Module, optimizer: torch.optim.Optimizer, epochs: int) -> None:
    """State after this many epochs. Raises OSError."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in _tensors(net, optimizer)}
    atomic.write(folder / CHECKPOINT, safetensors.torch.save(tensors, {"epochs": str(epochs)}))


def load(folder: Path, net: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Bring both to the state of the checkpoint and say after how many epochs that was: 0 where there is none.

    Raises ExperimentError when the checkpoint is not one of this net.
    """
    file = folder / CHECKPOINT
    if not file.exists():
        return 0
    try:
        with safe_open(file, "pt") as stream:
            epochs = int((stream.metadata() or {})["epochs"])
            found = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118  no mapping
        net.load_state_dict({name[4:]: tensor for name, tensor in found.items() if name.startswith("net.")})
        optimizer.load_state_dict(optimizer.state_dict() | {"state": _state(found)})
    except (SafetensorError, OSError, KeyError, ValueError, RuntimeError) as error:
        first = one_line(error)
        raise ExperimentError(f"{file}: expected a checkpoint of this member, found {first}") from None
    return epochs


def _tensors(net: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, Tensor]]:
    yield from ((f"net.{name}", tensor) for name, tensor in net.state_dict().items())
    for place, state in optimizer.state_dict()["state"].items():
        yield from ((f"optimizer.{place}.{name}", value) for name, value in state.items() if value is not None)


def _state(found: dict[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in found.items():
        part, place, name = key.split(".", 2)
        if part == "optimizer":
            state.setdefault(int(place), {})[name] = tensor
    return state
