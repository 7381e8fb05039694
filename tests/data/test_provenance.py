import pytest

from hf_cifar_resnet import load_splits
from hf_cifar_resnet.data.hub import provenance

HEADER = "---\nlicense: cc-by-4.0\n---\n\n# Trees\n\n"
CITATION = "@techreport{trees,\n  title={Many Trees},\n  year={2009}\n}"


@pytest.mark.parametrize(
    "text, licence, citation",
    [
        (HEADER + f"## Citation\n\n```bibtex\n{CITATION}\n```\n\nThanks.\n", "cc-by-4.0", CITATION),
        (HEADER + f"{CITATION}\n\n{CITATION.replace('trees,', 'more,')}\n", "cc-by-4.0", CITATION),
        (HEADER + "@misc{one, year={2009}}\n", "cc-by-4.0", "@misc{one, year={2009}}"),
        (HEADER, "cc-by-4.0", None),
        ("---\nlicense: [mit, cc0-1.0]\n---\n", "mit, cc0-1.0", None),
        ("# No header, mail me@home.example {x}\n", None, None),
        ("---\nlicense: [broken\n---\n", None, None),
        ("\ud8ff\0---", None, None),
        (None, None, None),
    ],
)
def test_licence_and_citation_of_a_folder(tmp_path, text, licence, citation):
    if text is not None:
        (tmp_path / "README.md").write_text(text, errors="surrogatepass")  # of which one text is no UTF-8
    assert provenance(str(tmp_path)) == {"revision": None, "license": licence, "citation": citation}


def test_splits_bring_it(tmp_path, write_image_folder, make_images):
    write_image_folder({"train": {"a": 4, "b": 4}, "test": {"a": 1, "b": 1}}, lambda: make_images(1)[0])
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n")
    assert load_splits(str(tmp_path)).provenance["license"] == "mit"
