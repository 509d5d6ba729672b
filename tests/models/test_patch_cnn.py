"""Patch CNNs with other activations, norms and beginnings than their own; all of them run densely."""

import pytest
import torch
from torch import nn

from segkit.errors import ConfigError
from segkit.models.activations import ACTIVATIONS, ActivationName, make_activation
from segkit.models.dense import DenseForm, DenseNetwork
from segkit.models.inference_form import inference_form
from segkit.models.patch_cnn import FORMS, Form, Norm, PatchCNN, usual_activation, usual_base_channels, usual_norm
from tests.models.test_dense import DENSE_FORMS, TOLERANCE, largest_difference, lived_in, random_images, scan

PATCH_PX: dict[Form, int] = {"dnn1": 101, "dnn2": 101, "modern": 21, "vgg": 34, "lenet": 32, "mlp": 15, "linear": 9}
DEPTH: dict[Form, int] = {"dnn1": 5, "dnn2": 4}
NORMS: tuple[Norm, ...] = ("batch", "none")
SMALL: tuple[Form, ...] = ("modern", "vgg", "lenet", "mlp")


def build(form: Form, activation: ActivationName | None = None, norm: Norm | None = None) -> PatchCNN:
    torch.manual_seed(1)
    return PatchCNN(
        in_channels=2, num_classes=3, form=form, patch_px=PATCH_PX[form], depth=DEPTH.get(form, 2),
        base_channels=usual_base_channels(form) if form in DEPTH else 4, activation=activation, norm=norm,
    )  # fmt: skip


def kinds(network: nn.Module, *kind: type[nn.Module]) -> list[nn.Module]:
    return [module for module in network.modules() if isinstance(module, kind)]


@pytest.mark.parametrize("dense_form", DENSE_FORMS)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("form", SMALL)
def test_every_activation_and_norm_is_the_same_densely(
    form: Form, activation: ActivationName, norm: Norm, dense_form: DenseForm
) -> None:
    network = build(form, activation, norm)
    lived_in(network)
    images = random_images(1, 2, PATCH_PX[form] + 9, PATCH_PX[form] + 6)
    for stride in (1, 4):
        assert largest_difference(network.layers, images, PATCH_PX[form], stride, dense_form) <= TOLERANCE


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_dense_network_leaves_its_image_as_it_was(activation: ActivationName) -> None:
    """Activations work in place: on maps, never on what was given."""
    network = build("modern", activation)
    lived_in(network)
    images = random_images(1, 2, 30, 30)
    before = images.clone()
    for form in DENSE_FORMS:
        DenseNetwork(network.layers, in_channels=2, patch_px=21, stride=1, form=form)(images)
    assert torch.equal(images, before)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("form", ["lenet", "modern"])
def test_batch_norm_is_folded_into_every_form(form: Form, activation: ActivationName) -> None:
    network = build(form, activation, "batch")
    lived_in(network).float()
    images = random_images(1, 2, PATCH_PX[form] + 5, PATCH_PX[form] + 5, dtype=torch.float32)
    folded = inference_form(network, torch.device("cpu"), "float32")
    assert not kinds(folded, nn.BatchNorm2d)
    assert isinstance(folded, PatchCNN)
    with torch.inference_mode():
        found, expected = (scan(one.layers, images, PATCH_PX[form], 3) for one in (folded, network))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("form", FORMS)
def test_what_is_left_out_is_the_forms_own(form: Form) -> None:
    own, stated = build(form), build(form, usual_activation(form), usual_norm(form))
    assert str(own) == str(stated)
    assert all(torch.equal(one, two) for one, two in zip(own.parameters(), stated.parameters(), strict=True))
    assert bool(kinds(own, nn.BatchNorm2d)) == (form in {"modern", "vgg"})
    assert bool(kinds(own, nn.Tanh)) == (form == "lenet")


@pytest.mark.parametrize("form", [form for form in FORMS if form != "linear"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_an_activation_is_that_of_every_layer(form: Form, activation: ActivationName) -> None:
    every = tuple(type(make_activation(name)) for name in ACTIVATIONS)
    found = kinds(build(form, activation), *every)
    assert len(found) == len(kinds(build(form), *every))
    assert {str(one) for one in found} == {str(make_activation(activation))}


@pytest.mark.parametrize("form", FORMS)
def test_a_convolution_has_either_a_bias_or_batch_norm_behind_it(form: Form) -> None:
    for norm in NORMS:
        network = build(form, norm=norm)
        convolutions = kinds(network, nn.Conv2d)
        hidden = convolutions[:-1] if form == "modern" else convolutions  # the last one is the head
        assert all((one.bias is None) == (norm == "batch") for one in hidden)
        assert len(kinds(network, nn.BatchNorm2d)) == (len(hidden) if norm == "batch" else 0)


def test_the_beginning_depends_on_the_scheme_and_the_activation() -> None:
    def weights(**changes: str) -> torch.Tensor:
        torch.manual_seed(0)
        network = PatchCNN(in_channels=3, num_classes=2, patch_px=33, **changes)  # type: ignore[arg-type]
        return next(network.parameters()).detach()

    he = weights()
    assert torch.equal(weights(init="he", activation="relu"), he)
    torch.testing.assert_close(
        weights(init="he", activation="tanh") / he, torch.full_like(he, 1.12610), rtol=1e-3, atol=0
    )
    assert weights(init="normal").std().item() == pytest.approx(0.01, rel=0.1)
    assert not weights(init="zeros").any()


def test_an_unknown_activation_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"model\.activation = gelu"):
        build("modern", "gelu")  # type: ignore[arg-type]
