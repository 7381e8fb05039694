"""Report a study: its tables, pictures and comparisons, from its runs or from what `study.json` has of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import yaml
from jinja2 import Template

from ..documents import replacing_files, write_csv, write_text
from ..reporting.plots import PICTURE, plot_final, plot_study, plot_tuning, plot_values
from ..runs.files import STUDY_JSON
from .compare import (
    Groups,
    ablation_baselines,
    compare,
    difference_table,
    rank,
    report_power,
    test_scores,
)
from .cooldowns import EPOCHS
from .plan import StudyPlan
from .read import (
    ENSEMBLES_JSON,
    EnsembleScores,
    FinishedRun,
    Study,
    group_runs,
    read_ensembles,
    read_study,
    with_results,
)
from .statistics import accuracy_interval
from .tuning_summary import TuningSummary, summarize_tuning
from .variant import describe

# What a study writes, with patterns of the contents that show that they are ours; the first one speaks for all.
STUDY_FILES: dict[str, bytes | None] = {
    STUDY_JSON: rb'\A{\n  "arguments": (\[|{|null)',
    "results.csv": rb"\A(schedule,)?variant,seed,",
    "results.md": rb"# (Learning-rate schedules|Ablation study) on ",
    ENSEMBLES_JSON: rb'\A\[(\]|\n  {\n    "runs": )',
    **{f"{name}.{kind}": PICTURE for name in ("curves", "final", "budgets", "tuning") for kind in ("png", "svg")},
}
# The columns of scores for which a terminal has room.
SUMMARY = ("validation top-1", "test top-1", "95% interval")


def write_report(folder: Path, targets: Sequence[float] | None = None) -> str:
    """
    Write results.csv (a row for each run), results.md, curves, final and, if arguments were tuned, tuning as PNG and
    SVG into the folder of a study, or of single runs, which are then compared by their schedules. Return the text of
    results.md. As long as only tuning runs are finished, results.md is about them alone, without curves and final.

    `study.json` gets what the report needs of the finished runs, so that it can be written again without their folders.

    Args:
        targets: the accuracies, 0 to 1, to report the time to; they are chosen from the runs if None.

    Raises:
        `ValueError`: if there is no finished run, or a file is damaged.
    """
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}")
    study = read_study(folder)
    if not study.finished:
        if study.is_planned and not any((folder / run.folder).exists() for run in study.unfinished):
            raise ValueError(
                f"{folder / STUDY_JSON} has no results, which former versions did not keep there, and none of its "
                "runs has a folder beside it: put them there, or start the study"
            )
        raise ValueError(f"there is no finished run in {folder}")
    runs = study.compared
    shown = runs or study.finished
    targets = sorted(targets) if targets else choose_targets(shown)
    groups = group_runs(runs)
    ensembles = read_ensembles(folder)
    tuning = summarize_tuning(study, groups)
    with replacing_files(folder) as temporary:
        _write_csv(study.finished, targets, temporary / "results.csv")
        has_budgets = bool(groups) and _plot_budgets(study, groups, temporary)
        text = results_markdown(study, shown, groups, targets, ensembles, tuning, has_budgets)
        write_text(text, temporary / "results.md")
        if tuning:
            _plot_tuning(study, tuning, shown[0].result.selection_split, temporary)
        if groups:
            _plot_groups(study, groups, temporary)
        if study.is_planned:
            # The study may have planned more runs while the pictures were drawn.
            now = replace(study, plan=StudyPlan.read(folder) or study.plan)
            with_results(now).write(temporary)
    return text


def summarize(folder: Path) -> str:
    """Return the lines for a terminal: the comparison, a table of its scores, and where the report is."""
    groups = group_runs(read_study(folder).compared)
    lines = []
    if groups:
        head, _, *rows = _table(groups, [], next(iter(groups.values()))[0].result.selected_on, [])
        shown = [number for number, title in enumerate(head) if number <= head.index("n") or title in SUMMARY]
        lines = [compare(groups), "", *_align([[row[number] for number in shown] for row in (head, *rows)]), ""]
    return "\n".join([*lines, f"Report in {folder / 'results.md'}"])


def _align(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows as lines of a table, whose first column is flush left, and all others right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]


def choose_targets(runs: Sequence[FinishedRun]) -> list[float]:
    """Return the highest multiple of 10% that every run reached, and the highest that any run reached."""
    best = [max((row.get("eval_top1", 0.0) for row in each.result.rows()), default=0.0) for each in runs]
    return sorted({math.floor(10 * value) / 10 for value in (min(best), max(best))} - {0.0})


def run_numbers(finished: FinishedRun, targets: Sequence[float]) -> dict[str, float | None]:
    """
    Return the numbers of one run that the tables show. Accuracies are 0 to 1; None is not measured or not reached. With
    few classes there is no top-5 accuracy.
    """
    result = finished.result
    scores = {"validation": result.validation, "test": result.test}
    numbers: dict[str, float | None] = {
        f"{split}_{name}": None if found is None else found.to_dict().get(name)
        for split, found in scores.items()
        for name in ("top1", "top5", "loss")
        if name in result.test.to_dict()
    }
    numbers["best_epoch"] = result.best_epoch
    numbers["last_top1"] = result.last_top1
    numbers["train_accuracy"] = result.train_accuracy
    numbers["gap"] = result.gap
    for target in targets:
        reached = result.first_reached(target)
        numbers[f"epochs_to_{target:g}"] = reached.get("epoch")
        numbers[f"seconds_to_{target:g}"] = reached.get("train_seconds")
    numbers["train_seconds"] = result.train_seconds
    return numbers


def _write_csv(finished: Sequence[FinishedRun], targets: Sequence[float], path: Path) -> None:
    rows: list[dict[str, Any]] = []
    for each in finished:
        run = each.run
        row = {"variant": run.group, "seed": run.seed, "folder": run.folder, **run.tuned}
        if run.tuned:
            row["tuning"] = run.tuning
        rows.append({**row, **run_numbers(each, targets)})
    columns = list(dict.fromkeys(name for row in rows for name in row))
    write_csv([columns, *([row.get(name) for name in columns] for row in rows)], path)


def results_markdown(
    study: Study,
    shown: Sequence[FinishedRun],
    groups: Groups,
    targets: Sequence[float],
    ensembles: Sequence[EnsembleScores],
    tuning: TuningSummary | None,
    has_budgets: bool,
) -> str:
    """Return the text of results.md."""
    template = Path(__file__).with_name("results.md.jinja").read_text(encoding="utf-8")
    compared = groups or _group_all(shown)
    return Template(template, trim_blocks=True, keep_trailing_newline=True).render(
        results=[each.result for each in shown],
        first=shown[0].result,
        choice=describe_choice(shown),
        tuned=list(shown[0].run.tuned),
        ablations=ablation_baselines(groups),
        warmup=describe_warmup(compared),
        versions=_list_versions(shown),
        unlike=describe_unlike(compared),
        comparison=compare(groups) if groups else None,
        power=report_power(groups) if groups else None,
        differences=difference_table(groups),
        table=_table(groups, targets, shown[0].result.selected_on, ensembles) if groups else None,
        ensembles=ensembles,
        unfinished=[f"{run.group} (seed {run.seed})" for run in study.unfinished if not run.tuning],
        tuning=tuning,
        has_budgets=has_budgets,
        shared=_write_recipe(study.plan),
    )


def _write_recipe(plan: StudyPlan) -> str:
    """Return the arguments that all runs share as the content of a recipe, or nothing where they are not known."""
    differing = {"lr_scheduler_type", "lr_scheduler_kwargs", *plan.varied}
    if plan.tuning:
        differing.update(plan.tuning.arguments)
    for named in plan.variants.values():
        differing.update(named.arguments.given)
    for arguments in plan.without.values():
        differing.update(arguments)
    known = plan.arguments.to_record() if plan.arguments else {}
    given = {name: value for name, value in known.items() if name not in differing}
    return yaml.safe_dump(given, sort_keys=False, allow_unicode=True, width=math.inf) if given else ""


def _group_all(runs: Sequence[FinishedRun]) -> dict[str, list[FinishedRun]]:
    groups: dict[str, list[FinishedRun]] = {}
    for each in runs:
        groups.setdefault(each.run.group, []).append(each)
    return groups


def describe_warmup(groups: Groups) -> str:
    """Return a sentence on the warmup of the variants, which decides whether they are compared fairly."""
    warmups = {name: runs[0].result.setting.warmup for name, runs in groups.items()}
    if len(set(warmups.values())) == 1:
        shared = next(iter(warmups.values()))
        return f"Warmup: {shared}{', the same for all' if len(warmups) > 1 else ''}."
    by_warmup: dict[str, list[str]] = {}
    for name, warmup in warmups.items():
        by_warmup.setdefault(warmup, []).append(name)
    listed = [f"{warmup} for {', '.join(names)}" for warmup, names in by_warmup.items()]
    return f"**Warmup differs:** {'; '.join(listed)}."


def describe_choice(runs: Sequence[FinishedRun]) -> str:
    """Return a sentence on what the epochs of the saved models were chosen on."""
    split = runs[0].result.selected_on
    chosen = [each for each in runs if each.result.is_chosen]
    if split == "none":
        return (
            "No training images were held out, and nothing was evaluated while training; test was scored once a run, "
            "with the weights of the last epoch."
        )
    if chosen and split == "test":
        return "**Selected on test:** the test split also chose the best epoch, so these figures flatter every variant."
    if len(chosen) == len(runs):
        return "Epochs were chosen on the validation split; test was scored once a run."
    is_unseen = split == "validation" or all(each.result.last_top1 is None for each in runs)
    once = f"test was scored {'once a run' if is_unseen else 'while training too'}"
    which = (
        "No epoch was chosen: the" if not chosen else f"Not every run chose its epoch ({len(chosen)} did): the other"
    )
    return f"{which} models are those of the last epoch; {once}."


def describe_unlike(groups: Groups) -> str | None:
    """Return a sentence on what was not the same for all runs, though no variant asks for it, or None."""
    packages = dict.fromkeys(name for runs in groups.values() for each in runs for name in each.result.setting.versions)
    unlike = []
    for what in ("hardware", "precision", "scored_images", *packages):
        found: dict[str, dict[str, list[int]]] = {}  # {value: {variant: seeds}}
        for name, runs in groups.items():
            for each in runs:
                setting = each.result.setting
                value = setting.versions.get(what) if what in packages else getattr(setting, what)
                if value:  # former versions kept less
                    found.setdefault(value, {}).setdefault(name, []).append(each.run.seed)
        if len(found) < 2:
            continue
        listed = []
        for number, (value, members) in enumerate(found.items(), 1):
            shown = f"set {number}" if what == "scored_images" else value
            names = [
                name if len(seeds) == len(groups[name]) else f"{name} (seed {', '.join(map(str, seeds))})"
                for name, seeds in members.items()
            ]
            listed.append(f"{shown} for {', '.join(names)}")
        called = "the images that epochs were chosen on" if what == "scored_images" else what
        unlike.append(f"{called}: {'; '.join(listed)}")
    return f"**Not the same for all runs:** {'. '.join(unlike)}." if unlike else None


def _list_versions(runs: Sequence[FinishedRun]) -> str:
    versions: dict[str, dict[str, None]] = {}
    for each in runs:
        for name, version in each.result.setting.versions.items():
            versions.setdefault(name, {})[version] = None
    return ", ".join(f"{name} {' and '.join(found)}" for name, found in versions.items())


def _table(
    groups: Groups, targets: Sequence[float], selected_on: str, ensembles: Sequence[EnsembleScores]
) -> list[list[str]]:
    columns = {"test_top1": "test top-1", "interval": "95% interval", "test_top5": "test top-5"}
    if selected_on == "validation":
        columns = {
            "validation_top1": "validation top-1",
            "last_top1": "validation top-1 of the last epoch",
            "validation_top5": "validation top-5",
            **columns,
        }
    elif selected_on == "test":
        columns |= {"last_top1": "test top-1 of the last epoch"}
    columns |= {"best_epoch": "best epoch", "train_accuracy": "train accuracy", "gap": "gap"}
    for target in targets:
        goal = f"{100 * target:g}%"
        columns |= {f"epochs_to_{target:g}": f"epochs to {goal}", f"seconds_to_{target:g}": f"s to {goal}"}
    numbers = {name: [run_numbers(each, targets) for each in runs] for name, runs in groups.items()}
    measured = {"interval", *(column for rows in numbers.values() for row in rows for column in row)}
    columns = {column: title for column, title in columns.items() if column in measured}
    scores_of = {each.runs: each.test for each in ensembles}
    tuned = list(next(iter(groups.values()))[0].run.tuned)
    head = ["variant", *tuned, "n", *columns.values()]
    rows = [head, ["---"] * len(head)]
    for name in rank(groups):
        runs = groups[name]
        chosen = [runs[0].run.tuned.get(argument, "") for argument in tuned]
        cells = {column: _cell(column, [row.get(column) for row in numbers[name]]) for column in columns}
        for target in targets:
            epochs, seconds = f"epochs_to_{target:g}", f"seconds_to_{target:g}"
            if any(row[epochs] is not None and row[seconds] is None for row in numbers[name]) and seconds in cells:
                cells[seconds] = ""  # reached at a step whose time was not logged
        cells["interval"] = _interval(list(test_scores(runs).values()))
        rows.append([name, *chosen, str(len(runs)), *cells.values()])
        # An ensemble is shown only beside exactly the runs that it consists of.
        if scores := scores_of.get(tuple(each.run.folder for each in runs)):
            texts = {f"test_{score}": _cell(score, [value]) for score, value in scores.to_dict().items()}
            row = [texts.get(column, "") for column in columns]
            rows.append([f"{name}, ensemble of its {len(runs)} seeds", *chosen, "1", *row])
    return rows


def _cell(column: str, values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "never" if "_to_" in column else ""
    is_share = column.endswith(("top1", "top5", "accuracy", "gap"))
    scale, unit, digits = (100, "%", 2) if is_share else (1, "", 0 if column.startswith("seconds") else 1)
    text = f"{scale * mean(known):.{digits}f}"
    if len(known) > 1:
        text += f" ± {scale * stdev(known):.{digits}f}"
    return text + unit + (f" ({len(known)} of {len(values)})" if len(known) < len(values) else "")


def _interval(values: Sequence[float]) -> str:
    if len(set(values)) < 2:
        return ""
    low, high = accuracy_interval(values)
    return f"{100 * low:.1f} to {100 * high:.1f}%"


# Pictures


def _label(study: Study, runs: Sequence[FinishedRun]) -> str:
    return study.plan.label(runs[0].run)


def _plot_groups(study: Study, groups: Groups, folder: Path) -> None:
    # Lines have the same color in every study of the same variants, whichever is the best.
    histories = {_label(study, runs): [each.result.rows() for each in runs] for runs in groups.values()}
    first = next(iter(groups.values()))[0].result
    plot_study(histories, folder / "curves.png", first.selection_split)
    finals = {_label(study, runs): test_scores(runs) for runs in groups.values()}
    intervals = {name: accuracy_interval(list(scores.values())) for name, scores in finals.items() if len(scores) > 1}
    plot_final(finals, intervals, folder / "final.png")


def _plot_budgets(study: Study, groups: Groups, folder: Path) -> bool:
    """Draw budgets.png if the number of epochs was varied, and return whether it was."""
    tops: dict[str, dict[str, list[float]]] = {}
    for runs in groups.values():
        varied = dict(runs[0].run.varied)
        if EPOCHS not in varied:
            return False
        budget = varied.pop(EPOCHS)
        name = describe(study.plan.variant_label(runs[0].run.variant), varied, runs[0].run.without)
        tops.setdefault(name, {})[budget] = list(test_scores(runs).values())
    plot_values(tops, folder / "budgets.png", "epochs", "test top-1: mean ± standard deviation over seeds")
    return True


def _plot_tuning(study: Study, tuning: TuningSummary, split: str, folder: Path) -> None:
    labels = {each.run.group: study.plan.label(each.run) for each in study.finished}
    tried = {
        labels[name]: {point: score for point, score in row.tried.items() if score is not None}
        for name, row in tuning.rows.items()
    }
    if tried:
        chosen = {labels[name]: row.chosen for name, row in tuning.rows.items()}
        plot_tuning(tried, chosen, tuning.arguments, folder / "tuning.png", split)
