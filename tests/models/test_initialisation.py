"""How weights begin: their spread, what it does to a deep network, and what zeros do."""

import math

import pytest
import torch
from scipy import integrate
from torch import Tensor, nn

from segkit.errors import ConfigError
from segkit.models.activations import ACTIVATIONS, LEAKY_SLOPE, ActivationName, make_activation
from segkit.models.initialisation import _SECOND_MOMENTS, ZEROS_WARNING, InitScheme, initialise
from segkit.models.patch_cnn import PatchCNN
from segkit.models.unet import UNet

VALUES = torch.linspace(-5, 5, 41, dtype=torch.float64)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("relu", lambda z: max(z, 0.0)),
        ("leaky_relu", lambda z: z if z > 0 else LEAKY_SLOPE * z),
        ("elu", lambda z: z if z > 0 else math.exp(z) - 1),
        ("tanh", math.tanh),
        ("sigmoid", lambda z: 1 / (1 + math.exp(-z))),
    ],
)
def test_an_activation_is_the_function_of_its_name(name: str, expected: object) -> None:
    assert callable(expected)
    found = make_activation(name)(VALUES.clone())
    torch.testing.assert_close(found, torch.tensor([expected(z) for z in VALUES.tolist()], dtype=torch.float64))


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize(
    "before", [nn.Conv2d(2, 3, 3), nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)), nn.Conv2d(2, 3, 1)]
)
def test_working_in_place_changes_no_gradient(name: str, before: nn.Module) -> None:
    torch.manual_seed(0)
    images = torch.randn(2, 2, 6, 6)
    gradients: list[list[Tensor]] = []
    for in_place in (True, False):
        activation = make_activation(name)
        if not in_place and hasattr(activation, "inplace"):
            activation.inplace = False
        before.zero_grad()
        activation(before(images)).square().sum().backward()
        gradients.append([one.grad.clone() for one in before.parameters() if one.grad is not None])
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(one, two)


def test_an_unknown_activation_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"model\.activation = swish.*leaky_relu"):
        make_activation("swish")
    with pytest.raises(ConfigError, match=r"model\.activation = swish"):
        initialise(nn.Linear(1, 1), activation="swish")


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_second_moments_are_those_of_the_activation(name: str) -> None:
    activation = make_activation(name)

    def density(z: float) -> float:
        value = activation(torch.tensor([z], dtype=torch.float64)).item()
        return value**2 * math.exp(-z * z / 2) / math.sqrt(2 * math.pi)

    below, above = integrate.quad(density, -9, 0)[0], integrate.quad(density, 0, 9)[0]
    assert pytest.approx(below + above, abs=1e-6) == _SECOND_MOMENTS[name]


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_signals_neither_vanish_nor_grow_in_a_deep_network_from_he(name: ActivationName) -> None:
    torch.manual_seed(0)
    layers = [layer for _ in range(20) for layer in (nn.Linear(500, 500), make_activation(name))]
    network = nn.Sequential(*layers[:-1])
    initialise(network, "he", name)
    with torch.inference_mode():
        spread = network(make_activation(name)(torch.randn(50, 500))).square().mean().item()
    assert 0.4 < spread < 2.5


@pytest.mark.parametrize(
    ("layer", "scheme", "expected"),
    [
        (nn.Conv2d(16, 32, 3), "he", math.sqrt(2 / (16 * 9))),
        (nn.Conv2d(16, 32, 3, groups=4), "he", math.sqrt(2 / (4 * 9))),
        (nn.ConvTranspose2d(64, 32, 2, stride=2), "he", math.sqrt(2 / 64)),
        (nn.Linear(100, 300), "he", math.sqrt(2 / 100)),
        (nn.Conv2d(16, 32, 3), "xavier", math.sqrt(2 / (16 * 9 + 32 * 9))),
        (nn.Linear(100, 300), "xavier", math.sqrt(2 / 400)),
        (nn.Linear(100, 300), "normal", 0.01),
        (nn.Linear(100, 300), "zeros", 0.0),
    ],
)
def test_weights_spread_as_the_scheme_says(layer: nn.Module, scheme: InitScheme, expected: float) -> None:
    torch.manual_seed(0)
    initialise(layer, scheme)
    assert isinstance(layer.weight, Tensor)
    assert isinstance(layer.bias, Tensor)
    assert layer.weight.std().item() == pytest.approx(expected, rel=0.1)
    assert abs(layer.weight.mean().item()) <= 0.1 * expected
    assert not layer.bias.any()


def test_norms_begin_by_changing_nothing() -> None:
    network = nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm1d(3), nn.LayerNorm(3), nn.BatchNorm2d(3, affine=False))
    for parameter in network.parameters():
        nn.init.normal_(parameter)
    initialise(network, "zeros")
    for name, parameter in network.named_parameters():
        assert (parameter == (1 if name.endswith("weight") else 0)).all()


def test_an_unknown_scheme_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"model\.init = orthogonal"):
        initialise(nn.Linear(1, 1), "orthogonal")  # type: ignore[arg-type]


def test_a_network_on_the_meta_device_takes_no_memory() -> None:
    with torch.device("meta"):
        network = PatchCNN(in_channels=3, num_classes=2, patch_px=33)
    assert all(parameter.is_meta for parameter in network.parameters())


def train_from_zeros(network: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Train for 20 steps on classes that are easy to tell apart; return what has changed."""
    initialise(network, "zeros")
    before = {name: value.detach().clone() for name, value in network.named_parameters()}
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    for _ in range(20):
        logits = network(images).mean(dim=(2, 3))
        loss = nn.functional.cross_entropy(logits, (images.mean(dim=(1, 2, 3)) > 0).long())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return {name: value for name, value in network.named_parameters() if not torch.equal(value, before[name])}


def bright_and_dark() -> Tensor:
    images = torch.randn(6, 1, 20, 20, generator=torch.Generator().manual_seed(0))
    return images + torch.tensor([2.0, 2.0, 2.0, 2.0, -2.0, -2.0]).reshape(6, 1, 1, 1)


@pytest.mark.parametrize(
    ("network", "last_bias"),
    [
        (UNet(in_channels=1, num_classes=2, base_channels=2, depth=1), "head.bias"),
        (UNet(in_channels=1, num_classes=2, base_channels=2, depth=1, form="paper"), "head.bias"),
        (PatchCNN(in_channels=1, num_classes=2, form="lenet", patch_px=20, base_channels=2, depth=1), "layers.9.bias"),
    ],
)
def test_from_zeros_only_the_last_bias_moves(network: nn.Module, last_bias: str) -> None:
    """What the warning says, of activations that are 0 at 0."""
    assert set(train_from_zeros(network, bright_and_dark())) == {last_bias}
    assert "only the bias of the last layer moves" in ZEROS_WARNING


def test_from_zeros_units_stay_copies_of_each_other() -> None:
    """What the warning says, of activations that are not 0 at 0."""
    network = PatchCNN(in_channels=1, num_classes=2, form="mlp", patch_px=20, activation="sigmoid")
    changed = train_from_zeros(network, bright_and_dark())
    assert "layers.1.weight" in changed
    hidden, last = changed["layers.1.weight"], changed["layers.4.weight"]
    torch.testing.assert_close(hidden, hidden[:1].expand_as(hidden))
    torch.testing.assert_close(last, last[:, :1].expand_as(last))
    assert "copies of each other" in ZEROS_WARNING
