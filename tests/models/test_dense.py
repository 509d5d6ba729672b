"""A dense network gives what a naive scan of all patches gives; what cannot be converted is refused by name."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from segkit.models.dense import DenseForm, DenseNetwork, _pieces, kept_stride
from segkit.models.lowering import CroppedResidual, NotConvertibleError, lower
from segkit.models.patch_cnn import Form, PatchCNN, usual_base_channels, usual_depth

DENSE_FORMS: tuple[DenseForm, ...] = ("fragments", "atrous")
TOLERANCE = 1e-12
STRIDES = (1, 2, 3, 4, 8)
SMALL: tuple[tuple[Form, int], ...] = (
    ("dnn1", 101), ("dnn2", 101), ("modern", 33), ("modern", 64), ("vgg", 34), ("lenet", 32), ("mlp", 21),
    ("linear", 15),
)  # fmt: skip


def scan(layers: nn.Module, images: Tensor, patch_px: int, stride: int) -> Tensor:
    """Run every patch by itself: (B, C, H, W) -> (B, classes, h, w)."""
    windows = images.unfold(2, patch_px, stride).unfold(3, patch_px, stride)
    batch, channels, height, width = windows.shape[:4]
    patches = windows.permute(0, 2, 3, 1, 4, 5).reshape(-1, channels, patch_px, patch_px)
    return layers(patches).reshape(batch, height, width, -1).permute(0, 3, 1, 2)


def random_images(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def lived_in(network: nn.Module, seed: int = 0) -> nn.Module:
    """Give batch norms statistics that are not those of the beginning, as a training does."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
    return network.double().eval()


def build(form: Form, patch_px: int) -> PatchCNN:
    torch.manual_seed(1)
    maps = usual_base_channels(form) if form in {"dnn1", "dnn2"} else 5
    network = PatchCNN(
        in_channels=3, num_classes=3, form=form, patch_px=patch_px, base_channels=maps,
        depth=usual_depth(form, patch_px),
    )  # fmt: skip
    lived_in(network)
    return network


def largest_difference(layers: nn.Sequential, images: Tensor, patch_px: int, stride: int, form: DenseForm) -> float:
    dense = DenseNetwork(layers, in_channels=images.shape[1], patch_px=patch_px, stride=stride, form=form)
    with torch.inference_mode():
        expected = scan(layers, images, patch_px, stride)
        found = dense(images)
    assert found.shape == expected.shape
    return float((found - expected).abs().max())


@pytest.mark.parametrize("dense_form", DENSE_FORMS)
@pytest.mark.parametrize("stride", STRIDES)
@pytest.mark.parametrize(("form", "patch_px"), SMALL)
def test_every_network_is_the_same_densely(form: Form, patch_px: int, stride: int, dense_form: DenseForm) -> None:
    network = build(form, patch_px)
    images = random_images(2, 3, patch_px + 12, patch_px + 7)
    assert largest_difference(network.layers, images, patch_px, stride, dense_form) <= TOLERANCE


def test_the_forward_pass_of_a_patch_cnn_is_its_layers() -> None:
    network = build("modern", 33)
    patches = random_images(4, 3, 33, 33)
    assert network(patches).shape == (4, 3, 1, 1)
    assert torch.equal(network(patches).flatten(1), network.layers(patches).flatten(1))


@pytest.mark.parametrize(("form", "count"), [("dnn1", 13_630), ("dnn2", 37_230)])
def test_the_papers_networks_have_the_papers_number_of_weights(form: Form, count: int) -> None:
    network = PatchCNN(
        in_channels=3, num_classes=2, form=form, patch_px=101, base_channels=16, depth=usual_depth(form, 101)
    )
    assert sum(weights.numel() for weights in network.parameters()) == count


@st.composite
def networks(draw: st.DrawFn) -> tuple[nn.Sequential, int, int]:
    """Draw a convertible network, its channels and a patch size that it takes."""
    channels = start = draw(st.integers(1, 3))
    layers: list[nn.Module] = []
    size = patch_px = draw(st.integers(8, 26))
    for _ in range(draw(st.integers(0, 5))):
        kind = draw(st.sampled_from(["convolution", "maximum", "average", "norm", "function", "residual", "dilated"]))
        kernel, stride = draw(st.integers(1, min(4, size))), draw(st.integers(1, 3))
        match kind:
            case "convolution":
                maps = draw(st.integers(1, 4))
                layers.append(nn.Conv2d(channels, maps, kernel, stride, bias=draw(st.booleans())))
                channels, size = maps, (size - kernel) // stride + 1
            case "dilated" if size >= 5:
                layers.append(nn.Conv2d(channels, channels, 3, dilation=2, groups=draw(st.sampled_from([1, channels]))))
                size -= 4
            case "maximum":
                layers.append(nn.MaxPool2d(kernel, stride))
                size = (size - kernel) // stride + 1
            case "average":
                layers.append(nn.AvgPool2d(kernel, stride))
                size = (size - kernel) // stride + 1
            case "norm":
                layers.append(nn.BatchNorm2d(channels))
            case "function":
                layers.append(draw(st.sampled_from([nn.ReLU(), nn.Tanh(), nn.Dropout(0.5), nn.LeakyReLU()])))
            case "residual" if size >= 5:
                body = nn.Sequential(nn.Conv2d(channels, 2, 3), nn.ReLU(), nn.Conv2d(2, channels, 3))
                layers.append(CroppedResidual(body))
                size -= 4
    head = draw(st.sampled_from(["linear", "two linear", "global average", "convolution"]))
    match head:
        case "linear":
            layers += [nn.Flatten(), nn.Linear(channels * size**2, 2)]
        case "two linear":
            layers += [nn.Flatten(), nn.Linear(channels * size**2, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 2)]
        case "global average":
            layers += [nn.Conv2d(channels, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)]
        case "convolution":
            layers.append(nn.Conv2d(channels, 2, size))
    torch.manual_seed(draw(st.integers(0, 1000)))
    network = nn.Sequential(*(copy.deepcopy(layer) for layer in layers))
    lived_in(network)
    return network, start, patch_px


