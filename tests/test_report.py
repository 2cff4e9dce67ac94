"""The HTML page and the demo: nothing from outside, everything heard, everything described."""

import base64
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from bayessep import audio, comparison, plots, report
from bayessep.data import Broadcast, generate_broadcast
from bayessep.demonstration import Demo, demo
from bayessep.errors import UserError
from bayessep.settings import Settings
from bayessep.timeline import Segment

SMALL = Settings(bases=4, sweeps=3, training_sweeps=3, chain=False)
VOID = {"meta", "img"}  # tags that are not closed


def _luminance(colour: str) -> float:
    """Relative, as WCAG 2 has it."""
    values = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values]
    return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("label", plots.LABEL_COLOURS)
def test_labels_can_be_read_on_their_colours(label: str) -> None:
    """At least 3 to 1, as WCAG asks of graphics; white on silence had 1.3."""
    colour = plots.LABEL_COLOURS[label]
    ink = {"white": "#ffffff"}.get(plots.ink_on(colour), plots.ink_on(colour))
    high, low = sorted((_luminance(colour), _luminance(ink)), reverse=True)
    assert (high + 0.05) / (low + 0.05) > 3
    assert f"color:{plots.ink_on(colour)}" in report.strip("x", [Segment(0.0, 1.0, label)], 2.0)


class Page(HTMLParser):
    """Tags of a page with their attributes; a tag that is closed by another is an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def all(self, tag: str) -> Iterator[dict[str, str | None]]:
        return (attributes for name, attributes in self.tags if name == tag)


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    folder = tmp_path_factory.mktemp("demo") / "out"
    return demo(folder, seconds=3, methods=["nmf", "unsupervised"], settings=SMALL)


@pytest.fixture(scope="module")
def page(shown: Demo) -> Page:
    return Page(shown.report.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def made() -> Broadcast:
    return generate_broadcast(0, seconds=3)


def test_the_page_is_well_formed_and_needs_nothing_else(page: Page) -> None:
    assert page.open == []
    addresses = [a[name] for _, a in page.tags for name in ("src", "href", "poster", "data") if name in a]
    assert addresses and all(str(address).startswith(("data:", "#")) for address in addresses)
    text = "".join(page.words)
    assert "http" not in text and "@import" not in text and "url(" not in text


def test_everything_is_described(page: Page) -> None:
    assert all(a.get("alt") for a in page.all("img"))
    assert all(a.get("aria-label") for a in [*page.all("audio"), *page.all("svg")])
    assert all(a.get("scope") for a in page.all("th"))
    identifiers = {a["id"] for _, a in page.tags if "id" in a}
    assert {f"#{i}" for i in identifiers} == {a["href"] for a in page.all("a")} == {"#nmf", "#unsupervised"}


def test_the_page_plays_what_was_separated(page: Page, shown: Demo, made: Broadcast, tmp_path: Path) -> None:
    """Vorbis loses little: what is heard is the stem, at its full length."""
    players = {str(a["aria-label"]): str(a["src"]) for a in page.all("audio")}
    one = shown.comparison.separations["nmf"]
    expected = {
        "mixture": made.mixture, "true speech": made.speech, "true music": made.music,
        "speech by nmf": one.speech[0], "music by nmf": one.music[0],
    }  # fmt: skip
    assert len(players) == 7
    for name, waveform in expected.items():
        path = tmp_path / "heard.ogg"
        path.write_bytes(base64.b64decode(players[name].removeprefix("data:audio/ogg;base64,")))
        heard = audio.read(path).samples[0]
        assert heard.shape == waveform.shape
        assert np.corrcoef(heard, waveform)[0, 1] > 0.98


def test_the_table_is_on_the_page(page: Page, shown: Demo) -> None:
    for column in comparison.columns(shown.comparison):
        assert column.heading in page.words
        assert all(comparison.cell(v, column.decimals) in page.words for v in column.values)


def test_words_of_users_are_no_markup(shown: Demo, made: Broadcast, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    report.write_report(
        path, shown.comparison, made.mixture[None], made.sample_rate, title="<b>$x & co", intro="a <script> b"
    )
    page = Page(path.read_text(encoding="utf-8"))
    assert page.words.count("<b>$x & co") == 2 and "a <script> b" in page.words  # title and heading
    assert len(list(page.all("audio"))) == 5 and "The true sources" not in page.words  # no references, no players for them


def test_a_page_that_cannot_be_written_leaves_nothing(shown: Demo, made: Broadcast, tmp_path: Path) -> None:
    (tmp_path / "page.html").mkdir()
    with pytest.raises(UserError, match=r"page\.html"):
        report.write_report(tmp_path / "page.html", shown.comparison, made.mixture[None], made.sample_rate)
    assert [p.name for p in tmp_path.iterdir()] == ["page.html"]


def test_more_than_two_channels_are_heard_as_one_and_clipping_is_avoided(tmp_path: Path) -> None:
    loud = 3 * np.sin(np.arange(8000) / 5).astype(np.float32) * np.ones((5, 1), np.float32)
    path = tmp_path / "heard.ogg"
    path.write_bytes(base64.b64decode(report.audio_data(loud, 8000).split(",")[1]))
    heard = audio.read(path).samples
    assert heard.shape == (1, 8000) and 0.8 < np.abs(heard).max() < 1.2


@pytest.mark.parametrize("rate", [48_000, 384_000])
def test_sound_beyond_what_is_heard_is_heard(tmp_path: Path, rate: int) -> None:
    """libvorbis ends the process at rates above 200 kHz."""
    time = np.arange(rate // 2) / rate
    path = tmp_path / "sound.ogg"
    path.write_bytes(base64.b64decode(report.audio_data(0.5 * np.sin(2 * np.pi * 440 * time)[None], rate).split(",")[1]))
    heard = audio.read(path)
    assert heard.sample_rate == 48_000 and abs(heard.samples.shape[1] - 24_000) < 10
    assert np.abs(heard.samples).max() == pytest.approx(0.5, abs=0.05)


def test_the_demo_keeps_its_material(shown: Demo, made: Broadcast) -> None:
    folder = shown.report.parent
    for name in ("mixture", "speech", "music", "labelled_music", "training_speech"):
        written = audio.read(folder / "material" / f"{name}.wav").samples[0]
        np.testing.assert_allclose(written, getattr(made, name), atol=2e-7)
    assert shown.table.is_file() and shown.figure.is_file()
    assert [row.method for row in shown.comparison.rows] == ["mixture", "nmf", "unsupervised"]
    assert any("Everything here is generated: 3 seconds" in words for words in Page(shown.report.read_text()).words)
    assert {p.name for p in folder.iterdir()} == {
        "report.html", "compare.png", "compare.json", "compare.csv", "material", "nmf", "unsupervised",
    }  # fmt: skip


def test_a_demo_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="magic"):
        demo(tmp_path / "out", seconds=3, methods=["magic"], settings=SMALL)
    assert list(tmp_path.iterdir()) == []


def test_long_lines_are_means() -> None:
    values = np.arange(2000.0)
    thinned = report.thinned(values, 900)
    np.testing.assert_array_equal(thinned[:2], [1.0, 4.0])
    assert len(thinned) == 667 and thinned[-1] == np.mean([1998.0, 1999.0])
    np.testing.assert_array_equal(report.thinned(values, 2000), values)
