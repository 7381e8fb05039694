"""`search`: search hyper-parameters with Optuna (extra `search`)."""

from pathlib import Path

from ..checkpoints.outputs import check_no_checkpoint
from ..checkpoints.run_folder import holds_run, lock_run_folder
from ..documents import write_json
from ..errors import UserError, require
from ..study.search import BEST_JSON, check_space, find_best, parse_dimension
from ..training.arguments import resolve
from ..training.build import build_model, build_trainer, load_data
from .line_parser import positive
from .parser import ALL_ARGUMENTS, CifarArgumentParser, parse_value
from .session import quieten_libraries


def main(argv, prog=None):
    """Train `--trials` models, each on one point of the space, and report the best by its last evaluation."""
    options, space, model_args, data_args, args = _parse(argv, prog)
    require("optuna", "search")
    quieten_libraries(args)
    folder = Path(args.output_dir)
    if (folder / BEST_JSON).exists() or holds_run(folder):
        raise UserError(f"--output_dir {folder} holds a search or a run already: choose another")
    check_no_checkpoint("--output_dir", folder)
    data = load_data(data_args, args)
    args = args.with_precision_for(build_model(model_args, data))
    with lock_run_folder(Path(args.output_dir)):
        trainer = build_trainer(
            None, args, data, data_args.eval_split, model_init=lambda: build_model(model_args, data)
        )
        best = find_best(trainer, space, options, args)
        found = {args.metric_for_best_model: best.objective, "trials": options.trials}
        write_json(found | {"arguments": best.hyperparameters}, folder / BEST_JSON)
    settings = " ".join(f"--{name} {value:g}" for name, value in best.hyperparameters.items())
    print(f"Best {args.metric_for_best_model} on {data_args.eval_split}: {best.objective:.4f} with {settings}")
    return found


def _parse(argv, prog):
    parser = CifarArgumentParser(
        ALL_ARGUMENTS, prog=prog, description="Search training arguments; all other arguments are those of `train`."
    )
    parser.add_argument("--space", nargs="+", required=True, metavar="NAME=LOW:HIGH[:log]|NAME=A,B",
                        help="for each argument a range, linear or logarithmic, or choices")  # fmt: skip
    parser.add_argument("--trials", type=positive, default=20, help="models to train")
    line = parser.parse(argv)
    options = line.options
    given = line.arguments.replace(output_dir=line.arguments.get("output_dir", "studies/search"))
    # Trials compete by their last evaluation, and the checkpoints of all trials would fill the disk.
    arguments = resolve(given.replace(save_strategy="no", load_best_model_at_end=False))
    model_args, data_args, args = arguments.model, arguments.data, arguments.training
    if data_args.eval_split == "none":
        raise UserError("search compares evaluations, and --eval_split none makes none: leave it out")
    space = [parse_dimension(text) for text in options.space]
    check_space(space, parse_value, given)
    return options, space, model_args, data_args, args
