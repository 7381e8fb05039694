"""The data that a checkpoint was trained on, from the record beside it."""

from dataclasses import fields

from ..data.sources import load_splits
from ..documents import read_json
from ..errors import UserError
from ..reporting import records
from .arguments import DataArguments
from .parsing import CifarArgumentParser
from .trained import checkpoint_folder, label_names

SHOWN = 3  # classes that differ


def parse_with_record(parser, argv, others=None):
    """
    Parses with a checkpoint as first argument; its data arguments are those it was trained with, unless given.

    Args:
        parser ([`CifarArgumentParser`] of [`DataArguments`]): gets the argument `checkpoint`.
        others (`str`, *optional*): what more checkpoints after it are for; there may be none of them if not given.

    Returns:
        options, [`DataArguments`] (`dataset_name` is None where neither record nor command line has one), and
        the checkpoint's run.json ({} if there is none).
    """
    parser.add_argument("checkpoint", help="a folder that training wrote, or a Hub id")
    if others:
        parser.add_argument("others", nargs="*", metavar="checkpoint", help=others)
    run = _run_record(checkpoint_folder(parser.parse_known_args(argv)[0].checkpoint))
    recorded = _checked(run.get("data_arguments") or {})
    parser.set_defaults(dataset_name=recorded.get("dataset_name"))
    # Columns and revision belong to the dataset they were given for.
    if parser.parse_known_args(argv)[0].dataset_name == recorded.get("dataset_name"):
        parser.set_defaults(**recorded)
    # Whatever the training images went through, also from a file that is no longer there.
    parser.set_defaults(augmentation="none", random_erasing=0.0)
    data_args, options = parser.parse(argv)
    return options, data_args, run


def _run_record(folder):
    for place in (folder, folder.parent):
        path = place / records.RUN_JSON
        if path.is_file():
            try:
                return read_json(path)
            except (OSError, ValueError) as error:
                raise UserError(f"{path}: {error}") from error
    return {}


def _checked(recorded):
    """The data arguments of a record, as if they had been typed: it may be anybody's."""
    known = {field.name for field in fields(DataArguments)}
    try:
        given = {name: value for name, value in recorded.items() if name in known and value is not None}
        words = [[f"--{name}", *(value if isinstance(value, list) else [value])] for name, value in given.items()]
        [parsed] = CifarArgumentParser(DataArguments).parse([str(word) for part in words for word in part])
    except (AttributeError, ValueError) as error:
        raise UserError(f"the data_arguments of {records.RUN_JSON} are wrong: {error}") from error
    return {name: getattr(parsed, name) for name in given}


def load_data_for(name, data_args, model, processor, needed):
    """
    [`ImageSplits`] without augmentation, sized and normalised as a checkpoint's image processor says, with those splits
    that are needed.

    Raises:
        UserError: if no dataset is named, or its classes are not the checkpoint's.
    """
    if data_args.dataset_name is None:
        raise UserError(f"{name} does not say what it was trained on (no run.json): give --dataset_name")
    options = {name: value for name, value in vars(data_args).items() if name != "eval_split"}
    options |= {
        "image_mean": processor.image_mean,
        "image_std": processor.image_std,
        "image_size": processor.size["height"],
        "augmentation": "none",
    }
    data = load_splits(**options, needed=needed)
    known, found = label_names(model), data.label_names
    if found != known:
        raise UserError(
            f"the classes of the checkpoint {name} are not those of {data_args.dataset_name}: "
            f"{_difference(known, found)}; name the right dataset with --dataset_name"
        )
    return data


def _difference(known, found):
    """What the classes of a checkpoint and of a dataset differ in, in a few words."""
    if sorted(known) == sorted(found):
        moved = [f"{i} is {known[i]} there and {found[i]} here" for i in range(len(known)) if known[i] != found[i]]
        return f"the same in another order, {_some(moved)}"
    lists = {"there": sorted(set(known) - set(found)), "here": sorted(set(found) - set(known))}
    alone = [f"{_some(names)} only {place}" for place, names in lists.items() if names]
    return f"{len(known)} there and {len(found)} here, {'; '.join(alone)}"


def _some(words):
    more = f" and {len(words) - SHOWN} more" if len(words) > SHOWN else ""
    return f"{', '.join(words[:SHOWN])}{more}"


def find_split(data, name):
    """The images of a split. Raises [`UserError`] where there are none."""
    found = getattr(data, name)
    if found is None:
        raise UserError(f"the dataset has no {name} split")
    return found
