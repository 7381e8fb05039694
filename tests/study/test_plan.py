"""What a study plans, and what its file keeps."""

import json
import os
import shutil

import pytest
import torch

from hf_cifar_resnet.commands.parser import ALL_ARGUMENTS, CifarArgumentParser, parse_value
from hf_cifar_resnet.evaluation.scores import Scores
from hf_cifar_resnet.runs.arguments import RunArguments
from hf_cifar_resnet.study import report
from hf_cifar_resnet.study.execute import forget_ensembles
from hf_cifar_resnet.study.plan import StudyPlan, check_as_planned, check_runs, plan_runs, update_plan
from hf_cifar_resnet.study.read import read_study
from hf_cifar_resnet.study.report import write_report
from hf_cifar_resnet.study.result import RunResult, RunSetting
from hf_cifar_resnet.study.variant import (
    CommonArguments,
    NamedArguments,
    file_names,
    plan_variants,
    read_variants,
    schedule_variant,
)

from .conftest import DATASET, write_run

COMMON = CommonArguments(RunArguments({"use_cpu": True}))
PARSER = CifarArgumentParser(ALL_ARGUMENTS)


def check(name, values):
    return PARSER.check_values(name, values)


def plan(tmp_path, *schedules, vary=None, without=None, seeds=(1,), common=COMMON):
    return plan_runs(
        tmp_path, common, plan_variants([schedule_variant(s) for s in schedules], vary or {}, without or {}), seeds
    )


def test_variants_are_planned_seed_by_seed(tmp_path):
    betas = {"0.90": 0.9, "0.95": 0.95}
    planned = plan(
        tmp_path, "step", vary={"adam_beta1": betas}, without={"ema": RunArguments({"ema_decay": 0.0})}, seeds=[1, 2]
    )
    assert len(planned) == 8 and [each.run.seed for each in planned] == [1] * 4 + [2] * 4
    assert planned[3].name == "step-without-ema-adam_beta1=0.95-seed1"
    own = {"lr_scheduler_type": "step", "adam_beta1": 0.95, "ema_decay": 0.0, "seed": 1}
    assert own.items() <= dict(planned[3].arguments.given).items()
    [free] = plan(tmp_path, "schedule_free_sgd", seeds=[3])
    assert free.name == "schedule_free_sgd-seed3"
    assert free.arguments.get("lr_scheduler_type") == "constant_with_warmup"
    assert free.arguments.get("optim") == "schedule_free_sgd"


def test_optimizers_are_compared_with_their_own_arguments(tmp_path):
    """SGD has the recipe's momentum, which AdamW would refuse."""
    line = PARSER.parse(["--config", "resnet20"])
    common = CommonArguments(line.typed, line.recipe)
    planned = plan(tmp_path, "cosine", vary={"optim": {"sgd": "sgd", "adamw_torch": "adamw_torch"}}, common=common)
    assert [(each.arguments.get("optim"), each.arguments.get("optim_args")) for each in planned] == [
        ("sgd", "momentum=0.9,nesterov=true"),
        ("adamw_torch", None),
    ]


@pytest.mark.parametrize("typed, warmup", [({}, 0.05), ({"warmup_steps": 200.0}, 200.0)])
def test_warmup_is_the_same_unless_a_variant_says_otherwise(tmp_path, typed, warmup):
    path = tmp_path / "mine.yaml"
    names = ("constant_with_warmup", "reduce_lr_on_plateau", "cosine", "one_cycle", "constant")
    lines = [f"{name}: {{lr_scheduler_type: {name}}}\n" for name in names]
    path.write_text("".join(lines) + "own: {lr_scheduler_type: cosine_with_warmup, warmup_steps: 0.2}\n")
    variants = plan_variants(read_variants(str(path), [], check), {}, {})
    planned = plan_runs(tmp_path, CommonArguments(RunArguments(typed)), variants, [1])
    found = {each.run.variant: each.arguments.get("warmup_steps") for each in planned}
    # The last two cannot have any.
    expected = dict.fromkeys(names[:3], warmup) | dict.fromkeys(names[3:])
    assert found == expected | {"own": 0.2}
    check_runs(planned)


def test_name_of_a_schedule_says_whether_it_warms_up(tmp_path):
    planned = plan(tmp_path, "cosine", "cosine_with_warmup", "one_cycle")
    assert [each.arguments.get("warmup_steps") for each in planned] == [None, None, None]
    common = CommonArguments(RunArguments({"warmup_steps": 0.1}))
    planned = plan(tmp_path, "cosine", "cosine_with_warmup", "one_cycle", common=common)
    assert [each.arguments.get("warmup_steps") for each in planned] == [0.1, 0.1, None]


