"""The demo's page, in a real browser; and the folder of a Space."""

import ast
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from hf_cifar_resnet.cli import main as cli
from hf_cifar_resnet.data.dataset import normalize
from hf_cifar_resnet.data.images import to_rgb_array

REPOSITORY = Path(__file__).parents[2]
BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")

pytest.importorskip("gradio", reason="not tested: the demo, since gradio is not installed")
from hf_cifar_resnet.inference import page  # noqa: E402
from hf_cifar_resnet.inference.space import write_examples, write_space  # noqa: E402

# What is shown


@pytest.fixture
def loaded(colour_checkpoint):
    from hf_cifar_resnet.checkpoints.load import load_checkpoint

    return load_checkpoint(colour_checkpoint)


def test_the_map_is_exact(loaded):
    """Its mean and the bias are the logit: nothing of what decided is left out."""
    model, processor = loaded
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    probabilities, seen, activations = page.predict_with_activation_map(model, processor, image)
    with torch.no_grad():
        logits = model(pixel_values=normalize(seen[None], processor.image_mean, processor.image_std)).logits[0]
        best = int(logits.argmax())
        bias = float(model.classifier.bias[best])
        assert activations.mean() + bias == pytest.approx(float(logits[best]), abs=1e-4)
    assert probabilities == pytest.approx(dict(zip(["red", "green", "blue"], logits.softmax(0).tolist(), strict=True)))
    assert activations.shape == (16, 16)


@pytest.mark.parametrize("mode, size", [("RGB", (32, 32)), ("RGBA", (50, 20)), ("L", (32, 32)), ("P", (90, 90))])
def test_the_image_is_shown_as_the_model_sees_it(loaded, mode, size):
    generator = np.random.default_rng(1)
    image = Image.fromarray(generator.integers(0, 256, (*size[::-1], 4), dtype=np.uint8), "RGBA").convert(mode)
    _, seen, _ = page.predict_with_activation_map(*loaded, image)
    # As in training, up to a grey level where it is resized.
    assert np.abs(seen.astype(int) - to_rgb_array(image, 32)).max() <= 1


@pytest.mark.parametrize("levels", [np.full((9, 9), 0.5, "f"), np.full((9, 9), 9_000, np.uint16)])
def test_pixels_that_are_no_grey_levels_are_not_shown_as_such(loaded, levels):
    with pytest.raises(ValueError, match="grey levels"):
        page.predict_with_activation_map(*loaded, Image.fromarray(levels))


def test_the_overlay_marks_for_and_against():
    seen = np.full((32, 32, 3), 100, dtype=np.uint8)
    shown = page.overlay(seen, np.array([[1.0, 0.0], [0.0, -1.0]])).astype(int)
    assert shown[0, 0, 0] > 150 > shown[0, 0, 2] and shown[-1, -1, 2] > 150 > shown[-1, -1, 0]
    assert (shown[0, -1] == 100).all()
    assert (page.overlay(seen, np.zeros((2, 2))) == 100).all()


def test_examples_are_seen_as_they_are_in_the_data(tmp_path):
    """The model answers for an example what it answers for the test image."""
    from hf_cifar_resnet import load_splits

    data = load_splits("shapes100", max_train_samples=100, max_eval_samples=100, augmentation="none")
    paths = write_examples(data.test, data.label_names, tmp_path)
    assert len(paths) == 8
    for path in paths:
        with Image.open(path) as image:
            assert any((np.asarray(image) == other).all() for other in data.test.images)


# In the browser


@pytest.fixture(scope="module")
def browser():
    untested = "not tested: the demo in a browser, since {} not installed".format
    webdriver = pytest.importorskip("selenium.webdriver", reason=untested("selenium is"))
    if not BROWSER or not DRIVER:
        pytest.skip(untested("chromium or chromedriver (apt-get install chromium chromium-driver) is"))
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1100,850"):
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.implicitly_wait(60)  # the parts of the page appear one by one
    yield driver
    driver.quit()


