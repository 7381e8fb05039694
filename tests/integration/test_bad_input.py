"""Whatever is wrong, one line says so and what to do, and nothing is half written."""

import pytest

# What is typed after `--use_cpu --output_dir OUT --config quickstart`, and a part of the answer.
TYPED = {
    "missing folder": ("--dataset_name ./nowhere", "no such folder"),
    "unknown recipe": ("--config nothing", "there is no such recipe or file; recipes: fast, long, notebook"),
    "negative epochs": ("--num_train_epochs -1", "num_train_epochs must be above 0"),
    "no number": ("--learning_rate fast", "invalid float value"),
    "impossible depth": ("--depth 21", "depth must be one of 18, 34, 50, 101, 152, 20, 32, 44, 56"),
    "two shapes": ("--depth 18 --block bottleneck", "give one or the other"),
    "one width too few": ("--stage_widths 16 32", "the same length"),
    "all held out": ("--validation_fraction 1.5", "at least 0 and below 1"),
    "nothing to select on": ("--validation_fraction 0", "set eval_split to test"),
    "unknown metric": ("--metric_for_best_model f1", "one of loss, top1, top5, superclass"),
    "unknown tracker": ("--report_to nope", "nope is not supported, only"),
    "tracker that is not installed": ("--report_to tensorboard,mlflow", "mlflow: it is not installed"),
    "gradient checkpointing": ("--gradient_checkpointing", "BatchNorm"),
    "resume from nowhere": ("--resume_from_checkpoint true", "it has no complete checkpoint"),
    "synchronised BatchNorm on a CPU": ("--sync_batchnorm", "sync_batchnorm needs GPUs"),
    "broken JSON": ('--lr_scheduler_kwargs {"a":', "not valid JSON"),
    "smoothing of one": ("--label_smoothing_factor 1", "below 1"),
    "wrong hue": ("--color_jitter 0.1 0.1 0.1 0.9", "four strengths"),
    "impossible momentum": ("--optim sgd --optim_args momentum=-1", "Invalid momentum value: -1"),
    "optimizer that is not installed": ("--optim lomo", "install `lomo_optim`"),
    "empty folder": ("--output_dir=", "--output_dir must not be empty"),
}


@pytest.fixture
def refused_run(refused, tmp_path):
    """The one line with which `train` refuses these arguments, and nothing is written."""

    def run(*arguments, out=tmp_path / "out"):
        line = refused("train", "--config", "quickstart", "--use_cpu", "--output_dir", out, *arguments)
        assert not out.exists()
        return line

    return run


@pytest.mark.parametrize("typed, message", TYPED.values(), ids=TYPED)
def test_what_is_typed_wrong(refused_run, typed, message):
    assert message in refused_run(*typed.split())


def test_what_is_wrong_in_the_data(refused_run, tmp_path, write_image_folder, make_images):
    counts = {"train": {"cat": 4, "dog": 4}, "test": {"cat": 2, "dog": 2}}
    write_image_folder(counts, iter(make_images(12)).__next__)
    (tmp_path / "test" / "cat" / "0.png").write_bytes(b"this is no image")
    line = refused_run("--dataset_name", tmp_path)
    assert "cat/0.png" in line and "cannot be decoded: not an image" in line
    line = refused_run("--dataset_name", tmp_path, "--image_column_name", "img")
    assert "the dataset has: image, label" in line


def test_output_folder_that_cannot_be_written(refused_run, tmp_path):
    (tmp_path / "file").write_text("in the way")
    assert "cannot be written" in refused_run(out=tmp_path / "file" / "out")
    assert (tmp_path / "file").read_text() == "in the way"


@pytest.mark.slow
def test_program_prints_one_line_and_exits_with_2(python, script, tmp_path):
    result = python(script, "--dataset_name", "./nowhere", cwd=tmp_path)
    assert result.returncode == 2 and result.stdout == ""
    [line] = result.stderr.splitlines()
    assert line.startswith("error: --dataset_name ./nowhere: there is no such folder; ")
    assert line.endswith("give a local folder instead, or try --dataset_name shapes100, which needs no network")
    assert list(tmp_path.iterdir()) == []
