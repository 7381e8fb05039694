import copy
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from run_fixtures import METRICS, RECORD

from hf_cifar_resnet.documents import read_yaml
from hf_cifar_resnet.reporting.card import model_card, write_run_files
from hf_cifar_resnet.runs.history import History, HistoryRow
from hf_cifar_resnet.runs.metrics import RunMetrics
from hf_cifar_resnet.runs.record import RunRecord

SELECTED_ON_TEST = METRICS | {"selected_on": "test", "validation": None}


@pytest.fixture
def saved_card(tmp_path):
    """The card as it is read from the folder of a model."""

    def save(run=RECORD, metrics=METRICS):
        model_card(RunRecord.from_dict(run), RunMetrics.from_dict(metrics)).save(tmp_path / "README.md")
        return ModelCard.load(tmp_path / "README.md")

    return save


def test_metadata(saved_card):
    data = saved_card().data
    assert (data.license, data.library_name) == ("apache-2.0", "transformers")
    assert (data.pipeline_tag, data.model_name) == ("image-classification", "resnet50")
    assert data.datasets == ["uoft-cs/cifar100"]
    found = {
        (result.dataset_split, result.metric_name): (result.metric_value, result.metric_type, result.dataset_type)
        for result in data.eval_results
    }
    assert found == {
        (split, name): (METRICS[split][key], "loss" if key == "loss" else "accuracy", "uoft-cs/cifar100")
        for split in ("test", "validation")
        for key, name in (("loss", "loss"), ("top1", "top-1 accuracy"), ("top5", "top-5 accuracy"))
    }


def test_text(saved_card):
    text = saved_card().text
    for part in (
        "# resnet50 on cifar100",
        "trained from scratch on cifar100 (45,000 training images, 100 classes)",
        "`cosine`",
        "| test | 10,000 | 1.1250 | 73.45% | 92.11% |",
        "| validation | 5,000 | 1.0625 | 74.12% | 92.50% |",
        "Epoch 36 of 50 was saved.",
        "94.44%",
        'model="cifar100-resnet50-cosine-seed42"',
        "train.py --config quickstart",
        "| learning_rate | 0.001 |",
        "1 x NVIDIA L4",
        "Training took 1 h 18 min (535 images/s), evaluations apart.",
        "torch 2.15.0, transformers 5.23.0, hf-cifar-resnet 0.1.0.",
        "23,705,252 parameters",
    ):
        assert part in text
    for phrase in ("fine-tuned", "finetuned", "base_model", "more information needed", "none dataset"):
        assert phrase not in saved_card().content.lower()


@pytest.mark.parametrize(
    "given, left_out",
    [
        ({}, ["saved_weights", "mixing_probability", "cutmix_share", "data_seed"]),
        ({"ema_decay": 0.9, "mixup_alpha": 0.2}, ["cutmix_share", "data_seed"]),
        ({"mixup_alpha": 0.2, "cutmix_alpha": 1.0}, ["saved_weights", "data_seed"]),
    ],
)
def test_arguments_without_effect_are_left_out(saved_card, given, left_out):
    off = {"ema_decay": 0.0, "mixup_alpha": 0.0, "cutmix_alpha": 0.0, "data_seed": None}
    dependent = {"saved_weights": "ema", "mixing_probability": 1.0, "cutmix_share": 0.5}
    text = saved_card(RECORD | {"arguments": RECORD["arguments"] | off | dependent | given}).text
    assert [name for name in [*dependent, *off] if f"| {name} |" not in text] == left_out


def test_superclass_has_a_column(saved_card):
    metrics = METRICS | {"test": METRICS["test"] | {"superclass": 0.8321}}
    lines = saved_card(metrics=metrics).text.splitlines()
    assert "| test | 10,000 | 1.1250 | 73.45% | 92.11% | 83.21% |" in lines
    table = [line for line in lines if line.startswith(("| split", "| test", "| validation", "|---|---|---|"))]
    assert len({line.count("|") for line in table}) == 1


PHOTOGRAPHS = "*80 Million Tiny Images*"


@pytest.mark.parametrize(
    "dataset, stated, others",
    [
        (
            {"name": "cifar100"},
            [PHOTOGRAPHS, "baby, boy, girl, man and woman"],
            ["by a program", "None of its classes"],
        ),
        ({"name": "cifar10"}, [PHOTOGRAPHS, "None of its classes is of people"], ["baby", "by a program"]),
        ({"name": "cifar100", "num_labels": 20}, [PHOTOGRAPHS, "baby, boy"], ["one-sided in its data"]),
        ({"name": "cifar100", "on_hub": False}, [PHOTOGRAPHS, "baby, boy"], ["one-sided in its data"]),
        ({"name": "cifar10", "on_hub": False}, ["one-sided in its data"], [PHOTOGRAPHS, "baby"]),
        ({"name": "mine", "on_hub": False}, ["one-sided in its data"], [PHOTOGRAPHS, "by a program", "baby"]),
        ({"name": "shapes100", "built_in": True}, ["images were drawn by a program"], [PHOTOGRAPHS, "one-sided"]),
    ],
    ids=["cifar100", "cifar10", "coarse", "cifar100 as a folder", "folder named cifar10", "folder", "built-in"],
)
def test_limits_are_those_of_the_data(saved_card, dataset, stated, others):
    text = saved_card(RECORD | {"dataset": RECORD["dataset"] | dataset}).text
    limits = text[text.index("## Limits and bias") : text.index("## How it was trained")]
    assert all(part in limits for part in stated) and not any(part in limits for part in others)
    assert "fine-tuned" not in limits and "\n\n\n" not in text
    tuned = RECORD | {"dataset": RECORD["dataset"] | dataset, "model": RECORD["model"] | {"base": "ann/mine"}}
    assert "- What holds for the model it was fine-tuned from" in saved_card(tuned).text


