"""
The commands and programs of all READMEs are run, with other data, sizes and folders; those that would take too long are
parsed.
"""

import re
import shlex
from pathlib import Path

import pytest
import torch
from loopback_hub import LoopbackHub
from PIL import Image

from hf_cifar_resnet import CifarTrainer
from hf_cifar_resnet.cli import main as cli
from hf_cifar_resnet.commands.parser import parse_arguments
from hf_cifar_resnet.documents import read_yaml
from hf_cifar_resnet.training.arguments import resolve

from .conftest import TWO_PROCESSES, run_each, write_noise

REPOSITORY = Path(__file__).parents[2]
MODEL_CARDS = sorted((REPOSITORY / "model_cards").rglob("README.md"))
GUIDES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "hf_cifar_resnet").rglob("README.md"))]
FAULTS = REPOSITORY / "tests" / "README.md"


def read(document):
    return document.read_text(encoding="utf-8")


def blocks(language):
    return [block for guide in GUIDES for block in re.findall(rf"```{language}\n(.*?)```", read(guide), flags=re.S)]


# Of the user on the test Hub.
USER = "ann"
LINES = [line for block in blocks("bash") for line in re.sub(r"\\\n *", "", block).splitlines() if line.strip()]
COMMANDS = list(dict.fromkeys(LINES))
IN_CI = [command for command in COMMANDS if command.startswith("pip install")]
TINY_DATA = "--max_train_samples 100 --max_eval_samples 20 --max_steps 1 --per_device_train_batch_size 8 --use_cpu"
TINY_MODEL = "--block basic --stage_depths 1 1 --stage_widths 16 32"
# What stands in the README, and what is run in its place.
SUBSTITUTES = {
    "path/to/folder": "{data}",
    "runs/my-run": "{run}",
    "--schedules constant cosine_with_warmup one_cycle --seeds 42 43": "--schedules one_cycle --seeds 42",
    "--schedules constant cosine reduce_lr_on_plateau": "--schedules reduce_lr_on_plateau",
    "--tune learning_rate=3e-3,1e-2,3e-2 --seeds 42 43": "--tune learning_rate=3e-3,3e-2 --seeds 42 --jobs 2",
    "--tune learning_rate=3e-3,1e-2 --tune weight_decay=0.05,0.5 --tuning_seeds 0 1 --extend_edges 1 "
    "--variants schedules constant cosine --seeds 42 43": "--tune learning_rate=3e-3,1e-2 --extend_edges 1 "
    "--variants schedules cosine --seeds 42",
    "--variants schedules constant constant_ema cosine --seeds 42 43": "--variants schedules constant_ema --seeds 42",
    "--vary optim=sgd,adamw_torch_fused,muon --tune learning_rate=1e-3,1e-2,1e-1": "--vary optim=sgd,muon "
    "--tune learning_rate=1e-3,1e-2",
    "--tuning_trials 20": "--tuning_trials 1",
    "benchmark input": "benchmark input --repeats 1",
    "benchmark step": "benchmark step --repeats 1 --steps 1 --use_cpu",
    "benchmark inference": "benchmark inference --repeats 1 --batch_sizes 1 --use_cpu",
}


