import matplotlib
from matplotlib import font_manager
from matplotlib.ft2font import FT2Font

from hf_cifar_resnet.commands.preview import choose_fonts


def test_fonts_have_the_characters_of_all_names():
    default = matplotlib.rcParams["font.family"]
    assert choose_fonts("apple, café") == (default, set())
    known = FT2Font(font_manager.findfont(font_manager.FontProperties(family=default))).get_charmap()
    other = next(entry.fname for entry in font_manager.fontManager.ttflist if entry.name == "STIXNonUnicode")
    character = next(chr(code) for code in FT2Font(other).get_charmap() if code not in known)
    fonts, missing = choose_fonts(f"a{character}")
    assert fonts[: len(default)] == default and len(fonts) == len(default) + 1 and not missing
    assert choose_fonts("a\U0010fffd")[1] == {"\U0010fffd"}