def test_files_of_variants_of_the_package_can_be_trained(tmp_path):
    for name in file_names():
        named = read_variants(name, [], check)
        common = CommonArguments(RunArguments({"use_cpu": True, "lr_scheduler_kwargs": {}}))
        pytest.importorskip("schedulefree")
        check_runs(plan_runs(tmp_path, common, plan_variants(named, {}, {}), [1]))
    assert [each.label for each in read_variants("schedules", ["cosine", "constant_ema"], check)] == [
        "cosine", "constant with EMA",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "text, message",
    [
        ("a: {ema_dekay: 1}", "a: unknown argument ema_dekay; did you mean --ema_decay"),
        ("a: {ema_decay: x}", "invalid float value: 'x'"),
        ("a: {seed: 1}", "seed is decided by the study"),
        ("a: 3", "a must have lines of the form argument: value"),
        ("a/b: {ema_decay: 0.9}", "a name must be one word"),
        ("a: {ema_decay: 0.9}\na: {ema_decay: 0.8}", "cannot be read"),
        ("{}", "there is none in it"),
    ],
)
def test_wrong_file_of_variants_is_one_line(tmp_path, text, message):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_variants(str(path), [], check)


def test_unknown_variants_are_refused(tmp_path):
    with pytest.raises(ValueError, match="there is no such file; with the package come schedules"):
        read_variants(str(tmp_path / "none.yaml"), [], check)
    with pytest.raises(ValueError, match="has no cosin: choose from constant"):
        read_variants("schedules", ["cosin"], check)


def finish(planned, **scores):
    for each in planned:
        write_run(each.folder, each.arguments, **scores)


def make_plan(planned, **changes):
    return StudyPlan(**({"arguments": COMMON.merged, "runs": [each.run for each in planned]} | changes))


def test_plan_is_read_as_it_was_written(tmp_path):
    planned = plan(tmp_path, "cosine", "step", seeds=[1, 2])
    finish(planned)
    named = {name: schedule_variant(name) for name in ("cosine", "step")}
    update_plan(tmp_path, make_plan(planned, variants=named))
    write_report(tmp_path)
    found = StudyPlan.read(tmp_path)
    assert found.variants == named and list(found.runs) == [each.run for each in planned]
    assert found.results.keys() == {each.name for each in planned}
    assert found.label(planned[2].run) == "cosine"


def test_runs_with_another_choice_of_a_tuned_argument_are_not_averaged(tmp_path):
    """As where the grid was widened, and seeds were added."""
    variants = plan_variants([schedule_variant("cosine")], {}, {})
    for text, seeds, top1 in (("1e-3", [1, 2], 0.5), ("1e-2", [3, 4], 0.6)):
        values = {("learning_rate", text): float(text)}
        tuned = {"cosine": {"learning_rate": text}}
        planned = plan_runs(tmp_path, COMMON, variants, seeds, tuned=tuned, values=values)
        finish(planned, validation=top1)
        update_plan(tmp_path, make_plan(planned))
    assert "| cosine | 1e-2 | 2 | 60.00 ± 0.00% |" in write_report(tmp_path)


def test_large_studies_and_names_with_brackets_are_read_as_they_were_written(tmp_path):
    """All results may be more than the 16 MiB that other JSON files may have; here a name alone is."""
    vary = {"stage_depths": {"[1, 2 ]": [1, 2], "[ 3]": [3]}}
    planned = plan(tmp_path, "cosine", vary=vary)
    setting = RunSetting("cifar10", None, "resnet20", 100, 100, "sgd", 0.1, 128, "none", "CPU" * 2**23)
    result = RunResult("test", None, Scores(1.0, 0.5), 1.0, 1.0, 1.0, None, setting, {"epoch": [1.0, 2.0]})
    make_plan(planned, results={planned[0].name: result}).write(tmp_path)
    found = StudyPlan.read(tmp_path)
    assert found.results == {planned[0].name: result} and found.runs == [each.run for each in planned]
    assert '"epoch": [1.0, 2.0]' in (tmp_path / "study.json").read_text()


