"""
Whatever is in a configuration, recipe, command line or dataset, it works or is refused in one line.

A long campaign: `FUZZ_EXAMPLES=20000 python -m pytest -n0 tests/test_fuzz.py` (random, where the default is the same
small set each time).
"""

import io
import json
import os
import tempfile
from pathlib import Path

import numpy as np
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from hf_cifar_resnet import CifarResNetConfig, CifarResNetForImageClassification
from hf_cifar_resnet.commands.parser import CifarArgumentParser, parse_arguments
from hf_cifar_resnet.data.arguments import DataArguments
from hf_cifar_resnet.errors import printable
from hf_cifar_resnet.training.arguments import ModelArguments, resolve

LONG = int(os.environ.get("FUZZ_EXAMPLES", 0))


def fuzz(examples):
    return settings(
        derandomize=not LONG,
        max_examples=LONG or examples,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 40),
    st.integers(),
    st.sampled_from([10**9, 2**63, 10**400, -1]),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["basic", "bottleneck", "cifar", "imagenet", "float16", "1e-3", "true", "\x1b[31m", "a\nb"]),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


def one_line(error):
    """What the command line makes of an error is one line; what a program gets is not empty."""
    assert str(error) and printable(error).isprintable()


# Configurations

FIELDS = {
    "depth": st.sampled_from([18, 34, 50, 101, 152, 20, 56, 21]),
    "block": st.sampled_from(["basic", "bottleneck", "other"]),
    "stage_depths": st.lists(st.integers(0, 3), max_size=4) | st.just([10**9, 1]),
    "stage_widths": st.lists(st.integers(0, 32), max_size=4) | st.just([10**9, 1]),
    "stem": st.sampled_from(["cifar", "imagenet"]),
    "id2label": st.dictionaries(st.integers(-1, 3) | st.integers(0, 3).map(str), st.text(max_size=5) | SCALARS),
    "num_labels": st.integers(-1, 20) | st.just(10**12),
    "dropout": st.floats(0, 1),
    "num_channels": st.integers(-1, 5),
    "auto_map": VALUES,
    "attn_implementation": st.just("somebody/kernel"),
}
WRITTEN = sorted(CifarResNetConfig(depth=18).to_dict())  # what a careless edit may change
CONFIGS = st.builds(
    lambda *parts: {key: value for part in parts for key, value in part.items()},
    st.fixed_dictionaries({}, optional=FIELDS),
    st.dictionaries(st.sampled_from(WRITTEN) | st.text(max_size=6), VALUES, max_size=3),
)


@fuzz(120)
@given(CONFIGS)
def test_configuration(fields):
    import torch

    try:
        config = CifarResNetConfig(**fields)
    except ValueError as error:
        one_line(error)
        return
    written = config.to_json_string(use_diff=False)
    again = CifarResNetConfig.from_dict(json.loads(written))
    assert again.to_json_string(use_diff=False) == written
    assert again.num_labels == config.num_labels >= 1
    if sum(config.stage_depths) < 8:
        with torch.device("meta"):
            CifarResNetForImageClassification(config)


# Recipes and command lines

NAMES = sorted(CifarArgumentParser((ModelArguments, DataArguments)).flags)
TRAINING = "config learning_rate seed lr_scheduler_kwargs optim bf16 global_batch_size lr_scheduler_type warmup_steps"
FLAGS = st.sampled_from([*NAMES, *(f"--{name}" for name in TRAINING.split())])
WORDS = st.one_of(
    FLAGS, SCALARS.map(str), st.text(max_size=10), st.sampled_from(["seed", "cosine", "{}", "[", '{"a": [1]}', "="])
)


def parses_or_refuses(arguments):
    try:
        args = resolve(parse_arguments(["--use_cpu", *arguments])).training
    except ValueError as error:
        one_line(error)
    except SystemExit as stopped:  # --help
        assert stopped.code == 0 and {"--help", "-h"} & set(arguments)
    else:
        assert args.learning_rate > 0 and args.per_device_train_batch_size > 0


@fuzz(60)
@given(st.lists(WORDS, max_size=6))
def test_command_line(arguments):
    parses_or_refuses(arguments)


