"""What an exported model is and how it is used by somebody who has no segkit: values for programs, steps in words."""

from collections.abc import Mapping
from typing import Any

from segkit.config import length_px
from segkit.inference.instances import STAGES
from segkit.models.export_forms import INPUT_NAME, ExportForm, OutputValues
from segkit.models.model_file import DetectionSpec, InstanceSpec, Model
from segkit.models.receptive_field import mixing_norms

MARK = "segkit_export"
"""The key that only what `segkit export` writes has; its value is the version of this description."""
VERSION = 1

_OUTPUTS: Mapping[str, str] = {
    "probabilities": "the probability of each class; they add up to 1 at each place",
    "logits": "the network's values for each class; softmax over axis 1 makes them probabilities",
    "heat": "how near a point of each class but background is, 1 at the point; sums do not add up to 1",
    "heat_logits": "the same before the sigmoid, 1 / (1 + exp(-v))",
    "distance": "how far inside its object a pixel lies: 1 in the middle, 0 at the border and outside",
    "distance_logits": "the same before the sigmoid, 1 / (1 + exp(-v))",
}


def describe(
    model: Model, form: ExportForm, values: OutputValues, file_format: Mapping[str, Any], versions: Mapping[str, str]
) -> dict[str, Any]:
    """Return what is known of an exported model, as JSON has it: no paths, no dates.

    Parameters
    ----------
    model
        The model.
    form
        How it was exported.
    values
        What comes out of it.
    file_format
        Names and numbers of the file's format.
    versions
        Of the packages that made it.
    """
    spec, sizes = model.spec, form.sizes
    content: dict[str, Any] = {
        MARK: VERSION,
        "format": dict(file_format),
        "model": {
            "sha256": model.sha256,
            "architecture": spec.architecture,
            "arguments": spec.arguments.model_dump(mode="json", exclude_none=True),
            "receptive_field_px": spec.receptive_field,
        },
        "task": spec.task,
        "classes": spec.classes,
        "mpp": spec.mpp,
        "normalisation": {
            "where": "inside the graph",
            "formula": "(value / 255 - mean) / std",
            "mean": spec.mean,
            "std": spec.std,
        },
        "input": {
            "name": INPUT_NAME,
            "type": form.input_type,
            "layout": f"batch, {form.channels}, height, width",
            "channels": "red, green, blue" if form.channels == 3 else "grey",
            "range": [0, 255],
            "height_and_width": size_rule(form),
        },
        "outputs": [_output(name, model, form) for name in form.output_names],
        "sizes": {
            "step": sizes.step,
            "offset": sizes.offset,
            "smallest": sizes.smallest,
            "margin_px": sizes.margin,
            "stride_px": sizes.stride,
            **_reach(model, form),
        },
    }
    if spec.detection is not None:
        content["detection"] = _detection(spec.detection, spec.mpp)
    if spec.instances is not None:
        content["instances"] = spec.instances.model_dump()
    return content | {
        "preprocessing": preprocessing(model, form),
        "postprocessing": postprocessing(model, form, values),
        "versions": dict(versions),
    }


def size_rule(form: ExportForm) -> str:
    """Return in words which heights and widths are legal."""
    sizes = form.sizes
    if not sizes.step:
        return f"exactly {sizes.offset}"
    steps = "n" if sizes.step == 1 else f"{sizes.step} * n"
    rule = f"{steps} + {sizes.offset}" if sizes.offset else steps
    return f"{rule}, n = 2, 3, 4 and so on ({sizes.smallest}, {sizes.smallest + sizes.step}, ...)"


