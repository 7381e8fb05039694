"""The files that say what a run was and what came out of it."""

from pathlib import Path

from . import records
from .card import model_card
from .curves import plot_history

CARD, CURVES = "README.md", "curves.png"


def write_results(folder, run, metrics, rows):
    """
    run.json, history.csv, README.md, metrics.json and curves.png, in this order.

    Args:
        folder (`str` or `Path`): there already.
        run (`dict`): what was run.
        metrics (`dict`): what came out.
        rows (list of dicts): see [`records.history`].
    """
    folder = Path(folder)
    records.write_json(run, folder / records.RUN_JSON)
    records.write_history(rows, folder / records.HISTORY_CSV)
    model_card(run, metrics).save(folder / CARD)
    # It says that the run is finished, so it comes after all that the figures are in; a picture can be drawn again.
    records.write_json(metrics, folder / records.METRICS_JSON)
    plot_history(rows, folder / CURVES, metrics["selected_on"], run["arguments"]["label_smoothing_factor"])
