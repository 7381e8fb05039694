"""
Train a ResNet from scratch.

python train.py --config quickstart                      # built-in dataset, a small model, minutes on a CPU
accelerate launch train.py --lr_scheduler_type cosine    # CIFAR-100 from the Hub, ResNet-50
"""

from dataclasses import replace
from pathlib import Path

from .. import processes
from ..errors import UserError
from ..evaluation.scores import Scores
from ..reporting.card import write_run_files
from ..runs.history import History
from ..runs.record import command_line
from ..training import preemption
from ..training.arguments import resolve
from .errors import reports_errors
from .parser import parse_arguments

# Modules that take seconds to load are imported where they are used, so that `--help` and errors in arguments are fast.

# How many pairs of classes the card names.
MOST_CONFUSED = 5


@reports_errors
def main(argv=None, prog=None):
    """
    Train, score and save a model with its curves and card, push it to the Hub if asked to, and return the metrics.

    Exit with 75 after a signal: see [`~hf_cifar_resnet.training.preemption`].
    """
    given = parse_arguments(argv, prog)
    arguments = resolve(given)
    command = command_line(argv, prog)
    with preemption.watch_signals(command) as preempted:
        return _train(given, arguments, command, preempted)


def _train(given, arguments, command, preempted):
    from ..checkpoints.resume import changed_arguments, find_dataset_difference, resume_error, run_id
    from ..checkpoints.run_folder import choose_run_folder, find_resume_checkpoint, is_pushed_state, lock_run_folder
    from ..device import tune_process
    from ..hub.callback import HubCallback
    from ..hub.resolve import find_pretrained
    from ..hub.resolve import resolve as resolve_name
    from ..runs.files import folder_name
    from ..training.build import build_trainer, load_data_and_model, quieten_libraries
    from ..training.callbacks import RunRecordCallback
    from ..training.console import end_block, start_block
    from ..training.record import make_record, run_name

    processes.check_processes(arguments.training)
    quieten_libraries(arguments.training)
    resume_from = arguments.training.resume_from_checkpoint
    pushed = None
    if is_pushed_state(resume_from):
        pushed = processes.decide_on_rank_0(lambda: resolve_name(resume_from))
    data, model, arguments = load_data_and_model(arguments, find_pretrained(arguments.model.model_name_or_path))
    model_args, data_args, args = arguments.model, arguments.data, arguments.training
    folder = choose_run_folder(args, run_name(data_args, model.config, args))
    # Without a name a tracker would make up one for the training and another for the test.
    args = args.copy_with(output_dir=folder, run_name=args.run_name or folder_name(folder))
    record = make_record(model, data, model_args, data_args, args, command, given)
    resume = find_resume_checkpoint(args, pushed)
    if resume:
        if reason := processes.decide_on_rank_0(lambda: find_dataset_difference(record, resume)):
            raise resume_error(resume, reason)
        record = replace(record, id=run_id(resume) or record.id, changed_arguments=changed_arguments(record, resume))
    recorder = RunRecordCallback(record)
    hub = HubCallback(args, data_args.eval_split, record) if args.push_to_hub else None
    callbacks = [recorder, preempted, *([hub] if hub else [])]
    tune_process(args.device)
    with lock_run_folder(args):
        preempted.set_folder(args.output_dir)
        trainer = build_trainer(model, args, data, data_args.eval_split, callbacks=callbacks)
        if trainer.is_world_process_zero():
            print(start_block(record, args, hub, resume, trainer.find_schedule_misfit()), flush=True)

        trainer.train(resume_from_checkpoint=resume)
        preempted.check()

        metrics = finish(trainer, recorder.record, data, data_args.eval_split)
    if trainer.is_world_process_zero():
        print(end_block(metrics, args.output_dir), flush=True)
        if hub:
            print(f"{'Pushed':<10} {hub.finish()}", flush=True)
    processes.destroy_process_group_at_exit()
    return metrics


def finish(trainer, record, data, eval_split):
    """Score the test split, for the only time in a run, save the model and the run's files, and return the metrics."""
    from ..checkpoints.save import find_last_complete
    from ..evaluation.analysis import most_confused
    from ..training.record import make_metrics

    output = trainer.predict(data.test, metric_key_prefix="test")
    trainer.log(output.metrics)  # for trackers
    test = Scores.from_dict({name.removeprefix("test_"): value for name, value in output.metrics.items()})
    confused = most_confused(output.predictions, output.label_ids, data.label_names, MOST_CONFUSED)
    metrics = make_metrics(trainer.state, trainer.args, eval_split, test, confused)
    folder = Path(trainer.args.output_dir)
    try:
        trainer.save_model()
        if trainer.is_world_process_zero():
            write_run_files(folder, record, metrics, History.from_log(trainer.state.log_history))
    except (OSError, ValueError) as error:  # such as a full disk
        last = find_last_complete(folder)
        left = f"the run is trained, and {last} is complete: resume with --resume_from_checkpoint true to do the rest"
        raise UserError(f"{error}; {left if last else 'there is no checkpoint'}") from error
    return metrics
