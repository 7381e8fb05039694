"""Comparisons and records of studies, from the scores of their runs."""

import pytest

from hf_cifar_resnet.errors import UserError
from hf_cifar_resnet.reporting.run_record import write_json
from hf_cifar_resnet.study.plan import plan_runs
from hf_cifar_resnet.study.report import compare, group, variant_name, write_report


def runs(part, *accuracies, schedule="cosine"):
    kind = {"schedule": schedule, "varied": {}, "without": part}
    return [kind | {"seed": seed, "metrics": {"test": {"top1": top1}}} for seed, top1 in enumerate(accuracies)]


def groups(*members):
    return {variant_name(runs[0]): runs for runs in members}


def test_only_differences_that_the_seeds_support_are_claimed():
    full = runs(None, 0.500, 0.501, 0.499)
    text = compare(groups(full, runs("ema", 0.400, 0.401, 0.399), runs("mixing", 0.52, 0.48, 0.54)))
    claimed, open_ones = text.split("The seeds do not support a difference for")
    assert "Full recipe: cosine with 50.00 ± 0.10% (n = 3)" in claimed
    assert "without ema (-10.00 points, p = " in claimed and "mixing" not in claimed
    assert "without mixing (+1.33 points)" in open_ones and "ema" not in open_ones


def test_schedules_are_compared_with_the_best():
    step, constant = (runs(None, *tops, schedule=name) for name, *tops in (("step", 0.4, 0.41), ("constant", 0.5, 0.7)))
    text = compare(groups(step, runs(None, 0.7, 0.71), constant))
    assert text.startswith("Highest mean test top-1: cosine with 70.50 ± 0.71% (n = 2).")
    assert "support a difference for step (-30.00 points, p = " in text and "for constant (-10.50 points)." in text
    assert compare(groups(step)) == "Highest mean test top-1: step with 40.50 ± 0.71% (n = 2)."


def test_every_full_recipe_has_its_own_ablations():
    step = [runs(None, 0.3, 0.31, schedule="step"), runs("ema", 0.4, 0.41, schedule="step")]
    text = compare(groups(runs(None, 0.5, 0.51), runs("ema", 0.4, 0.41), *step))
    assert "cosine, without ema (-10.00 points" in text and "step, without ema (+10.00 points" in text


def test_one_seed_claims_nothing():
    text = compare(groups(runs(None, 0.5), runs("ema", 0.1)))
    assert "no difference is claimed" in text and "points" not in text


def test_two_runs_of_one_schedule_and_seed_are_refused():
    first, second = runs(None, 0.5)[0] | {"folder": "a"}, runs(None, 0.5)[0] | {"folder": "b"}
    with pytest.raises(UserError, match="a and b have the same schedule and seed"):
        group([first, second])


def test_study_of_an_older_version_is_refused_in_one_line(tmp_path):
    write_json({"arguments": [], "varied": [], "without": {}}, tmp_path / "study.json")
    with pytest.raises(UserError, match="is of an older version: start the study again"):
        write_report(tmp_path)


def test_variants_are_planned_seed_by_seed(tmp_path):
    planned = plan_runs(tmp_path, ["step"], [1, 2], {"adam_beta1": ["0.9", "0.95"]}, {"ema": {"ema_decay": "0"}})
    assert len(planned) == 8 and [run.seed for run in planned] == [1] * 4 + [2] * 4
    assert planned[3].name == "step-without-ema-adam_beta1=0.95-seed1"
    words = "--lr_scheduler_type step --adam_beta1 0.95 --ema_decay 0 --seed 1"
    assert planned[3].arguments() == words.split()
