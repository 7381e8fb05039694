"""What a study says of its variants, from the scores of their runs."""

import pytest

from hf_cifar_resnet.evaluation.scores import Scores
from hf_cifar_resnet.study.compare import compare, difference_table, rank, report_power
from hf_cifar_resnet.study.plan import StudyRun
from hf_cifar_resnet.study.read import FinishedRun, group_runs
from hf_cifar_resnet.study.result import RunResult, RunSetting

SETTING = RunSetting("cifar10", None, "resnet20", 100, 100, "sgd", 0.1, 128, "none", "CPU")


def runs(part, *accuracies, variant="cosine", validation=None, selected_on="test"):
    """Runs with these test accuracies; on validation all have the same one."""
    result = [
        RunResult(
            selected_on, None if validation is None else Scores(1.0, validation), Scores(1.0, top1), 1.0, 1.0, 1.0,
            None, SETTING, {},
        )
        for top1 in accuracies
    ]  # fmt: skip
    return [FinishedRun(StudyRun(variant, seed, without=part), each) for seed, each in enumerate(result)]


def groups(*members):
    return group_runs(each for runs in members for each in runs)


def test_only_differences_that_the_seeds_support_are_claimed():
    full = runs(None, 0.500, 0.501, 0.499)
    text = compare(groups(full, runs("ema", 0.400, 0.402, 0.399), runs("mixing", 0.52, 0.48, 0.54)))
    claimed, open_ones = text.split("The seeds do not support a difference for")
    assert "Full recipe: cosine, test top-1 50.00 ± 0.10% (n = 3)" in claimed
    assert "without ema (-9.97 points, p = " in claimed and "mixing" not in claimed
    # By hand: 2, -2.1 and 4.1 points have a deviation of 3.16, so that t is 0.73 with two degrees of freedom.
    assert "without mixing (+1.33 points, p = 0.54)" in open_ones and "ema" not in open_ones


def test_difference_that_shows_in_each_seed_is_claimed_though_the_seeds_differ_more():
    """Welch's test would miss it."""
    seeds = [0.60, 0.63, 0.58, 0.65, 0.61]
    text = compare(groups(runs(None, *seeds), runs(None, *(s - 0.003 for s in seeds[:4]), 0.6071, variant="step")))
    assert "The seeds support a difference for step (-0.30 points, p = " in text
    assert "Equivalent within 0.5 points (two one-sided tests, 5%): step." in text


def test_schedules_are_compared_with_the_best():
    step, constant = runs(None, 0.4, 0.411, variant="step"), runs(None, 0.5, 0.7, variant="constant")
    text = compare(groups(step, runs(None, 0.7, 0.71), constant))
    assert text.startswith("Best on test: cosine, test top-1 70.50 ± 0.71% (n = 2).")
    assert (
        "support a difference for step (-29.95 points, p = " in text
        and "for constant (-10.50 points, p = 0.47)." in text
    )
    assert compare(groups(step)) == "Best on test: step, test top-1 40.55 ± 0.78% (n = 2)."


def test_every_full_recipe_has_its_own_ablations():
    step = [runs(None, 0.3, 0.311, variant="step"), runs("ema", 0.4, 0.41, variant="step")]
    text = compare(groups(runs(None, 0.5, 0.51), runs("ema", 0.4, 0.411), *step))
    assert "cosine, without ema (-9.95 points" in text and "step, without ema (+9.95 points" in text


def test_one_seed_claims_nothing():
    text = compare(groups(runs(None, 0.5), runs("ema", 0.1)))
    assert "No difference is claimed" in text and "points" not in text


def test_variant_with_one_seed_does_not_hide_the_differences_of_the_others():
    """As where its other runs failed."""
    members = runs(None, 0.6, variant="failed"), runs(None, 0.5, 0.501, variant="bad"), runs(None, 0.7, 0.702)
    text = compare(groups(*members))
    assert "without two shared seeds or more: failed." in text and "a difference for bad (-20.05 points, p = " in text
    assert "over 1 comparison)" in report_power(groups(*members))


def test_the_best_is_chosen_on_validation_not_on_test():
    lucky = runs(None, 0.60, 0.61, variant="step", validation=0.5, selected_on="validation")
    good = runs(None, 0.58, 0.59, validation=0.6, selected_on="validation")
    assert compare(groups(lucky, good)).startswith("Best on validation: cosine, test top-1 58.50 ± 0.71% (n = 2).")


def test_variant_without_evaluations_is_not_taken_for_one_of_no_accuracy():
    missing = runs(None, 0.60, 0.61, variant="step", selected_on="validation")
    assert rank(groups(missing, runs(None, 0.5, validation=0.0, selected_on="validation"))) == ["cosine", "step"]
    assert "nothing was evaluated to choose by" in compare(groups(missing))


def test_power_of_the_seeds_and_the_correlation_that_justifies_pairing():
    text = report_power(groups(runs(None, 0.70, 0.71, 0.72), runs(None, 0.60, 0.62, 0.62, variant="step")))
    assert "differences deviate by 0.58 points" in text and "With 3 seeds the smallest" in text
    assert "The correlation over seeds is 0.87 on average, so pairing narrows the differences." in text
    text = report_power(groups(runs(None, 0.70, 0.71, 0.72), runs(None, 0.62, 0.62, 0.60, variant="step")))
    assert "The correlation over seeds is -0.87 on average, so pairing widens the differences here." in text
    assert report_power(groups(runs(None, 0.5), runs(None, 0.6, variant="step"))) is None


def test_two_seeds_have_no_correlation_and_the_report_gives_the_reason():
    text = report_power(groups(runs(None, 0.70, 0.71), runs(None, 0.60, 0.62, variant="step")))
    assert text.endswith(" The correlation over seeds needs 3 seeds, so whether pairing helps is open.")
    assert "over 1 comparison)" in text


def test_every_pair_has_its_paired_difference_and_interval():
    """So that a reader can compare two variants of which neither is the best."""
    good, middle, bad = (
        runs(None, *accuracies, variant=name, validation=validation, selected_on="validation")
        for name, validation, accuracies in (
            ("good", 0.7, (0.70, 0.71, 0.72)),
            ("middle", 0.6, (0.60, 0.62, 0.61)),
            ("bad", 0.5, (0.50, 0.51)),
        )
    )
    # By hand: the differences -10, -9 and -11 points have a deviation of 1, and t is 4.303 with two degrees of freedom.
    assert difference_table(groups(bad, good, middle)) == [
        ["", "good", "middle"],
        ["---", "---", "---"],
        ["middle", "-10.00 (-12.48 to -7.52)", ""],
        ["bad", "-20.00", "-10.50 (-16.85 to -4.15)"],
    ]
    assert difference_table(groups(runs(None, 0.5), runs(None, 0.6, variant="step"))) == []


def test_two_runs_of_one_schedule_and_seed_are_refused():
    first, second = (
        FinishedRun(StudyRun("cosine", 1, folder=folder), runs(None, 0.5)[0].result) for folder in ("a", "b")
    )
    with pytest.raises(ValueError, match="a and b have the same schedule and seed"):
        group_runs([first, second])
