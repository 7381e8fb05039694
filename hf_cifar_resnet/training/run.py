"""
Train a ResNet from scratch.

python train.py --config quickstart                      # built-in dataset, a small model, minutes on a CPU
accelerate launch train.py --lr_scheduler_type cosine    # CIFAR-100 from the Hub, ResNet-50
"""

import logging
from pathlib import Path

from ..errors import UserError, reports_user_errors
from ..reporting import records
from ..reporting.results import write_results
from . import preemption
from .parsing import parse_arguments

# What takes seconds to load is imported where it is used: `--help` and a mistyped argument do not wait for it.

# Pairs of classes that the card names.
MOST_CONFUSED = 5


@reports_user_errors
def main(argv=None, prog=None):
    """
    Command line -> data -> model -> Trainer -> scores -> checkpoint, curves and card -> Hub. Returns the metrics.

    Exits with 75 after SIGTERM, SIGINT or SIGUSR1: see [`~hf_cifar_resnet.training.preemption`].
    """
    arguments = parse_arguments(argv, prog)
    with preemption.watching(preemption.typed(argv, prog)) as watch:
        return _train(*arguments, argv, watch)


def _train(model_args, data_args, args, argv, watch):
    from transformers import set_seed

    from . import describe
    from .callbacks import RunRecordCallback
    from .launch import check_processes, leave_processes_at_exit, output_folder, resume_point, run_folder
    from .publish import PublishCallback
    from .resume import refused
    from .starting_point import build_model, load_start

    check_processes(args)
    quieten_libraries(args)
    set_seed(args.seed)
    start = load_start(model_args, data_args)
    with args.main_process_first(desc="decoding the images"):
        data = load_data(data_args, args.seed)
    check_metric(args, data)
    model = build_model(model_args, data, start)
    args = args.suited_to(model)
    args.output_dir = output_folder(args, describe.run_name(data_args, model.config, args))
    # Otherwise a tracker would make up one for the training and another for the test.
    args.run_name = args.run_name or Path(args.output_dir).name
    run = describe.run(model, data, model_args, data_args, args, argv)
    publisher = PublishCallback(args, data_args.eval_split, run) if args.push_to_hub else None
    resume = resume_point(args)
    if resume:
        if reason := describe.other_dataset(run, resume):
            raise refused(resume, reason)
        run["changed_arguments"] = describe.changed_arguments(run, resume)
    preempted = preemption.PreemptionCallback(watch)
    callbacks = [RunRecordCallback(run), preempted, *([publisher] if publisher else [])]
    with run_folder(args), preemption.marking(args.output_dir):
        trainer = build_trainer(model, args, data, data_args.eval_split, callbacks=callbacks)
        if trainer.is_world_process_zero():
            print(describe.start(run, args, publisher, resume), flush=True)

        trainer.train(resume_from_checkpoint=resume)
        preempted.check()

        metrics = finish(trainer, run, data, data_args.eval_split)
    if trainer.is_world_process_zero():
        print(describe.end(metrics, args), flush=True)
        if publisher:
            print(f"{'Pushed':<10} {publisher.finish()}", flush=True)
    leave_processes_at_exit()
    return metrics


def quieten_libraries(args):
    """No progress bar for writing one small file, and none at all where nobody watches."""
    import datasets
    import transformers

    # It warns of a best checkpoint that has moved, which is found all the same.
    logging.getLogger("transformers.trainer").setLevel(logging.ERROR)
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
    from ..evaluation.scoring import score_names

    known = score_names(len(data.label_names), data.superclass_of is not None)
    if args.metric_for_best_model.removeprefix("eval_") not in known:
        raise UserError(f"--metric_for_best_model must be one of {', '.join(known)}, got {args.metric_for_best_model}")


def build_trainer(model, args, data, eval_split, **kwargs):
    """
    The Trainer, which selects on `eval_split`; `kwargs` go to it as they are.

    Raises:
        UserError: where an argument asks for a package that is not installed, or for what this model cannot do.
    """
    from . import optimizers
    from .trainer import CifarTrainer

    try:
        trainer = CifarTrainer(
            model=model,
            args=args,
            train_dataset=data.train,
            eval_dataset=getattr(data, eval_split),
            processing_class=data.image_processor(),
            superclass_of=data.superclass_of,
            **kwargs,
        )
        # Not only when training starts.
        optimizers.check(trainer)
    except (ImportError, NotImplementedError, ValueError) as error:
        raise UserError(f"the Trainer does not take these arguments: {' '.join(str(error).split())}") from error
    return trainer


def finish(trainer, run, data, eval_split):
    """Scores the test split, here alone, and writes the model and all that was found. Returns the metrics."""
    from ..evaluation.analysis import most_confused
    from . import describe

    output = trainer.predict(data.test, metric_key_prefix="test")
    test = records.scores(output.metrics, "test")
    confused = most_confused(output.predictions, output.label_ids, data.label_names, MOST_CONFUSED)
    metrics = describe.metrics(trainer.state, trainer.args, eval_split, test, confused)
    trainer.save_model()
    if trainer.is_world_process_zero():
        write_results(trainer.args.output_dir, run, metrics, records.history(trainer.state.log_history))
    return metrics
