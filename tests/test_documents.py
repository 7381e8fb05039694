"""The one way in which files are written."""

import contextlib
import os
import signal
import subprocess
import sys
import threading

import pytest

from hf_cifar_resnet.documents import atomic_write, replacing_files, write_csv, write_json, write_text

WRITERS = {
    "text": lambda path: write_text("x" * 5000, path),
    "json": lambda path: write_json(["x" * 5000], path),
    "csv": lambda path: write_csv([["x" * 5000]], path),
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_failed_write_leaves_the_file_unchanged(tmp_path, limit_file_size, write):
    path = tmp_path / "file"
    path.write_text("from before")
    limit_file_size(100)
    with pytest.raises(OSError, match="file cannot be written: File too large"):
        write(path)
    limit_file_size()
    assert path.read_text() == "from before" and os.listdir(tmp_path) == ["file"]
    write(path)
    assert path.stat().st_size >= 5000 and os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("error", [ValueError, OSError, KeyboardInterrupt, SystemExit])
def test_nothing_is_replaced_after_an_error(tmp_path, error):
    (tmp_path / "a").write_text("from before")
    with contextlib.suppress(error, ValueError), replacing_files(tmp_path) as temporary:
        for name in ("a", "b"):
            (temporary / name).write_text("new")
        raise error
    assert (tmp_path / "a").read_text() == "from before" and os.listdir(tmp_path) == ["a"]


# Killed while it writes.
KILLED = """
import os, signal, sys
from hf_cifar_resnet.documents import atomic_write

with atomic_write(sys.argv[1]) as file:
    file.write_text("half")
    print(file.parent, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_next_write_removes_what_a_killed_process_left(tmp_path):
    killed = subprocess.run([sys.executable, "-c", KILLED, tmp_path / "a"], capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL and os.path.isdir(killed.stdout.strip()), killed.stderr
    with atomic_write(tmp_path / "other") as mine:
        mine.write_text("other")
        # Another one at work stays.
        other = threading.Thread(target=write_text, args=("b", tmp_path / "b"))
        other.start()
        other.join()
    assert sorted(os.listdir(tmp_path)) == ["b", "other"]


def test_link_is_followed_and_a_device_is_written_to(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "target")
    write_text("through", tmp_path / "link")
    write_text("nowhere", "/dev/null")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "target").read_text() == "through"