def test_the_two_commands_for_a_fresh_machine_are_those_that_ci_runs():
    assert "grep '^pip install' README.md" in (REPOSITORY / ".ci" / "run").read_text(encoding="utf-8")
    assert [command.split(" && ")[1] for command in IN_CI] == [
        "python train.py --config quickstart --output_dir runs/my-run",
        "python -m pytest",
    ]
    jobs = read_yaml(REPOSITORY / ".github" / "workflows" / "ci.yml")["jobs"]
    commands = [step["run"] for step in jobs["linux"]["steps"] if "run" in step]
    assert commands[:2] == [IN_CI[0], f'{IN_CI[1]} -m "not slow"']


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A working directory for the commands, with a dataset that has superclasses."""
    folder = tmp_path_factory.mktemp("readme")
    labels = {"fine_label": ["oak", "pine", "cat", "dog"], "coarse_label": ["tree", "pet"]}
    write_noise(folder / "images", labels, {"train": 40, "test": 12}, image="img")
    Image.new("RGB", (48, 40), "teal").save(folder / "image.png")
    for name in ("castle", "whale"):
        (folder / "my-photos" / "test" / name).mkdir(parents=True)
        Image.open(REPOSITORY / "tests" / "images" / f"{name}.png").save(folder / f"my-photos/test/{name}/1.png")
    link_repository(folder)
    return folder


def link_repository(folder):
    """Make what the documents name of the repository known in a folder."""
    for name in ("model_cards", "tests"):
        (folder / name).symlink_to(REPOSITORY / name)


def substitute(command, place, run):
    for written, instead in SUBSTITUTES.items():
        command = command.replace(written, instead.format(data=place / "images", run=run))
    words = shlex.split(command)
    trains = words[0] in ("python", "accelerate") or words[1] in ("study", "find-lr", "preview")
    if "--help" in words or not trains:
        return words
    words += TINY_DATA.split()
    if words[1] == "find-lr":
        words += ["--num_steps", "10"]
    if "--dataset_name" not in words:
        words += ["--dataset_name", "shapes100"]
    if "--depth" not in words and "--block" not in words:
        words += TINY_MODEL.split() if "notebook" not in words else ["--depth", "18"]
    return words


# And those of other tests: `test_commands_on_the_hub`, .ci/run and test_launch.py.
ON_HUB = [command for command in COMMANDS if "USER/" in command or "--push_to_hub" in command]
SEVERAL_PROCESSES = [command for command in COMMANDS if "--num_processes" in command]
RUN_ELSEWHERE = [*ON_HUB, *IN_CI, *SEVERAL_PROCESSES]


@pytest.mark.slow
def test_commands_on_the_hub(place, finished, quick, tmp_path):
    """One after another, on a Hub whose only repository is private and empty."""
    commands = []
    for command in ON_HUB:
        command = command.replace("USER/", f"{USER}/").replace("path/to/folder", str(place / "images"))
        words = shlex.split(command.replace("runs/my-run", str(finished.folder)))
        # A resumed run has the images and the batches of the one before, and goes one step further.
        steps = ["--max_steps", "7"] if "--resume_from_checkpoint" in words else []
        # Another seed makes another model than `runs/my-run`, for an ensemble.
        commands.append(["train", *words[2:], *quick, "--seed", "7", *steps] if words[0] == "python" else words[1:])
    with LoopbackHub() as hub:
        hub.add_user(USER, token="hf_token")
        hub.add_repo(f"{USER}/my-model", {}, private=True)
        environment = hub.environment(token="hf_token", cache=tmp_path) | {"PYTHONPATH": str(REPOSITORY)}
        answers = run_each(commands, tmp_path, environment)
    done = "Saved", f"{hub.endpoint}/{USER}/my-", "ensemble of 2 checkpoints on test"
    for command, answer in zip(ON_HUB, answers, strict=True):
        assert answer.returncode == 0, f"{command}: {answer.stderr}"
        assert any(text in answer.stdout for text in done), command


@pytest.mark.slow
@pytest.mark.parametrize("command", [command for command in COMMANDS if command not in RUN_ELSEWHERE])
def test_command(command, place, finished, python, script, monkeypatch, capsys):
    if " export " in command:
        pytest.importorskip("onnxruntime", reason="not tested: ONNX files, since onnxruntime is not installed")
    monkeypatch.chdir(place)
    # What the study starts in processes of their own has to find the package.
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    words = substitute(command, place, finished.folder)
    if words[0] == "accelerate":
        words = [str(script) if word == "train.py" else word for word in words[2:]]
        result = python("-m", "accelerate.commands.launch", *words, cwd=place)
        assert result.returncode == 0 and "Saved " in result.stdout, result.stderr
        return
    # `python train.py` and `hf-cifar-resnet train` are one program.
    arguments = ["train", *words[2:]] if words[0] == "python" else words[1:]
    if "--help" in arguments:
        with pytest.raises(SystemExit) as stopped:
            cli(arguments)
        assert stopped.value.code == 0
    else:
        cli(arguments)
    assert capsys.readouterr().out


@pytest.mark.slow
def test_programs(place, finished, monkeypatch, capsys):
    monkeypatch.chdir(place)
    names = {"__name__": "__main__"}
    torch.manual_seed(1)

    def run(program):
        program = program.replace(
            'output_dir="runs/from-python"', 'output_dir="from-python", max_steps=2, use_cpu=True'
        )
        exec(program.replace("runs/my-run", str(finished.folder)), names)

    for program in blocks("python"):
        run(program)
    assert isinstance(names["trainer"], CifarTrainer)
    weights = (place / "from-python" / "model.safetensors").read_bytes()
    assert "test_top1" in capsys.readouterr().out
    assert names["HalveWhenOverfitting"]().after_warmup(None, None) is None
    # The training program gives the same model in every process.
    torch.manual_seed(2)
    run(next(program for program in blocks("python") if "CifarTrainer(" in program))
    assert (place / "from-python" / "model.safetensors").read_bytes() == weights


PICTURES = """
from hf_cifar_resnet.cli import main
main(["schedules", "cosine", "--output", "schedules.png"])
import matplotlib.pyplot as plt
plt.plot([1, 2]);
"""


@pytest.fixture
def notebook(tmp_path, monkeypatch):
    """Runs cells in a real Jupyter kernel, and returns for each its printed text, its errors' and what it displays."""
    from nbclient import NotebookClient
    from nbformat.v4 import new_code_cell, new_notebook

    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))

    def run(*cells):
        notebook = new_notebook(cells=[new_code_cell(cell) for cell in cells])
        NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
        for cell in notebook.cells:
            texts = {"stdout": "", "stderr": ""}
            for output in cell.outputs:
                if output.output_type == "stream":
                    texts[output.name] += output.text
            displayed = [output.data for output in cell.outputs if "data" in output]
            yield texts["stdout"], texts["stderr"], [data for data in displayed if data.get("text/html") != ""]

    return run


