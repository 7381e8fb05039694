"""Comparisons and records of studies, from the scores of their runs."""

import pytest
from hf_cifar_resnet.study.tune import at_edge, choose

from hf_cifar_resnet.commands.parser import parse_arguments
from hf_cifar_resnet.study.compare import (
    are_equivalent,
    compare,
    confidence_interval,
    report_power,
    seeds_needed,
    smallest_effect,
)
from hf_cifar_resnet.study.plan import plan_runs, plan_variants
from hf_cifar_resnet.study.read import group_runs, variant_name
from hf_cifar_resnet.training.arguments import resolve


def runs(part, *accuracies, schedule="cosine"):
    kind = {"schedule": schedule, "varied": {}, "without": part}
    metrics = [{"selected_on": "test", "test": {"top1": top1}} for top1 in accuracies]
    return [kind | {"seed": seed, "metrics": scores} for seed, scores in enumerate(metrics)]


def groups(*members):
    return {variant_name(runs[0]): runs for runs in members}


def test_only_differences_that_the_seeds_support_are_claimed():
    full = runs(None, 0.500, 0.501, 0.499)
    text = compare(groups(full, runs("ema", 0.400, 0.401, 0.399), runs("mixing", 0.52, 0.48, 0.54)))
    claimed, open_ones = text.split("The seeds do not support a difference for")
    assert "Full recipe: cosine, test top-1 50.00 ± 0.10% (n = 3)" in claimed
    assert "without ema (-10.00 points, p = " in claimed and "mixing" not in claimed
    assert "without mixing (+1.33 points)" in open_ones and "ema" not in open_ones


def test_schedules_are_compared_with_the_best():
    step, constant = (runs(None, *tops, schedule=name) for name, *tops in (("step", 0.4, 0.41), ("constant", 0.5, 0.7)))
    text = compare(groups(step, runs(None, 0.7, 0.71), constant))
    assert text.startswith("Best on test: cosine, test top-1 70.50 ± 0.71% (n = 2).")
    assert "support a difference for step (-30.00 points, p = " in text and "for constant (-10.50 points)." in text
    assert compare(groups(step)) == "Best on test: step, test top-1 40.50 ± 0.71% (n = 2)."


def test_every_full_recipe_has_its_own_ablations():
    step = [runs(None, 0.3, 0.31, schedule="step"), runs("ema", 0.4, 0.41, schedule="step")]
    text = compare(groups(runs(None, 0.5, 0.51), runs("ema", 0.4, 0.41), *step))
    assert "cosine, without ema (-10.00 points" in text and "step, without ema (+10.00 points" in text


def test_one_seed_claims_nothing():
    text = compare(groups(runs(None, 0.5), runs("ema", 0.1)))
    assert "no difference is claimed" in text and "points" not in text


def test_the_best_is_chosen_on_validation_not_on_test():
    lucky, good = runs(None, 0.60, 0.61, schedule="step"), runs(None, 0.58, 0.59)
    for members, validation in ((lucky, 0.5), (good, 0.6)):
        for run in members:
            run["metrics"] |= {"selected_on": "validation", "validation": {"top1": validation}}
    assert compare(groups(lucky, good)).startswith("Best on validation: cosine, test top-1 58.50 ± 0.71% (n = 2).")


def test_equivalence_is_claimed_where_two_one_sided_tests_show_it():
    text = compare(groups(runs(None, 0.500, 0.501, 0.499), runs(None, 0.5005, 0.5015, 0.4995, schedule="step")))
    assert "Equivalent within 0.5 points (two one-sided tests, 5%): cosine." in text
    assert not are_equivalent([0.50, 0.52, 0.48], [0.50, 0.52, 0.48], 0.01)


def test_power_of_the_seeds():
    # Cohen 1988, table 2.4.1: 64 a group for d = 0.5, 17 for d = 1. At a deviation of 0.22 points, 3 seeds show 0.7.
    assert [seeds_needed(effect, 0.05) for effect in (0.5, 1.0)] == [64, 17] and seeds_needed(1e-3, 0.05) is None
    assert 0.22 * smallest_effect(3, 0.05) == pytest.approx(0.7, abs=0.05)
    assert smallest_effect(2, 0.05 / 100) > smallest_effect(2, 0.05) > smallest_effect(50, 0.05)
    text = report_power(groups(runs(None, 0.70, 0.71, 0.72), runs(None, 0.6, 0.61, 0.62, schedule="step")))
    assert "deviation over seeds is 1.00 points" in text
    assert "is 3.1 points, less where both deviate less; it would take 17 seeds to show 1 and 64" in text
    assert report_power(groups(runs(None, 0.5), runs(None, 0.6, schedule="step"))) is None
    low, high = confidence_interval([0.50, 0.51, 0.52])
    assert (low, high) == pytest.approx((0.4852, 0.5348), abs=1e-4)  # t(0.975, 2) = 4.303


def test_a_value_is_chosen_by_validation_and_an_edge_is_named():
    scores = {"0.001": 0.5, "0.01": 0.7, "0.1": None}
    assert choose(scores, "cosine") == "0.01" and not at_edge(scores, "0.01") and at_edge(scores, "0.001")
    with pytest.raises(ValueError, match="no tuning run of cosine finished"):
        choose({"0.1": None}, "cosine")


def test_two_runs_of_one_schedule_and_seed_are_refused():
    first, second = runs(None, 0.5)[0] | {"folder": "a"}, runs(None, 0.5)[0] | {"folder": "b"}
    with pytest.raises(ValueError, match="a and b have the same schedule and seed"):
        group_runs([first, second])


def test_variants_are_planned_seed_by_seed(tmp_path):
    variants = plan_variants(["step"], {"adam_beta1": ["0.9", "0.95"]}, {"ema": {"ema_decay": "0"}})
    planned = plan_runs(tmp_path, variants, [1, 2])
    assert len(planned) == 8 and [run.seed for run in planned] == [1] * 4 + [2] * 4
    assert planned[3].name == "step-without-ema-adam_beta1=0.95-seed1"
    words = "--lr_scheduler_type step --adam_beta1 0.95 --ema_decay 0 --seed 1"
    assert planned[3].arguments() == words.split()
    [free] = plan_runs(tmp_path, plan_variants(["schedule_free_sgd"], {}, {}), [3])
    assert free.name == "schedule_free_sgd-seed3"
    assert free.arguments()[:4] == "--lr_scheduler_type constant_with_warmup --optim schedule_free_sgd".split()


def test_optimizers_are_compared_with_their_own_arguments(tmp_path):
    """SGD has the recipe's momentum, which AdamW would refuse."""
    variants = plan_variants(["cosine"], {"optim": ["sgd", "adamw_torch"]}, {})
    planned = plan_runs(tmp_path, variants, [3])
    parsed = [resolve(parse_arguments(["--config", "resnet20", *run.arguments()])).training for run in planned]
    assert [(args.optim, args.optim_args) for args in parsed] == [
        ("sgd", "momentum=0.9,nesterov=true"),
        ("adamw_torch", None),
    ]
