"""How arguments are chosen, on a landscape that the test has built in instead of trainings."""

import json
import math

import pytest

from hf_cifar_resnet.commands.parser import parse_value
from hf_cifar_resnet.runs.arguments import RunArguments
from hf_cifar_resnet.study.plan import StudyPlan
from hf_cifar_resnet.study.report import write_report
from hf_cifar_resnet.study.tuning import (
    Tuning,
    check_tuning,
    choose,
    find_edges,
    measure_sensitivity,
    parse_dimension,
    tune,
)
from hf_cifar_resnet.study.variant import CommonArguments, plan_variants, schedule_variant

from .conftest import write_run


@pytest.fixture
def landscape(tmp_path):
    """
    Tunes with runs whose validation accuracy is a function of their arguments, and which are not trained; returns what
    was chosen for `constant`, and the names of the runs in the order in which they were made.
    """

    def run(score, *texts, seeds=(0,), schedules=("constant",), folder="study", killed_in=None, **options):
        made = []

        def execute(runs):
            for planned in runs:
                if planned.name == killed_in:
                    raise KeyboardInterrupt
                if not planned.is_finished:
                    made.append(planned.name)
                    if (top1 := score(planned.arguments)) is not None:
                        write_run(planned.folder, planned.arguments, validation=top1)

        common = CommonArguments(RunArguments({"use_cpu": True}))
        named = [schedule_variant(name) for name in schedules]
        tuning = Tuning([parse_dimension(text) for text in texts], list(seeds), parse_value, **options)
        variants = plan_variants(named, {}, {})
        plan = StudyPlan(common.merged, variants={each.name: each for each in named}, tuning=tuning.plan)
        chosen = tune(tmp_path / folder, common, variants, tuning, plan, execute)
        return chosen, made

    return run


def peak(learning_rate, weight_decay=None):
    """Accuracy that falls with the distance to the best values, in factors of ten."""

    def score(arguments):
        distance = abs(math.log10(arguments.get("learning_rate") / learning_rate))
        if weight_decay is not None:
            distance += 0.5 * abs(math.log10(arguments.get("weight_decay") / weight_decay))
        return 0.6 - 0.1 * distance + 0.001 * arguments.get("seed")

    return score


def test_built_in_best_is_found_on_a_grid_of_two_arguments(landscape):
    chosen, made = landscape(peak(1e-2, 0.5), "learning_rate=1e-3,1e-2,1e-1", "weight_decay=0.05,0.5", seeds=(0, 1))
    assert chosen == {"constant": {"learning_rate": "1e-2", "weight_decay": "0.5"}}
    assert len(made) == 12 and made[0] == "constant-learning_rate=1e-3-weight_decay=0.05-tuning-seed0"
    # A start after it finds all runs finished.
    assert landscape(peak(1e-2, 0.5), "learning_rate=1e-3,1e-2,1e-1", "weight_decay=0.05,0.5", seeds=(0, 1))[1] == []


@pytest.mark.parametrize(
    "best, extend, chosen, beyond",
    [
        (0.03, {"learning_rate": 2}, "3.16e-2", ["3.16e-2", "1e-1"]),
        (1.0, {"learning_rate": 2}, "1e-1", ["3.16e-2", "1e-1"]),
        (1e-4, {"learning_rate": 2}, "1e-4", ["3.16e-4", "1e-4"]),
        (1.0, {"learning_rate": 1}, "3.16e-2", ["3.16e-2"]),
        (1.0, {}, "1e-2", []),
        (3.16e-3, {"learning_rate": 2}, "3.16e-3", []),
    ],
)
def test_grid_is_extended_by_its_own_ratio_while_its_edge_wins(landscape, best, extend, chosen, beyond):
    found, made = landscape(peak(best), "learning_rate=1e-3,3.16e-3,1e-2", extend_edges=extend)
    assert found["constant"]["learning_rate"] == chosen
    assert made[3:] == [f"constant-learning_rate={value}-tuning-seed0" for value in beyond]


