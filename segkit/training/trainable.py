"""What the training loop needs of a task."""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor, nn

from segkit.models.model_file import ModelSpec
from segkit.training.optimisation import ParameterGroup
from segkit.training.samples import Batch
from segkit.training.validation import Validation


class Trainable(Protocol):
    """A network with its loss and its validation.

    Attributes
    ----------
    metric
        What `Validation.score` is: dice, v_rand, ap or f1.
    spec
        The network's description.
    validation_patches
        A fixed set of patches for the validation loss.
    """

    metric: str
    spec: ModelSpec
    validation_patches: Batch

    @property
    def network(self) -> nn.Module:
        """The network that becomes the model."""

    @property
    def trained(self) -> nn.Module:
        """What is trained: the network, or something around it that says more than the network while it learns."""

    def loss(self, outputs: Tensor | Sequence[Tensor], targets_BPHW: Tensor) -> Tensor:
        """Return the loss, a scalar, of what `trained` says; uint8 targets, as large as the outputs or larger."""

    def validate(self, network: nn.Module) -> Validation:
        """Measure a network, which is in evaluation mode, on whole images; the best epoch is chosen by its score."""

    def parameter_groups(self) -> Sequence[ParameterGroup]:
        """Return all parameters of `trained`, in groups that learn at different rates."""

    def begin_epoch(self, epoch: int) -> bool:
        """Put `trained` into training mode, frozen parts aside; tell whether other parts are frozen than before."""
