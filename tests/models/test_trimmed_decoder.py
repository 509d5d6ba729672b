"""A decoder that computes only what a core needs gives the scores of the whole, to the last bit."""

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from segkit.models.inference_form import Precision, inference_form
from segkit.models.receptive_field import tile_grid
from segkit.models.unet import Form, UNet, least_side

CPU = torch.device("cpu")
MAX_COST = 1.5e8  # of a forward pass of the tests, in pixels times maps squared


def random_unet(form: Form, depth: int, base_channels: int, channels: int = 3) -> UNet:
    torch.manual_seed(depth)
    network = UNet(in_channels=channels, num_classes=3, base_channels=base_channels, depth=depth, form=form).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 2)  # type: ignore[arg-type]
    return network


@st.composite
def spans(draw: st.DrawFn, size: int) -> slice:
    """Cores of any size, as often at a border and of a single pixel as in the middle."""
    first, second = (draw(st.one_of(st.just(0), st.integers(0, size - 1), st.just(size - 1))) for _ in range(2))
    return slice(min(first, second), max(first, second) + 1)


@settings(max_examples=20, deadline=None)
@given(
    data=st.data(), form=st.sampled_from(["modern", "paper"]), depth=st.integers(1, 5),
    base=st.sampled_from([4, 6, 8, 16, 32, 64]), precision=st.sampled_from(["float32", "bfloat16"]),
    extra=st.tuples(st.integers(0, 150), st.integers(0, 150)),
)  # fmt: skip
def test_scores_of_a_core_are_those_of_the_whole(
    data: st.DataObject, form: Form, depth: int, base: int, precision: Precision, extra: tuple[int, int]
) -> None:
    network = random_unet(form, depth, base)
    grid = tile_grid(network)
    height, width = (grid.legal_size(grid.smallest + more) for more in extra)
    assume(height * width * base**2 * depth < MAX_COST)
    twin = inference_form(network, CPU, precision)
    dtype = next(twin.parameters()).dtype
    images = torch.randn(1, 3, height, width).to(dtype).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        whole = twin(images)
        for _ in range(3):
            core = data.draw(spans(whole.shape[-2])), data.draw(spans(whole.shape[-1]))
            assert torch.equal(twin(images, core), whole[(..., *core)])


@pytest.mark.parametrize("form", ["modern", "paper"])
def test_what_surrounds_the_core_is_not_computed(form: Form) -> None:
    network = random_unet(form, depth=2, base_channels=32)
    grid = tile_grid(network)
    seen: list[tuple[int, ...]] = []
    for block in network.decoder:
        assert isinstance(block, nn.Sequential)
        block[0].register_forward_pre_hook(lambda _module, inputs: seen.append(tuple(inputs[0].shape[-2:])))
    side = grid.legal_size(256)
    with torch.inference_mode():
        network(torch.zeros(1, 3, side, side), (slice(101, 165), slice(80, 180)))
    # The core with 2 px around each of two convolutions' blocks, in whole pixels of the level below.
    assert seen[1] == (70, 104)
    assert all(fine // 2 + 4 <= coarse <= fine // 2 + 6 for fine, coarse in zip(seen[1], seen[0], strict=True))


def test_small_cores_are_grown_to_sizes_of_equal_sums() -> None:
    network = random_unet("modern", depth=1, base_channels=4)
    seen: list[Tensor] = []
    block = network.decoder[0]
    assert isinstance(block, nn.Sequential)
    block[0].register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    with torch.inference_mode():
        network(torch.zeros(1, 3, 256, 256), (slice(255, 256), slice(0, 1)))
    assert min(seen[0].shape[-2:]) >= 2 * least_side(8)