@pytest.mark.slow
def test_programs_in_a_notebook(notebook, tmp_path):
    """A bar and a table while it trains, what the program prints, and nothing else or twice."""
    Image.new("RGB", (48, 40), "teal").save(tmp_path / "image.png")
    link_repository(tmp_path)
    train = next(program for program in blocks("python") if "CifarTrainer(" in program)
    small = train.replace('load_splits("shapes100"', 'load_splits("shapes100", max_train_samples=200')
    small = small.replace("num_train_epochs=8", "num_train_epochs=2, use_cpu=True")
    others = [program for program in blocks("python") if program != train]
    trained, *used, drawn = notebook(small, *others, PICTURES)

    printed, errors, [progress] = trained
    best, scores = printed.splitlines()
    assert best.startswith("best  epoch ") and scores.startswith("{'test_loss'")
    assert "Writing" not in errors and "Traceback" not in errors
    table = progress["text/html"]
    assert table.count("<progress") == 1 and table.count("<tr") == 3
    assert re.findall("<td>(./2)</td>", table) == ["1/2", "2/2"]
    for heading in ("train loss", "train accuracy", "lr", "eval loss", "top-1", "top-5"):
        assert table.count(f"<th>{heading}</th>") == 1

    classified, *_ = used
    assert classified[0].startswith("[{'label'") and classified[0].count("\n") == 1
    assert all(not displayed for _, _, displayed in used)
    printed, _, pictures = drawn
    assert printed == "Drawn: schedules.png and schedules.svg\n" and [
        "image/png" in picture for picture in pictures
    ] == [True]


