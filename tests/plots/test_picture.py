"""Colours that everybody can tell apart, and files that are the same each time."""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ElementTree
from itertools import combinations

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.image import imread

from sweeper.plots.picture import DPI, WIDTH_IN, Theme, picture, rendered
from tests.plots.conftest import THEMES, contrast, linear, luminance

# Machado, Oliveira, Fernandes, IEEE TVCG 15 (2009): severity 1.0, of linear RGB.
VISION = {
    "all colours": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
}
TOLD_APART = 15.0  # of CIE 1976 ΔE*ab; 2.3 is just noticeable side by side
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def lab(rgb: np.ndarray) -> np.ndarray:
    x, y, z = np.cbrt(TO_XYZ @ np.clip(rgb, 1e-3, 1) / (0.9505, 1.0, 1.089))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("theme", THEMES, ids=lambda theme: theme.name)
def test_what_is_read_and_what_is_drawn_stands_out(theme: Theme) -> None:
    assert contrast(theme.text, theme.background) >= 7.0  # WCAG 2.2, AAA
    assert contrast(theme.muted, theme.background) >= 4.5  # AA
    for colour in theme.colours:
        assert contrast(colour, theme.background) >= 3.0, colour  # 1.4.11, of graphics
    for is_minimized in (False, True):
        for share in (0.0, 0.5, 1.0):
            colour = to_hex(theme.colormap(is_minimized)(share))
            assert contrast(colour, theme.background) >= 1.8, colour  # its markers have outlines
    for paper in (theme.background, theme.plain, "#777777"):
        rgb = tuple(int(paper[place : place + 2], 16) / 255 for place in (1, 3, 5))
        ink = {"black": "#000000", "white": "#ffffff"}[theme.ink_on(rgb)]
        assert contrast(ink, paper) >= 4.5


@pytest.mark.parametrize("theme", THEMES, ids=lambda theme: theme.name)
@pytest.mark.parametrize("vision", VISION)
def test_colours_are_told_apart_by_whoever_sees_fewer(theme: Theme, vision: str) -> None:
    for one, other in combinations((*theme.colours, theme.text), 2):
        seen = [lab(VISION[vision] @ linear(colour)) for colour in (one, other)]
        assert np.linalg.norm(seen[0] - seen[1]) >= TOLD_APART, (one, other)


@pytest.mark.parametrize("theme", THEMES, ids=lambda theme: theme.name)
def test_better_is_brighter_or_darker_all_the_way(theme: Theme) -> None:
    for is_minimized in (False, True):
        shades = [luminance(to_hex(theme.colormap(is_minimized)(share))) for share in np.linspace(0, 1, 12)]
        assert shades == sorted(shades, reverse=is_minimized)


def _fill(figure: Figure, theme: Theme) -> None:
    axes = figure.add_subplot()
    axes.plot([1, 2], [3, 4], marker="o", color=theme.plain, label='a "quoted" <label> id="x" 你好')
    axes.set_title("$1 and $2")
    axes.legend()


ONE = picture("one", "A title", "A sentence of $1 and $2.", _fill)


@pytest.mark.parametrize("theme", THEMES, ids=lambda theme: theme.name)
def test_a_png_has_its_heading_and_a_background(theme: Theme) -> None:
    figure = ONE.draw(theme)
    made = rendered(figure, theme, "png")
    assert made == rendered(ONE.draw(theme), theme, "png")
    pixels = imread(io.BytesIO(made))
    assert pixels.shape[1] == WIDTH_IN * DPI
    assert to_hex(pixels[2, -2, :3]) == theme.background
    assert (pixels[..., 3] == 1).all() if pixels.shape[2] == 4 else True
    heading = pixels[: int(0.4 * DPI), :, :3]
    assert (abs(heading - heading[0, -1]).max(2) > 0.5).any()  # words stand there


def test_an_svg_can_stand_on_a_page_with_others() -> None:
    made = {
        (name, theme.name): rendered(picture(name, "A title", "A sentence.", _fill).draw(theme), theme, "svg").decode()
        for name in ("one", "two")
        for theme in THEMES
    }
    ids: list[str] = []
    for (name, theme_name), element in made.items():
        root = ElementTree.fromstring(element)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        own = [node.attrib["id"] for node in root.iter() if "id" in node.attrib]
        assert all(one.startswith(f"{name}-{theme_name}") for one in own)
        ids += own
        referred = re.findall(r'(?:href="#|url\(#)([^")]+)', re.sub(">[^<]*<", "><", element))
        assert referred
        assert set(referred) <= set(own)
        texts = [node.text for node in root.iter("{http://www.w3.org/2000/svg}text")]
        assert "$1 and $2" in texts
        assert 'a "quoted" <label> id="x" 你好' in texts  # whatever it looks like, it is text
        assert not any("A title" in (text or "") for text in texts)  # the page says that
        assert "sans-serif" in element
        for never in ("<script", "<!DOCTYPE", "<?xml", "<metadata", "http://purl.org", "@import", "<image"):
            assert never not in element
        addresses = set(re.findall(r"https?://[^\"' ]+", element))
        assert addresses == {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}  # names, not places
        style = re.search(r"<style[^>]*>(.*?)</style>", element, re.DOTALL)
        assert style is not None
        assert style[1].startswith(f"#{name}-{theme_name} *")  # and of no other element of the page
    assert len(ids) == len(set(ids))
    again = rendered(ONE.draw(THEMES[0]), THEMES[0], "svg").decode()
    assert again == made["one", "light"]


def test_a_figure_can_be_rendered_in_both_forms_in_any_order() -> None:
    light = THEMES[0]
    figure = ONE.draw(light)
    first = rendered(figure, light, "png")
    rendered(figure, light, "svg")
    assert rendered(figure, light, "png") == first
