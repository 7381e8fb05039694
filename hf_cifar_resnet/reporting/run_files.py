"""The names of the files and checkpoint folders of a run."""

from fnmatch import fnmatchcase
from pathlib import Path

HISTORY_CSV, METRICS_JSON, RUN_JSON = "history.csv", "metrics.json", "run.json"
STUDY_JSON = "study.json"  # of a folder of runs
CARD, CURVES = "README.md", "curves.png"

WEIGHTS, TRAINING_ARGS_JSON = "model.safetensors", "training_args.json"
_PREFIX = "checkpoint-"
# What a run's folder consists of, beside its checkpoints; patterns, since weights may be in several files.
WEIGHT_FILES = (WEIGHTS, "model-*-of-*.safetensors", f"{WEIGHTS}.index.json")
MODEL_FILES = ("config.json", "preprocessor_config.json", "configuration_cifar_resnet.py", "modeling_cifar_resnet.py")
PUSHED_FILES = (
    *WEIGHT_FILES,
    *MODEL_FILES,
    CARD,
    CURVES,
    METRICS_JSON,
    RUN_JSON,
    TRAINING_ARGS_JSON,
)
_OWN = (*PUSHED_FILES, HISTORY_CSV)


def is_run(folder):
    """Whether a folder is that of a run, or of a model alone."""
    return any((folder / name).is_file() for name in ("config.json", RUN_JSON))


def is_of_run(name):
    """Whether the files of a run have one of this name."""
    return matches(name, _OWN)


def matches(name, patterns):
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def step_of(checkpoint):
    """N of a folder `checkpoint-N`, or None."""
    number = Path(checkpoint).name.removeprefix(_PREFIX)
    return int(number) if number.isdecimal() else None


def checkpoint_path(run, step):
    return Path(run, f"{_PREFIX}{step}")


def list_checkpoints(run):
    """The folders `checkpoint-N` of a run: {N: `Path`}."""
    folders = [path for path in Path(run).glob(f"{_PREFIX}*") if path.is_dir()]
    return {step_of(path): path for path in folders if step_of(path) is not None}
