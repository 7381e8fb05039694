import ast
import os
import re
import signal
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

import hf_cifar_resnet
from hf_cifar_resnet import cli
from hf_cifar_resnet.cli import COMMANDS
from hf_cifar_resnet.commands.errors import reports_errors
from hf_cifar_resnet.commands.line_parser import LineParser
from hf_cifar_resnet.commands.parser import ALL_ARGUMENTS, CifarArgumentParser, parse_arguments
from hf_cifar_resnet.documents import read_yaml
from hf_cifar_resnet.reporting.card import NEEDED

PACKAGE = Path(hf_cifar_resnet.__file__).parent
REPOSITORY = PACKAGE.parent
MODULES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))
HEAVY = {"torch", "transformers", "datasets", "numpy", "matplotlib", "albumentations"}

# The order of imports: a room imports from those before it, never from those after it.
ORDER = [
    {"model", "data", "schedules"}, {"evaluation"}, {"runs"}, {"reporting"}, {"checkpoints"}, {"training"}, {"hub"},
    {"inference"}, {"study"}, {"benchmark"}, {"commands"},
]  # fmt: skip
ROOMS = set().union(*ORDER)
SINGLE_MODULES = {path.stem for path in PACKAGE.glob("*.py")} - {"cli", "__main__"}
# The part of a command line's parser that a module may import, and no one but a command.
PARSERS = {"argparse", "HfArgumentParser", "LineParser", "CifarArgumentParser", "parse_arguments"}
# What is against the order still, or against the rule that only commands parse: (module, what it imports). This list
# only shrinks, and at the end it is empty.
EXCEPTIONS: set[tuple[str, str]] = set()


def room(module):
    """`training` of `training/build.py`, `errors` of the single module `errors.py`, and `commands` of `cli.py`."""
    name = Path(module).parts[0].removesuffix(".py")
    return "commands" if name in ("cli", "__main__") else name


def allowed_imports(own):
    """The rooms and single modules that a room, or a single module, may import from."""
    if own in SINGLE_MODULES:
        return SINGLE_MODULES
    number = next(number for number, rooms in enumerate(ORDER) if own in rooms)
    rooms = {own}.union(*ORDER[:number])
    if own == "model":  # it travels with every checkpoint, alone
        return rooms
    # Predictions do not need what trains.
    return (rooms - {"training"} if own == "inference" else rooms) | SINGLE_MODULES