def test_other_arguments_are_named_and_their_order_does_not_matter(tmp_path):
    planned = plan(tmp_path, "cosine")
    finish(planned)
    first = RunArguments({"use_cpu": True, "weight_decay": 0.1, "depth": 20})
    update_plan(tmp_path, make_plan(planned, arguments=first))
    update_plan(tmp_path, make_plan(planned, arguments=RunArguments(dict(reversed(first.given.items())))))
    with pytest.raises(
        ValueError, match=r"holds a study with other arguments \(weight_decay 0.1, mixup_alpha not given\)"
    ):
        update_plan(tmp_path, make_plan(planned, arguments=first.replace(weight_decay=0.2, mixup_alpha=1.0)))
    with pytest.raises(ValueError, match=r"\(vary nothing\)"):
        update_plan(tmp_path, make_plan(planned, arguments=first, varied=["optim"]))


def test_study_of_which_no_run_has_begun_blocks_nothing(tmp_path):
    planned = plan(tmp_path, "cosine")
    update_plan(tmp_path, make_plan(planned))
    update_plan(tmp_path, make_plan(planned, arguments=RunArguments({"depth": 20})))
    assert StudyPlan.read(tmp_path).arguments == RunArguments({"depth": 20})


def test_finished_run_with_other_arguments_is_not_taken_for_a_planned_one(tmp_path):
    """Also where there is no study.json, as of runs that were started one by one."""
    [planned] = plan(tmp_path, "cosine")
    write_run(planned.folder, planned.arguments.replace(learning_rate=0.5))
    check_runs([planned])  # the LR is not among what was given
    common = CommonArguments(COMMON.typed.replace(learning_rate=0.1))
    with pytest.raises(ValueError, match="cosine-seed1 holds a run with learning_rate 0.5, not 0.1"):
        check_runs(plan(tmp_path, "cosine", common=common))


SPELLINGS = [
    ({"augmentation": "crop"}, {"augmentation": "crop_flip"}),
    ({"metric_for_best_model": "eval_top1"}, {"metric_for_best_model": "top1"}),
    ({"lr_scheduler_kwargs": '{"num_cycles": 2}'}, {"lr_scheduler_kwargs": {"num_cycles": 2}}),
    ({"dataset_name": "~/images"}, {"dataset_name": os.path.expanduser("~/images")}),
]


@pytest.mark.parametrize("former, now", [*SPELLINGS, *(pair[::-1] for pair in SPELLINGS)])
def test_study_with_another_spelling_of_a_value_is_the_same_study(tmp_path, former, now):
    """Such as the former name of a policy, whose present one a run records."""
    common = {key: CommonArguments(COMMON.typed.replace(**each)) for key, each in (("before", former), ("now", now))}
    [planned] = plan(tmp_path, "cosine", common=common["before"])
    write_run(planned.folder, planned.arguments)
    parts = {key: {"part": each.merged.given} for key, each in common.items()}
    named = {key: {"mine": NamedArguments("mine", "mine", each.merged)} for key, each in common.items()}
    update_plan(
        tmp_path,
        make_plan([planned], arguments=common["before"].merged, without=parts["before"], variants=named["before"]),
    )
    again = plan(tmp_path, "cosine", common=common["now"])
    for each in again:
        check_as_planned(each)
    update_plan(tmp_path, make_plan(again, arguments=common["now"].merged, without=parts["now"], variants=named["now"]))
    write_run(tmp_path / "single" / "run1", common["before"].merged.replace(seed=1))
    write_run(tmp_path / "single" / "run2", common["now"].merged.replace(seed=2))
    assert len({each.run.group for each in read_study(tmp_path / "single").finished}) == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="not tested: what a machine without a GPU refuses")
def test_what_depends_on_the_machine_is_left_to_the_one_that_trains(tmp_path):
    common = CommonArguments(RunArguments({"fp16": True, "sync_batchnorm": True, "tf32": True}))
    vary = {"dataloader_num_workers": {"1": 1, "2": 2}}
    with pytest.raises(ValueError, match="needs"):
        check_runs(plan(tmp_path, "cosine", vary=vary, common=common))
    check_runs(plan(tmp_path, "cosine", vary=vary, common=common), trained_here=False)
    with pytest.raises(ValueError, match="learning_rate must be above 0"):
        wrong = CommonArguments(common.typed.replace(learning_rate=0.0))
        check_runs(plan(tmp_path, "cosine", common=wrong), trained_here=False)


def test_equal_runs_are_refused(tmp_path):
    vary = {"learning_rate": {text: parse_value("learning_rate", text) for text in ("0.1", "1e-1")}}
    with pytest.raises(ValueError, match="would be the same run as cosine-learning_rate=0.1-seed1"):
        check_runs(plan(tmp_path, "cosine", vary=vary))


