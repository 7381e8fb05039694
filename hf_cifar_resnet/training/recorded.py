"""The data that a checkpoint was trained on, from the record beside it."""

from ..data.sources import load_splits
from ..errors import UserError
from ..reporting import records
from .checkpoint import checkpoint_folder, label_names


def parse_with_record(parser, argv):
    """
    Parses with a checkpoint as first argument; its data arguments are those it was trained with, unless given.

    Args:
        parser ([`CifarArgumentParser`] of [`DataArguments`]): gets the argument `checkpoint`.

    Returns:
        options, [`DataArguments`] (`dataset_name` is None where neither record nor command line has one), and
        the checkpoint's run.json ({} if there is none).
    """
    parser.add_argument("checkpoint", help="a folder that training wrote, or a Hub id")
    run = _run_record(checkpoint_folder(parser.parse_known_args(argv)[0].checkpoint))
    recorded = run.get("data_arguments", {})
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
        if (place / records.RUN_JSON).is_file():
            return records.read_json(place / records.RUN_JSON)
    return {}


def load_data_for(name, data_args, model, processor):
    """
    [`ImageSplits`] without augmentation, sized and normalised as a checkpoint's image processor says.

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
    data = load_splits(**options)
    if data.label_names != label_names(model):
        raise UserError(
            f"the checkpoint {name} knows {model.config.num_labels} classes and {data_args.dataset_name} has "
            f"{len(data.label_names)}, or their names differ: name the right dataset with --dataset_name"
        )
    return data


def find_split(data, name):
    """The images of a split. Raises [`UserError`] where there are none."""
    found = getattr(data, name)
    if found is None:
        raise UserError(f"the dataset has no {name} split")
    return found