def find_imports(module):
    """
    The rooms, single modules and parsers that a module imports, wherever in it the import stands, if only for types.
    A text that names a module, such as "training.build", is an import too, since `import_module` may get it.
    """
    found = set()
    # Of the package `a`, `from .` in `a/b.py` and in `a/__init__.py` means `a`.
    here = ["hf_cifar_resnet", *module.parent.parts]
    for node in ast.walk(ast.parse((PACKAGE / module).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else []
            base = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"{base}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Constant) and names_module(node.value):
            names = [f"hf_cifar_resnet.{node.value.removeprefix('hf_cifar_resnet.')}"]
        else:
            continue
        for name in names:
            found |= {name.split(".")[-1]} & PARSERS
            if name.startswith("hf_cifar_resnet."):
                own = room(name.split(".")[1])
                found.add(own if own in ROOMS | SINGLE_MODULES else "__init__")
    return found


def names_module(value):
    """Whether a value is a text such as "hf_cifar_resnet.data" or "training.build", of a room or module that exists."""
    if not isinstance(value, str) or not re.fullmatch(r"\w+(\.\w+)+", value):
        return False
    path = PACKAGE.joinpath(*value.removeprefix("hf_cifar_resnet.").split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def run_python(code):
    """A fresh interpreter's printed output."""
    result = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return result.stdout


# Importing


def test_command_line_lists_its_commands_and_costs_nothing_until_it_is_used():
    """With `--help` or without."""
    loaded = f"import sys; print('LOADED', *({HEAVY!r} & sys.modules.keys()))"
    calls = [f"from hf_cifar_resnet import cli, errors; cli.main({words}); {loaded}" for words in (["--help"], [])]
    shown = run_python(calls[0])
    assert all(f"\n  {name}" in shown for name in COMMANDS) and shown.endswith("\nLOADED\n")
    assert shown == run_python(calls[1])


def test_training_loads_nothing_of_its_own_before_it_knows_its_arguments():
    code = """
        import sys
        from hf_cifar_resnet import cli
        late = {"albumentations", "datasets", "evaluate", "matplotlib", "hf_cifar_resnet.model"}
        for arguments in (["--learning_rat", "1"], ["--help"]):
            try:
                cli.main(["train", *arguments])
            except SystemExit:
                print("LOADED", *(late & sys.modules.keys()))
    """
    lines = run_python(textwrap.dedent(code)).splitlines()
    assert lines[0] == lines[-1] == "LOADED"


def test_what_the_command_line_lists_is_what_there_is():
    from hf_cifar_resnet.data.arguments import AUGMENTATIONS, BUILT_IN_DATASETS
    from hf_cifar_resnet.data.policies import POLICIES
    from hf_cifar_resnet.data.sources import BUILT_IN
    from hf_cifar_resnet.model import configuration_cifar_resnet as configuration
    from hf_cifar_resnet.training import arguments

    assert tuple(POLICIES) == AUGMENTATIONS
    assert tuple(BUILT_IN) == BUILT_IN_DATASETS
    assert tuple(configuration.STANDARD_DEPTHS) == arguments.DEPTHS + arguments.CIFAR_DEPTHS
    assert (configuration.BLOCKS, configuration.STEMS) == (arguments.BLOCKS, arguments.STEMS)


def test_the_package_is_a_program():
    command = [sys.executable, "-m", "hf_cifar_resnet", "--version"]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert (result.returncode, result.stdout) == (0, f"{hf_cifar_resnet.__version__}\n")


# A module that is imported when the program gets the signal.
INTERRUPTED = """
import os, signal, sys
from importlib.abc import MetaPathFinder

class Interrupt(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "{module}":
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
signal.signal(signal.SIGINT, signal.default_int_handler)
"""


PRINTS = """
from hf_cifar_resnet.commands.errors import reports_errors

@reports_errors()
def main():
    print("a line", flush={flush})

main()
"""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="not tested: an output on a full disk, without /dev/full")
@pytest.mark.parametrize("flush", [True, False])
def test_output_on_a_full_disk_is_one_line(flush):
    command = [sys.executable, "-c", PRINTS.format(flush=flush)]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=300)
    [line] = done.stderr.splitlines()
    assert done.returncode == 2 and line.startswith("error: the output ") and line.endswith("No space left on device")


@pytest.mark.parametrize("module", ["torch", "transformers", "albumentations"])
@pytest.mark.parametrize("program", ["train.py", "-m hf_cifar_resnet train"])
def test_interrupted_import_is_no_traceback(tmp_path, module, program):
    (tmp_path / "sitecustomize.py").write_text(INTERRUPTED.format(module=module))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(REPOSITORY)])}
    arguments = "--config quickstart --use_cpu --output_dir".split()
    command = [sys.executable, *program.split(), *arguments, str(tmp_path / "out")]
    result = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=120)
    assert result.returncode in (75, 130) and result.stderr == "" and len(result.stdout.splitlines()) <= 1


FAILS = """
import sys
from hf_cifar_resnet.commands.errors import reports_errors

@reports_errors()
def main():
    raise {error}

main()
"""


