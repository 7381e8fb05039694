"""Report a study: its tables, plots and comparisons, computed from the folders of its runs."""

import math
import warnings
from collections import defaultdict
from pathlib import Path
from statistics import mean, stdev

from scipy import stats

from ..errors import UserError
from ..reporting import run_files, run_record
from ..reporting.plots import plot_study, plot_study_final

# Differences are claimed below this p-value, after Holm's correction for the number of comparisons.
SIGNIFICANCE = 0.05
# In a study's folder: the scores of the runs of each variant as an ensemble.
ENSEMBLES_JSON = "ensembles.json"


def write_report(folder, targets=None):
    """
    Write results.csv (a row for each run), results.md, curves.png and final.png into the folder of a study, or of
    single runs, which are then compared by their schedules. Return the text of results.md.

    `targets` are the accuracies, 0 to 1, to report the time to; they are chosen from the runs if None. Raises
    [`UserError`] if there is no finished run.
    """
    folder = Path(folder)
    runs, unfinished = read_study(folder)
    if not runs:
        raise UserError(f"there is no finished run in {folder}")
    targets = sorted(targets) if targets else choose_targets(runs)
    groups = group(runs)
    _write_csv(runs, targets, folder / "results.csv")
    text = results_markdown(groups, targets, len(unfinished), read_ensembles(folder))
    (folder / "results.md").write_text(text, encoding="utf-8")
    histories = {name: [run["history"] for run in members] for name, members in groups.items()}
    plot_study(histories, folder / "curves.png", runs[0]["metrics"]["selected_on"])
    plot_study_final({name: _test_top1(members) for name, members in groups.items()}, folder / "final.png")
    return text


def read_study(folder):
    """
    Return the finished runs of a folder with their records, by variant and seed, and its unfinished ones.

    Each run is a dict with `folder`, `schedule`, `seed`, `varied` (arguments) and `without` (the ablated part).
    """
    study = folder / run_files.STUDY_JSON
    if study.is_file():
        runs = run_record.read_json(study).get("runs")
        if runs is None:
            raise UserError(f"{study} is of an older version: start the study again, which keeps its finished runs")
    else:
        runs = [_single_run(path) for path in sorted(folder.glob(f"*/{run_files.RUN_JSON}"))]
    finished, unfinished = [], []
    for run in runs:
        place = folder / run["folder"]
        if (place / run_files.METRICS_JSON).is_file():
            records = {
                "run": run_record.read_json(place / run_files.RUN_JSON),
                "metrics": run_record.read_json(place / run_files.METRICS_JSON),
                "history": run_record.read_history(place / run_files.HISTORY_CSV),
            }
            finished.append(run | records)
        else:
            unfinished.append(run)
    return sorted(finished, key=lambda run: (variant_name(run), run["seed"])), unfinished


def _single_run(path):
    arguments = run_record.read_json(path)["arguments"]
    kind = {"schedule": arguments["lr_scheduler_type"], "seed": arguments["seed"], "varied": {}, "without": None}
    return {"folder": path.parent.name, **kind}


def variant_name(run, ablated=True):
    """Return what is compared: schedule, varied arguments, and the ablated part unless `ablated` is False."""
    without = [f"without {run['without']}"] if ablated and run["without"] else []
    return ", ".join([run["schedule"], *without, *(f"{name} {value}" for name, value in run["varied"].items())])


def group(runs):
    """Group runs by variant. Raises [`UserError`] for two runs of one variant and seed, which are one result."""
    groups = defaultdict(dict)
    for run in runs:
        other = groups[variant_name(run)].setdefault(run["seed"], run)
        if other is not run:
            names = f"{other['folder']} and {run['folder']}"
            raise UserError(f"{names} have the same schedule and seed: move one of them to another folder")
    return {variant: list(members.values()) for variant, members in groups.items()}


def read_ensembles(folder):
    """Return the ensembles of a study: a list of dicts of `runs` (folders) and `test` (scores)."""
    path = folder / ENSEMBLES_JSON
    return run_record.read_json(path) if path.is_file() else []


def choose_targets(runs):
    """Return the highest multiple of 10% that every run reached, and the highest that any run reached."""
    best = [max((row.get("eval_top1", 0.0) for row in run["history"]), default=0.0) for run in runs]
    return sorted({math.floor(10 * value) / 10 for value in (min(best), max(best))} - {0.0})


def figures(run, targets):
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


def _write_csv(runs, targets, path):
    rows = [
        {"schedule": run["schedule"], "variant": variant_name(run), "seed": run["seed"], **figures(run, targets)}
        for run in runs
    ]
    run_record.write_history(rows, path)


