"""What can be set of a training: its meaning, its default, its range. See `segkit.config.sections`."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from segkit.config.sections import (
    AUTO,
    Auto,
    ComputeConfig,
    DataConfig,
    Fraction,
    Length,
    NotNegative,
    Positive,
    ScaleRange,
    Section,
)

Encoder = Literal["plain", "resnet18", "resnet34", "resnet50", "vgg16_bn", "efficientnet_b0", "convnext_tiny"]
Activation = Literal["relu", "leaky_relu", "elu", "tanh", "sigmoid"]
Norm = Literal["batch", "none"]
Initialisation = Literal["he", "xavier", "normal", "zeros"]
LossName = Literal["cross_entropy", "dice", "dice_cross_entropy", "focal", "tversky", "quadratic"]
OptimiserName = Literal["adamw", "adam", "sgd", "rmsprop", "adagrad"]
ScheduleName = Literal["polynomial", "cosine", "constant", "step", "one_cycle", "plateau"]
FrozenParts = Literal["none", "encoder", "all_but_head"]
TaskName = Literal["semantic", "instance", "points"]


class ModelConfig(Section):
    """The network's form."""

    network: Literal["auto", "unet", "patch_cnn"] = Field(
        AUTO, description="auto: a U-Net for masks and labels, a patch CNN for points (a U-Net learns these, too)."
    )
    form: Literal["modern", "paper", "dnn1", "dnn2", "lenet", "vgg", "mlp", "linear"] = Field(
        "modern",
        description="U-Net: modern (same convolutions, batch norm) or paper (Ronneberger 2015: valid "
        "convolutions, dropout at the bottom, no batch norm). Patch CNN (points): modern (batch norm), dnn1 or dnn2 "
        "(Ciresan 2013), lenet, vgg, mlp, linear.",
    )
    encoder: Encoder = Field(
        "plain", description="Contracting path of a U-Net: plain, or a network of torchvision's (model.form=modern)."
    )
    encoder_weights: str = Field(
        "none",
        description="Weights that the encoder starts with: none, imagenet (from torchvision's cache, or downloaded), "
        "or a file.",
    )
    base_channels: Positive | Auto = Field(
        AUTO, description="Feature maps of the first layer; auto: 32 (paper: 64, dnn1 and dnn2: 16, lenet: 6)."
    )
    depth: Annotated[int, Field(ge=1, le=7)] | Auto = Field(
        AUTO,
        description="Number of halvings; auto: 4 (patch CNN: until about 8 pixels are left).",
    )
    dropout: Fraction | Auto = Field(
        AUTO, description="Dropout at the end of the contracting path; auto: 0 (paper: 0.5), before a patch CNN's head."
    )
    norm: Norm | Auto = Field(AUTO, description="Batch norm behind convolutions, or none; auto: as the form has it.")
    activation: Activation | Auto = Field(AUTO, description="Activation function; auto: relu (lenet: tanh).")
    init: Initialisation = Field(
        "he", description="How weights begin: he, xavier, normal (0.01), zeros (to see why that does not learn)."
    )
    deep_supervision: bool = Field(
        False, description="U-Net: the coarser levels of the expanding path are trained on the target, too."
    )


class TransferConfig(Section):
    """What is taken over from weights that were learned before."""

    init_from: Path | None = Field(
        None, description="Model file or run folder whose weights are taken over as far as they fit."
    )
    freeze: FrozenParts = Field("none", description="Parts that are not trained: none, encoder, all_but_head.")
    unfreeze_epoch: Positive | None = Field(
        None, description="Epoch from which on frozen parts are trained, too; null: never."
    )
    pretrained_rate: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="Factor of the learning rate for parts that were learned before."
    )


class PatchConfig(Section):
    """How training samples are drawn."""

    size_px: Positive | Auto = Field(
        AUTO,
        description="Side of a training patch; auto: 256, or the smallest image's (patch CNN: what fits the points' "
        "match radius; dnn1, dnn2: 101).",
    )
    batch: Positive | Auto = Field(AUTO, description="Patches in a training step; auto: 8 (patch CNN: 128).")
    balanced: Annotated[float, Field(ge=0, le=1)] = Field(
        0.5,
        description="Share of patches centred on a pixel of an evenly drawn class; the rest lie anywhere.",
    )


