"""Report a study: its tables, plots and comparisons, computed from the folders of its runs."""

import math
from pathlib import Path
from statistics import mean, stdev

from jinja2 import Template

from ..documents import replacing_files, write_csv, write_text
from ..errors import UserError
from ..reporting.plots import PICTURE, plot_final, plot_study, plot_tuning, plot_values
from ..runs.files import STUDY_JSON
from .compare import ablation_baselines, compare, confidence_interval, ranked, report_power
from .cooldowns import EPOCHS
from .read import ENSEMBLES_JSON, group_runs, read_ensembles, read_study, test_top1, variant_name
from .tune import at_edge, choose, read_tried

# What a study writes, with patterns of the contents that show that they are ours; the first one speaks for all.
STUDY_FILES = {
    STUDY_JSON: rb'\A{\n  "arguments": \[',
    "results.csv": rb"\Aschedule,variant,seed,",
    "results.md": rb"# (Learning-rate schedules|Ablation study) on ",
    ENSEMBLES_JSON: rb'\A\[(\]|\n  {\n    "runs": )',
    **{f"{name}.{kind}": PICTURE for name in ("curves", "final", "budgets", "tuning") for kind in ("png", "svg")},
}


def write_report(folder, targets=None):
    """
    Write results.csv (a row for each run), results.md, curves.png, final.png and, if an argument was tuned, tuning.png
    into the folder of a study, or of single runs, which are then compared by their schedules. Return the text of
    results.md. As long as only tuning runs are finished, results.md is about them alone, without curves and final.png.

    `targets` are the accuracies, 0 to 1, to report the time to; they are chosen from the runs if None. Raises
    [`UserError`] if there is no finished run.
    """
    folder = Path(folder)
    finished, unfinished = read_study(folder)
    runs = [run for run in finished if not run["tuning"]]
    if not finished:
        raise UserError(f"there is no finished run in {folder}")
    shown = runs or finished
    targets = sorted(targets) if targets else choose_targets(shown)
    groups = group_runs(runs)
    rows = [
        {"schedule": run["schedule"], "variant": variant_name(run), "seed": run["seed"], **run["tuned"]}
        | ({"tuning": run["tuning"]} if run["tuned"] else {})
        | run_metrics(run, targets)
        for run in finished
    ]
    left_out = len([run for run in unfinished if not run["tuning"]])
    with replacing_files(folder) as temporary:
        columns = list(dict.fromkeys(name for row in rows for name in row))
        write_csv([columns, *([row.get(name) for name in columns] for row in rows)], temporary / "results.csv")
        tuning = _tuning(groups, read_tried(folder), [run for run in finished if run["tuning"]], temporary)
        budgets = bool(runs) and _plot_budgets(groups, temporary)
        text = results_markdown(shown, groups, targets, left_out, read_ensembles(folder), tuning, budgets)
        write_text(text, temporary / "results.md")
        if runs:
            histories = {name: [run["history"] for run in members] for name, members in groups.items()}
            plot_study(histories, temporary / "curves.png", runs[0]["metrics"]["selected_on"])
            finals = {
                name: {run["seed"]: run["metrics"]["test"]["top1"] for run in members}
                for name, members in groups.items()
            }
            intervals = {
                name: confidence_interval(list(tops.values())) for name, tops in finals.items() if len(tops) > 1
            }
            plot_final(finals, intervals, temporary / "final.png")
    return text


def choose_targets(runs):
    """Return the highest multiple of 10% that every run reached, and the highest that any run reached."""
    best = [max((row.get("eval_top1", 0.0) for row in run["history"]), default=0.0) for run in runs]
    return sorted({math.floor(10 * value) / 10 for value in (min(best), max(best))} - {0.0})


def run_metrics(run, targets):
    """
    Return the numbers of one run that the tables show. Accuracies are 0 to 1; None is not measured or not reached. With
    few classes there is no top-5 accuracy.
    """
    metrics, history = run["metrics"], run["history"]
    last = history[-1]
    row = {
        f"{split}_{score}": (metrics[split] or {}).get(score)
        for split in ("validation", "test")
        for score in ("top1", "top5", "loss")
        if score in metrics["test"]
    }
    row["best_epoch"] = metrics["best_epoch"]
    row["train_accuracy"] = last.get("train_accuracy")
    row["gap"] = last["train_accuracy"] - last["eval_top1"] if {"train_accuracy", "eval_top1"} <= set(last) else None
    for target in targets:
        reached = next((r for r in history if r.get("eval_top1", 0) >= target), {})
        row[f"epochs_to_{target:g}"] = reached.get("epoch")
        row[f"seconds_to_{target:g}"] = reached.get("train_seconds")
    row["train_seconds"] = metrics["timing"]["train_seconds"]
    return row