def test_arguments_are_extended_one_after_the_other(landscape):
    found, made = landscape(
        peak(0.1, 5), "learning_rate=1e-3,1e-2", "weight_decay=0.05,0.5",
        extend_edges={"learning_rate": 2, "weight_decay": 1},
    )  # fmt: skip
    assert found == {"constant": {"learning_rate": "1e-1", "weight_decay": "5"}}
    # Values of the grid that this LR has not had yet come before those beyond the grid.
    assert [name.removeprefix("constant-").removesuffix("-tuning-seed0") for name in made[4:]] == [
        "learning_rate=1e-1-weight_decay=0.5",
        "learning_rate=1e0-weight_decay=0.5",
        "learning_rate=1e-1-weight_decay=5",
        "learning_rate=1e0-weight_decay=5",
        "learning_rate=1e-2-weight_decay=5",
    ]
    again = landscape(
        peak(0.1, 5), "learning_rate=1e-3,1e-2", "weight_decay=0.05,0.5",
        extend_edges={"learning_rate": 2, "weight_decay": 1},
    )  # fmt: skip
    assert again == (found, [])


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("number", range(5))
def test_study_killed_beyond_the_grid_comes_to_the_same_end(landscape, number, seed):
    """Where it was killed in a run of an extension, that run is trained at the next start, and those after it."""
    asked = ("learning_rate=1e-3,1e-2", "weight_decay=0.05,0.5")
    options = {"extend_edges": {"learning_rate": 2, "weight_decay": 1}, "seeds": (0, 1)}
    chosen, made = landscape(peak(0.1, 5), *asked, folder="uninterrupted", **options)
    killed_in = made[8 + 2 * number + seed]
    with pytest.raises(KeyboardInterrupt):
        landscape(peak(0.1, 5), *asked, killed_in=killed_in, **options)
    again, rest = landscape(peak(0.1, 5), *asked, **options)
    assert again == chosen and rest == made[made.index(killed_in) :]


def test_run_beyond_the_grid_that_failed_is_tried_once_at_each_start(landscape):
    def diverges(arguments):
        return None if arguments.get("learning_rate") > 0.01 else peak(1.0)(arguments)

    for _ in range(2):
        chosen, made = landscape(diverges, "learning_rate=1e-3,1e-2", extend_edges={"learning_rate": 2})
        assert chosen["constant"] == {"learning_rate": "1e-2"}
        assert made[-1] == "constant-learning_rate=1e-1-tuning-seed0"


@pytest.mark.parametrize(
    "text, message",
    [
        ("depth=20,32", "extend_edges would try depth 12.5: argument --depth: invalid int value"),
        ("ema_decay=0.9,0.99", "extend_edges would try ema_decay 1.09: .* must be from 0 to below 1"),
        ("warmup_steps=0.1,0.5", "extend_edges would try warmup_steps 2.5, but below 1 it is a share of the run"),
        ("warmup_steps=2,10", "extend_edges would try warmup_steps 0.4, but below 1 it is a share of the run"),
    ],
)
def test_value_beyond_the_grid_that_cannot_be_trained_is_refused_before_the_grid_is(landscape, text, message):
    made = []
    name = text.split("=")[0]
    with pytest.raises(ValueError, match=message):
        landscape(made.append, text, schedules=("constant_with_warmup",), extend_edges={name: 1})
    assert not made


def test_whole_numbers_are_extended_by_whole_numbers(landscape):
    found, _ = landscape(
        lambda arguments: 0.1 + arguments.get("global_batch_size") / 10_000, "global_batch_size=256,512",
        extend_edges={"global_batch_size": 1},
    )  # fmt: skip
    assert found["constant"]["global_batch_size"] == "1024"


def test_each_variant_has_its_own_choice(landscape):
    def score(arguments):
        return peak(1e-1 if arguments.get("lr_scheduler_type") == "cosine" else 1e-3)(arguments)

    chosen, _ = landscape(score, "learning_rate=1e-3,1e-2,1e-1", schedules=("constant", "cosine"))
    assert chosen == {"constant": {"learning_rate": "1e-3"}, "cosine": {"learning_rate": "1e-1"}}


def test_range_is_searched_near_the_built_in_best_and_repeats_its_trials(landscape):
    pytest.importorskip("optuna")
    chosen, made = landscape(peak(1e-2), "learning_rate=1e-5:1:log", trials=25)
    assert abs(math.log10(float(chosen["constant"]["learning_rate"])) + 2) < 0.5
    assert landscape(peak(1e-2), "learning_rate=1e-5:1:log", trials=25)[1] == []


