"""Starting from what another network has learned: which weights are taken, which parts are trained, how fast.

A network has three parts. Of a U-Net, `encoder` is the contracting path, `head` the last convolution and `decoder` the
rest (also the stem in front of an encoder of torchvision's: it feeds nothing but skip connections and begins with
fresh weights). Of a patch CNN, `head` is the last layer and `encoder` all before it.
"""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Literal, get_args

from torch import Tensor, nn

from segkit.errors import ConfigError, ModelError
from segkit.models.encoders import encoder_weights
from segkit.models.model_file import Model
from segkit.models.patch_cnn import PatchCNN
from segkit.models.torchvision_door import imagenet_weights, read_weights
from segkit.models.unet import UNet

Part = Literal["encoder", "decoder", "head"]
PARTS: tuple[Part, ...] = get_args(Part)

_MISMATCHES_SHOWN = 5


def start_from(network: UNet | PatchCNN, model: Model) -> list[str]:
    """Copy the weights of a model into a network of the same architecture, in place.

    Only the head may differ, if it has another number of outputs: then it keeps its fresh weights.

    Returns
    -------
    list of str
        What a user should know: what was taken and what starts afresh.

    Raises
    ------
    ModelError
        Anything but the head has other names or shapes; the network is unchanged.
    """
    theirs, ours = model.network.state_dict(), network.state_dict()
    if type(model.network) is not type(network):
        kinds = {UNet: "a U-Net", PatchCNN: "a patch CNN"}
        raise ModelError(
            f"{model.path}: is {kinds[type(model.network)]}, the network to train is {kinds[type(network)]}. Start "
            "from a model of the same architecture (transfer.init_from)."
        )
    head = {name for name in ours if part_of(network, name) == "head"}
    afresh = {name for name in head if name not in theirs or theirs[name].shape != ours[name].shape}
    if _extra_maps(model.network) != _extra_maps(network):
        afresh = head  # as many maps may mean something else
    problems = sorted(_mismatches(theirs, ours, ignored=afresh))
    if problems:
        raise ModelError(
            f"{model.path}: is not the network to train; the first of {len(problems)} differences (transfer.init_from "
            "needs the same model.* settings):",
            problems[:_MISMATCHES_SHOWN],
        )
    # A head starts afresh as a whole: its bias alone would say nothing.
    taken = theirs if not afresh else {name: value for name, value in theirs.items() if name not in head}
    network.load_state_dict(taken, strict=False)
    notes = [f"{len(taken)} of {len(ours)} tensors start from {model.path}."]
    if afresh:
        notes.append(
            f"The head starts afresh: the model has {_outputs(model.network)}, this task needs {_outputs(network)}."
        )
    return notes


def load_encoder_weights(unet: UNet, weights: str | Path) -> list[str]:
    """Put trained weights into the encoder of a U-Net, in place, and return what a user should know.

    Parameters
    ----------
    unet
        With an encoder of torchvision's.
    weights
        `imagenet`, or a file with weights named as by torchvision (`.pth`, `.pt`, `.safetensors`); those of its
        classifier are left out. For grey images the first convolution's weights are summed over the colours.

    Raises
    ------
    ConfigError
        The contracting path is the plain one, for which there are no such weights.
    ModelError
        They cannot be had or read, or are those of another network; the U-Net is unchanged.
    """
    name = unet.encoder_name
    if name == "plain":
        raise ConfigError(
            f"model.encoder_weights = {weights}: the plain encoder has no such weights. Choose another model.encoder, "
            "or start from a model of segkit with transfer.init_from."
        )
    from_torchvision = str(weights) == "imagenet"
    found = imagenet_weights(name) if from_torchvision else read_weights(Path(weights))
    first = next(layer for layer in unet.encoder.modules() if isinstance(layer, nn.Conv2d))
    try:
        fitting = encoder_weights(name, first.in_channels, unet.depth, found)
    except ModelError as error:
        raise ModelError(f"{weights}: {error.message}", error.problems) from error
    unet.encoder.load_state_dict(fitting, strict=False)  # `encoder_weights` has checked names and shapes
    summed = ", the first convolution's summed over the colours" if first.in_channels == 1 else ""
    return [f"The encoder {name} starts from {'ImageNet' if from_torchvision else weights} weights{summed}."]


def part_of(network: UNet | PatchCNN, name: str) -> Part:
    """Return the part that a parameter or buffer belongs to, by its name in the network's state."""
    if isinstance(network, PatchCNN):
        last = max(int(key.split(".")[1]) for key, _ in network.named_parameters())
        return "head" if name.split(".")[1] == str(last) else "encoder"
    match name.partition(".")[0]:
        case "encoder":
            return "encoder"
        case "head":
            return "head"
        case _:
            return "decoder"


def parameter_groups(
    network: UNet | PatchCNN, *, frozen: Collection[Part], pretrained: Collection[Part], pretrained_rate: float
) -> list[tuple[list[nn.Parameter], float]]:
    """Return the parameters to train, in groups with the factor of their learning rate.

    Parameters
    ----------
    network
        In the network's order within a group.
    frozen
        Parts that are not trained.
    pretrained
        Parts that start from learned weights; their factor is `pretrained_rate`, that of the others 1.
    pretrained_rate
        Factor of the learning rate.

    Raises
    ------
    ConfigError
        Nothing is left to train.
    """
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        part = part_of(network, name)
        if part not in frozen:
            groups.setdefault(pretrained_rate if part in pretrained else 1.0, []).append(parameter)
    if not groups:
        raise ConfigError(f"transfer.freeze: with {', '.join(sorted(frozen))} frozen nothing is left to train.")
    return [(parameters, factor) for factor, parameters in sorted(groups.items(), reverse=True)]


def freeze(network: UNet | PatchCNN, parts: Collection[Part]) -> None:
    """Train all but `parts` from now on: these get no gradients. An empty `parts` thaws all."""
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(part_of(network, name) not in parts)


def settle_frozen(network: nn.Module) -> None:
    """Keep what is frozen as it is; to be called after each `network.train()`.

    Modules whose parameters are all frozen go into evaluation mode, so that batch norms neither use nor gather the
    statistics of batches and nothing is dropped at random; so does a dropout in front of a frozen layer.
    """
    for module in network.modules():
        parameters = list(module.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            module.eval()
    feeds_frozen = False
    for leaf in reversed([one for one in network.modules() if not list(one.children())]):
        parameters = list(leaf.parameters())
        if parameters:
            feeds_frozen = not any(parameter.requires_grad for parameter in parameters)
        elif isinstance(leaf, nn.Dropout) and feeds_frozen:
            leaf.eval()


def _extra_maps(network: UNet | PatchCNN) -> int:
    return network.extra_maps if isinstance(network, UNet) else 0


def _outputs(network: UNet | PatchCNN) -> str:
    extra = _extra_maps(network)
    maps = list(network.parameters())[-1].numel()  # the bias of the head
    return f"{maps - extra} outputs" + (f" and {extra} more" if extra else "")


def _mismatches(theirs: dict[str, Tensor], ours: dict[str, Tensor], *, ignored: set[str]) -> Iterator[str]:
    for name in (theirs.keys() | ours.keys()) - ignored:
        if name not in theirs:
            yield f"{name}: missing in the model"
        elif name not in ours:
            yield f"{name}: not part of the network to train"
        elif theirs[name].shape != ours[name].shape:
            yield f"{name}: {tuple(theirs[name].shape)} in the model, {tuple(ours[name].shape)} in the network to train"
