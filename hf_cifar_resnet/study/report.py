"""Report a study: its tables, plots and comparisons, computed from the folders of its runs."""

import csv
import math
import re
import warnings
from collections import defaultdict
from pathlib import Path
from statistics import mean, stdev

from scipy import stats

from ..errors import UserError
from ..reporting import run_files, run_record
from ..reporting.plots import plot_study, plot_study_final

# Differences are claimed below this, after Holm's correction for the number of comparisons.
SIGNIFICANCE = 0.05
# In a study's folder: the scores of the runs of each variant as an ensemble.
ENSEMBLES_JSON = "ensembles.json"
# In the folder's name of a study's run that leaves a part out, before the part.
WITHOUT = "-without-"


def write_report(folder, targets=None):
    """
    Writes results.csv (a row for each run), results.md, curves.png and final.png into a study's folder.

    Args:
        folder (`str` or `Path`): its subfolders are the runs; those that did not finish are left out and counted.
        targets (list of floats, *optional*): accuracies, 0 to 1, to report the time to; chosen from the runs if None.

    Returns:
        The text of results.md.

    Raises:
        UserError: if there is no finished run.
    """
    folder = Path(folder)
    runs, unfinished = read_runs(folder), len(unfinished_runs(folder))
    if not runs:
        raise UserError(f"there is no finished run in {folder}")
    targets = sorted(targets) if targets else choose_targets(runs)
    _write_csv(runs, targets, folder / "results.csv")
    groups = group(runs)
    text = results_markdown(groups, targets, unfinished, ensembles_of(groups, read_ensembles(folder)))
    (folder / "results.md").write_text(text, encoding="utf-8")
    selected_on = runs[0]["metrics"]["selected_on"]
    histories = {name: [run["history"] for run in members] for name, members in groups.items()}
    plot_study(histories, folder / "curves.png", selected_on)
    finals = {name: [run["metrics"]["test"]["top1"] for run in members] for name, members in groups.items()}
    plot_study_final(finals, folder / "final.png")
    return text


def read_runs(folder):
    """The finished runs in a study's folder, by variant and seed."""
    study = folder / run_files.STUDY_JSON
    varied = run_record.read_json(study)["varied"] if study.is_file() else []
    runs = [read_run(path) for path in _run_folders(folder) if _is_finished(path)]
    for run in runs:
        run["variant"] = variant(run, varied)
    return sorted(runs, key=lambda run: (run["variant"], run["seed"]))


def unfinished_runs(folder):
    """The names of those that are not."""
    return [path.name for path in _run_folders(folder) if not _is_finished(path)]


def _is_finished(path):
    return (path / run_files.METRICS_JSON).is_file()


def _run_folders(folder):
    return sorted(path for path in folder.glob("*") if path.is_dir() and "-seed" in path.name)


def read_run(folder):
    """What a run's folder says of it."""
    run = run_record.read_json(folder / run_files.RUN_JSON)
    return {
        "name": folder.name,
        "seed": run["arguments"]["seed"],
        "schedule": run["arguments"]["lr_scheduler_type"],
        "run": run,
        "metrics": run_record.read_json(folder / run_files.METRICS_JSON),
        "history": run_record.read_history(folder / run_files.HISTORY_CSV),
    }


def variant(run, varied):
    """What is compared: the schedule, and the varied arguments as the study gave them."""
    part = part_left_out(run)
    left_out = [f"without {part}"] if part else []
    return ", ".join([run["schedule"], *left_out, *(f"{name} {_given(run, name)}" for name in varied)])


def _given(run, name):
    """The value of an argument on a run's command line, of which the last counts; not all of them are in run.json."""
    words = run["run"]["command"]
    values = [value for word, value in zip(words, words[1:], strict=False) if word == f"--{name}"]
    return values[-1] if values else None


def part_left_out(run):
    """The part of the recipe that this run of a study left out, or None."""
    found = re.search(rf"{WITHOUT}(\w+)-", run["name"])
    return found[1] if found else None


def group(runs):
    """
    Runs by variant.

    Raises:
        UserError: for two runs of one variant with the same seed, which say no more than one of them.
    """
    groups = defaultdict(dict)
    for run in runs:
        other = groups[run["variant"]].setdefault(run["seed"], run)
        if other is not run:
            raise UserError(f"{other['name']} and {run['name']} are the same run, of one seed: move one of them away")
    return {variant: list(members.values()) for variant, members in groups.items()}


def read_ensembles(folder):
    """What a study found of its ensembles: a list of dicts of `runs` (names) and `test` (scores)."""
    path = folder / ENSEMBLES_JSON
    return run_record.read_json(path) if path.is_file() else []


def ensembles_of(groups, ensembles):
    """Variant -> the scores on test of the ensemble of just its runs, where there is one."""
    scores = {tuple(each["runs"]): each["test"] for each in ensembles}
    names = {name: tuple(run["name"] for run in members) for name, members in groups.items()}
    return {name: scores[runs] for name, runs in names.items() if runs in scores}


def choose_targets(runs):
    """The highest multiple of 10% that every run reached, and the highest that any run reached."""
    best = [max((row.get("eval_top1", 0.0) for row in run["history"]), default=0.0) for run in runs]
    return sorted({math.floor(10 * value) / 10 for value in (min(best), max(best))} - {0.0})


