"""Scores a checkpoint on a split, as the end of training does."""

from pathlib import Path

from transformers import AutoImageProcessor

from ..data.sources import load_splits
from ..errors import UserError, reports_user_errors
from ..model import CifarResNetForImageClassification
from ..reporting import records
from .arguments import CifarArgumentParser, CifarTrainingArguments, DataArguments
from .launch import check_processes
from .run import quieten_libraries
from .trainer import CifarTrainer


@reports_user_errors
def main(argv=None, prog=None):
    """Checkpoint -> data -> scores. Prints and returns them."""
    options, data_args = _parse(argv, prog)
    folder = Path(options.checkpoint)
    args = CifarTrainingArguments(
        output_dir=str(folder),
        use_cpu=options.use_cpu,
        bf16=options.precision == "bf16",
        fp16=options.precision == "fp16",
        per_device_eval_batch_size=options.batch_size,
        # Nothing is trained; the default would have to divide over the processes.
        per_device_train_batch_size=1,
    )
    check_processes(args)
    quieten_libraries(args)
    model, processor = _load(folder)
    with args.main_process_first(desc="decoding the images"):
        data = _load_data(data_args, model, processor)
    split = getattr(data, options.split)
    if split is None:
        raise UserError(f"the dataset has no {options.split} split")
    trainer = CifarTrainer(model=model, args=args, eval_dataset=split, superclass_of=data.superclass_of)
    scores = records.scores(trainer.evaluate(metric_key_prefix=options.split), options.split)
    if trainer.is_world_process_zero():
        print(f"{options.checkpoint} on {options.split} of {data_args.dataset_name}, {len(split):,} images")
        for name, value in scores.items():
            print(f"{name:<10} {value:.4f}" if name == "loss" else f"{name:<10} {value:.2%}")
        if options.json:
            records.write_json(scores, options.json)
    return scores


def _parse(argv, prog):
    parser = CifarArgumentParser(DataArguments, prog=prog, description="Score a checkpoint on a split.")
    parser.add_argument("checkpoint", help="a folder that training wrote")
    parser.add_argument("--split", default="test", choices=("train", "validation", "test"), help="what to score on")
    parser.add_argument("--batch_size", type=int, default=256, help="images per device and step")
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16"), help="as in training if not given")
    parser.add_argument("--use_cpu", action="store_true", help="even where there is a GPU")
    parser.add_argument("--json", metavar="FILE", help="also write the scores there")
    # What the checkpoint was trained on, unless the command line says otherwise.
    checkpoint = parser.parse_known_args(argv)[0].checkpoint
    if not Path(checkpoint, "config.json").is_file():
        raise UserError(f"{checkpoint} holds no checkpoint (no config.json)")
    run = _run_record(Path(checkpoint))
    recorded = run.get("data_arguments", {})
    # Columns and revision belong to the dataset they were given for.
    parser.set_defaults(dataset_name=recorded.get("dataset_name"))
    chosen = parser.parse_known_args(argv)[0].dataset_name
    if chosen is None:
        raise UserError(f"{checkpoint} does not say what it was trained on (no run.json): give --dataset_name")
    parser.set_defaults(
        precision=run.get("precision", "fp32"), **(recorded if chosen == recorded.get("dataset_name") else {})
    )
    # Whatever the training images went through, also from a file that is no longer there.
    parser.set_defaults(augmentation="none", random_erasing=0.0)
    data_args, options = parser.parse(argv)
    if options.batch_size < 1:
        raise UserError(f"--batch_size must be at least 1, got {options.batch_size}")
    return options, data_args


def _run_record(folder):
    for place in (folder, folder.parent):
        if (place / records.RUN_JSON).is_file():
            return records.read_json(place / records.RUN_JSON)
    return {}


def _load(folder):
    try:
        return CifarResNetForImageClassification.from_pretrained(folder), AutoImageProcessor.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise UserError(f"the checkpoint {folder} cannot be loaded: {' '.join(str(error).split())}") from error


def _load_data(data_args, model, processor):
    options = {name: value for name, value in vars(data_args).items() if name != "eval_split"}
    options |= {
        "image_mean": processor.image_mean,
        "image_std": processor.image_std,
        "image_size": processor.size["height"],
    }
    data = load_splits(**options)
    if data.label_names != [model.config.id2label[i] for i in range(model.config.num_labels)]:
        raise UserError(
            f"the checkpoint knows {model.config.num_labels} classes and {data_args.dataset_name} has "
            f"{len(data.label_names)}, or their names differ: name the right dataset with --dataset_name"
        )
    return data