class PointsConfig(Section):
    """How a patch CNN learns from points."""

    match_radius: Length | Auto = Field(
        AUTO,
        description="A detection within this distance of a point is right; auto: 7.5um (15px where mpp is unknown), or "
        "half of the points' median distance to their nearest neighbour where that is less.",
    )
    positive_radius: Length | Auto = Field(
        AUTO, description="Patches whose centre is this close to a point are positives; auto: half the match radius."
    )
    near_radius: Length | Auto = Field(
        AUTO,
        description="Negatives up to this distance from a point are near misses, drawn more often; auto: 3 times the "
        "match radius.",
    )
    positives: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.35, description="Share of positives among the patches, classes drawn evenly."
    )
    near_misses: Fraction = Field(0.25, description="Share of near misses among the patches.")
    hard_negatives: Fraction = Field(
        0.2, description="Share of hard negatives among the patches: labelled look-alikes and mined false positives."
    )
    mining_rounds: Annotated[int, Field(ge=0, le=20)] = Field(
        2, description="How often the network is run over the training images to draw from its false positives."
    )

    @model_validator(mode="after")
    def _leaves_other_negatives(self) -> Self:
        if self.positives + self.near_misses + self.hard_negatives >= 1:
            raise ValueError("positives, near_misses and hard_negatives must leave a share for other negatives")
        return self


class AugmentConfig(Section):
    """Random changes of training samples; `auto` takes the preset's value, 0 switches a change off."""

    preset: Literal["auto", "none", "light", "histology", "em"] = Field(
        AUTO, description="Set of strengths; auto: histology for colour images, em for grey ones."
    )
    flips: bool | Auto = Field(AUTO, description="Mirror horizontally and vertically, each with probability 1/2.")
    rotate_degrees: Annotated[float, Field(ge=0, le=180)] | Auto = Field(AUTO, description="Largest rotation.")
    scale: ScaleRange | Auto = Field(AUTO, description="Range of magnification, e.g. [0.8, 1.25].")
    shear_degrees: Annotated[float, Field(ge=0, le=45)] | Auto = Field(AUTO, description="Largest shear.")
    elastic_px: NotNegative | Auto = Field(AUTO, description="Size of elastic displacements (about their RMS).")
    stain: Fraction | Auto = Field(
        AUTO, description="Largest relative change of the amounts of haematoxylin and eosin."
    )
    brightness: Fraction | Auto = Field(AUTO, description="Largest relative change of brightness.")
    contrast: Fraction | Auto = Field(AUTO, description="Largest relative change of contrast.")
    gamma: Fraction | Auto = Field(AUTO, description="Largest relative change of gamma.")
    hue_degrees: Annotated[float, Field(ge=0, le=180)] | Auto = Field(AUTO, description="Largest turn of the hue.")
    saturation: Fraction | Auto = Field(AUTO, description="Largest relative change of saturation.")
    noise: Fraction | Auto = Field(AUTO, description="Largest standard deviation of Gaussian noise, white = 1.")
    blur_px: NotNegative | Auto = Field(AUTO, description="Largest sigma of Gaussian blur.")
    extra: list[dict[str, Any]] = Field(
        default_factory=list,
        description="More transforms of albumentations, e.g. [{name: RandomShadow, p: 0.2}], after the others.",
    )
    backend: Literal["auto", "cpu", "device"] = Field(
        AUTO,
        description="Where samples are changed: by albumentations in the loader, or in batches on the training device; "
        "auto: the device where that is CUDA and `extra` is empty.",
    )


class LossConfig(Section):
    """What training makes small."""

    name: LossName | Auto = Field(
        AUTO,
        description="auto: mean of soft Dice and cross entropy (patch CNN: cross entropy). dice, focal (Lin 2017), "
        "tversky (Salehi 2017), quadratic (squared difference of probabilities).",
    )
    class_weights: Literal["none", "balanced"] | list[Annotated[float, Field(gt=0)]] = Field(
        "none", description="Weights of the classes: none, balanced (inverse frequencies), or one number for each."
    )
    focal_gamma: NotNegative = Field(2.0, description="How much focal looks away from easy pixels.")
    tversky_alpha: Annotated[float, Field(gt=0)] = Field(0.3, description="Weight of false positives in tversky.")
    tversky_beta: Annotated[float, Field(gt=0)] = Field(0.7, description="Weight of false negatives in tversky.")
    weight_map: bool = Field(
        False, description="Weigh pixels between neighbouring objects more (Ronneberger 2015, equation 2)."
    )
    weight_map_w0: NotNegative = Field(10.0, description="Largest weight of the weight map.")
    weight_map_sigma_px: Annotated[float, Field(gt=0)] = Field(5.0, description="Reach of the weight map.")


