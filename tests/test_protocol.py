"""The experiment of paper 000: what its items are made of."""

from pathlib import Path

import numpy as np
import pytest

from bayessep import protocol
from bayessep.errors import UserError
from tests.helpers import recordings_of_the_protocol

RATE = protocol.RATE


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return recordings_of_the_protocol(tmp_path_factory.mktemp("recordings"))


@pytest.fixture(scope="module")
def items(folder: Path) -> list[protocol.Item]:
    return [read() for read in protocol.load(folder)]


def test_items_are_named_before_they_are_read(items: list[protocol.Item]) -> None:
    assert [item.name for item in items] == protocol.names()
    assert len(items) == sum(protocol.EXPERIMENT.speakers.values())


def test_items_have_one_length_and_whole_utterances(items: list[protocol.Item]) -> None:
    for item in items:
        assert len(item.speech) == round(protocol.ITEM_SECONDS * RATE)
        assert len(item.jingle) == round(protocol.JINGLE_SECONDS * RATE)
        assert len(item.transcript.split()) == 2  # of the two utterances that fit


def test_nobody_is_trained_on_what_is_taken_apart(items: list[protocol.Item]) -> None:
    for item in items:
        for training in item.training.values():
            for waveform in training:
                # Utterances are noise: one that is in the item would match there exactly.
                loudest = min(max(int(np.abs(waveform).argmax()), 25), len(waveform) - 25)
                probe = waveform[loudest - 25 : loudest + 25]
                windows = np.lib.stride_tricks.sliding_window_view(item.speech, 50)
                assert np.abs(windows @ probe).max() < 0.9 * float(probe @ probe)


def test_others_are_all_but_the_speaker(items: list[protocol.Item]) -> None:
    for item in items:
        own, everybody, others = (item.training[name] for name in protocol.TRAININGS)
        assert len(own) and len(others) and len(everybody) == len(own) + len(others)
        for a, b in zip(everybody, (*own, *others), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("condition", protocol.CONDITIONS)
@pytest.mark.parametrize("smr_db", [15.0, -5.0])
def test_a_mixture_has_its_ratio(items: list[protocol.Item], condition: str, smr_db: float) -> None:
    mixed = protocol.mix(items[0], smr_db, condition)
    ratio = 10 * np.log10((mixed.speech**2).sum() / (mixed.music**2).sum())
    assert ratio == pytest.approx(smr_db, abs=1e-3)
    np.testing.assert_array_equal(mixed.mixture, mixed.speech + mixed.music)
    assert len(mixed.labelled) == 2 * RATE


def test_what_is_labelled_is_what_is_played(items: list[protocol.Item]) -> None:
    plain = protocol.mix(items[0], 0.0)
    period = len(items[0].jingle)
    np.testing.assert_allclose(plain.music[period : period + len(plain.labelled)], plain.labelled, rtol=1e-5)
    late = protocol.mix(items[0], 0.0, "out of step").music
    start = period + protocol.OUT_OF_STEP
    ratio = late[start : start + 1000] / plain.labelled[:1000]
    np.testing.assert_allclose(ratio, np.median(ratio), rtol=1e-4)
    assert start % 256 and start % 512


def test_what_is_missing_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="manifest.csv does not exist"):
        protocol.load(tmp_path)
    rows = (folder / "manifest.csv").read_text().splitlines()
    for gone, message in (("vctk-p225", "too little speech of the group vctk-p225"), ("allegro", "lacks music/opensurge/allegro")):
        less = tmp_path / gone
        less.mkdir()
        for path in {row.split(",")[0] for row in rows[1:]}:
            (less / path).parent.mkdir(parents=True, exist_ok=True)
            (less / path).symlink_to(folder / path)
        (less / "manifest.csv").write_text("\n".join(row for row in rows if gone not in row) + "\n")
        with pytest.raises(UserError, match=message):
            protocol.load(less)


def test_defaults_are_chosen_by_other_mixtures(folder: Path) -> None:
    chosen_by, experiment = protocol.DEVELOPMENT, protocol.EXPERIMENT
    assert not set(chosen_by.speakers) & set(experiment.speakers)
    assert not {name for name, _ in chosen_by.jingles} & {name for name, _ in experiment.jingles}
    names = protocol.names(chosen_by)
    assert len(set(names)) == len(names) == chosen_by.rounds * sum(chosen_by.speakers.values()) == len(chosen_by.jingles)
    items = protocol.load(folder, chosen_by)
    first, again = items[0](), items[len(chosen_by.speakers)]()
    assert [item.name for item in (first, again)] == [names[0], names[len(chosen_by.speakers)]]
    np.testing.assert_array_equal(first.speech, again.speech)
    assert np.abs(first.jingle - again.jingle).max() > 0.01


def test_items_of_which_nothing_was_heard_before() -> None:
    unseen = [protocol.names()[n] for n in protocol.unseen()]
    assert 3 <= len(unseen) < len(protocol.names())
    assert not [name for name in unseen if any(part in name for part in ("ljspeech", "1998", "vibe_ace", "sharp", "sugar_plum"))]