def preprocessing(model: Model, form: ExportForm) -> list[str]:
    """Return what has to be done with an image first, step by step."""
    spec, sizes = model.spec, form.sizes
    steps = [
        "The scale of the images that it was trained with is unknown: use images of the same scale."
        if spec.mpp is None
        else f"Resample the image to {spec.mpp:g} micrometres per pixel, antialiased. segkit leaves it as it is where "
        "the scales differ by 5 % or less.",
        "Samples of 8 bits are taken as they are. Map others linearly to 0..255 and round: 16 bits that are used in "
        "full as v / 257, 12 bits as v * 255 / 4095. Lay transparent pixels over white.",
        "Order the channels red, green, blue; repeat the only channel of a grey image."
        if form.channels == 3
        else "Make colours grey: round(0.299 * red + 0.587 * green + 0.114 * blue).",
        f"Give the values as {form.input_type}, 0 to 255. Do not divide them: normalisation is inside. Lay the array "
        f"out as (batch, {form.channels}, height, width).",
    ]
    match form.kind:
        case "patch":
            middle = sizes.offset // 2
            steps.append(
                f"Cut patches of {sizes.offset} x {sizes.offset} pixels. The one that is judged lies in row {middle}, "
                f"column {middle}, counted from 0; mirror the image where a patch reaches over its border."
            )
        case "dense":
            halo = _reach(model, form)["halo_px"]
            steps.append(
                f"Mirror the image by {halo} pixels above and on the left (the border pixel is not repeated, as "
                "numpy.pad does with mode 'reflect'), and below and on the right until height and width are "
                f"{sizes.offset + sizes.stride}{_steps_of(sizes.stride)}, where size is the image's own height or "
                f"width. Row i, column j of the output then belong to the image's row {_times('i', sizes.stride)}, "
                f"column {_times('j', sizes.stride)}."
            )
        case "map":
            steps += _tiling(model, form)
    return steps


def _tiling(model: Model, form: ExportForm) -> list[str]:
    halo, sizes = _reach(model, form)["halo_px"], form.sizes
    cropped = halo - sizes.margin
    steps = [
        f"Mirror the image by {halo} pixels on each side (the border pixel is not repeated, as numpy.pad does with "
        f"mode 'reflect'), then go on below and on the right until height and width are {size_rule(form)}. The pixel "
        f"(y, x) of the image is then (y + {cropped}, x + {cropped}) of the output: crop that."
        if cropped
        else f"Mirror the image by {halo} pixels on each side (the border pixel is not repeated, as numpy.pad does "
        f"with mode 'reflect'), then go on below and on the right until height and width are {size_rule(form)}. The "
        f"network takes {sizes.margin} pixels off each side, so the pixel (y, x) of the image is (y, x) of the output."
    ]
    if mixing_norms(model.network):
        steps.append(
            "This network averages over all pixels that it sees (squeeze-and-excitation or a norm over pixels): tiles "
            "of a large image do not equal the whole. Take them as large as the patches it was trained with, or larger."
        )
    else:
        steps.append(
            f"A large image may be cut into tiles: cores whose corners lie on multiples of {sizes.step} pixels, each "
            f"read with {halo} pixels around it and cropped to its core. That equals the whole image at once."
        )
    return steps


def postprocessing(model: Model, form: ExportForm, values: OutputValues) -> list[str]:
    """Return what has to be done with the outputs, step by step."""
    spec = model.spec
    steps = []
    if values == "logits":
        steps.append("Apply softmax or sigmoid as the outputs' meanings say; what follows is for probabilities.")
    if spec.instances is not None:
        return [*steps, *_instance_steps(spec.instances)]
    if spec.detection is None:
        return [
            *steps,
            "The class of a pixel is the one of the highest probability (of equal ones the first): argmax over axis 1, "
            "an index into classes, 0 = background.",
            "1 - probabilities[:, 0] is the probability of not being background.",
        ]
    if form.kind == "patch":
        thresholds = _by_class(model)
        return [
            *steps,
            f"A patch shows a class where its probability reaches its threshold: {thresholds}. For detections in an "
            "image, export with --dense: then neighbouring patches are weighed against each other.",
        ]
    return [*steps, *_detection_steps(model, form, spec.detection)]


def _instance_steps(spec: InstanceSpec) -> list[str]:
    smooth = (
        f"Smooth both by a Gaussian of {spec.smooth_px:g} pixels, cut at 3 standard deviations, mirrored at the border."
        if spec.smooth_px
        else "Do not smooth them."
    )
    return [
        "foreground = 1 - probabilities[:, 0]. segkit rounds foreground and distance to 8 bits (value * 255) first.",
        smooth,
        f"A pixel is foreground where foreground >= {spec.foreground_threshold:g}; seeds are the 4-connected regions "
        f"of foreground with distance >= {spec.seed_threshold:g}.",
        f"Seeds grow over the foreground by {spec.grow_px} rounds of 4-neighbours (of several labels: that above, else "
        f"left, right, below), in {STAGES} equal stages: in stage s only into pixels whose distance is at least "
        f"{spec.seed_threshold:g} * (1 - s / {STAGES}). A watershed on -distance from the seeds comes close.",
        f"Drop objects of fewer than {spec.min_area_px} pixels. An object's class is the most frequent one of its "
        "pixels (argmax of the probabilities), background left out.",
    ]


