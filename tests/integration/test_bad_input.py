"""Whatever is wrong, one line says so and what to do, and nothing is half written."""

import pytest
from datasets import ClassLabel, Dataset, Features, Value
from datasets import Image as ImageFeature

from hf_cifar_resnet.commands.train import main

FEATURES = Features(img=ImageFeature(), fine_label=ClassLabel(names=["a", "b"]))


def write(folder, make_images, counts=(8, 4), labels=(0, 1), features=FEATURES, corrupt=None):
    for split, count in zip(("train", "test"), counts, strict=True):
        images = make_images(max(count, 1))[:count]
        values = [labels[i % len(labels)] for i in range(count)]
        table = Dataset.from_dict({"img": images, "fine_label": values}, features=features)
        if corrupt == split:
            rows = [{"bytes": b"this is no image", "path": None}] * count
            table = Dataset.from_dict({"img": rows, "fine_label": values}, features=features)
        (folder / "data").mkdir(parents=True, exist_ok=True)
        table.to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
    return ["--dataset_name", str(folder)]


# What is typed after `--use_cpu --output_dir OUT --config quickstart`, and a part of the answer.
TYPED = {
    "missing folder": ("--dataset_name ./nowhere", "no such folder"),
    "unknown schedule": ("--lr_scheduler_type cosin", "choose one of constant"),
    "unknown flag": ("--depht 18", "did you mean --depth?"),
    "unknown recipe": ("--config nothing", "there is no such recipe or file; recipes: fast, long, quickstart"),
    "negative epochs": ("--num_train_epochs -1", "num_train_epochs must be above 0"),
    "no number": ("--learning_rate fast", "invalid float value"),
    "impossible depth": ("--depth 21", "depth must be one of 18, 34, 50, 101, 152, 20, 32, 44, 56"),
    "two shapes": ("--depth 18 --block bottleneck", "give one or the other"),
    "one width too few": ("--stage_widths 16 32", "the same length"),
    "all held out": ("--validation_fraction 1.5", "at least 0 and below 1"),
    "nothing to select on": ("--validation_fraction 0", "--eval_split test"),
    "unknown metric": ("--metric_for_best_model f1", "one of loss, top1, top5, superclass"),
    "unknown tracker": ("--report_to nope", "report_to must be of none, all, azure_ml"),
    "tracker that is not installed": ("--report_to tensorboard,mlflow", "mlflow: it is not installed"),
    "gradient checkpointing": ("--gradient_checkpointing", "BatchNorm"),
    "resume from nowhere": ("--resume_from_checkpoint true", "there is no complete checkpoint"),
    "synchronised BatchNorm on a CPU": ("--sync_batchnorm", "sync_batchnorm needs GPUs"),
    "indivisible batch": ("--global_batch_size 33 --gradient_accumulation_steps 2", "choose a multiple of 2"),
    "broken JSON": ('--lr_scheduler_kwargs {"a":', "not valid JSON"),
    "unknown schedule argument": ('--lr_scheduler_kwargs {"a":1}', "it takes: num_cycles"),
    "smoothing of one": ("--label_smoothing_factor 1", "below 1"),
    "empty slice": ("--max_train_samples 0", "at least 1"),
    "wrong hue": ("--color_jitter 0.1 0.1 0.1 0.9", "four strengths"),
    "name that an optimizer does not take": (
        "--optim sgd --optim_args nesterof=true",
        "sgd does not take nesterof in optim_args; it takes: momentum, dampening, nesterov",
    ),
    "impossible momentum": ("--optim sgd --optim_args momentum=-1", "Invalid momentum value: -1"),
    "optimizer that is not installed": ("--optim schedule_free_adamw", "install `schedulefree`"),
    "half of a normalisation": ("--image_std 1 1 1", "give both --image_mean and --image_std"),
    "empty folder": ("--output_dir=", "--output_dir must not be empty"),
    "label of no column": ("--label_column_name colour", "the dataset has: image, label, superclass"),
}


def refused(capsys, arguments, out):
    """The one line with which `main` refuses these arguments."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main(["--config", "quickstart", "--use_cpu", "--output_dir", str(out), *arguments])
    assert stopped.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert not out.exists()
    return line


@pytest.mark.parametrize("typed, message", TYPED.values(), ids=TYPED)
def test_what_is_typed_wrong(capsys, tmp_path, typed, message):
    assert message in refused(capsys, typed.split(), tmp_path / "out")


@pytest.mark.parametrize(
    "options, given, message",
    [
        ({"counts": (0, 4)}, [], "train"),
        ({"corrupt": "test"}, [], "image 0 of split test cannot be decoded: not an image"),
        ({"features": Features(img=ImageFeature(), fine_label=Value("float32"))}, [], "no class labels"),
        ({"labels": (0, -1)}, [], "has the label -1"),
        ({}, ["--image_column_name", "picture"], "the dataset has: img, fine_label"),
        ({}, ["--image_column_name", "fine_label"], "holds no images"),
    ],
    ids=["empty split", "corrupt image", "labels are no classes", "label out of range", "no column", "no image column"],
)
def test_what_is_wrong_in_the_data(capsys, tmp_path, make_images, options, given, message):
    named = write(tmp_path / "data", make_images, **options)
    assert message in refused(capsys, [*named, *given], tmp_path / "out")


@pytest.mark.parametrize(
    "recipe, message",
    [
        ("learning_rat: 1", "did you mean --learning_rate?"),
        ("a: [1", "not valid YAML"),
        ("- 1", "lines of the form"),
        ("depth: deep", "invalid int value"),
    ],
)
def test_what_is_wrong_in_a_recipe(capsys, tmp_path, recipe, message):
    file = tmp_path / "recipe.yaml"
    file.write_text(recipe)
    assert message in refused(capsys, ["--config", str(file)], tmp_path / "out")


def test_output_folder_that_cannot_be_written(capsys, tmp_path):
    (tmp_path / "file").write_text("in the way")
    assert "cannot be written" in refused(capsys, [], tmp_path / "file" / "out")
    assert (tmp_path / "file").read_text() == "in the way"


@pytest.mark.slow
@pytest.mark.parametrize(
    "typed, message",
    [
        (
            "--dataset_name ./nowhere",
            "error: --dataset_name ./nowhere: there is no such folder; give a local folder instead, or try "
            "--dataset_name shapes100, which needs no network",
        ),
        ("--depht 18", "error: unknown argument --depht; did you mean --depth?"),
        ("--config quickstart --depth 18 --block bottleneck", "error: the model cannot be built: depth 18 means "),
    ],
)
def test_the_real_program_says_one_line_and_exits_with_2(python, script, tmp_path, typed, message):
    result = python(script, *typed.split(), cwd=tmp_path)
    assert result.returncode == 2 and result.stdout == ""
    [line] = result.stderr.splitlines()
    assert line.startswith(message)
    assert list(tmp_path.iterdir()) == []
