"""The report: one page that needs nothing else, holds the numbers, and lets nothing through unescaped."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from test_plots_figures import DATASETS, made_up

from purejaxppo.report import html_report
from purejaxppo.statistics.summary import format_markdown, summary_table

VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Tags, attributes and texts; fails on tags that are closed in another order than opened."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.texts, self.cells = [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag in ("td", "th"):
            self.cells.append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)
        if self.open and self.open[-1] in ("td", "th"):
            self.cells[-1] += data

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture(scope="module")
def diverged():
    dataset = DATASETS["diverged"]()
    dataset.attrs |= {"name": "my sweep", "git_commit": "abc123", "command": "purejaxppo sweep x.toml"}
    return dataset


@pytest.fixture(scope="module")
def text(diverged):
    return html_report(diverged)


def test_every_environment_has_figures_of_its_own():
    dataset = made_up({"env": ["gymnax/A", "gymnax/B"], "num_epochs": [4, 16]}, num_seeds=2)
    images = Page(html_report(dataset[["return_mean", "policy_variance", "status"]])).all("img")
    assert len(images) == 4
    for name in ("gymnax/A", "gymnax/B"):
        assert sum(f"; {name}, 4 runs" in image["alt"] for image in images) == 2
    assert len({image["src"] for image in images}) == len(images)


def test_it_is_one_small_page_without_outside_help(text):
    page = Page(text)
    assert text.startswith("<!DOCTYPE html>")
    assert len(text) < 3_000_000
    assert not {"script", "link", "iframe"} & {tag for tag, _ in page.tags}
    assert not re.search(r"(src|href)=\"(?!data:image/png;base64,|#)", text)
    assert "url(" not in text
    assert "@import" not in text
    assert page.all("meta")[1]["name"] == "viewport"


def test_the_contents_lead_to_every_section(text):
    page = Page(text)
    ids = {attrs["id"] for _, attrs in page.tags if "id" in attrs}
    links = [attrs["href"].removeprefix("#") for attrs in page.all("a")]
    assert set(links) == ids
    assert len(links) == len(set(links))
    for key in ("summary", "figures", "claims", "runs", "configuration", "provenance", "metrics", "figure-6"):
        assert key in ids


def test_figures_are_whole_and_described(text):
    images = Page(text).all("img")
    assert len(images) == 9
    for image in images:
        data = base64.b64decode(image["src"].removeprefix("data:image/png;base64,"))
        picture = Image.open(io.BytesIO(data))
        picture.load()
        assert picture.width > 1000
        assert "gymnax/Acrobot-v1, 20 runs" in image["alt"]


def test_numbers_are_those_of_the_summary_table(diverged, text):
    cells = Page(text).cells
    rows = format_markdown(summary_table(diverged)).splitlines()[2:6]
    for row in rows:
        for cell in row.strip("| ").split(" | "):
            assert cell in cells


def test_diverged_runs_are_listed_with_their_step(text):
    page = Page(text)
    assert "19 of 20 runs stayed finite, 1 diverged." in page.texts
    begin = page.cells.index("at environment step")
    assert page.cells[begin + 1 : begin + 7] == ["3", "3", "4", "0", "31", "31,000"]
    for cell in ("my sweep", "abc123", "purejaxppo sweep x.toml"):
        assert cell in page.texts


def test_everything_is_escaped():
    dataset = made_up({"env": ["<script>alert(1)</script>", 'a" onerror="b']}, num_seeds=2)
    dataset.attrs |= {"name": "<b>&amp;", "command": "<img src=x>"}
    text = html_report(dataset[["return_mean", "status"]])
    page = Page(text)
    assert page.all("img")
    assert "<script" not in text
    assert "<img src=x>" not in text
    assert not any("onerror" in attrs for _, attrs in page.tags)
    assert page.texts.count("<script>alert(1)</script>") > 0
    assert "<img src=x>" in page.texts


@pytest.mark.parametrize("case", ["one run", "all NaN", "no metrics", "no log point", "no record of the sweep"])
def test_what_is_missing_is_said(case):
    dataset = DATASETS[case]()
    if case == "no record of the sweep":
        dataset = dataset[["return_mean", "status"]]  # fewer figures
    page = Page(html_report(dataset))
    said = " ".join(page.texts)
    if case in ("all NaN", "no metrics", "no log point"):
        assert not page.all("img")
        assert "Not drawn, as the results lack what they show: Overview (no return_mean)" in said
    else:
        assert page.all("img")
    if case == "no record of the sweep":
        assert "Not evaluated: these results do not say from which sweep they come" in said


def test_thousands_of_diverged_runs_make_no_endless_table():
    dataset = made_up({}, num_seeds=300, num_logs=1, status=np.ones(300))
    text = html_report(dataset[["return_mean", "status"]])
    assert "100 more are not listed." in text
    assert Page(text).cells.count("1,000") == 200