@settings(max_examples=150)
@given(
    networks(),
    st.sampled_from([1, 1, 2, 3, 4, 6, 8]),
    st.sampled_from(DENSE_FORMS),
    st.integers(0, 11),
    st.integers(0, 11),
)
def test_any_convertible_network_is_the_same_densely(
    drawn: tuple[nn.Sequential, int, int], stride: int, form: DenseForm, more_rows: int, more_columns: int
) -> None:
    network, channels, patch_px = drawn
    images = random_images(1, channels, patch_px + more_rows, patch_px + more_columns)
    scale = max(1.0, float(scan(network, images, patch_px, stride).detach().abs().max()))
    assert largest_difference(network, images, patch_px, stride, form) <= TOLERANCE * scale


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (nn.Conv2d(3, 3, 3, padding=1), "pads"),
        (nn.Conv2d(3, 3, 3, padding="same"), "pads"),
        (nn.MaxPool2d(2, padding=1), "pads"),
        (nn.MaxPool2d(2, ceil_mode=True), "ceil_mode"),
        (nn.AvgPool2d(2, ceil_mode=True), "ceil_mode"),
        (nn.Conv2d(3, 3, (1, 3)), "height and width differ"),
        (nn.InstanceNorm2d(3), "not known"),
        (nn.GroupNorm(1, 3), "not known"),
        (nn.BatchNorm2d(3, track_running_stats=False), "normalises over the patch"),
        (nn.AdaptiveAvgPool2d(2), "output size of 1"),
        (nn.MultiheadAttention(3, 1), "not known"),
        (CroppedResidual(nn.Sequential(nn.Conv2d(3, 3, 2))), "even number"),
        (CroppedResidual(nn.Sequential(nn.Conv2d(3, 3, 1, stride=2))), "stride"),
        (nn.Conv2d(3, 3, 30), "30 pixels"),
    ],
)
def test_what_cannot_be_converted_is_refused_by_name(layer: nn.Module, reason: str) -> None:
    network = nn.Sequential(nn.Sequential(nn.ReLU(), layer), nn.Flatten(), nn.Linear(3, 2)).eval()
    with pytest.raises(NotConvertibleError, match=r"layer `0\.1`") as caught:
        lower(network, 3, 21)
    assert reason in str(caught.value)


def test_a_network_without_a_head_is_refused() -> None:
    with pytest.raises(NotConvertibleError, match="19 x 19"):
        lower(nn.Sequential(nn.Conv2d(3, 2, 3)), 3, 21)


@pytest.mark.parametrize(
    ("stride", "kept"), [(1, 1), (2, 2), (3, 1), (4, 4), (6, 2), (8, 8), (32, 32), (64, 32), (5, 1)]
)
def test_poolings_stay_as_long_as_their_strides_divide_the_output_stride(stride: int, kept: int) -> None:
    assert kept_stride(lower(build("dnn1", 101).layers, 3, 101), stride) == kept


def test_the_head_is_computed_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    network = build("dnn1", 101)
    images = random_images(1, 3, 170, 140)
    for form in DENSE_FORMS:
        dense = DenseNetwork(network.layers, in_channels=3, patch_px=101, stride=1, form=form)
        with torch.inference_mode():
            whole = dense(images)
            monkeypatch.setattr("segkit.models.dense.HEAD_VALUES", 3000)
            assert float((dense(images) - whole).abs().max()) <= TOLERANCE
            monkeypatch.undo()


@given(length=st.integers(1, 3000), limit=st.integers(0, 400))
def test_pieces_cover_all_and_none_is_much_shorter(length: int, limit: int) -> None:
    pieces = _pieces(length, limit)
    assert [place for start, end in pieces for place in range(start, end)] == list(range(length))
    sizes = {end - start for start, end in pieces}
    assert max(sizes) <= max(1, limit)
    assert max(sizes) - min(sizes) <= 1
