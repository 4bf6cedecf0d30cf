"""The comparison as a table, for people and for documents, and as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.table import Table

from benchmarks.memory.summary import Row

COLUMNS = ("network", "MACs a frame", "over CNN", "parameters")
NO_MEMORY, LSTM, OTHER = "#888888", "#c0392b", "#2471a3"


def table(rows: Sequence[Row], titles: Mapping[str, str]) -> Table:
    """Return the comparison for a terminal; `titles` says how each set is headed."""
    shown = Table(COLUMNS[0], title="Accuracy on held-out digits, and its cost")
    for heading in (*COLUMNS[1:], *(titles[name] for name in _sets(rows))):
        shown.add_column(heading, justify="right")
    for cells in _cells(rows):
        shown.add_row(*cells)
    return shown


def markdown(rows: Sequence[Row], titles: Mapping[str, str]) -> str:
    """Return the comparison as a Markdown table."""
    headings = [*COLUMNS, *(titles[name] for name in _sets(rows))]
    lines = [headings, ["---", *["---:"] * (len(headings) - 1)], *_cells(rows)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def draw(rows: Sequence[Row], titles: Mapping[str, str], chance: Mapping[str, float], path: Path) -> None:
    """Draw accuracy against MACs per frame, a panel for each set, into a picture file.

    Short strokes are the seeds, a dotted line is chance.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    sets = _sets(rows)
    figure, panels = plt.subplots(1, len(sets), figsize=(4.2 * len(sets), 4.6), sharey=True, squeeze=False)
    for panel, name in zip(panels[0], sets, strict=True):
        for row in (row for row in rows if row.set == name):
            colour, marker = _style(row.network)
            panel.errorbar(
                row.macs_per_frame / 1e6,
                100 * row.mean,
                yerr=None if row.margin is None else 100 * row.margin,
                color=colour,
                marker=marker,
                markersize=8,
                capsize=4,
                linestyle="none",
                label=row.network,
            )
            each = [100 * accuracy for accuracy in row.accuracies]
            panel.plot([row.macs_per_frame / 1e6] * len(each), each, "_", color=colour, markersize=16, alpha=0.7)
        panel.axhline(100 * chance[name], color="black", linewidth=1, linestyle=":")
        panel.set(title=titles[name], xlabel="million MACs a frame (not from 0)", ylim=(0, 104))
        panel.grid(alpha=0.3)
    panels[0][0].set_ylabel("test accuracy, %")
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=4, frameon=False)
    figure.tight_layout(rect=(0, 0.12, 1, 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _cells(rows: Sequence[Row]) -> list[list[str]]:
    found = {(row.set, row.network): row for row in rows}
    lines = []
    for network in dict.fromkeys(row.network for row in rows):
        of_this = [found.get((name, network)) for name in _sets(rows)]
        first = next(row for row in of_this if row is not None)
        over = "" if first.over_cnn is None else f"{100 * first.over_cnn:+.1f} %"
        costs = [f"{first.macs_per_frame:,}", over, f"{first.parameters:,}"]
        lines.append([network, *costs, *map(_accuracy, of_this)])
    return lines


def _accuracy(row: Row | None) -> str:
    if row is None:
        return ""
    return f"{100 * row.mean:.1f} %" + ("" if row.margin is None else f" ± {100 * row.margin:.1f}")


def _sets(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row.set for row in rows))


def _style(network: str) -> tuple[str, str]:
    markers = {"CNN": "o", "CNN + mean": "s", "CNN-GRU": "D", "CNN-TCN": "P"}
    if "LSTM" in network:
        return LSTM, {"1": "^", "2": "v"}.get(network.split()[1], "*")
    return (NO_MEMORY if network in {"CNN", "CNN + mean"} else OTHER), markers.get(network, "X")