def results_markdown(shown, groups, targets, unfinished, ensembles, tuning, has_budgets):
    """Return the text of results.md: what was run, the comparison, the table, how an argument was tuned, and plots."""
    first = shown[0]
    template = Path(__file__).with_name("results.md.jinja").read_text(encoding="utf-8")
    return Template(template, trim_blocks=True, keep_trailing_newline=True).render(
        runs=shown,
        run=first["run"],
        metrics=first["metrics"],
        tuned=first["tuned"],
        ablations=ablation_baselines(groups),
        comparison=groups and compare(groups),
        power=groups and report_power(groups),
        table=groups and _table(groups, targets, first["metrics"]["selected_on"], ensembles),
        ensembles=ensembles,
        unfinished=unfinished,
        tuning=tuning,
        has_budgets=has_budgets,
    )


def _table(groups, targets, selected_on, ensembles):
    columns = {"test_top1": "test top-1", "interval": "95% interval", "test_top5": "test top-5"}
    if selected_on == "validation":
        columns = {"validation_top1": "validation top-1", "validation_top5": "validation top-5"} | columns
    columns |= {"best_epoch": "best epoch", "train_accuracy": "train accuracy", "gap": "gap"}
    for target in targets:
        columns |= {f"epochs_to_{target:g}": f"epochs to {target:.0%}", f"seconds_to_{target:g}": f"s to {target:.0%}"}
    numbers = {name: [run_metrics(run, targets) for run in members] for name, members in groups.items()}
    measured = {"interval", *(column for rows in numbers.values() for row in rows for column in row)}
    columns = {column: title for column, title in columns.items() if column in measured}
    scores_of = {tuple(each["runs"]): each["test"] for each in ensembles}
    tuned = list(next(iter(groups.values()))[0]["tuned"])
    head = ["schedule", *tuned, "n", *columns.values()]
    rows = [head, ["---"] * len(head)]
    for name in ranked(groups):
        members = groups[name]
        chosen = [members[0]["tuned"].get(argument, "") for argument in tuned]
        cells = {column: _cell(column, [row.get(column) for row in numbers[name]]) for column in columns}
        cells["interval"] = _interval(test_top1(members))
        rows.append([name, *chosen, len(members), *cells.values()])
        # An ensemble is shown only beside exactly the runs that it consists of.
        if scores := scores_of.get(tuple(run["folder"] for run in members)):
            scores = {f"test_{score}": _cell(score, [value]) for score, value in scores.items()}
            cells = [scores.get(column, "") for column in columns]
            rows.append([f"{name}, ensemble of its {len(members)} seeds", *chosen, 1, *cells])
    return rows


def _cell(column, values):
    known = [value for value in values if value is not None]
    if not known:
        return "never" if "_to_" in column else ""
    share = column.endswith(("top1", "top5", "accuracy", "gap"))
    scale, unit, digits = (100, "%", 2) if share else (1, "", 0 if column.startswith("seconds") else 1)
    text = f"{scale * mean(known):.{digits}f}"
    if len(known) > 1:
        text += f" ± {scale * stdev(known):.{digits}f}"
    return text + unit + (f" ({len(known)} of {len(values)})" if len(known) < len(values) else "")


def _interval(values):
    if len(values) < 2:
        return ""
    low, high = confidence_interval(values)
    return f"{100 * low:.1f} to {100 * high:.1f}%"


def _plot_budgets(groups, folder):
    """Draw budgets.png if the number of epochs was varied, and return whether it was."""
    tops = {}
    for members in groups.values():
        varied = dict(members[0]["varied"])
        if EPOCHS not in varied:
            return False
        budget = varied.pop(EPOCHS)
        tops.setdefault(variant_name(members[0] | {"varied": varied}), {})[budget] = test_top1(members)
    plot_values(tops, folder / "budgets.png", "epochs", "test top-1: mean ± standard deviation over seeds")
    return True


def _tuning(groups, tried, runs, folder):
    """Return what results.md says of the choice of an argument, and draw tuning.png; None if none was tuned."""
    if not runs:
        return None
    [argument] = runs[0]["tuned"]
    chosen = {name: choose(tried[name], name) for name in groups or tried if name in tried}
    tops = {name: {(value,): top1 for value, top1 in tried[name].items() if top1 is not None} for name in chosen}
    circled = {name: (value,) for name, value in chosen.items()}
    plot_tuning(tops, circled, [argument], folder / "tuning.png", runs[0]["metrics"]["selected_on"])
    return {
        "argument": argument,
        "chosen": chosen,
        "tried": tried,
        "runs": len(runs),
        "seeds": sorted({run["seed"] for run in runs}),
        "edges": [f"{name} ({value})" for name, value in chosen.items() if at_edge(tried[name], value)],
        "seconds": _train_seconds(runs),
        "compared_seconds": sum(map(_train_seconds, groups.values())),
    }


def _train_seconds(runs):
    return sum(run["metrics"]["timing"]["train_seconds"] or 0 for run in runs)