@pytest.mark.parametrize("error", ["ValueError('seed is\\nwrong')", "OSError('gone')", "ImportError('pip install x')"])
def test_error_that_a_user_can_correct_is_one_line(error):
    command = [sys.executable, "-c", FAILS.format(error=error)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    [line] = done.stderr.splitlines()
    assert done.returncode == 2 and line.startswith("error: ")


def test_debug_before_the_command_shows_the_traceback():
    with pytest.raises(ValueError, match="there is no command nowhere"):
        cli.main(["--debug", "nowhere"])


def test_debug_of_the_training_is_the_flag_of_transformers():
    assert parse_arguments(["--debug", "underflow_overflow"]).get("debug") == ["underflow_overflow"]


def test_flags_in_an_error_are_those_of_the_command_that_runs(refused, capsys):
    CifarArgumentParser(ALL_ARGUMENTS)  # another parser, that has a flag --warmup_steps
    with pytest.raises(SystemExit), reports_errors():
        LineParser().parse_args([])
        raise ValueError("warmup_steps must be above 0")
    assert capsys.readouterr().err == "error: warmup_steps must be above 0\n"
    with pytest.raises(SystemExit), reports_errors():
        CifarArgumentParser(ALL_ARGUMENTS).parse(["--seed", "3"])
        raise ValueError("learning_rate must be above 0, and warmup_steps not negative, with this seed")
    line = "--learning_rate must be above 0, and --warmup_steps not negative, with this seed"
    assert capsys.readouterr().err == f"error: {line}\n"


@pytest.mark.parametrize("error", ["KeyError('x')", "TypeError('x')", "AttributeError('x')", "RuntimeError('x')"])
def test_bug_keeps_its_traceback(error):
    command = [sys.executable, "-c", FAILS.format(error=error)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and "Traceback" in done.stderr and "error: " not in done.stderr.splitlines()[0]


# A command that is signalled while it writes.
SIGNALLED = """
import os, signal, sys
from hf_cifar_resnet.documents import atomic_write
from hf_cifar_resnet.commands.errors import reports_errors

@reports_errors()
def main():
    with atomic_write(sys.argv[1]) as file:
        file.write_text("half")
        for _ in range(2):
            os.kill(os.getpid(), int(sys.argv[2]))

main()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_signal_leaves_no_temporary_files(tmp_path, number):
    command = [sys.executable, "-c", SIGNALLED, tmp_path / "file", str(int(number))]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert (result.returncode, result.stdout, result.stderr) == (128 + number, "", "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", hf_cifar_resnet.__all__)
def test_public_names(name):
    value = getattr(hf_cifar_resnet, name)
    assert getattr(value, "__name__", name) == name
    assert name in dir(hf_cifar_resnet)
    namespace = {}
    exec(f"from hf_cifar_resnet import {name}", namespace)
    assert namespace[name] is value


@pytest.mark.parametrize("name", ["Trainer", "__file"])
def test_unknown_name(name):
    with pytest.raises(AttributeError, match=name):
        getattr(hf_cifar_resnet, name)
    with pytest.raises(ImportError):
        exec(f"from hf_cifar_resnet import {name}")


# How the package is laid out


@pytest.mark.parametrize("module", [module for module in MODULES if str(module) != "__init__.py"], ids=str)
def test_imports_go_one_way(module):
    own, found = room(module), find_imports(module)
    wrong = found - (allowed_imports(own) | (PARSERS if own == "commands" else set()))
    assert wrong == {imported for name, imported in EXCEPTIONS if name == module.as_posix()}


def test_exceptions_from_the_order_are_of_modules_that_exist():
    assert {name for name, _ in EXCEPTIONS} <= {module.as_posix() for module in MODULES}


def test_every_folder_is_a_room():
    assert {module.parts[0] for module in MODULES if len(module.parts) > 1} <= ROOMS


def lowest_versions(requirements):
    """Package to version, of `package>=version,<another` and `package==version`."""
    return {
        requirement.name: Version(specifier.version)
        for requirement in map(Requirement, requirements)
        for specifier in requirement.specifier
        if specifier.operator in (">=", "==")
    }


def test_lowest_versions_are_the_bounds_of_the_package():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    bounds = lowest_versions(sum(project["optional-dependencies"].values(), project["dependencies"]))
    _, *pins = (REPOSITORY / "tests" / "lowest-versions.txt").read_text(encoding="utf-8").splitlines()
    assert lowest_versions(pins) == bounds and len(bounds) > 20
    assert NEEDED.items() <= {name: ".".join(map(str, version.release)) for name, version in bounds.items()}.items()


def test_changelog_and_citation_name_the_version_of_the_package():
    cited = read_yaml(REPOSITORY / "CITATION.cff")
    released = re.findall(r"^## \[(\d\S*)\] - (\S+)$", (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    assert released[0] == (cited["version"], cited["date-released"])
    assert cited["version"] == hf_cifar_resnet.__version__
