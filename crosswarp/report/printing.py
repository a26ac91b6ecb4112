"""Printing tables, fitted to the terminal; plain text of full width where the output is no terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table as Grid

from ..terminal import console as standard_console
from .tables import FIGURE_SPACE, Table

_UNLIMITED = 100_000  # columns, where no terminal sets a limit


def show(tables: Mapping[str, Table], console: Console | None = None) -> None:
    """Print tables by their titles.

    Args:
        tables: title -> table.
        console: where to; by default standard output.
    """
    console = console or standard_console()
    if not console.is_terminal:
        console.width = _UNLIMITED
    for title, table in tables.items():
        console.print(title, style="bold")
        for part in fitted(table, console):
            console.print(part)
            console.print()


def fitted(table: Table, console: Console) -> list[Grid]:
    """Arrange a table so that it is no wider than a console.

    Returns:
        The table as it is; or turned, its lines as columns; or, where that is too wide as well, parts of its
        columns, each with the names of the lines. A column by itself may still be too wide: its cells wrap.
    """
    names = 2 if any(table.groups) else 1  # columns that name a line: its group, and itself
    columns = [tuple([""] + [group for group, lines in table.groups.items() for _ in lines])]
    columns += zip(table.header, *(line for lines in table.groups.values() for line in lines), strict=True)
    columns = columns[-names - len(table.header) + 1 :]

    def grid(columns: Sequence[tuple[str, ...]]) -> Grid:
        return _grid(list(zip(*columns, strict=True)), 1, names)

    def fits(grid: Grid) -> bool:
        wide = console.options.update(width=_UNLIMITED)
        return console.measure(grid, options=wide).maximum <= console.width

    for whole in (grid(columns), _grid(columns, names, 1)):
        if fits(whole):
            return [whole]
    parts: list[list[tuple[str, ...]]] = []
    for column in columns[names:]:
        if parts and fits(grid([*columns[:names], *parts[-1], column])):
            parts[-1].append(column)
        else:
            parts.append([column])
    return [grid([*columns[:names], *part]) for part in parts]


def _grid(lines: Sequence[Sequence[str]], headings: int, names: int) -> Grid:
    """Lines of cells, of which the first lines and the first columns are headings."""
    grid = Grid.grid(padding=(0, 2), pad_edge=False)
    for number in range(len(lines[0])):
        grid.add_column(justify="left" if number < names else "right")
    for number, line in enumerate(lines):
        cells = (cell.replace(FIGURE_SPACE, " ") for cell in line)
        grid.add_row(*cells, style="bold" if number < headings else "")
    return grid
