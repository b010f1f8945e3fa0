"""Nets by name, with timm's and torchvision's own; what surrounds them is tested without them."""

import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from torch import nn

from ensembles import measuring, pretrained
from ensembles.preprocessing import ExportError
from ensembles.pretrained import Net, Wanted
from ensembles.spec import ImageSpec, InputSpec

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
RNG = np.random.default_rng(0)


def net() -> Net:
    """A small net that sees the middle 8 of 10 pixels."""
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 6, 5))
    return Net(layers, 5, (8, 8), 0.8, MEAN, STD)


def pictures(*shape: int, mode: str = "RGB") -> InputSpec:
    height, width = shape[1:] if shape[0] == 3 else shape[:2]
    image = ImageSpec(mode=mode, width=width, height=height)
    return InputSpec(name="image", datatype="UINT8", shape=shape, image=image)


def test_what_it_likes_best_is_seen_pixel_by_pixel() -> None:
    ours = net()
    rows = RNG.integers(0, 256, (6, 10, 10, 3), dtype=np.uint8)

    assert ours.picture == pictures(10, 10, 3)
    expected = (rows[:, 1:9, 1:9] / 255 - MEAN) / STD
    assert ours.seeing(ours.picture).prepare(rows) == pytest.approx(expected.transpose(0, 3, 1, 2), abs=1e-5)


@pytest.mark.parametrize("given", [pictures(3, 16, 20), pictures(12, 12, mode="L")])
def test_any_picture_that_an_ensemble_is_served_will_do(given: InputSpec) -> None:
    ours = net()
    rows = RNG.integers(0, 256, (6, *given.shape), dtype=np.uint8)
    model, worst = ours.export(given, rows)
    module = ours.module.eval()
    expected = module(torch.from_numpy(ours.seeing(given).prepare(rows))).softmax(dim=1).detach().numpy()

    assert worst < 1e-5
    assert measuring.scores(model, rows) == pytest.approx(expected, abs=1e-5)


def test_what_is_no_picture_is_refused() -> None:
    with pytest.raises(ExportError, match=r"input\.image: missing, expected how a picture becomes the tensor"):
        net().seeing(InputSpec(name="features", datatype="FP32", shape=(3,)))


def test_a_range_that_does_not_begin_at_zero_is_brought_to_the_nets() -> None:
    image = ImageSpec(mode="RGB", width=10, height=10, range=(-1, 1))
    given = InputSpec(name="image", datatype="FP32", shape=(10, 10, 3), image=image)
    pixels = RNG.integers(0, 256, (2, 10, 10, 3), dtype=np.uint8)

    ours, same = net().seeing(given), net().seeing(pictures(10, 10, 3))
    assert ours.prepare((pixels / 127.5 - 1).astype(np.float32)) == pytest.approx(same.prepare(pixels), abs=1e-5)


def test_options_stand_behind_the_name() -> None:
    assert pretrained.parse("timm:resnet18") == Wanted("timm", "resnet18")
    assert pretrained.parse("torchvision:resnet18?pretrained=false&classes=10") == (
        Wanted("torchvision", "resnet18", pretrained=False, classes=10)
    )
    assert pretrained.parse("timm:resnet18?weights=own.safetensors&classes=3") == (
        Wanted("timm", "resnet18", pretrained=False, weights=Path("own.safetensors"), classes=3)
    )


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("timm:a?size=3", "found option 'size', expected pretrained, weights or classes"),
        ("timm:a?pretrained=no", "pretrained: found 'no', expected true or false"),
        ("timm:a?classes=many&pretrained=false", "classes: found 'many', expected a number from 2"),
        ("timm:a?classes=3", "found classes=3, expected with it pretrained=false or weights=FILE.safetensors"),
        ("timm:a?weights=a.pth", "weights: found a.pth, expected a .safetensors file, which is no pickle"),
    ],
)
def test_other_options_are_refused(text: str, line: str) -> None:
    with pytest.raises(ExportError) as fault:
        pretrained.parse(text)
    assert str(fault.value) == f"{text}: {line}"


@pytest.mark.parametrize("library", pretrained.LIBRARIES)
def test_a_library_that_is_missing_is_named(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, library, None)  # as if it were not installed

    with pytest.raises(
        ExportError, match=f"^{library}: {library} is not installed, expected it: pip install {library}$"
    ):
        pretrained.load(Wanted(library, "resnet18"))


def need(library: str) -> None:
    if importlib.util.find_spec(library) is None:
        missing = f"{library} is not installed: pip install {library}, beside the torch that it was built for"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)


@pytest.fixture(scope="module")
def _importable() -> Any:
    """PyPI's torchvision beside a torch without CUDA: its compiled part does not load, which no classifier needs, and without it
    only declared operators are missing."""
    try:
        importlib.import_module("torchvision")
    except ModuleNotFoundError:
        return None
    except RuntimeError as error:
        assert "torchvision::nms" in str(error)
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return library


@pytest.mark.parametrize(("library", "name"), [("timm", "test_resnet"), ("torchvision", "mobilenet_v3_small")])
class TestInstalled:
    """With random weights: others would have to come over the network."""

    @pytest.fixture(autouse=True)
    def _library(self, library: str, _importable: Any) -> None:
        need(library)

    def test_a_net_is_exported_with_its_own_preprocessing(self, library: str, name: str) -> None:
        found = pretrained.load(Wanted(library, name, pretrained=False, classes=7))
        given = pictures(32, 32, 3)
        rows = RNG.integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
        model, worst = found.export(given, rows)

        assert found.mean == pytest.approx((0.5, 0.5, 0.5) if library == "timm" else MEAN)
        assert found.seeing(given).interpolation == "bilinear"
        assert measuring.scores(model, rows).shape == (4, 7)
        assert worst < 1e-4

    def test_the_classes_of_imagenet_are_known_and_distinct(self, library: str, name: str) -> None:
        found = pretrained.load(Wanted(library, name, pretrained=False))

        assert found.classes == len(set(found.labels)) == 1000
        assert found.labels[0].startswith("tench")

    def test_weights_of_ones_own_are_filled_in(self, library: str, name: str, tmp_path: Path) -> None:
        from safetensors.torch import save_file

        source = pretrained.load(Wanted(library, name, pretrained=False, classes=3)).module
        file = tmp_path / "own.safetensors"
        save_file(source.state_dict(), file)
        found = pretrained.load(Wanted(library, name, pretrained=False, weights=file, classes=3)).module

        pairs: Any = zip(source.state_dict().values(), found.state_dict().values(), strict=True)
        assert all(torch.equal(ours, theirs) for ours, theirs in pairs)

    def test_a_name_that_there_is_not_is_refused(self, library: str, name: str) -> None:
        with pytest.raises(ExportError, match=f"^{library}: found no .*'nonet', expected a name from"):
            pretrained.load(Wanted(library, "nonet"))

    def test_a_net_that_was_trained_on_bicubic_pictures_gets_them(self, library: str, name: str) -> None:
        trained = {"timm": "resnet18", "torchvision": "swin_t"}[library]

        assert pretrained.load(Wanted(library, trained, pretrained=False)).interpolation == "bicubic"