class Served:
    """A process that serves the page, and the page's address once it answers."""

    def __init__(self, *command, cwd, **environment):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        command = [sys.executable, *map(str, command)]
        environment = os.environ | {"GRADIO_SERVER_PORT": str(self.port)} | environment
        self.process = subprocess.Popen(command, cwd=cwd, env=environment, stdout=subprocess.PIPE, text=True)

    def __enter__(self):
        for line in self.process.stdout:
            if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                return found[0]
        raise AssertionError("the page was not served")

    def __exit__(self, *_):
        self.process.terminate()
        self.process.communicate(timeout=60)


@pytest.fixture(scope="module")
def address(colour_checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    Image.new("RGB", (60, 60), (30, 200, 40)).save(folder / "example.png")
    command = ["-m", "hf_cifar_resnet", "demo", colour_checkpoint, "--examples", folder / "example.png"]
    with Served(*command, cwd=folder, PYTHONPATH=str(REPOSITORY)) as found:
        yield found


def wait_for(browser, text, seconds=60):
    until = time.monotonic() + seconds
    while True:
        shown = browser.find_element("tag name", "body").text
        if text in shown:
            return shown
        assert time.monotonic() < until, f"no {text!r} in {shown!r}"
        time.sleep(0.2)


def drop(browser, address, path):
    """Opens the page and gives it a file."""
    browser.get(address)
    wait_for(browser, "What it sees")
    browser.find_element("css selector", "input[type=file]").send_keys(str(path))


def test_an_image_goes_in_and_its_label_comes_out(browser, address, write_image):
    drop(browser, address, write_image("blue.png", "blue", (70, 40)))
    shown = wait_for(browser, "%")
    assert shown.split("Labels\n")[1].startswith("blue")
    assert len(browser.find_elements("css selector", "img[src*='/file=']")) >= 3
    # No fonts, scripts or figures of use go to or come from other machines.
    script = "return performance.getEntriesByType('resource').map(entry => entry.name)"
    assert not [url for url in browser.execute_script(script) if not url.startswith((address, "data:", "blob:"))]


def test_an_example_is_a_click_away(browser, address):
    browser.get(address)
    wait_for(browser, "Examples")
    browser.find_element("css selector", ".gallery-item, .gallery button").click()
    assert wait_for(browser, "%").split("Labels\n")[1].startswith("green")


def test_a_corrupt_file_is_explained(browser, address, tmp_path):
    path = tmp_path / "broken.png"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:4000])
    drop(browser, address, path)
    assert page.UNREADABLE in wait_for(browser, "cannot be read")


# A Space


@pytest.fixture
def space(tmp_path, write_image):
    write_space(tmp_path / "space", "ann/colours", "Colours", [write_image("0-red.png", "red")])
    return tmp_path / "space"


def test_space_folder_has_what_the_hub_needs(space, tmp_path):
    import gradio

    head = yaml.safe_load((space / "README.md").read_text().split("---")[1])
    assert (head["sdk"], head["app_file"], head["models"]) == ("gradio", "app.py", ["ann/colours"])
    assert head["sdk_version"] == gradio.__version__
    files = {path.relative_to(space).as_posix() for path in space.rglob("*") if path.is_file()}
    assert files == {"README.md", "app.py", "page.py", "requirements.txt", "examples/0-red.png"}
    # The revision that it was made of.
    write_space(tmp_path, "ann/colours@v1.0", "Colours")
    assert "load('ann/colours', 'v1.0')" in (tmp_path / "app.py").read_text()
    card = (tmp_path / "README.md").read_text()
    assert yaml.safe_load(card.split("---")[1])["models"] == ["ann/colours"] and "ann/colours@v1.0" in card


