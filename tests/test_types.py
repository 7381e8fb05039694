"""What a type checker sees of the package."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import hf_cifar_resnet

REPOSITORY = Path(__file__).parents[1]


@pytest.mark.slow
def test_a_type_checker_sees_what_the_package_exports(tmp_path):
    """Though it is imported on first use; and the package says that it has types."""
    pytest.importorskip("pyright", reason="not tested: types, since pyright is not installed")
    names = [name for name in hf_cifar_resnet.__all__ if name != "__version__"]
    program = tmp_path / "program.py"
    program.write_text(
        "\n".join(["import hf_cifar_resnet", *(f"reveal_type(hf_cifar_resnet.{name})" for name in names)])
    )
    settings = {"extraPaths": [str(REPOSITORY)], "typeCheckingMode": "standard", "reportMissingTypeStubs": True}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable]
    checked = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    seen = [found["message"] for found in json.loads(checked.stdout)["generalDiagnostics"]]
    assert len(seen) == len(names) and (REPOSITORY / "hf_cifar_resnet" / "py.typed").is_file()
    for name, message in zip(names, seen, strict=True):
        assert f'"hf_cifar_resnet.{name}" is' in message and "Unknown" not in message, message
