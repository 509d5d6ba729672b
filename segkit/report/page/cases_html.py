"""Cases as HTML: their pictures with layers, the gallery, and the dialog that shows one large."""

from collections.abc import Mapping

from segkit.report.page.content import Case, Gallery
from segkit.report.page.markup import Markup, element, join
from segkit.report.page.pictures import Kind, Layer, Picture, data_uri

_SHAPES: Mapping[str, str] = {
    "outline": "M3 5q5-4 11-1t2 9-9 3-4-11z",
    Kind.RIGHT: "M3 10a7 7 0 1 0 14 0a7 7 0 1 0-14 0z",
    Kind.FALSE: "M4 4l12 12m0-12l-12 12",
    Kind.MISSED: "M4 4h12v12h-12z",
    Kind.LOOK_ALIKE: "M10 3l7 7l-7 7l-7-7z",
}
"""What a legend shows of a path: something like an object, or a marker."""


def ids_of(gallery: Gallery) -> dict[str, str]:
    """Return the id of each case on the page, by its name."""
    cases = [case for _, group in gallery.groups for case in group] + list(gallery.others)
    return {case.name: f"case-{number}" for number, case in enumerate(cases)}


def gallery_block(gallery: Gallery) -> Markup:
    """Return the cases under their headings, and the others as templates, which cost nothing before they are opened."""
    ids = ids_of(gallery)
    groups = [
        join(
            element("h3", heading),
            element("div", *(_figure(case, ids[case.name]) for case in cases), attributes={"class": "cases"}),
        )
        for heading, cases in gallery.groups
    ]
    others = [
        element("template", _figure(case, ids[case.name]), attributes={"id": f"{ids[case.name]}-template"})
        for case in gallery.others
    ]
    note = element("p", gallery.note, attributes={"class": "note"}) if gallery.note else None
    legend = element("ul", *_legend(gallery, as_boxes=False), attributes={"class": "legend"})
    return element("div", legend, *groups, note, *others, attributes={"class": "gallery"})


def viewer(gallery: Gallery) -> Markup:
    """Return the dialog in which a case is shown large; the script fills it."""
    close, before, after = (
        element("button", words, attributes={"type": "button", "class": name, "autofocus": name == "next"})
        for words, name in (
            ("Close", "close"),
            ("\N{LEFTWARDS ARROW} Previous", "previous"),
            ("Next \N{RIGHTWARDS ARROW}", "next"),
        )
    )
    boxes = element(
        "fieldset",
        element("legend", "Show"),
        *_legend(gallery, as_boxes=True),
        attributes={"class": "layers"},
    )
    return element(
        "dialog",
        element("div", element("h2", "", attributes={"id": "viewer-name"}), close, attributes={"class": "viewer-head"}),
        element("div", attributes={"class": "stage"}),
        element("div", attributes={"class": "viewer-text", "aria-live": "polite"}),
        element(
            "div",
            boxes,
            element(
                "div", before, element("span", attributes={"class": "place"}), after, attributes={"class": "steps"}
            ),
            attributes={"class": "viewer-foot"},
        ),
        attributes={"id": "viewer", "aria-labelledby": "viewer-name"},
    )


def _figure(case: Case, ident: str) -> Markup:
    button = element(
        "button",
        _svg(case, ident),
        attributes={"type": "button", "class": "enlarge", "data-case": ident, "title": "Enlarge"},
    )
    caption = element(
        "figcaption",
        element("bdi", case.name, attributes={"class": "name", "title": case.name}),
        element("span", case.score, attributes={"class": "score"}),
        element("p", f"{case.text} ({case.picture.note})", attributes={"class": "text"}),
    )
    return element("figure", button, caption, attributes={"class": "case", "id": ident})


def _svg(case: Case, ident: str) -> Markup:
    picture = case.picture
    ground = _image(picture.image, "image/webp", picture)
    areas = [layer for layer in picture.layers if not layer.path]
    lines = [(layer, f"{ident}-{layer.kind}") for layer in picture.layers if layer.path]
    layers = [_group(layer, _image(layer.png, "image/png", picture)) for layer in areas]
    # The path itself is there once. All pale rims, which show lines on any ground, lie below all lines.
    for layer, name in lines:
        path = element("defs", element("path", attributes={"id": name, "d": Markup(layer.path)}))
        layers.append(_group(layer, path, _use(name, "rim")))
    layers += [_group(layer, _use(name, "stroke")) for layer, name in lines]
    return element(
        "svg",
        ground,
        *layers,
        attributes={
            "viewBox": f"0 0 {picture.width} {picture.height}",
            "class": "picture",
            "role": "img",
            "aria-label": f"{case.name}: {case.text}",
        },
    )


def _image(content: bytes, media_type: str, picture: Picture) -> Markup:
    # What is base64 needs no escaping, which takes long for so much.
    return element(
        "image",
        attributes={
            "href": Markup(data_uri(content, media_type)),
            "width": picture.width,
            "height": picture.height,
            "preserveAspectRatio": "none",
        },
    )


def _group(layer: Layer, *children: Markup) -> Markup:
    look = "area" if not layer.path else ("outline" if layer.is_outline else "marks")
    return element("g", *children, attributes={"class": f"layer {look} {layer.kind}"})


def _use(ident: str, style: str) -> Markup:
    return element("use", attributes={"href": f"#{ident}", "class": style})


def _legend(gallery: Gallery, *, as_boxes: bool) -> list[Markup]:
    """Return an entry for each kind of layer that occurs, in the order of the legend, as words or as boxes to tick."""
    cases = [case for _, group in gallery.groups for case in group] + list(gallery.others)
    samples = {str(layer.kind): layer for case in cases for layer in case.picture.layers}
    entries = []
    for kind, words in gallery.legend.items():
        if kind not in samples:
            continue
        key = _key(samples[kind])
        if as_boxes:
            box = element("input", attributes={"type": "checkbox", "checked": True, "data-kind": kind})
            entries.append(element("label", box, key, words))
        else:
            entries.append(element("li", key, words))
    return entries


def _key(layer: Layer) -> Markup:
    if layer.path:
        shape = _SHAPES["outline" if layer.is_outline else layer.kind]
        sample = element("path", attributes={"d": shape, "class": "stroke"})
    else:
        sample = element("rect", attributes={"x": 2, "y": 2, "width": 16, "height": 16, "class": "swatch"})
    return element(
        "svg", _group(layer, sample), attributes={"viewBox": "0 0 20 20", "class": "kind", "aria-hidden": "true"}
    )
