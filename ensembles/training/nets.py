"""A small family of convolutional nets, from a line to a ResNet-18. Unlike architectures err unlike.

Each architecture maps float [n, channels, size, size] to logits [n, classes]. `width` is the number of channels of the first stage (each
stage after it has twice as many), `depth` what more of the same means to that architecture.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from ensembles.preprocessing import Input
from ensembles.training.images import served
from ensembles.training.recipes import MemberRecipe

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of natural photographs (ImageNet), by channel, at brightness 0 to 1."""

LUMINANCE = (0.299, 0.587, 0.114)


def taken(image_size: int) -> Input:
    """The images that are served, as a member takes them."""
    given = served(image_size)
    return Input(given.name, given.datatype, given.shape, scale=1 / 255, layout="NHWC")


def build(member: MemberRecipe, image_size: int, classes: int) -> nn.Module:
    """The member, untrained: float [n, 3, image_size, image_size] from 0 to 1 to logits [n, classes]."""
    torch.manual_seed(member.seed)
    shape = Shape(1 if member.grey else 3, member.size or image_size, classes, member.width, member.depth)
    return nn.Sequential(Seen(member, image_size), ARCHITECTURES[member.architecture](shape))


class Seen(nn.Module):  # type: ignore[misc]  # mypy sees no types of torch
    """What a member sees of an image: [n, 3, side, side], 0 to 1, to [n, 3 or 1, size, size], about 0.

    It is part of the member, so whoever serves it need not know.
    """

    def __init__(self, member: MemberRecipe, image_size: int) -> None:
        super().__init__()
        self.pixels = image_size // (member.size or image_size)
        self.grey = member.grey
        for name, numbers in (("mean", MEAN), ("std", STD), ("luminance", LUMINANCE)):
            self.register_buffer(name, torch.tensor(numbers).reshape(1, 3, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.pixels > 1:
            x = nn.functional.avg_pool2d(x, self.pixels)
        x = (x - self.mean) / self.std
        return (x * self.luminance).sum(dim=1, keepdim=True) if self.grey else x


@dataclass(frozen=True, slots=True)
class Shape:
    """Of a net: channels and size (pixels) of the square image it sees, classes, width and depth."""

    channels: int
    size: int
    classes: int
    width: int
    depth: int


def linear(shape: Shape) -> nn.Module:
    """A line for each class. Width and depth mean nothing to it."""
    return nn.Sequential(nn.Flatten(), nn.Linear(shape.channels * shape.size**2, shape.classes))


def mlp(shape: Shape) -> nn.Module:
    """`depth` hidden layers of `width` units."""
    sizes = [shape.channels * shape.size**2, *[shape.width] * shape.depth]
    hidden = [nn.Sequential(nn.Linear(a, b), nn.BatchNorm1d(b), nn.ReLU()) for a, b in pairwise(sizes)]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(sizes[-1], shape.classes))


def convnet(shape: Shape) -> nn.Module:
    """`depth` stages of one 3x3 convolution and a pool, then a linear layer that still knows where things are."""
    widths = _widths(shape)
    stages = [
        nn.Sequential(_conv(a, b), nn.MaxPool2d(2, ceil_mode=True)) for a, b in pairwise([shape.channels, *widths])
    ]
    side = shape.size
    for _ in stages:
        side = -(-side // 2)
    return nn.Sequential(*stages, nn.Flatten(), nn.Linear(widths[-1] * side**2, shape.classes))


def vgg(shape: Shape) -> nn.Module:
    """`depth` stages of two 3x3 convolutions and a pool (Simonyan & Zisserman 2015, with batch norm)."""
    stages = [
        nn.Sequential(_conv(a, b), _conv(b, b), nn.MaxPool2d(2, ceil_mode=True))
        for a, b in pairwise([shape.channels, *_widths(shape)])
    ]
    return nn.Sequential(*stages, *_head(_widths(shape)[-1], shape.classes))


def resnet(shape: Shape) -> nn.Module:
    """Four stages of `depth` basic blocks (He et al. 2016); width 64 and depth 2 is a ResNet-18 for small images."""
    widths = [shape.width * 2**stage for stage in range(4)]
    blocks: list[nn.Module] = []
    for stage, (a, b) in enumerate(pairwise([shape.width, *widths])):
        blocks.append(_Residual(a, b, stride=1 if stage == 0 else 2))
        blocks += [_Residual(b, b, stride=1) for _ in range(shape.depth - 1)]
    return nn.Sequential(_conv(shape.channels, shape.width), *blocks, *_head(widths[-1], shape.classes))


def mobilenet(shape: Shape) -> nn.Module:
    """Three stages of `depth` depthwise separable convolutions (Howard et al. 2017): few parameters, few multiplications."""
    widths = [shape.width * 2**stage for stage in range(1, 4)]
    blocks: list[nn.Module] = []
    for a, b in pairwise([shape.width, *widths]):
        blocks.append(_separable(a, b, stride=2))
        blocks += [_separable(b, b, stride=1) for _ in range(shape.depth - 1)]
    return nn.Sequential(_conv(shape.channels, shape.width), *blocks, *_head(widths[-1], shape.classes))


ARCHITECTURES: dict[str, Callable[[Shape], nn.Module]] = {
    net.__name__: net for net in (linear, mlp, convnet, vgg, resnet, mobilenet)
}


def _widths(shape: Shape) -> list[int]:
    return [shape.width * 2**stage for stage in range(shape.depth)]


def _conv(channels: int, width: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, stride, padding=1, groups=groups, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
    )


def _separable(channels: int, width: int, stride: int) -> nn.Sequential:
    pointwise = nn.Conv2d(channels, width, 1, bias=False)
    return nn.Sequential(_conv(channels, channels, stride, channels), pointwise, nn.BatchNorm2d(width), nn.ReLU())


def _head(width: int, classes: int) -> tuple[nn.Module, ...]:
    return nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes)


class _Residual(nn.Module):  # type: ignore[misc]  # mypy sees no types of torch
    """Two convolutions beside a shortcut, which is a 1x1 convolution where the size changes."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        second = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.body = nn.Sequential(_conv(channels, width, stride), second, nn.BatchNorm2d(width))
        same = stride == 1 and channels == width
        self.shortcut = nn.Identity() if same else _projection(channels, width, stride)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.relu(self.body(x) + self.shortcut(x))
        return out


def _projection(channels: int, width: int, stride: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width))