@pytest.mark.slow
def test_training_program_where_workers_are_spawned(python, tmp_path):
    """As on Windows; [`test_workers_that_are_not_forked`] has a server that forks them, as Python 3.14."""
    [program] = [program for program in blocks("python") if "CifarTrainer(" in program]
    workers = 'max_steps=2, use_cpu=True, dataloader_num_workers=1, dataloader_multiprocessing_context="spawn"'
    program = program.replace('output_dir="runs/from-python"', f'output_dir="out", {workers}')
    program = program.replace('"shapes100"', '"shapes100", max_train_samples=100, max_eval_samples=20')
    (tmp_path / "program.py").write_text(program)
    result = python("program.py", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("test_top1") == 1 and (tmp_path / "out" / "model.safetensors").is_file()


def test_every_recipe_is_named():
    from hf_cifar_resnet.commands.parser import recipe_names

    assert all(f"`{name}`" in read(REPOSITORY / "README.md") for name in recipe_names())


# What the documents show and [`test_command`] does not run: it may take days, or name data that is not here.

DOCUMENTS = [*GUIDES, *MODEL_CARDS]


def shown_commands(document):
    """The other command lines of `study`, `train` and `benchmark` in a document's blocks and texts: (command, rest)."""
    text = read(document)
    if document in GUIDES:
        text = re.sub(r"^```bash.*?^```", "", text, flags=re.S | re.M)
    text = text.replace("\\\n", " ")
    fenced = re.findall(r"^```\w*\n(.*?)^```", text, re.S | re.M)
    inline = re.findall(r"`([^`]+)`", re.sub(r"^```.*?^```", "", text, flags=re.S | re.M))
    lines = [line for block in fenced for line in block.splitlines()] + [" ".join(each.split()) for each in inline]
    found = [re.search(r"(?:hf-cifar-resnet (study|train|benchmark)|(train)\.py)\s+(\S.*)", line) for line in lines]
    return [(match[1] or match[2], match[3].rstrip(" &")) for match in found if match]


def parses(command, words, tmp_path, capsys):
    """Whether a command takes these arguments: all that it checks before it starts its work is right."""
    if command == "train":
        resolve(parse_arguments(words))
        return True
    # The last thing that is checked.
    (tmp_path / "file").touch()
    unwritable = {"study": "--output_dir", "benchmark": "--json"}[command], str(tmp_path / "file" / "inside")
    with pytest.raises(SystemExit):
        cli([command, *words, *unwritable])
    # PyTorch may warn before.
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return "inside cannot be written" in line


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: str(document.relative_to(REPOSITORY)))
def test_shown_commands_parse(document, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, recipe in re.findall(r"^```yaml\n# (\S+)\n(.*?)^```", document.read_text(encoding="utf-8"), re.S | re.M):
        Path(name).write_text(recipe, encoding="utf-8")
    for command, line in shown_commands(document):
        assert parses(command, shlex.split(line), tmp_path, capsys), line


ROWS = re.findall(r"^\| (.+?) \| .+ \| `(\w+\.py)::(test_\w+)` \|$", read(FAULTS), re.M)


@pytest.mark.parametrize("fault, file, test", ROWS)
def test_every_fault_has_its_test(fault, file, test):
    sources = [path.read_text() for path in (REPOSITORY / "tests").rglob(file)]
    assert any(f"def {test}(" in source for source in sources)


def test_commands_and_faults_are_found():
    assert TWO_PROCESSES in COMMANDS
    assert sum(len(shown_commands(document)) for document in DOCUMENTS) >= 8
    assert len(ROWS) == read(FAULTS).count(".py::test_") > 40


@pytest.mark.parametrize("document", [*DOCUMENTS, FAULTS], ids=lambda document: str(document.relative_to(REPOSITORY)))
def test_links_lead_somewhere(document):
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", read(document))
    assert not [link for link in links if not (document.parent / link).exists()]
