"""The real model on real CIFAR-100; skips where it is not there."""

from hf_cifar_resnet.commands.train import main
from hf_cifar_resnet.documents import read_json


def test_resnet50_trains_on_real_cifar100(shared_dataset, tmp_path):
    options = "--max_steps 2 --per_device_train_batch_size 16 --max_train_samples 64 --max_eval_samples 32 --use_cpu"
    named = ["--dataset_name", shared_dataset("cifar100-sample"), "--lr_scheduler_type", "cosine"]
    metrics = main([*named, *options.split(), "--output_dir", str(tmp_path)])
    run = read_json(tmp_path / "run.json")
    assert run["model"]["parameters"] == 23_705_252 and run["dataset"]["num_labels"] == 100
    assert set(metrics.test.to_dict()) == {"loss", "top1", "top5", "superclass"}
    assert (tmp_path / "model.safetensors").stat().st_size > 90_000_000
