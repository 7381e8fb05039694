import pytest

from hf_cifar_resnet.runs.redaction import redact


@pytest.mark.parametrize(
    "value, redacted",
    [
        ("/home/ann/data/cifar", "cifar"),
        ("/home/ann/my data/ci far/", "ci far"),
        ("C:\\Users\\ann\\cifar", "cifar"),
        ("~/cifar", "cifar"),
        ("../shared/cifar", "cifar"),
        ("--output_dir=/scratch/ann/run", "--output_dir=run"),
        ("--hub_token=hf_abcdefghijkl", "--hub_token=<HF_TOKEN>"),
        ("hf_abcdefghijkl", "<HF_TOKEN>"),
        ("uoft-cs/cifar100", "uoft-cs/cifar100"),
        ("runs/mine", "runs/mine"),
        ("hf_cifar_resnet", "hf_cifar_resnet"),
        ("cosine", "cosine"),
        ("", ""),
        (0.5, 0.5),
        (None, None),
        ({"a": ["/x/y", {"b": "/z"}], "c": True}, {"a": ["y", {"b": "z"}], "c": True}),
    ],
)
def test_tokens_and_local_paths_are_redacted(value, redacted):
    assert redact(value) == redacted