def results_markdown(groups, targets, unfinished, ensembles):
    """Return the text of results.md: what was run, the comparison, the table."""
    first = next(iter(groups.values()))[0]
    run, selected_on = first["run"], first["metrics"]["selected_on"]
    selection = (
        "**Selected on test:** the test split also chose the best epoch, so these figures flatter every schedule."
        if selected_on == "test"
        else "Epochs were chosen on the validation split; test was scored once a run."
    )
    subject = "Ablation study" if _baselines(groups) else "Learning-rate schedules"
    arguments = run["arguments"]
    peak = arguments.get("scaled_learning_rate", arguments["learning_rate"])
    lines = [
        f"# {subject} on {run['dataset']['name']}",
        "",
        f"{run['model']['description']}; {run['dataset']['train']:,} training, {run['dataset']['test']:,} test images; "
        f"{first['metrics']['epochs']:g} epochs, {arguments['optim']}, peak LR {peak:g}, "
        f"global batch {arguments['global_batch_size']}. {selection}",
        "",
        compare(groups),
        "",
        *_table(groups, targets, selected_on, ensembles),
        "",
        "Mean ± standard deviation over seeds (n - 1). Train accuracy is that of the last epoch, with augmentation; "
        "the gap is train accuracy less evaluated accuracy there. Epochs and seconds are until an evaluation first "
        "reached the accuracy, seconds of training alone."
        + " An ensemble is the mean of the probabilities of its seeds' models, one figure."
        * bool(ensembles),
        "",
        f"Hardware: {run['hardware']}. Versions: {', '.join(f'{k} {v}' for k, v in run['versions'].items())}.",
    ]
    if unfinished:
        lines += ["", f"{unfinished} runs are not finished and are left out."]
    return "\n".join([*lines, "", "![curves](curves.png)", "", "![final accuracy](final.png)", ""])


def _table(groups, targets, selected_on, ensembles):
    columns = {"test_top1": "test top-1", "test_top5": "test top-5"}
    if selected_on != "test":
        columns = {"validation_top1": "validation top-1", "validation_top5": "validation top-5"} | columns
    columns |= {"best_epoch": "best epoch", "train_accuracy": "train accuracy", "gap": "gap"}
    for target in targets:
        columns |= {f"epochs_to_{target:g}": f"epochs to {target:.0%}", f"seconds_to_{target:g}": f"s to {target:.0%}"}
    numbers = {name: [figures(run, targets) for run in members] for name, members in groups.items()}
    measured = {column for rows in numbers.values() for row in rows for column in row}
    columns = {column: title for column, title in columns.items() if column in measured}
    scores_of = {tuple(each["runs"]): each["test"] for each in ensembles}
    head = ["schedule", "n", *columns.values()]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name, members in sorted(groups.items(), key=lambda item: -_mean_test(item[1])):
        cells = [_cell(column, [row.get(column) for row in numbers[name]]) for column in columns]
        lines.append("| " + " | ".join([name, str(len(members)), *cells]) + " |")
        # An ensemble is shown only beside exactly the runs that it consists of.
        scores = scores_of.get(tuple(run["folder"] for run in members))
        if scores:
            names = [column.removeprefix("test_") for column in columns]
            cells = [_cell(name, [scores[name]]) if name in scores else "" for name in names]
            lines.append("| " + " | ".join([f"{name}, ensemble of its {len(members)} seeds", "1", *cells]) + " |")
    return lines


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


def _test_top1(members):
    return [run["metrics"]["test"]["top1"] for run in members]


def _mean_test(members):
    return mean(_test_top1(members))


def _baselines(groups):
    """Return, for each variant that leaves a part out, the variant with all parts, where that was run."""
    full = {name: variant_name(members[0], ablated=False) for name, members in groups.items()}
    return {name: other for name, other in full.items() if other != name and other in groups}


def compare(groups):
    """
    Return one paragraph on final test accuracy: ablations against the full recipe, or all variants against the best.

    A difference is claimed only where Welch's t-test over the seeds, with Holm's correction over the comparisons,
    supports it at 5%.
    """
    ranked = sorted(groups, key=lambda name: -_mean_test(groups[name]))
    baselines, title = _baselines(groups), "Full recipe"
    if not baselines:
        baselines, title = dict.fromkeys(ranked[1:], ranked[0]), "Highest mean test top-1"
    references = list(dict.fromkeys(baselines.values())) or ranked
    said = [f"{title}: {name} with {_describe(_test_top1(groups[name]))}." for name in references]
    if not baselines:
        return said[0]
    if min(len(groups[name]) for name in [*baselines, *references]) < 2:
        return " ".join([*said, "Not every variant has two seeds or more, so no difference is claimed."])
    scores = {name: _test_top1(members) for name, members in groups.items()}
    clear = _holm({name: _welch(scores[name], scores[other]) for name, other in baselines.items()})
    points = {name: 100 * (mean(scores[name]) - mean(scores[other])) for name, other in baselines.items()}
    if clear:
        listed = ", ".join(f"{name} ({points[name]:+.2f} points, p = {p:.2g})" for name, p in clear.items())
        said.append(f"The seeds support a difference for {listed}.")
    if len(clear) < len(points):
        listed = ", ".join(f"{name} ({points[name]:+.2f} points)" for name in points if name not in clear)
        said.append(f"The seeds do not support a difference for {listed}.")
    return " ".join([*said, "(Welch's t-test, Holm-corrected, 5%.)"])


def _describe(values):
    spread = f" ± {100 * stdev(values):.2f}" if len(values) > 1 else ""
    return f"{100 * mean(values):.2f}{spread}% (n = {len(values)})"


def _welch(a, b):
    if stdev(a) == 0 and stdev(b) == 0:
        # Two seeds that agree exactly say nothing about the next seed.
        return 1.0
    with warnings.catch_warnings():
        # scipy warns where the values hardly differ; the test is then as exact as the figures are.
        warnings.simplefilter("ignore", RuntimeWarning)
        return float(stats.ttest_ind(a, b, equal_var=False).pvalue)


def _holm(p_values):
    """Return Holm's (1979) corrected p-values of the hypotheses that are rejected."""
    rejected, corrected = {}, 0.0
    for rank, (name, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        corrected = max(corrected, min(1.0, p * (len(p_values) - rank)))
        if corrected >= SIGNIFICANCE:
            break
        rejected[name] = corrected
    return rejected
