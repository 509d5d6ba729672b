"""What a U-Net says at coarser scales while it learns; nothing of it is left in the model."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from segkit.masks import IGNORE
from segkit.models.model_file import UNetArguments, build_network
from segkit.models.unet import Form, UNet
from segkit.training.deep_supervision import DeepSupervision, supervised_loss, targets_at
from segkit.training.losses import cross_entropy


def build(depth: int = 4, form: Form = "modern", num_classes: int = 3) -> DeepSupervision:
    torch.manual_seed(0)
    return DeepSupervision(UNet(in_channels=1, num_classes=num_classes, base_channels=2, depth=depth, form=form))


def class_plane_loss(output: Tensor, targets: Tensor) -> Tensor:
    return cross_entropy(output, targets[:, 0])


@pytest.mark.parametrize(("depth", "sides"), [(1, [64]), (2, [64, 32]), (4, [64, 32, 16, 8]), (5, [64, 32, 16, 8])])
def test_levels_answer_down_to_an_eighth_but_not_at_the_bottom(depth: int, sides: list[int]) -> None:
    network = build(depth).train()
    outputs = network(torch.randn(2, 1, 64, 64))
    assert [tuple(one.shape) for one in outputs] == [(2, 3, side, side) for side in sides]


def test_the_first_output_is_the_u_nets_and_in_evaluation_the_only_one() -> None:
    network, images = build(), torch.randn(2, 1, 32, 32)
    twin = copy.deepcopy(network.unet)
    assert torch.equal(network.train()(images)[0], twin.train()(images))
    network.eval()
    alone = network(images)
    assert isinstance(alone, Tensor)
    assert torch.equal(alone, network.unet(images))


def test_every_head_and_every_level_is_trained() -> None:
    network = build().train()
    targets = torch.randint(0, 3, (2, 1, 32, 32), dtype=torch.uint8)
    supervised_loss(network(torch.randn(2, 1, 32, 32)), targets, class_plane_loss).backward()
    assert not [name for name, one in network.named_parameters() if one.grad is None or not one.grad.any()]


def test_a_coarse_answer_alone_reaches_the_levels_below_it() -> None:
    network = build().train()
    network(torch.randn(2, 1, 32, 32))[3].sum().backward()
    reached = {name.split(".")[2] for name, one in network.named_parameters() if one.grad is not None and "dec" in name}
    assert reached == {"0"}


def test_the_model_is_the_u_net_as_it_was_given() -> None:
    unet = UNet(in_channels=1, num_classes=3, base_channels=2, depth=3)
    names = list(unet.state_dict())
    network = DeepSupervision(unet)
    assert network.unet is unet
    assert list(unet.state_dict()) == names
    network.train()(torch.randn(1, 1, 16, 16))
    arguments = UNetArguments(in_channels=1, num_classes=3, base_channels=2, depth=3, form="modern", dropout=0)
    build_network(arguments, device="cpu").load_state_dict(unet.state_dict())


def test_a_u_net_can_be_copied_after_a_step() -> None:
    """Validation and running averages copy it; a copy must neither hold maps nor the heads."""
    network = build().train()
    outputs = network(torch.randn(1, 1, 32, 32))
    twin = copy.deepcopy(network.unet)
    hooks = [hook for block in twin.decoder for hook in block._forward_hooks.values()]
    assert hooks
    assert not any(hook in network._taps for hook in hooks)
    twin(torch.randn(1, 1, 32, 32))
    assert len(outputs) == 4
    assert all(tap._maps is None for tap in network._taps)


def test_nothing_is_kept_when_the_u_net_is_used_on_its_own() -> None:
    network = build().train()
    network.unet(torch.randn(1, 1, 32, 32))
    network.eval()(torch.randn(1, 1, 32, 32))
    assert all(tap._maps is None for tap in network._taps)


def test_nothing_is_kept_if_the_forward_pass_fails() -> None:
    network = build().train()
    network.unet.head = nn.Conv2d(7, 1, 1)
    with pytest.raises(RuntimeError):
        network(torch.randn(1, 1, 32, 32))
    assert not any(tap.is_open or tap._maps is not None for tap in network._taps)


def gradients(network: DeepSupervision, run: Callable[[Tensor], tuple[Tensor, ...]]) -> list[Tensor]:
    images = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    targets = torch.randint(0, 3, (2, 1, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    network.zero_grad()
    supervised_loss(run(images), targets, class_plane_loss).backward()
    assert all(tap._maps is None for tap in network._taps)
    return [one.grad.clone() for one in network.parameters() if one.grad is not None]


class Recomputed(nn.Module):
    """A block whose maps are computed again in the backward pass."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = checkpoint(self.block, x, use_reentrant=False)
        return result


def test_gradient_checkpointing_changes_no_gradient_and_keeps_no_map() -> None:
    network = build().train()
    expected = gradients(network, network)
    network.unet.decoder = nn.ModuleList(Recomputed(block) for block in network.unet.decoder)
    found = gradients(network, network)
    assert len(found) == len(expected)
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one, two)


@pytest.mark.parametrize(("form", "side"), [("modern", 32), ("paper", 124)])
def test_targets_fit_each_output(form: Form, side: int) -> None:
    outputs = build(depth=3, form=form).train()(torch.randn(1, 1, side, side))
    targets = torch.zeros(1, 2, side, side, dtype=torch.uint8)
    for level, output in enumerate(outputs):
        assert targets_at(level, output, targets).shape == (1, 2, *output.shape[-2:])


def test_class_planes_take_the_middle_pixel_and_values_the_mean() -> None:
    targets = torch.arange(64, dtype=torch.uint8).reshape(1, 1, 8, 8).repeat(1, 2, 1, 1)
    targets[:, 0, 2, 2] = IGNORE
    coarse = targets_at(2, torch.empty(1, 1, 2, 2), targets)
    assert coarse[0, 0].tolist() == [[IGNORE, 22], [50, 54]]
    # The mean of a 4 x 4 square whose first pixel is n is n + 1.5 + 12, rounded to even.
    assert coarse[0, 1].tolist() == [[14, 18], [46, 50]]


def test_targets_of_smaller_outputs_are_the_middle() -> None:
    targets = torch.arange(144, dtype=torch.uint8).reshape(1, 1, 12, 12)
    cropped = targets_at(0, torch.empty(1, 1, 8, 8), targets)
    assert torch.equal(cropped, targets[..., 2:10, 2:10])
    assert torch.equal(targets_at(1, torch.empty(1, 1, 4, 4), targets), targets_at(1, torch.empty(1, 1, 4, 4), cropped))


def test_finer_levels_weigh_twice_as_much_as_the_next() -> None:
    outputs = [torch.zeros(1, 1, side, side) for side in (8, 4, 2)]
    targets = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    costs = {8: 1.0, 4: 10.0, 2: 100.0}
    value = supervised_loss(outputs, targets, lambda output, _: torch.tensor(costs[output.shape[-1]]))
    assert value.item() == pytest.approx((1 + 10 / 2 + 100 / 4) / (1 + 1 / 2 + 1 / 4))
    assert supervised_loss(outputs[0], targets, lambda *_: torch.tensor(7.0)).item() == 7