def test_package_is_cited_as_in_its_citation_file(saved_card):
    cited = read_yaml(Path(__file__).parents[2] / "CITATION.cff")
    author = "{{" + cited["authors"][0]["name"] + "}}"
    title = cited["title"].replace("_", "\\_")
    text = saved_card().text
    assert f"author = {author},\n  title = {{{title}}},\n  version = {{0.1.0}}\n}}\n```" in text
    unknown = saved_card(RECORD | {"versions": {}}).text
    assert f"title = {{{title}}}\n}}\n```" in unknown


def test_remote_code_is_pinned(saved_card):
    text = saved_card().text
    assert text.index("trust_remote_code") < text.index("`revision=`") < text.index("## Intended uses")


@pytest.mark.parametrize("metrics, selected", [(METRICS, False), (SELECTED_ON_TEST, True)])
def test_selection_on_test_is_stated(saved_card, metrics, selected):
    text = saved_card(metrics=metrics).text
    assert ("**Selected on test:**" in text) is selected
    assert ("held out of the training images" in text) is not selected
    assert "| test | 10,000 |" in text and ("| validation |" in text) is not selected


@pytest.mark.parametrize("selected_on, held_out", [("validation", True), ("test", False)])
def test_run_without_evaluations_has_selected_nothing(saved_card, selected_on, held_out):
    """As with `--eval_delay 100` or `--eval_strategy no`."""
    metrics = METRICS | {"selected_on": selected_on, "validation": None, "evaluations": 0}
    run = RECORD | {"dataset": RECORD["dataset"] | {"validation": 5_000 if held_out else 0}}
    text = saved_card(run, metrics).text
    assert "nothing was evaluated while it was trained" in text
    assert "was chosen on" not in text and "Selected on test" not in text
    assert ("held out of the training images" in text) is held_out


def test_local_dataset_is_not_linked_to_the_hub(saved_card):
    run = RECORD | {"dataset": RECORD["dataset"] | {"id": "mine", "name": "mine", "on_hub": False}}
    data = saved_card(run=run).data
    assert not data.datasets
    assert {result.dataset_type for result in data.eval_results} == {"mine"}


def test_card_of_a_run_that_logged_no_training(saved_card):
    """As with `--logging_strategy no`, or where the last evaluation was at a step without a log."""
    for name in ("train", "timing"):
        missing = dict.fromkeys(METRICS[name])
        assert "None" not in saved_card(metrics=METRICS | {name: missing}).text


def test_images_that_the_pipeline_takes_otherwise_are_stated_beside_it(saved_card):
    """What it does: tests/inference/test_predict.py."""
    text = saved_card().text
    use = text[text.index("## How to use it") : text.index("## How it was trained")]
    assert "`pipeline` drops the transparency" in use and "16 bits" in use


def test_mixed_labels_are_stated(saved_card):
    plain = saved_card().text
    assert "with augmentation." in plain and "mixed" not in plain
    for alpha in ("mixup_alpha", "cutmix_alpha"):
        mixed = saved_card(RECORD | {"arguments": RECORD["arguments"] | {alpha: 0.2}}).text
        assert "with augmentation and against mixed labels." in mixed


def test_texts_of_others_are_escaped(saved_card):
    """Names of classes and of a dataset, and what the dataset's own card says, are shown as they are."""
    run, metrics = copy.deepcopy(RECORD), copy.deepcopy(METRICS)
    run["dataset"] |= {"license": "<img src=x>\n# mine", "citation": "@a{b,\n```\n<script>\n}", "on_hub": False}
    metrics["most_confused"][0]["classes"] = ["<script>x</script> | `a", "[free](http://x)"]
    text = saved_card(run, metrics).text
    assert "<script>" not in text and "<img" not in text and "[free](" not in text and "\n# mine" not in text
    assert "&lt;script&gt;x&lt;/script&gt; \\| 'a, \\[free\\](http://x)" in text


@pytest.fixture
def run_files():
    """The arguments of [`write_run_files`]; run.json, README.md, history.csv and curves.png have different sizes."""
    rows = [HistoryRow(step=step, epoch=step, evaluation={"eval_top1": 0.5}) for step in range(100)]
    return RunRecord.from_dict(RECORD), RunMetrics.from_dict(METRICS), History(rows)


@pytest.mark.parametrize("size", [0, 500, 1_000, 2_000, 10_000, 30_000])
def test_files_that_cannot_all_be_written_do_not_make_a_finished_run(tmp_path, run_files, limit_file_size, size):
    """A quota as a stand-in for a full disk: of each file, or of a later one, it takes only the beginning."""
    (tmp_path / "README.md").write_text("of the run before")
    limit_file_size(size)
    with pytest.raises(OSError, match="cannot be written: File too large"):
        write_run_files(tmp_path, *run_files)
    limit_file_size()
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"README.md": "of the run before"}
    write_run_files(tmp_path, *run_files)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "README.md", "curves.png", "curves.svg", "history.csv", "metrics.json", "run.json",
    ]  # fmt: skip


def test_metrics_are_written_when_all_other_files_are_complete(tmp_path, run_files):
    (tmp_path / "metrics.json").mkdir()
    with pytest.raises(OSError, match="metrics.json cannot be written: Is a directory"):
        write_run_files(tmp_path, *run_files)
    assert RunRecord.read(tmp_path / "run.json") == run_files[0]
    assert (tmp_path / "curves.png").read_bytes().endswith(b"IEND\xaeB`\x82")


def test_run_whose_epochs_are_not_known(saved_card):
    assert f"{METRICS['steps']} steps were trained." in str(
        saved_card(metrics=METRICS | {"best_epoch": None, "epochs": None})
    )
