"""Nets that a recipe can name: what goes in, what comes out, what they see."""

import pytest
import torch

from ensembles.training import nets
from ensembles.training.nets import ARCHITECTURES, Seen, build
from ensembles.training.recipes import MemberRecipe


def member(**own):
    return MemberRecipe(**{"name": "a", "architecture": "convnet", "width": 4, "depth": 1, **own})


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("own", [{}, {"grey": True}, {"size": 4}, {"size": 1}, {"depth": 3}])
def test_every_architecture_says_a_number_for_each_class(architecture, own):
    net = build(member(architecture=architecture, **own), image_size=16, classes=5).eval()
    assert net(torch.rand(3, 3, 16, 16)).shape == (3, 5)


@pytest.mark.parametrize("architecture", ["mlp", "convnet", "vgg", "resnet", "mobilenet"])
def test_wider_and_deeper_nets_have_more_parameters(architecture):
    def parameters(**own):
        net = build(member(architecture=architecture, **own), image_size=16, classes=5)
        return sum(weights.numel() for weights in net.parameters())

    assert parameters() < parameters(width=8)
    assert parameters() < parameters(depth=2) or architecture == "convnet"  # whose last layer sees fewer places


def test_a_resnet_of_width_64_and_depth_2_is_a_resnet_18():
    net = build(member(architecture="resnet", width=64, depth=2), image_size=32, classes=10)
    assert sum(isinstance(layer, torch.nn.Conv2d) and layer.kernel_size == (3, 3) for layer in net.modules()) == 17
    assert sum(weights.numel() for weights in net.parameters()) == 11_173_962


def test_the_seed_is_all_that_tells_twins_apart():
    first, again, twin = (
        torch.cat([weights.flatten() for weights in build(member(seed=seed), 16, 5).parameters()]) for seed in (1, 1, 2)
    )
    assert (first == again).all()
    assert (first != twin).any()


def test_a_grey_member_does_not_tell_colours_of_the_same_brightness_apart():
    red, green = torch.zeros(2, 1, 3, 8, 8)
    red[:, 0], green[:, 1] = 0.5, 0.5
    seen = Seen(member(grey=True), 8)
    std, luminance = torch.tensor(nets.STD), torch.tensor(nets.LUMINANCE)
    green *= (luminance[0] / std[0]) / (luminance[1] / std[1])
    assert torch.allclose(seen(red), seen(green), atol=1e-6)
    assert seen(red).shape == (1, 1, 8, 8)


def test_a_coarse_member_sees_the_mean_of_the_pixels():
    picture = torch.rand(1, 3, 8, 8)
    coarse, fine = Seen(member(size=2), 8)(picture), Seen(member(), 8)(picture)
    assert torch.allclose(coarse[0, :, 0, 0], fine[0, :, :4, :4].mean(dim=(1, 2)), atol=1e-5)