def _detection_steps(model: Model, form: ExportForm, detection: DetectionSpec) -> list[str]:
    maps = "heat[:, k] is the map of classes[k + 1]" if form.kind == "map" else "probabilities[:, k] is that of class k"
    stride = form.sizes.stride
    around = f", divided by {stride} in pixels of the map" if stride > 1 else ""
    return [
        f"Take the map of each class but background: {maps}.",
        f"Average it over a disk: all pixels up to {_length(detection.smooth_radius, model.spec.mpp)} away{around}; "
        "the map is mirrored at its border.",
        "Candidates are the pixels (or connected pixels of equal value, at their mean position) with no higher one "
        f"among their 8 neighbours, whose value reaches the threshold of the class: {_by_class(model)}.",
        "Take candidates by descending value; each removes those of its class within "
        f"{_length(detection.nms_radius, model.spec.mpp)}{around}. Then do the same among all classes.",
        f"The map's row i, column j is at y = {_times('i', stride)} + 0.5, x = {_times('j', stride)} + 0.5 in pixels "
        "of the image that was given, where 0.5 is the first pixel's centre.",
    ]


def _output(name: str, model: Model, form: ExportForm) -> dict[str, Any]:
    spec, sizes = model.spec, form.sizes
    maps = {"distance": 1, "distance_logits": 1, "heat": len(spec.classes) - 1, "heat_logits": len(spec.classes) - 1}
    number = maps.get(name, len(spec.classes))
    if form.kind == "patch":
        layout = f"batch, {number}"
    elif sizes.are_kept:
        layout = f"batch, {number}, height, width"
    else:
        rule = "height - {0}, width - {0}" if sizes.stride == 1 else "(height - {0}) / {1}, (width - {0}) / {1}"
        lost = 2 * sizes.margin if form.kind == "map" else sizes.offset
        layout = f"batch, {number}, {rule.format(lost, sizes.stride)}"
    return {
        "name": name,
        "type": "float32",
        "layout": layout,
        "range": None if name.endswith("logits") else [0, 1],
        "meaning": _OUTPUTS[name],
    }


def _reach(model: Model, form: ExportForm) -> dict[str, int]:
    """Return how many pixels around a place decide on it, on each side."""
    match form.kind:
        case "map":
            return {"halo_px": model.grid.halo}
        case "dense":
            return {"halo_px": model.patch_cnn.patch_px // 2, "patch_px": model.patch_cnn.patch_px}
        case "patch":
            return {"patch_px": model.patch_cnn.patch_px}


def _detection(detection: DetectionSpec, mpp: float | None) -> dict[str, Any]:
    """Return how points are found, radii in pixels of the model's scale, too; the curves are left out, being long."""
    content = detection.model_dump(mode="json", exclude={"curves"})
    for name in ("match_radius", "smooth_radius", "nms_radius"):
        if mpp is not None or content[name].endswith("px"):
            content[f"{name}_px"] = length_px(content[name], mpp)
    return content


def _length(length: str, mpp: float | None) -> str:
    return length if mpp is None or length.endswith("px") else f"{length_px(length, mpp):g} pixels ({length})"


def _by_class(model: Model) -> str:
    assert model.spec.detection is not None
    pairs = zip(model.spec.classes[1:], model.spec.detection.thresholds, strict=True)
    return ", ".join(f"{name} {threshold:g}" for name, threshold in pairs)


def _times(name: str, factor: int) -> str:
    return name if factor == 1 else f"{factor} * {name}"


def _steps_of(stride: int) -> str:
    return " + size - 1" if stride == 1 else f" + {stride} * (ceil(size / {stride}) - 1)"
