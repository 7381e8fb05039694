"""`~` means the home folder wherever it is given, also where no shell expands it."""

import pytest

from hf_cifar_resnet.checkpoints.resume import find_resumable
from hf_cifar_resnet.cli import main
from hf_cifar_resnet.commands.line_parser import LineParser
from hf_cifar_resnet.commands.parser import parse_arguments
from hf_cifar_resnet.data.arguments import DataArguments
from hf_cifar_resnet.data.splits import load_splits
from hf_cifar_resnet.training.arguments import CifarTrainingArguments, ModelArguments, resolve

PATHS = ("model_name_or_path", "dataset_name", "augmentation", "output_dir", "resume_from_checkpoint")


@pytest.fixture
def home(monkeypatch, tmp_path):
    """A home folder; nothing may be written into a folder named `~` of the current one."""
    home = tmp_path / "home"
    (tmp_path / "here").mkdir(), home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(tmp_path / "here")
    yield home
    assert not list((tmp_path / "here").glob("~*"))


def given(argv):
    """The paths with which a run is trained."""
    parts = vars(resolve(parse_arguments(argv))).values()
    return {name: getattr(part, name) for part in parts for name in PATHS if hasattr(part, name)}


def test_in_a_recipe_and_on_the_command_line(home):
    places = {name: f"~/{name}.yaml" for name in PATHS}
    expected = {name: f"{home}/{name}.yaml" for name in PATHS}
    (home / "recipe.yaml").write_text("".join(f"{name}: {place}\n" for name, place in places.items()))
    assert given(["--config=~/recipe.yaml"]) == expected
    assert given([f"--{name}={place}" for name, place in places.items()]) == expected
    assert given([word for name in places for word in (f"--{name}", places[name])]) == expected


def test_in_python(home):
    assert ModelArguments(model_name_or_path="~/a").model_name_or_path == f"{home}/a"
    assert DataArguments(dataset_name="~/a").dataset_name == f"{home}/a"
    args = CifarTrainingArguments(output_dir="~/a", resume_from_checkpoint="~/b", use_cpu=True)
    assert (args.output_dir, args.resume_from_checkpoint) == (f"{home}/a", f"{home}/b")
    for use in (load_splits, lambda name: find_resumable(name, "out", False)):
        with pytest.raises(ValueError, match=f"{home}/nowhere"):
            use("~/nowhere")


@pytest.mark.parametrize(
    "typed",
    [
        "train --config=~/nowhere",
        "push ~/nowhere ann/model",
        "predict ~/nowhere {file}",
        "predict {file} {file} ~/nowhere",
        "evaluate ~/nowhere",
        "export ~/nowhere --format onnx",
        "demo ~/nowhere",
        "study --report=~/nowhere",
        "find-lr --output=~/nowhere/find_lr.png",
        "preview --output ~/nowhere/preview.png",
    ],
)
def test_in_every_command(home, refused, typed):
    (home / "file").touch()
    assert f"{home}/nowhere" in refused(*(word.format(file=home / "file") for word in typed.split()))


def test_text_is_no_path(home):
    parser = LineParser()
    parser.add_argument("--message", is_text=True)
    parser.add_argument("--output")
    parsed = parser.parse_args(["--message", "~/as it is", "--output", "~/file"])
    assert (parsed.message, parsed.output) == ("~/as it is", f"{home}/file")


def test_output_is_written_there(home):
    main("schedules constant --steps 10 --output=~/drawn.png".split())
    assert (home / "drawn.png").is_file()


def test_study_and_its_runs_mean_the_same_folder(home, refused):
    (home / "study").mkdir()
    (home / "study" / "run.json").write_text("{}")
    assert f"--output_dir {home}/study holds a run" in refused("study", "--output_dir=~/study")


# A folder that has the name of a repository on the Hub


@pytest.mark.parametrize("name", ["ann/model", "my-runs/a.b"])
def test_folder_with_the_name_of_a_model(home, refused, name):
    folder = home.parent / "here" / name
    folder.mkdir(parents=True)
    line = refused("evaluate", name)
    hint = f"; for the model {name} on the Hub, write {name}@main" if "/" in name else ""
    assert line.endswith(f"the folder {name} holds no checkpoint (no config.json){hint}")
    assert "on the Hub" not in refused("evaluate", home)


@pytest.mark.parametrize("name", ["uoft-cs/cifar100", "cifar10"])
def test_folder_with_the_name_of_a_dataset(home, name):
    folder = home.parent / "here" / name
    folder.mkdir(parents=True)
    note = f"{name} is a folder here: from another directory the name means the dataset on the Hub"
    with pytest.raises(ValueError, match=note):
        load_splits(name)
    with pytest.raises(ValueError) as raised:
        load_splits(str(folder))
    assert "on the Hub" not in str(raised.value)