def test_space_requires_all_that_it_imports_and_not_this_package(space):
    required = {re.split("[=~]", line)[0] for line in (space / "requirements.txt").read_text().splitlines()}
    imported = set()
    for name in ("app.py", "page.py"):
        for node in ast.walk(ast.parse((space / name).read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0
                imported.add(node.module.split(".")[0])
    ours = imported - set(sys.stdlib_module_names) - {"page"}
    # The model's own code needs torchvision.
    assert {"pillow" if name == "PIL" else name for name in ours} | {"torchvision"} == required


@pytest.mark.slow
def test_space_answers_for_a_model_on_the_hub(browser, hub, colour_checkpoint, space, write_image, tmp_path):
    """Its environment has no package of ours."""
    hub.add_repo("ann/colours", {path.name: path.read_bytes() for path in colour_checkpoint.iterdir()})
    app = (space / "app.py").read_text()
    (space / "app.py").write_text(f"import sys\nsys.modules['hf_cifar_resnet'] = None\n{app}")
    with Served("app.py", cwd=space, **hub.environment(cache=tmp_path / "cache")) as address:
        drop(browser, address, write_image("blue.png", "blue"))
        assert wait_for(browser, "%").split("Labels\n")[1].startswith("blue")


def test_space_is_pushed_without_what_else_lies_there(hub, colour_checkpoint, space, write_image, tmp_path):
    hub.add_repo("ann/colours", {path.name: path.read_bytes() for path in colour_checkpoint.iterdir()})
    (space / "keys.json").write_text("{}")
    (space / "examples" / "private.png").symlink_to(write_image("private.png", "blue"))
    command = [sys.executable, "-m", "hf_cifar_resnet", "demo", "ann/colours", "--space", "ann/demo"]
    environment = hub.environment(token="hf_ann", cache=tmp_path / "cache") | {"PYTHONPATH": str(REPOSITORY)}
    result = subprocess.run(
        [*command, "--output_dir", str(space), "--examples", write_image("0-red.png", "red")],
        env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert set(hub.files("ann/demo", kind="space")) - {".gitattributes"} == {
        "README.md", "app.py", "page.py", "requirements.txt", "examples/0-red.png"
    }  # fmt: skip


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--space", "ann/colours-demo"], "push it and give user/name"),
        (["--space", "demo"], "needs USER/NAME"),
        (["--space", "ann/a b"], "ann/a b is no name of a repository"),
        (["--space", "ann/"], "ann/ is no name of a repository"),
        (["--examples", __file__], "cannot be read as an image"),
        (["--examples", "nowhere.png"], "nowhere.png cannot be read as an image: No such file"),
        (["--port", "99999"], "--port must be from 1 to 65535, got 99999"),
        (["--output_dir", "space"], "--output_dir is about a Space"),
        (["--private"], "--private is about a Space"),
        (["--no_push"], "--no_push is about a Space"),
        (["--port", "-1"], "--port must be from 1 to 65535, got -1"),
    ],
)
def test_bad_arguments(colour_checkpoint, tmp_path, monkeypatch, refused, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert message in refused("demo", colour_checkpoint, *arguments) and not list(tmp_path.iterdir())


def test_port_that_another_program_has(colour_checkpoint, write_image, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        with pytest.raises(SystemExit) as stopped:
            cli(["demo", str(colour_checkpoint), "--examples", write_image("red.png", "red"), "--port", port])
    [line] = capsys.readouterr().err.splitlines()
    assert stopped.value.code == 2 and f"port {port}" in line and "choose another --port" in line


def test_page_is_served_behind_a_proxy_that_cannot_reach_it(colour_checkpoint, write_image, tmp_path):
    """Nor can one that needs a package that is not there."""
    proxies = {"http_proxy": "http://127.0.0.1:9", "all_proxy": "socks5://127.0.0.1:9"}
    command = ["-m", "hf_cifar_resnet", "demo", colour_checkpoint, "--examples", write_image("red.png", "red")]
    with Served(*command, cwd=tmp_path, PYTHONPATH=str(REPOSITORY), **proxies) as address:
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        assert b"colours" in direct.open(address, timeout=60).read()


def test_variable_that_gradio_does_not_accept(colour_checkpoint, tmp_path):
    command = [sys.executable, "-m", "hf_cifar_resnet", "demo", str(colour_checkpoint)]
    environment = os.environ | {"GRADIO_SERVER_PORT": "http", "PYTHONPATH": str(REPOSITORY)}
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    [line] = result.stderr.splitlines()
    assert result.returncode == 2 and "does not accept its variables of the environment (" in line
    assert "GRADIO_SERVER_PORT" in line and "'http'" in line and "pip install" not in line
