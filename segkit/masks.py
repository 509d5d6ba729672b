"""What the values of a mask mean everywhere: class indices, 0 = background, IGNORE; and each class's colour."""

from typing import Final

IGNORE: Final = 255
"""Value in masks of pixels that are not labelled and do not count."""

# Okabe and Ito (2008), distinguishable with colour-vision deficiencies; order chosen to stand out on H&E.
_COLOURS = (
    (0, 158, 115),
    (230, 159, 0),
    (0, 114, 178),
    (240, 228, 66),
    (86, 180, 233),
    (213, 94, 0),
    (204, 121, 167),
)


def colour_of_class(index: int) -> tuple[int, int, int]:
    """Return the colour (r, g, b in 0..255) of a class index; 0, the background, is grey; they repeat after 7."""
    if index == 0:
        return (128, 128, 128)
    return _COLOURS[(index - 1) % len(_COLOURS)]