def test_value_whose_run_failed_or_was_not_evaluated_is_not_chosen(landscape):
    def diverges(arguments):
        return None if arguments.get("learning_rate") > 0.01 else peak(1.0)(arguments)

    assert landscape(diverges, "learning_rate=1e-3,1e-2,1e-1")[0]["constant"]["learning_rate"] == "1e-2"
    with pytest.raises(ValueError, match="no tuning run of constant finished with an evaluation"):
        landscape(lambda arguments: None, "learning_rate=1e-3,1e-2", folder="other")


def test_points_are_compared_on_the_same_seeds(landscape, tmp_path):
    """Where the study is started again with other seeds and another grid; here seed 9 is 0.9 points better."""
    landscape(peak(1e-2), "learning_rate=1e-3,1e-2", seeds=(9,))
    chosen, _ = landscape(peak(1.1e-2), "learning_rate=1e-2,1.1e-2", seeds=(0,))
    assert chosen["constant"]["learning_rate"] == "1.1e-2"
    text = write_report(tmp_path / "study")
    assert "validation top-1 of seed 0 was chosen" in text and "| 1e-2: 59.59%; 1.1e-2: 60.00% |" in text


def test_missing_evaluations_are_not_taken_for_zero():
    assert choose({("a",): None, ("b",): 0.0}, "constant") == ("b",)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"eval_split": "none", "validation_fraction": 0.0}, "eval_split none makes none"),
        ({"eval_strategy": "no"}, "eval_strategy no makes none"),
    ],
)
def test_nothing_is_tuned_without_evaluations(arguments, message):
    tuning = Tuning([parse_dimension("learning_rate=1,2")], [0], parse_value)
    given = RunArguments({"use_cpu": True, "load_best_model_at_end": False, **arguments})
    with pytest.raises(ValueError, match=message):
        check_tuning(tuning, [], given, [42])


def test_sensitivity_is_the_range_of_rates_within_a_margin():
    # A roof: 10 points for a factor of ten on either side.
    scores = {
        (f"1e-{n}", decay): 0.6 - 0.1 * abs(3 - n) - (decay == "5") for n in (1, 2, 3, 4, 5) for decay in ("1", "5")
    }
    assert measure_sensitivity(scores, 0, 0.01).decades == pytest.approx(0.2)
    found = measure_sensitivity(scores, 0, 0.15)
    assert (found.decades, found.is_cut) == (pytest.approx(3.0), False)
    assert measure_sensitivity(scores, 0, 0.5).is_cut
    assert measure_sensitivity({("1e-3",): 0.5}, 0, 0.01) is None


def test_edges_are_those_of_the_values_with_the_same_others():
    scores = {("1", "a"): 0.1, ("2", "a"): 0.3, ("3", "a"): 0.2, ("2", "b"): 0.1}
    assert find_edges(scores, ("2", "a")) == [] and find_edges(scores, ("3", "a")) == [0]


@pytest.mark.parametrize(
    "text", ["learning_rate", "learning_rate=", "x=1,,2", "x=1:2:lin", "x=2:1", "x=0:1:log", "x=1:inf:log", "x=a:b"]
)
def test_wrong_dimension_is_refused(text):
    with pytest.raises(ValueError, match="write it as NAME=LOW:HIGH"):
        parse_dimension(text)


def test_report_names_what_was_tried_beyond_the_grid(landscape, tmp_path):
    landscape(peak(1.0), "learning_rate=1e-3,1e-2", extend_edges={"learning_rate": 1}, seeds=(0, 1))
    text = write_report(tmp_path / "study")
    assert "one factor at a time: constant (learning_rate 1e-1)" in text
    assert "**At the edge of what was tried, so a better value may lie beyond: constant (learning_rate 1e-1).**" in text
    assert "of seed 0, 1 on average" in text
    for margin in ("0.5 points", "1 point"):
        assert f"| LR range within {margin} of the best, in factors of ten |" in text
    plan = json.loads((tmp_path / "study" / "study.json").read_text())
    assert plan["tuning"] == {
        "arguments": {"learning_rate": "1e-3,1e-2"},
        "seeds": [0, 1],
        "extend_edges": {"learning_rate": 1},
    }
