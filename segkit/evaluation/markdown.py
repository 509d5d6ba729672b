"""Tables in Markdown."""

from collections.abc import Sequence


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table whose first column is aligned left and all others right; cells as `cell` makes them."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def cell(text: str) -> str:
    """Return `text` such that Markdown shows it as it is, in one cell."""
    return "".join(f"\\{char}" if char in "\\|*_`<>[]" else char for char in " ".join(text.split()))