def test_report_has_the_arguments_of_all_runs_as_a_recipe(tmp_path):
    line = PARSER.parse(["--config", "quickstart", "--weight_decay", "0.05", "--augmentation", "crop_only"])
    common = CommonArguments(line.typed, line.recipe)
    planned = plan(tmp_path / "study", "cosine", seeds=[1, 2], common=common)
    for each in planned:
        write_run(each.folder, each.arguments, epochs=1)
    update_plan(tmp_path / "study", make_plan(planned, arguments=common.merged))
    text = write_report(tmp_path / "study")
    assert "; 1 epoch; " in text and "; weight decay 0.05; " in text and "; augmentation crop_only; " in text
    assert "fp32" in text and "| validation top-1 of the last epoch |" in text
    (tmp_path / "again.yaml").write_text(text.split("```yaml\n")[1].split("```")[0])
    again = PARSER.parse(["--config", str(tmp_path / "again.yaml")])
    found = CommonArguments(again.typed, again.recipe).merged.given
    # The recipe has a schedule of its own, with which no run was trained.
    expected = {name: value for name, value in common.merged.given.items() if name != "lr_scheduler_type"}
    assert found == expected and found["learning_rate"] == 0.01
    make_plan(planned, arguments=common.merged, varied=["learning_rate"]).write(tmp_path / "study")
    assert "\nlearning_rate:" not in write_report(tmp_path / "study")


def test_report_of_a_former_version_needs_its_runs(tmp_path):
    update_plan(tmp_path, make_plan(plan(tmp_path, "cosine")))
    path = tmp_path / "study.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({name: value for name, value in content.items() if name != "results"}, indent=2))
    with pytest.raises(ValueError, match="has no results, which former versions did not keep .*: put them there"):
        write_report(tmp_path)
    (tmp_path / "cosine-seed1").mkdir()
    with pytest.raises(ValueError, match="there is no finished run in"):
        write_report(tmp_path)


def test_report_is_made_again_without_the_runs(tmp_path):
    """From study.json and results.csv, to the same bytes; figures agree with those of the runs."""
    planned = plan(tmp_path, "cosine", "step", seeds=[1, 2, 3])
    for number, each in enumerate(planned):
        write_run(each.folder, each.arguments, validation=0.5 + 0.01 * number, test=0.4 + 0.013 * number, last=0.45)
    update_plan(tmp_path, make_plan(planned))
    text = write_report(tmp_path)
    assert "| cosine | 3 | 52.00 ± 2.00% | 45.00 ± 0.00% |" in text and "Warmup: none, the same for all." in text
    written = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    assert {"results.csv", "results.md", "study.json", "curves.svg", "final.png"} <= written.keys()
    kept = tmp_path / "kept"
    kept.mkdir()
    for name in ("study.json", "results.csv"):
        shutil.copy(tmp_path / name, kept)
    assert write_report(kept) == text
    assert {path.name: path.read_bytes() for path in kept.iterdir()} == written


def test_results_outlive_the_folders_of_the_runs(tmp_path):
    """Where the study is started again, and where a folder is left with files that are no run's."""
    planned = plan(tmp_path, "cosine", seeds=[1, 2])
    finish(planned)
    update_plan(tmp_path, make_plan(planned))
    text = write_report(tmp_path)
    for each in planned:
        shutil.rmtree(each.folder)
    planned[0].folder.mkdir()
    (planned[0].folder / "train.log").write_text("")
    with pytest.raises(ValueError, match="holds a study with other arguments"):
        update_plan(tmp_path, make_plan(planned, arguments=RunArguments({"depth": 20})))
    update_plan(tmp_path, make_plan(planned))
    assert write_report(tmp_path) == text and len(StudyPlan.read(tmp_path).results) == 2


@pytest.mark.parametrize(
    "keeps_best, validation, sentence",
    [
        (True, 0.5, "Epochs were chosen on the validation split; test was scored once a run."),
        (False, 0.5, "No epoch was chosen: the models are those of the last epoch; test was scored once a run."),
        (True, None, "No epoch was chosen: the models are those of the last epoch; test was scored once a run."),
    ],
)
def test_report_says_whether_epochs_were_chosen(tmp_path, keeps_best, validation, sentence):
    planned = plan(tmp_path, "cosine", common=CommonArguments(RunArguments({"load_best_model_at_end": keeps_best})))
    finish(planned, validation=validation, test=0.5)
    update_plan(tmp_path, make_plan(planned))
    text = write_report(tmp_path)
    assert f" {sentence}\n\n" in text and write_report(tmp_path) == text
    shutil.rmtree(planned[0].folder)
    assert write_report(tmp_path) == text


