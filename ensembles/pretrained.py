"""Nets by name from timm and torchvision, with the preprocessing of their own configuration.

`timm:NAME` and `torchvision:NAME`, followed where needed by `?` and, joined by `&`: `pretrained=false` (random weights),
`weights=FILE.safetensors` (your own), `classes=N` (with either of them).
"""

from dataclasses import dataclass
from importlib import import_module
from math import prod
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import parse_qsl

from ensembles.export import Exported, convert_torch
from ensembles.parity import TOLERANCE, quiet
from ensembles.preprocessing import ExportError, Input, Interpolation, Rows
from ensembles.spec import ImageSpec, InputSpec
from ensembles.wording import one_line

if TYPE_CHECKING:
    from torch import nn

LIBRARIES = ("timm", "torchvision")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What was asked for: `library:name?…`, taken apart."""

    library: str
    name: str
    pretrained: bool = True
    weights: Path | None = None
    classes: int | None = None


@dataclass(frozen=True, slots=True)
class Net:
    """A classifier of pictures and how it wants them: RGB from 0 to 1, the middle `crop` of them, of `size` (height, width).

    `mean` and `std` are one a channel. `labels` [classes] in the order of its outputs; none where they are unknown.
    `interpolation`: how it likes pictures of another size resized.
    """

    module: "nn.Module"
    classes: int
    size: tuple[int, int]
    crop: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    labels: tuple[str, ...] = ()
    interpolation: Interpolation = "bilinear"

    @property
    def picture(self) -> InputSpec:
        """What it is served where nothing else is given: RGB pixels, of which the middle is just what it sees."""
        height, width = (round(side / self.crop) for side in self.size)
        image = ImageSpec(mode="RGB", width=width, height=height)
        return InputSpec(name="image", datatype="UINT8", shape=(height, width, 3), image=image)

    def seeing(self, given: InputSpec) -> Input:
        """From the tensor that is served to what the net sees. Raises ExportError where that is no picture."""
        image, layout = _picture(given)
        height, width = image.height, image.width
        shrink = min(height / self.size[0], width / self.size[1]) * self.crop
        window = [_middle(height, round(self.size[0] * shrink)), _middle(width, round(self.size[1] * shrink))]
        if layout == "NCHW":
            window.insert(0, (0, given.shape[0]))
        low, high = image.range
        scale = 1 / (high - low)
        return Input(
            given.name,
            given.datatype,
            given.shape,
            crop=tuple(window),
            scale=scale,
            mean=tuple(value + low * scale for value in self.mean),
            std=self.std,
            layout=layout,
            resize=self.size,
            interpolation=self.interpolation,
        )

    def export(self, given: InputSpec, rows: Rows, tolerance: float = TOLERANCE) -> Exported:
        """As a member that is served `given`, held against the net itself on `rows` [n, *shape]. Raises ExportError."""
        return convert_torch(self.module, self.seeing(given), rows, tolerance)


def parse(text: str) -> Wanted:
    """`timm:NAME?…` or `torchvision:NAME?…`. Raises ExportError for an option that there is not."""
    library, _, rest = text.partition(":")
    name, _, query = rest.partition("?")
    options = dict(parse_qsl(query, keep_blank_values=True))
    unknown = sorted(options.keys() - {"pretrained", "weights", "classes"})
    if unknown:
        raise ExportError(f"{text}: found option {unknown[0]!r}, expected pretrained, weights or classes")
    weights = Path(options["weights"]) if "weights" in options else None
    if weights is not None and weights.suffix != ".safetensors":
        raise ExportError(f"{text}: weights: found {weights.name}, expected a .safetensors file, which is no pickle")
    pretrained = _flag(text, options.get("pretrained", "true")) and weights is None
    classes = _count(text, options["classes"]) if "classes" in options else None
    if classes is not None and pretrained:
        raise ExportError(
            f"{text}: found classes={classes}, expected with it pretrained=false or weights=FILE.safetensors"
        )
    return Wanted(library, name, pretrained, weights, classes)


def load(wanted: Wanted) -> Net:
    """The net, in memory. Raises ExportError where the library is missing or does not know it, or weights cannot be had."""
    library = _library(wanted.library)
    net = _from_timm(library, wanted) if wanted.library == "timm" else _from_torchvision(library, wanted)
    if wanted.weights is not None:
        _fill(net.module, wanted.weights)
    return net


def _library(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or name
        raise ExportError(f"{name}: {missing} is not installed, expected it: pip install {missing}") from None
    except Exception as error:  # a torchvision that was built for another torch raises whatever torch raises
        raise ExportError(f"{name}: found an installation that cannot be imported: {one_line(error)}") from None


def _from_timm(timm: Any, wanted: Wanted) -> Net:
    if wanted.name not in timm.list_models(pretrained=False) and "." not in wanted.name:
        raise ExportError(f"timm: found no net {wanted.name!r}, expected a name from timm.list_models()")
    options = {} if wanted.classes is None else {"num_classes": wanted.classes}
    with quiet(_told(wanted)):
        module = timm.create_model(wanted.name, pretrained=wanted.pretrained, **options)
        config = timm.data.resolve_model_data_config(module)
    if not module.num_classes:
        raise ExportError(f"timm:{wanted.name}: found a net without classes, expected a classifier")
    labels = _distinct(_timm_labels(timm, module)) if wanted.classes is None else ()
    size = tuple(config["input_size"][1:])
    crop, mean, std = config["crop_pct"], tuple(config["mean"]), tuple(config["std"])
    return Net(module, module.num_classes, size, crop, mean, std, labels, _interpolation(config["interpolation"]))


def _timm_labels(timm: Any, module: Any) -> list[str]:
    subset = timm.data.infer_imagenet_subset(module)
    if not subset:
        return []
    info = timm.data.ImageNetInfo(subset)
    return [info.index_to_description(index) for index in range(info.num_classes())]


def _from_torchvision(torchvision: Any, wanted: Wanted) -> Net:
    models = torchvision.models
    if wanted.name not in models.list_models(module=models):
        raise ExportError(f"torchvision: found no classifier {wanted.name!r}, expected a name from its list_models()")
    weights = models.get_model_weights(wanted.name).DEFAULT
    categories = weights.meta["categories"]
    classes = wanted.classes or len(categories)
    with quiet(_told(wanted)):
        module = models.get_model(wanted.name, weights=None, num_classes=classes)
        if wanted.pretrained:
            # Its own loader would unpickle whatever came; this one takes tensors only.
            module.load_state_dict(weights.get_state_dict(check_hash=True, weights_only=True))
    seen = weights.transforms()
    size, crop = seen.crop_size[0], seen.crop_size[0] / seen.resize_size[0]
    labels = _distinct(categories) if wanted.classes is None else ()
    mean, std, interpolation = tuple(seen.mean), tuple(seen.std), _interpolation(seen.interpolation.value)
    return Net(module, classes, (size, size), crop, mean, std, labels, interpolation)


def _interpolation(name: str) -> Interpolation:
    """Of the few that were trained with another one, bilinear is the nearest."""
    return "bicubic" if name == "bicubic" else "bilinear"


def _told(wanted: Wanted) -> str:
    """What is said to have failed."""
    name = f"{wanted.library}:{wanted.name}"
    return f"{name}: weights from the network (else weights=FILE.safetensors)" if wanted.pretrained else name


def _fill(module: "nn.Module", weights: Path) -> None:
    from safetensors.torch import load_file

    if not weights.is_file():
        raise ExportError(f"{weights}: found nothing, expected a .safetensors file")
    with quiet(str(weights)):
        module.load_state_dict(load_file(weights))


def _distinct(labels: list[str]) -> tuple[str, ...]:
    """ImageNet has two cranes, the bird and the machine: a name that comes again is followed by its number."""
    seen: set[str] = set()
    names = []
    for number, label in enumerate(labels):
        names.append(f"{label} {number}" if label in seen else label)
        seen.add(label)
    return tuple(names)


def _picture(given: InputSpec) -> tuple[ImageSpec, Literal["NHW", "NHWC", "NCHW"]]:
    if given.image is None:
        raise ExportError("input.image: missing, expected how a picture becomes the tensor: the net sees pictures")
    if len(given.shape) == 2:
        return given.image, "NHW"
    last = given.shape[:2] == (given.image.height, given.image.width)
    return given.image, "NHWC" if last and prod(given.shape[2:]) <= 3 else "NCHW"


def _middle(size: int, part: int) -> tuple[int, int]:
    start = (size - part) // 2
    return start, start + part


def _flag(text: str, value: str) -> bool:
    if value not in {"true", "false"}:
        raise ExportError(f"{text}: pretrained: found {value!r}, expected true or false")
    return value == "true"


def _count(text: str, value: str) -> int:
    if not value.isdecimal() or not 2 <= int(value) <= 10**6:
        raise ExportError(f"{text}: classes: found {value!r}, expected a number from 2")
    return int(value)