def figures(run, targets):
    """
    The numbers of one run that the tables show; accuracies are 0 to 1, and None is not measured or not reached. There
    is no top-5 accuracy where there are too few classes for one.
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
    with open(path, "w", newline="", encoding="utf-8") as file:
        rows = [
            {"schedule": run["schedule"], "variant": run["variant"], "seed": run["seed"], **figures(run, targets)}
            for run in runs
        ]
        writer = csv.DictWriter(file, list(dict.fromkeys(column for row in rows for column in row)))
        writer.writeheader()
        writer.writerows(rows)


def results_markdown(groups, targets, unfinished, ensembles):
    """results.md: what was run, the reading, the table."""
    first = next(iter(groups.values()))[0]
    run, selected_on = first["run"], first["metrics"]["selected_on"]
    selection = (
        "**Selected on test:** the test split also chose the best epoch, so these figures flatter every schedule."
        if selected_on == "test"
        else "Epochs were chosen on the validation split; test was scored once a run."
    )
    subject = "What each part brings," if _parts(groups) else "Learning-rate schedules"
    arguments = run["arguments"]
    peak = arguments.get("scaled_learning_rate", arguments["learning_rate"])
    lines = [
        f"# {subject} on {run['dataset']['name']}",
        "",
        f"{run['model']['description']}; {run['dataset']['train']:,} training, {run['dataset']['test']:,} test images; "
        f"{first['metrics']['epochs']:g} epochs, {arguments['optim']}, peak LR {peak:g}, "
        f"global batch {arguments['global_batch_size']}. {selection}",
        "",
        reading_of_parts(groups) if _parts(groups) else reading(groups, selected_on),
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
    head = ["schedule", "n", *columns.values()]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name, members in sorted(groups.items(), key=lambda item: -_mean_test(item[1])):
        cells = [_cell(column, [row.get(column) for row in numbers[name]]) for column in columns]
        lines.append("| " + " | ".join([name, str(len(members)), *cells]) + " |")
        if name in ensembles:
            scores = {f"test_{score}": [value] for score, value in ensembles[name].items()}
            cells = [_cell(column, scores[column]) if column in scores else "" for column in columns]
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


def reading(groups, selected_on="validation"):
    """
    One paragraph on final test accuracy. A difference is claimed only where Welch's t-test over the seeds, with Holm's
    correction over the comparisons with the best, supports it at 5%.
    """
    ranked = sorted(groups, key=lambda name: -_mean_test(groups[name]))
    best, others = ranked[0], ranked[1:]
    said = [f"Highest mean test top-1: {best} with {_describe(_test_top1(groups[best]))}."]
    if not others:
        return said[0]
    if min(len(members) for members in groups.values()) < 2:
        return " ".join([*said, "Not every schedule has two seeds or more, so no difference is claimed."])
    p_values = {name: _welch(_test_top1(groups[best]), _test_top1(groups[name])) for name in others}
    clear = _holm(p_values)
    if clear:
        lead = {name: 100 * (_mean_test(groups[best]) - _mean_test(groups[name])) for name in clear}
        listed = ", ".join(f"{name} (by {lead[name]:.2f} points, p = {clear[name]:.2g})" for name in clear)
        said.append(f"It is ahead of {listed}.")
    open_ones = [name for name in others if name not in clear]
    if open_ones:
        said.append(f"The seeds do not support a difference between it and {', '.join(open_ones)}.")
    said.append("(Welch's t-test, Holm-corrected, 5%.)")
    return " ".join(said)


def _parts(groups):
    """Of each variant that leaves a part out, the name of the whole it is compared with, where that was run."""
    parts = {name: part_left_out(members[0]) for name, members in groups.items()}
    wholes = {name: name.replace(f", without {part}", "") for name, part in parts.items() if part}
    return {name: whole for name, whole in wholes.items() if whole in groups}


def reading_of_parts(groups):
    """One paragraph on what leaving each part out does to final test accuracy, with the claims of [`reading`]."""
    wholes = _parts(groups)
    said = [f"The whole: {name} with {_describe(_test_top1(groups[name]))}." for name in dict.fromkeys(wholes.values())]
    compared = [*wholes, *wholes.values()]
    if min(len(groups[name]) for name in compared) < 2:
        return " ".join([*said, "Not every variant has two seeds or more, so no difference is claimed."])
    p_values = {name: _welch(_test_top1(groups[whole]), _test_top1(groups[name])) for name, whole in wholes.items()}
    clear = _holm(p_values)
    changes = {
        name: f"{name} ({100 * (_mean_test(groups[name]) - _mean_test(groups[whole])):+.2f} points"
        for name, whole in wholes.items()
    }
    if clear:
        listed = ", ".join(f"{changes[name]}, p = {clear[name]:.2g})" for name in clear)
        said.append(f"The seeds support a difference for {listed}.")
    open_ones = [f"{changes[name]})" for name in wholes if name not in clear]
    if open_ones:
        said.append(f"The seeds do not support a difference for {', '.join(open_ones)}.")
    said.append("(Welch's t-test, Holm-corrected, 5%.)")
    return " ".join(said)


def _describe(values):
    spread = f" ± {100 * stdev(values):.2f}" if len(values) > 1 else ""
    return f"{100 * mean(values):.2f}{spread}% (n = {len(values)})"


def _welch(a, b):
    if stdev(a) == 0 and stdev(b) == 0:
        # No spread at all says nothing of the next seed.
        return 1.0
    with warnings.catch_warnings():
        # Of seeds that hardly differ: then the test is as exact as the figures are.
        warnings.simplefilter("ignore", RuntimeWarning)
        return float(stats.ttest_ind(a, b, equal_var=False).pvalue)


def _holm(p_values):
    """Holm 1979: the corrected p-values of those hypotheses that are rejected."""
    rejected, corrected = {}, 0.0
    for rank, (name, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        corrected = max(corrected, min(1.0, p * (len(p_values) - rank)))
        if corrected >= SIGNIFICANCE:
            break
        rejected[name] = corrected
    return rejected