def test_tables_have_their_columns_whatever_a_value_holds_and_name_what_is_missing(tmp_path):
    texts = {text: text for text in ("betas=(0.9|0.99)", "eps=1")}
    planned = plan(tmp_path, "cosine", vary={"optim_args": texts}, seeds=[1, 2])
    finish(planned[:-1])
    update_plan(tmp_path, make_plan(planned))
    text = write_report(tmp_path)
    rows = [line.replace("\\|", "").count("|") for line in text.splitlines() if line.startswith("|")]
    assert len(set(rows)) == 1 and "| cosine, optim_args betas=(0.9\\|0.99) | 2 |" in text
    assert "\n1 run is not finished and is left out: cosine, optim_args eps=1 (seed 2).\n" in text


def test_interval_of_seeds_that_agree_exactly_is_not_shown(tmp_path):
    """It would have no width, as if they were certain."""
    planned = plan(tmp_path, "cosine", "step", seeds=[1, 2])
    finish(planned)
    update_plan(tmp_path, make_plan(planned))
    text = write_report(tmp_path)
    assert "| step | +0.00 |" in text and "50.0 to 50.0%" not in text


def test_variants_of_the_same_label_are_both_in_the_pictures(tmp_path):
    named = {
        name: NamedArguments(name, "mine", RunArguments({"lr_scheduler_type": name})) for name in ("cosine", "step")
    }
    planned = plan_runs(tmp_path, COMMON, plan_variants(list(named.values()), {}, {}), [1, 2])
    finish(planned)
    update_plan(tmp_path, make_plan(planned, variants=named))
    write_report(tmp_path)
    for picture, label in (("curves", "mine ({})"), ("final", "mine ({}) (n = 2)")):
        text = (tmp_path / f"{picture}.svg").read_text()
        assert all(f"<!-- {label.format(name)} -->" in text for name in named)


def test_report_beside_a_running_study_loses_none_of_its_runs(tmp_path, monkeypatch):
    planned = plan(tmp_path, "cosine", seeds=[1, 2])
    finish(planned[:1])
    update_plan(tmp_path, make_plan(planned[:1]))
    drawn = report.plot_final

    def draw(*args):
        drawn(*args)
        update_plan(tmp_path, make_plan(planned))

    monkeypatch.setattr(report, "plot_final", draw)
    write_report(tmp_path)
    assert len(StudyPlan.read(tmp_path).runs) == 2


def test_unlike_single_runs_are_not_averaged(tmp_path):
    for number, (seed, epochs) in enumerate([(1, 3), (2, 3), (1, 5)]):
        write_run(tmp_path / f"run{number}", RunArguments({"seed": seed}), epochs=epochs)
    study = read_study(tmp_path)
    assert sorted(each.run.group for each in study.finished) == [
        "cosine, num_train_epochs 3", "cosine, num_train_epochs 3", "cosine, num_train_epochs 5",
    ]  # fmt: skip
    write_run(tmp_path / "other", RunArguments(), dataset=DATASET | {"name": "cifar10"})
    with pytest.raises(ValueError, match="are of several datasets, cifar10 .other., cifar100 .run2."):
        write_report(tmp_path)


def test_single_runs_whose_schedules_have_other_arguments_are_named_by_them(tmp_path):
    """Since it may be the LR that makes the difference; a warmup is a part of its schedule."""
    for schedule, rate, warmup in (("cosine", 0.1, 0.0), ("cosine_with_warmup", 0.001, 20.0)):
        arguments = {"lr_scheduler_type": schedule, "learning_rate": rate, "warmup_steps": warmup}
        write_run(tmp_path / schedule, RunArguments(arguments))
    groups = [each.run.group for each in read_study(tmp_path).finished]
    assert groups == ["cosine, learning_rate 0.1", "cosine_with_warmup, learning_rate 0.001"]


def test_runs_that_choose_on_several_splits_are_refused(tmp_path):
    """Before they are trained, and in a report: the best of them on one split is no choice among all."""
    vary = {"eval_split": {text: parse_value("eval_split", text) for text in ("validation", "test")}}
    planned = plan(tmp_path, "cosine", vary=vary)
    with pytest.raises(
        ValueError, match="choose on several splits, validation .cosine-eval_split=validation-seed1., t"
    ):
        check_runs(planned)
    finish(planned)
    path = planned[1].folder / "metrics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"selected_on": "test"}))
    with pytest.raises(
        ValueError, match="chose their epochs on several splits, test .cosine-eval_split=test-seed1., v"
    ):
        write_report(tmp_path)


