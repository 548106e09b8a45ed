"""What the benchmarks write: Markdown tables, pictures, and the machine they ran on."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Sequence
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PEERS = ("torch", "torchdiffeq", "torchode", "diffrax", "jax", "scipy", "zuko", "scikit-learn")


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table.

    Parameters
    ----------
    header : sequence of str
        The columns' names.
    rows : iterable of sequences
        Their cells; None gives an empty cell.

    Returns
    -------
    str
        The table, with cells padded to equal width.
    """
    cells = [list(header), *(["" if cell is None else str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in cells
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def machine(command: str) -> str:
    """A paragraph that names the machine, the versions, the day and the command.

    Parameters
    ----------
    command : str
        The command that makes the figures.

    Returns
    -------
    str
        Markdown.
    """
    return f"Machine: {setup()} Made by `{command}`."


def setup() -> str:
    """The processor, the versions and the day, in sentences."""
    cores = f"{os.process_cpu_count() if hasattr(os, 'process_cpu_count') else os.cpu_count()} cores"
    python = f"Python {platform.python_version()}"
    versions = ", ".join(f"{package} {_version(package)}" for package in PEERS)
    return f"{_cpu()}, {cores}. {python}, {versions}. {date.today()}."


def write(path: Path, title: str, body: str, command: str) -> None:
    """Write a page of the report: title, machine, body.

    Parameters
    ----------
    path : Path
        The file; its folder is made if need be.
    title, body : str
        Markdown.
    command : str
        The command that makes the page.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"# {title}\n\n{machine(command)}\n\n{body.strip()}\n")


def new_figure(n_rows: int, n_columns: int) -> tuple[Any, Any]:
    """A matplotlib figure and its axes, drawn without a display.

    Parameters
    ----------
    n_rows, n_columns : int
        Number of axes.

    Returns
    -------
    figure, axes
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5 * n_columns, 4.5 * n_rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(n_rows, n_columns)
    for ax in axes.flat:
        ax.grid(which="major", alpha=0.3)
    return figure, axes


def save(figure: Any, path: Path) -> None:
    """Write a figure as PNG; its folder is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown processor"
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown processor")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"
