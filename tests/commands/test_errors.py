"""How a command prints."""

import os
import select
import subprocess
import sys

PROGRAM = """
import sys
from hf_cifar_resnet.commands.errors import reports_errors
with reports_errors():
    print("first line")
    sys.stdin.readline()
"""


def test_lines_go_through_a_pipe_when_they_are_printed():
    """As those of the epochs in `train | tee log`."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    command = [sys.executable, "-c", PROGRAM]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as process:
        ready, _, _ = select.select([process.stdout], [], [], 300)
        process.kill()
    assert ready