def test_report_says_what_was_not_the_same_for_all_runs(tmp_path):
    """As where a study was continued on another machine with other packages, or its data changed in the meantime."""
    planned = plan(tmp_path, "cosine", "step", seeds=[1, 2])
    finish(planned)
    update_plan(tmp_path, make_plan(planned))
    assert "1 thread, fp32. Versions: torch 2.14.1.\n\nThe arguments" in write_report(tmp_path)
    for each in planned[1:]:
        path = each.folder / "run.json"
        changes = {"versions": {"torch": "2.15.0"}, "precision": "bf16", "dataset": DATASET | {"scored_images": "xyz"}}
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    text = write_report(tmp_path)
    others = "cosine (seed 2), step"
    assert "1 thread, bf16 and fp32. Versions: torch 2.14.1 and 2.15.0.\n\n" in text
    assert (
        f"**Not the same for all runs:** precision: fp32 for cosine (seed 1); bf16 for {others}. "
        f"the images that epochs were chosen on: set 1 for cosine (seed 1); set 2 for {others}. "
        f"torch: 2.14.1 for cosine (seed 1); 2.15.0 for {others}.\n" in text
    )


@pytest.mark.parametrize("name, value", [("precision", "bf16"), ("given", {"adam_beta1": 0.5})])
def test_single_runs_that_differ_beside_their_resolved_arguments(tmp_path, name, value):
    for seed in (1, 2):
        write_run(tmp_path / f"run{seed}", RunArguments({"seed": seed}))
    path = tmp_path / "run2" / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))
    assert len({each.run.group for each in read_study(tmp_path).finished}) == 2


def test_results_that_lack_what_former_versions_did_not_keep_are_reported(tmp_path):
    planned = plan(tmp_path, "cosine", "step")
    finish(planned)
    update_plan(tmp_path, make_plan(planned))
    write_report(tmp_path)
    content = json.loads((tmp_path / "study.json").read_text())
    former = content["results"]["cosine-seed1"]
    del former["setting"]["precision"], former["setting"]["scored_images"], former["epochs"]
    (tmp_path / "study.json").write_text(json.dumps(content))
    shutil.rmtree(planned[0].folder)
    text = write_report(tmp_path)
    assert "; 3 epochs; " in text and "1 thread, fp32." in text and "Not the same" not in text


def test_ensemble_of_former_runs_is_not_shown_beside_new_ones(tmp_path):
    """Where the folder of a run was deleted, and the study is started again."""
    planned = plan(tmp_path, "cosine", "step", seeds=[1, 2])
    finish(planned)
    ensembles = [
        {"runs": [f"{name}-seed1", f"{name}-seed2"], "test": {"loss": 1.0, "top1": 0.77, "top5": 0.9}}
        for name in ("cosine", "step")
    ]
    (tmp_path / "ensembles.json").write_text(json.dumps(ensembles))
    shutil.rmtree(planned[0].folder)
    forget_ensembles(tmp_path, planned)
    finish(planned)
    update_plan(tmp_path, make_plan(planned))
    assert [line.split(",")[0] for line in write_report(tmp_path).splitlines() if "77.00%" in line] == ["| step"]


def test_damaged_ensembles_are_one_line(tmp_path):
    planned = plan(tmp_path, "cosine", seeds=[1, 2])
    finish(planned)
    update_plan(tmp_path, make_plan(planned))
    content = [{"runs": [each.name for each in planned], "test": {"loss": 1.0, "top1": "high"}}]
    (tmp_path / "ensembles.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="ensembles.json is damaged: ensembles.0.test.top1 must be a number"):
        write_report(tmp_path)


def test_single_runs_of_a_former_version_had_the_defaults_of_what_it_did_not_record(tmp_path):
    write_run(tmp_path / "former", RunArguments({"seed": 1}))
    write_run(tmp_path / "run", RunArguments({"seed": 2, "adam_beta1": 0.9, "eval_delay": 0}))
    assert len({each.run.group for each in read_study(tmp_path).finished}) == 1


def test_damaged_study_is_one_line(tmp_path):
    (tmp_path / "study.json").write_text(json.dumps({"arguments": [], "varied": [], "runs": [{"seed": 1}]}))
    with pytest.raises(ValueError, match="study.json is damaged: it lacks runs.0"):
        write_report(tmp_path)