class OptimiserConfig(Section):
    """How weights are learned."""

    name: OptimiserName = Field("adamw", description="Optimiser.")
    learning_rate: Annotated[float, Field(gt=0)] | Auto = Field(
        AUTO, description="Largest learning rate; auto: 1e-3 (sgd, adagrad: 1e-2; rmsprop: 1e-4). See `segkit find-lr`."
    )
    momentum: Fraction = Field(0.9, description="Momentum of sgd and rmsprop.")
    nesterov: bool = Field(False, description="Nesterov's momentum (sgd).")
    weight_decay: NotNegative = Field(1e-4, description="Decoupled weight decay; not applied to norms and biases.")
    l2: NotNegative = Field(0.0, description="L2 penalty as part of the gradient; not applied to norms and biases.")
    l1: NotNegative = Field(0.0, description="L1 penalty as part of the gradient; not applied to norms and biases.")
    warmup_steps: Annotated[int, Field(ge=0)] | Auto = Field(
        AUTO, description="Steps over which the rate rises linearly; auto: 5 % of all steps, at most 200."
    )
    schedule: ScheduleName = Field(
        "polynomial",
        description="The rate after warm-up: polynomial ((1 - t)^0.9, as nnU-Net), cosine, constant, step (times "
        "decay_factor every decay_epochs), one_cycle (Smith 2018), plateau (times decay_factor after decay_epochs "
        "without a better score).",
    )
    decay_factor: Annotated[float, Field(gt=0, lt=1)] = Field(0.1, description="Factor of step and plateau.")
    decay_epochs: Positive = Field(10, description="Epochs of step and plateau.")
    clip_norm: NotNegative = Field(10.0, description="Gradients are scaled down to this norm; 0: never.")


class TrainingComputeConfig(ComputeConfig):
    """Where and how a training computes."""

    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(  # type: ignore[assignment]  # one more
        AUTO,
        description="Number format of the network; auto: bfloat16 where the processor computes in it, else float32.",
    )
    compile: bool = Field(False, description="Compile the network by torch.compile.")
    gradient_checkpointing: bool = Field(
        False, description="Compute the network's maps again in the backward pass instead of keeping them."
    )
    micro_batches: Positive = Field(
        1, description="Parts of a batch that go through the network one after the other, for less memory."
    )


class TrainConfig(Section):
    """Everything that defines a training run."""

    data: DataConfig
    task: TaskName | Auto = Field(
        AUTO, description="auto: instance for labels, points for points, else semantic (labels as masks: semantic)."
    )
    model: ModelConfig = Field(default_factory=ModelConfig)
    transfer: TransferConfig = Field(default_factory=TransferConfig)
    patches: PatchConfig = Field(default_factory=PatchConfig)
    points: PointsConfig = Field(default_factory=PointsConfig)
    augment: AugmentConfig = Field(default_factory=AugmentConfig)
    loss: LossConfig = Field(default_factory=LossConfig)
    optimiser: OptimiserConfig = Field(default_factory=OptimiserConfig)
    compute: TrainingComputeConfig = Field(default_factory=TrainingComputeConfig)
    epochs: Positive = Field(50, description="Number of epochs.")
    steps_per_epoch: Positive | Auto = Field(
        AUTO,
        description="Steps in an epoch; auto: patches cover the training images once, at least 20 steps (patch CNN: as "
        "many positives as there are points, at least 100 steps).",
    )
    patience: Annotated[int, Field(ge=0)] = Field(
        0, description="Epochs without a better validation score after which training stops; 0: never."
    )
    ema: Fraction = Field(
        0.0, description="Decay of a running average of the weights, which is then the model (e.g. 0.999); 0: none."
    )
    best_by: Literal["auto", "v_rand"] = Field(
        AUTO,
        description="What the best epoch is chosen by in validation; auto: Dice (instances: AP, points: F1). v_rand: "
        "which cells are split or merged (ISBI 2012), for masks of membranes.",
    )
    average_best: Positive = Field(
        1, description="Number of best epochs whose weights are averaged at the end, if that scores better; 1: none."
    )
    workers: Annotated[int, Field(ge=0)] | Auto = Field(
        AUTO, description="Processes that prepare samples; 0: none; auto: from the number of CPU cores."
    )
    seed: Annotated[int, Field(ge=0, lt=2**32)] = Field(0, description="Seed of everything random.")
    tensorboard: bool = Field(
        False, description="Write tensorboard/ into the run folder, too (pip install 'segkit[tensorboard]')."
    )
