import sys

import pytest

from hf_cifar_resnet.errors import require


def test_a_missing_package_of_an_extra_is_an_import_error_with_the_command_that_installs_it(monkeypatch):
    require("torch", "optim")
    monkeypatch.setitem(sys.modules, "timm", None)  # as if it were not installed
    with pytest.raises(ImportError, match=r'^timm is not installed: pip install "hf-cifar-resnet\[optim\]"$'):
        require("timm", "optim")