RECIPES = st.one_of(
    st.text(max_size=60),
    st.dictionaries(FLAGS.map(lambda flag: flag.lstrip("-")), VALUES, max_size=4).map(
        lambda recipe: yaml.safe_dump(recipe, allow_unicode=True)
    ),
    st.lists(st.sampled_from(list("ab:[]{}&*!<-|>#?%@,\n '\"\\1.~") + ["&a ", "*a", "!!python/object:os.system "]),
             max_size=20).map("".join),
)  # fmt: skip


@fuzz(60)
@given(RECIPES)
def test_recipe(text):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "recipe.yaml")
        path.write_text(text, encoding="utf-8", errors="surrogatepass")
        parses_or_refuses(["--config", str(path)])


# Datasets


def png(seed):
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)).save(stream, "PNG")
    return stream.getvalue()


IMAGES = st.one_of(
    st.integers(0, 9).map(lambda seed: {"bytes": png(seed), "path": None}),
    st.none(),
    st.binary(max_size=8).map(lambda content: {"bytes": content, "path": None}),
    st.just({"bytes": png(0)[:40], "path": "a\nb.png"}),
    st.just({"bytes": None, "path": "/nowhere.png"}),
)
GOOD = st.integers(0, 9).map(lambda seed: {"bytes": png(seed), "path": None})
CELLS = {
    "image": GOOD,
    "any image": IMAGES,
    "class": st.integers(0, 2),
    "int": st.integers(-2, 4) | st.none() | st.just(2**40),
    "text": st.sampled_from(["cat", "dog", "", "a\nb", "<b>", "\x1b"]) | st.none(),
    "float": st.floats(width=32),
    "list": st.lists(st.floats(width=32), max_size=3),
}
COLUMN_NAMES = st.sampled_from(["image", "img", "label", "fine_label", "coarse_label", "row", "superclass"])
# Arrow's names end at a zero character.
COLUMN_NAMES |= st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1, max_size=5)


@st.composite
def tables(draw):
    """Column names with their kinds, and the rows of each split."""
    kinds = draw(st.dictionaries(COLUMN_NAMES, st.sampled_from(sorted(CELLS)), max_size=3))
    kinds |= draw(st.fixed_dictionaries({}, optional={"image": st.just("image"), "label": st.just("class")}))
    names = draw(st.lists(st.sampled_from(["train", "test", "validation"]), unique=True, min_size=1))
    splits = {}
    for name in names:
        count = draw(st.integers(0, 5))
        columns = {
            column: draw(st.lists(CELLS[kind], min_size=count, max_size=count)) for column, kind in kinds.items()
        }
        splits[name] = columns
    return kinds, splits


@fuzz(60)
@given(tables(), st.sampled_from([0.0, 0.1, 0.5]))
def test_dataset(table, fraction):
    from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value
    from datasets import Image as ImageFeature

    from hf_cifar_resnet.data.images import decode_images
    from hf_cifar_resnet.data.splits import split_dataset

    features = {
        "image": ImageFeature(), "any image": ImageFeature(), "class": ClassLabel(names=["a", "b", "c"]),
        "int": Value("int64"), "text": Value("string"), "float": Value("float32"), "list": List(Value("float32")),
    }  # fmt: skip
    kinds, splits = table
    features = Features({column: features[kind] for column, kind in kinds.items()})
    raw = DatasetDict({name: Dataset.from_dict(columns, features=features) for name, columns in splits.items()})
    try:
        parts, names, superclass_of, _ = split_dataset(
            raw, DataArguments(validation_fraction=fraction, max_eval_samples=2)
        )
        images = {name: decode_images(part, 8) for name, part in parts.items()}
    except ValueError as error:
        one_line(error)
        return
    assert {"train", "test"} <= set(parts) and all(isinstance(name, str) for name in names)
    assert superclass_of is None or len(superclass_of) == len(names)
    for name, part in parts.items():
        assert images[name].shape == (len(part), 8, 8, 3) and len(part) > 0
        assert all(0 <= label < len(names) for label in part["label"][:])
