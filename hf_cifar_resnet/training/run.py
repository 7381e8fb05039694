"""
Train a ResNet from scratch.

python train.py --config quickstart                      # built-in dataset, a small model, minutes on a CPU
accelerate launch train.py --lr_scheduler_type cosine    # CIFAR-100 from the Hub, ResNet-50
"""

from pathlib import Path

from ..errors import UserError, reports_user_errors
from ..reporting import records
from ..reporting.card import model_card
from ..reporting.curves import plot_history
from .arguments import parse_arguments

# What takes seconds to load is imported where it is used: `--help` and a mistyped argument do not wait for it.


@reports_user_errors
def main(argv=None, prog=None):
    """Command line -> data -> model -> Trainer -> scores -> checkpoint, curves and model card. Returns the metrics."""
    model_args, data_args, args = parse_arguments(argv, prog)

    from transformers import set_seed

    from . import describe
    from .launch import check_processes, output_folder, resume_point

    check_processes(args)
    quieten_libraries(args)
    set_seed(args.seed)
    with args.main_process_first(desc="decoding the images"):
        data = load_data(data_args, args.seed)
    check_metric(args, data)
    model = build_model(model_args, data)
    args.output_dir = output_folder(args, describe.run_name(data_args, model.config, args))
    resume = resume_point(args)
    trainer = build_trainer(model, args, data, data_args.eval_split)
    run = describe.run(model, data, model_args, data_args, args, argv)
    if trainer.is_world_process_zero():
        print(describe.start(run, args), flush=True)

    trainer.train(resume_from_checkpoint=resume)

    metrics = score(trainer, data, data_args.eval_split)
    trainer.save_model()
    if trainer.is_world_process_zero():
        write_results(trainer, run, metrics)
        print(describe.end(metrics, args), flush=True)
    return metrics


def quieten_libraries(args):
    """No progress bar for writing one small file, and none at all where nobody watches."""
    import datasets
    import transformers

    transformers.utils.logging.disable_progress_bar()
    if args.disable_tqdm:
        datasets.disable_progress_bars()


def load_data(data_args, seed):
    """[`ImageSplits`] for [`DataArguments`]."""
    from ..data.sources import load_splits

    options = {name: value for name, value in vars(data_args).items() if name != "eval_split"}
    data = load_splits(**options, seed=seed)
    if data_args.eval_split == "validation" and data.validation is None:
        raise UserError("there is no validation split to select on: hold some out, or add --eval_split test")
    return data


def check_metric(args, data):
    """Raises [`UserError`] for a metric to select by that there will not be."""
    known = records.SCORES if data.superclass_of is not None else records.SCORES[:-1]
    if args.metric_for_best_model.removeprefix("eval_") not in known:
        raise UserError(f"--metric_for_best_model must be one of {', '.join(known)}, got {args.metric_for_best_model}")


def build_model(model_args, data):
    """A freshly initialised model for the data's labels."""
    from ..model import CifarResNetConfig, CifarResNetForImageClassification

    try:
        config = CifarResNetConfig(**vars(model_args), id2label=data.id2label, label2id=data.label2id)
    except ValueError as error:
        raise UserError(f"the model cannot be built: {error}") from error
    return CifarResNetForImageClassification(config)


def build_trainer(model, args, data, eval_split, **kwargs):
    """The Trainer, which selects on `eval_split`; `kwargs` go to it as they are."""
    from .trainer import CifarTrainer

    return CifarTrainer(
        model=model,
        args=args,
        train_dataset=data.train,
        eval_dataset=getattr(data, eval_split),
        processing_class=data.image_processor(),
        superclass_of=data.superclass_of,
        **kwargs,
    )


def score(trainer, data, eval_split):
    """The figures of the model that will be saved: its evaluation, and the test split, scored here alone."""
    rows = records.history(trainer.state.log_history)
    state = trainer.state
    # Nothing may have been logged or evaluated.
    last = rows[-1] if rows else {"step": state.global_step, "epoch": state.epoch}
    kept = state.best_global_step if trainer.args.load_best_model_at_end and state.best_global_step else last["step"]
    saved = next((row for row in rows if row["step"] == kept), last)
    test = trainer.evaluate(data.test, metric_key_prefix="test")
    return {
        "selected_on": eval_split,
        "metric_for_best_model": trainer.args.metric_for_best_model,
        "best_epoch": saved["epoch"],
        "epochs": state.epoch,
        "steps": state.global_step,
        "train": {"loss": last.get("train_loss"), "accuracy": last.get("train_accuracy")},
        "validation": records.scores(saved, "eval") if eval_split == "validation" else None,
        "test": records.scores(test, "test"),
        "timing": {name: last.get(name) for name in ("train_seconds", "images_per_second")},
    }


def write_results(trainer, run, metrics):
    """metrics.json, run.json, history.csv, curves.png and README.md in the output folder."""
    folder = Path(trainer.args.output_dir)
    rows = records.history(trainer.state.log_history)
    records.write_json(run, folder / records.RUN_JSON)
    records.write_history(rows, folder / records.HISTORY_CSV)
    plot_history(rows, folder / "curves.png", metrics["selected_on"], trainer.args.label_smoothing_factor)
    model_card(run, metrics).save(folder / "README.md")
    # Last: it says that all the rest is there.
    records.write_json(metrics, folder / records.METRICS_JSON)
