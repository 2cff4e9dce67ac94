import json
import re
import tempfile
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from bayessep import timeline
from bayessep.errors import UserError
from bayessep.segments import (
    BOTH,
    MUSIC,
    NOISE,
    SILENCE,
    SPEECH,
    UNLABELLED,
    Segment,
    canonical,
    fill_gaps,
    flatten,
    frame_switches,
    from_frames,
    merge,
    read,
    total,
    write,
)

FILES = {
    "csv": "a.csv",
    "tsv": "a.tsv",
    "audacity": "a.txt",
    "rttm": "a.rttm",
    "textgrid": "a.TextGrid",
    "json": "a.json",
}
WITHOUT_PROBABILITY = ("audacity", "textgrid")


def _text(folder: Path, name: str, text: str, encoding: str = "utf-8") -> Path:
    path = folder / name
    path.write_bytes(text.encode(encoding))
    return path


def _shape(segments: list[Segment]) -> list[tuple[float, float, str]]:
    return [(round(s.start, 6), round(s.end, 6), s.label) for s in segments]


@st.composite
def timelines(draw: st.DrawFn) -> list[Segment]:
    """Segments in order, some of them touching, no equal ones side by side."""
    at, segments = 0.0, []
    for _ in range(draw(st.integers(1, 8))):
        at += draw(st.one_of(st.just(0.0), st.floats(0.001, 100.0)))
        end = at + draw(st.floats(0.001, 5000.0))
        label = draw(st.sampled_from([SPEECH, MUSIC, BOTH, SILENCE, NOISE, UNLABELLED]))
        sure = draw(st.one_of(st.none(), st.floats(0.0, 1.0)))
        if not segments or (segments[-1].label, segments[-1].end) != (label, at):
            segments.append(Segment(at, end, label, sure))
        at = end
    return segments


# ---------------------------------------------------------------------------------------------------- formats


@pytest.mark.parametrize("format", FILES)
@given(segments=timelines())
@settings(max_examples=60)
def test_what_is_written_is_read_again(format: str, segments: list[Segment]):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, FILES[format])
        write(path, segments)
        found = read(path)
        assert [p.name for p in Path(folder).iterdir()] == [FILES[format]]
    assert [s.label for s in found] == [s.label for s in segments]
    np.testing.assert_allclose([s[:2] for s in found], [s[:2] for s in segments], atol=1.1e-6)
    for s, expected in zip(found, segments, strict=True):
        if format in WITHOUT_PROBABILITY or expected.probability is None:
            assert s.probability is None
        else:
            assert s.probability == pytest.approx(expected.probability, abs=1e-6)


def test_the_content_decides_whatever_the_extension(tmp_path: Path):
    segments = [Segment(0.0, 1.5, SPEECH), Segment(2.0, 3.25, MUSIC)]
    for format in FILES:
        path = tmp_path / f"{format}.txt"
        write(path, segments, format=format)
        assert read(path) == segments


@pytest.mark.parametrize(
    "text",
    [
        "start,end,label\n0,1.5,Speech\n2,3,MIXED\n",
        "\ufeffstart,end,label\r\n0,1.5,speech\r\n\r\n2,3,both\r\n",
        "labels\tstart\tstop\nmale\t0.0\t1.5\nspeech_music\t2\t3\n",
        "label;onset;offset\nvoice;0;1.5\nspeech + music;2;3\n",
        "label,start,duration\nspeech,0,1.5\nmusic-speech,2,1\n",
        "0\t1.5\ts\n\\\t100\t2000\n2\t3\tsm\n",
        "# by hand\n2,3,overlap\n0,1.5,speech\n",
        '[{"start": 0, "end": 1.5, "label": "speech"}, {"start": 2, "end": 3, "label": "mix"}]',
        "SPEAKER x 1 0 0.8 <NA> <NA> anna <NA> <NA>\nSPEAKER x 1 0.5 1.0 <NA> <NA> bert <NA> <NA>\n"
        "SPKR-INFO x 1 <NA> <NA> <NA> unknown anna <NA>\n"
        "SPEAKER x 1 2 1 <NA> <NA> speech <NA> <NA>\nNON-SPEECH x 1 2 1 <NA> music <NA> <NA> <NA>\n",
    ],
)
def test_dialects(tmp_path: Path, text: str):
    found = read(_text(tmp_path, "labels.txt", text))
    assert found == [Segment(0.0, 1.5, SPEECH), Segment(2.0, 3.0, BOTH)]


SHORT_TEXTGRID = """File type = "ooTextFile"
"TextGrid"
0
4
<exists>
3
"IntervalTier"
"speech"
0
4
2
0
3
"speech"
3
4
""
"IntervalTier"
"words"
0
4
1
1
2
"he said ""hi"" 7 times"
"IntervalTier"
"music"
0
4
2
0
1
""
1
4
"music"
"""


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_short_textgrid_with_tiers_that_overlap(tmp_path: Path, encoding: str):
    found = read(_text(tmp_path, "a.TextGrid", SHORT_TEXTGRID, encoding))
    assert _shape(found) == [(0, 1, SPEECH), (1, 3, BOTH), (3, 4, MUSIC)]


def test_a_textgrid_with_points(tmp_path: Path):
    points = '"TextTier"\n"clicks"\n0\n4\n1\n2.5\n"click"\n'
    text = SHORT_TEXTGRID.replace("<exists>\n3\n", "<exists>\n4\n" + points)
    assert _shape(read(_text(tmp_path, "a.TextGrid", text))) == [(0, 1, SPEECH), (1, 3, BOTH), (3, 4, MUSIC)]


def test_segments_that_touch_still_touch_as_rttm(tmp_path: Path):
    segments = [
        Segment(0.1, 0.3, SPEECH),
        Segment(0.3, 0.7, BOTH),
        Segment(0.7, 0.8, MUSIC),
    ]  # 0.1 + 0.2 > 0.3
    write(tmp_path / "a.rttm", segments)
    assert read(tmp_path / "a.rttm") == segments


def test_persons_in_rttm_may_be_called_like_short_labels(tmp_path: Path):
    names = ("M", "n", "Song", "s", "Pause", "music", "Speech", "noEnergy", "speech-music", "jingle")
    lines = [f"SPEAKER a 1 {2 * n} 1 <NA> <NA> {name} <NA> <NA>" for n, name in enumerate(names)]
    assert [s.label for s in read(_text(tmp_path, "a.rttm", "\n".join(lines)))] == [
        *[SPEECH] * 5, MUSIC, SPEECH, SILENCE, BOTH, MUSIC,
    ]  # fmt: skip


def test_what_rttm_calls_other_is_neither(tmp_path: Path):
    lines = [f"NON-SPEECH a 1 {n} 1 <NA> {kind} <NA> <NA> <NA>" for n, kind in enumerate(("noise", "other", "music"))]
    assert _shape(read(_text(tmp_path, "a.rttm", "\n".join(lines)))) == [(0, 2, NOISE), (2, 3, MUSIC)]


def test_points_of_audacity_are_left_out_and_its_quotes_are_its_own(tmp_path: Path):
    path = _text(tmp_path, "a.txt", '0.5\t0.5\tdoor\n1\t2\tspeech\n2\t3\t"quoted"\n3\t4\t"open\n')
    assert [s.label for s in read(path, strict=False)] == [SPEECH, '"quoted"', '"open']
    quoted = _text(tmp_path, "c.tsv", '0.5\t1.0\t"speech"\n"1.0"\t"2.0"\t"music"\n')  # as R and pandas write
    assert _shape(read(quoted)) == [(0.5, 1, SPEECH), (1, 2, MUSIC)]
    with pytest.raises(UserError, match="points in time"):
        read(_text(tmp_path, "b.txt", "0.5\t0.5\tspeech\n"))


@pytest.mark.parametrize("format", FILES)
def test_what_would_last_no_time_in_a_file_is_not_written(tmp_path: Path, format: str):
    segments = [Segment(0.0, 1.0, SPEECH), Segment(1.0, 1 + 3e-7, MUSIC), Segment(2.0, 3.0, MUSIC)]
    write(tmp_path / FILES[format], segments)
    assert read(tmp_path / FILES[format]) == [segments[0], segments[2]]


def test_rttm_says_speech_over_music_in_two_lines(tmp_path: Path):
    write(tmp_path / "my show.rttm", [Segment(1.0, 3.5, BOTH, 0.5)])
    assert (tmp_path / "my show.rttm").read_text().splitlines() == [
        "SPEAKER my_show 1 1.000000 2.500000 <NA> <NA> speech 0.500000 <NA>",
        "SPEAKER my_show 1 1.000000 2.500000 <NA> <NA> music 0.500000 <NA>",
    ]


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("a.csv", "", "empty"),
        ("a.csv", " \n\n", "empty"),
        ("a.csv", "# nothing\n", "nothing but comments"),
        ("a.csv", "start,end,label\n0,1,speech\n3,2,music\n", "line 3: .*end must be after"),
        ("a.csv", "start,end,label\n0,1,speech\n2,2,music\n", "line 3: .*end must be after"),
        ("a.csv", "start,end,label\n-1,1,speech\n", "line 2: .*before the recording"),
        ("a.csv", "start,end,label\n0,x,speech\n", "line 2: the end is 'x'"),
        ("a.csv", "start,end,label\n0,nan,speech\n", "line 2: the end is 'nan'"),
        ("a.csv", "start,end,label\n0,1,sppeech\n", "line 2: the label 'sppeech' is not known"),
        ("a.csv", "start,end,label\n0,1\n", "line 2: expected start, end and label"),
        ("a.csv", "start,end,label,probability\n0,1,music,1.5\n", "line 2: the probability is 1.5"),
        (
            "a.csv",
            "start,end,label\n0,2,speech\n\n1,3,music\n",
            r"line 4: .*label what they share 'speech\+music'",
        ),
        ("a.csv", "start,end,label\n0,9,speech\n1,3,music\n", "line 3: .*begins before"),
        ("a.csv", "start,end,label\n0,1,speech\n0.9995,0.9999,music\n", "line 3: .*begins before"),
        ("a.csv", "start_time,end_time,lyrics_line\n0,1,la\n", "line 1: the columns are"),
        ("a.txt", "0\t1\tspeech\n0.5\t2\tspeech\n", "line 2: .*begins before"),
        ("a.rttm", "SPEAKER x 1 0 1 <NA> <NA>\n", "line 1: .*at least 8 fields"),
        ("a.rttm", "SPEAKER x 1 0 -1 <NA> <NA> a <NA> <NA>\n", "line 1: .*end must be after"),
        (
            "a.rttm",
            "SPEAKER x 1 0 1 <NA> <NA> a <NA> <NA>\nSPEAKER y 1 0 1 <NA> <NA> a <NA> <NA>\n",
            "several recordings",
        ),
        ("a.json", '[\n{"start": 0,\n', "line 3: not valid JSON"),
        ("a.json", '{"segments": 3}', "expected a list"),
        ("a.json", '[{"start": 0, "end": 1}]', "segment 1 must be an object"),
        ("a.json", '[{"start": 0, "end": -1, "label": "music"}]', r"end must be after .*\(segment 1\)"),
        ("a.TextGrid", SHORT_TEXTGRID.replace("4\n2\n0\n3", "4\n2\n3\n0"), "line 14: .*end must be after"),
        ("a.TextGrid", SHORT_TEXTGRID[:120], "ends where .* should follow"),
        (
            "a.TextGrid",
            SHORT_TEXTGRID.replace('"speech"\n3', '"hm"\n3').replace('"music"\n', '"x"\n'),
            "'hm' is not",
        ),
        ("a.lab", "what is this?\n", "not a format of segments"),
        ("a.txt", "#TITLE:Song\n: 0 3 6 I\n", "line 2: "),
    ],
)
def test_what_is_wrong_is_said_with_file_and_line(tmp_path: Path, name: str, text: str, message: str):
    with pytest.raises(UserError, match=rf"{re.escape(str(tmp_path / name))}.*{message}"):
        read(_text(tmp_path, name, text))


def test_files_that_cannot_be_read(tmp_path: Path):
    with pytest.raises(UserError, match=r"gone\.csv does not exist"):
        read(tmp_path / "gone.csv")
    with pytest.raises(UserError, match="cannot be read"):
        read(tmp_path)
    (tmp_path / "a.csv").write_bytes(b"\x80\x81\x82\xff")
    with pytest.raises(UserError, match="cannot be read"):
        read(tmp_path / "a.csv")


def test_unknown_labels_are_kept_where_asked_for(tmp_path: Path):
    path = _text(tmp_path, "a.csv", 'start,end,label\n0,1,"Dog, barking"\n1,2,music\n')
    found = read(path, strict=False)
    assert [s.label for s in found] == ["Dog, barking", MUSIC]
    found[1] = found[1]._replace(label='"so to speak"')
    for name in ("a.csv", "a.tsv", "a.TextGrid", "a.json"):
        write(tmp_path / name, found)
        assert read(tmp_path / name, strict=False) == found


def test_a_millisecond_of_overlap_is_rounding(tmp_path: Path):
    found = read(_text(tmp_path, "a.csv", "start,end,label\n0,1.0004,speech\n1,2,music\n"))
    assert _shape(found) == [(0, 1.0004, SPEECH), (1.0004, 2, MUSIC)]


def test_writing_leaves_nothing_half_done(tmp_path: Path):
    good = [Segment(0.0, 1.0, SPEECH)]
    with pytest.raises(UserError, match="'docx' is not a format"):
        write(tmp_path / "a.docx", good)
    with pytest.raises(UserError, match="cannot be written"):
        write(tmp_path / "gone" / "a.csv", good)
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(UserError, match="cannot be written"):
        write(tmp_path / "folder.csv", good)
    for wrong in ([Segment(1.0, 1.0, SPEECH)], [Segment(0.0, 2.0, SPEECH), Segment(1.0, 3.0, MUSIC)],
                  [Segment(0.0, 1.0, "a\tb")]):  # fmt: skip
        with pytest.raises(ValueError):
            write(tmp_path / "a.csv", wrong)
    assert [p.name for p in tmp_path.iterdir()] == ["folder.csv"]


def test_json_is_an_object_with_segments(tmp_path: Path):
    write(tmp_path / "a.json", [Segment(0.0, 1.0, BOTH, 0.25)])
    assert json.loads((tmp_path / "a.json").read_text()) == {
        "segments": [{"start": 0.0, "end": 1.0, "label": "speech+music", "probability": 0.25}]
    }


def test_labels_of_others():
    foreign = ("Speech_Music", " speech + music ", "MU", "noEnergy", "Unlabeled", "noise")
    assert [canonical(x) for x in foreign] == [
        BOTH, BOTH, MUSIC, SILENCE, UNLABELLED, NOISE
    ]  # fmt: skip
    assert canonical("dog") is None
    assert all(canonical(x) == x for x in (SPEECH, MUSIC, BOTH, SILENCE, NOISE, UNLABELLED))


# ------------------------------------------------------------------------------------------------------ lists


def test_merge_joins_equal_neighbours():
    parts = [
        Segment(2.0, 3.0, SPEECH, 0.4),
        Segment(0.0, 2.0, SPEECH, 1.0),
        Segment(3.5, 4.0, SPEECH),
        Segment(4.0, 5.0, MUSIC),
    ]
    assert merge(parts) == [Segment(0.0, 3.0, SPEECH, pytest.approx(0.8)), *parts[2:]]
    assert merge(parts, gap=0.5) == [Segment(0.0, 4.0, SPEECH, None), parts[3]]


@given(timelines(), st.floats(0.1, 20000.0))
def test_fill_gaps_covers_everything_once(segments: list[Segment], duration: float):
    covered = fill_gaps(segments, duration)
    assert covered[0].start == 0.0
    assert covered[-1].end == duration
    assert all(s.start < s.end for s in covered)
    assert all(a.end == b.start for a, b in zip(covered, covered[1:], strict=False))
    kept = [Segment(s.start, min(s.end, duration), s.label, s.probability) for s in segments if s.start < duration]
    assert [s for s in covered if s in kept] == kept
    assert sum(s.end - s.start for s in covered) == pytest.approx(duration)


def test_rounding_is_no_gap(tmp_path: Path):
    parts = [Segment(1e-9, 0.3, SPEECH), Segment(0.1 + 0.2, 1.0, MUSIC), Segment(1.25, 2.0 - 1e-9, SPEECH)]
    covered = fill_gaps(parts, 2.0)
    assert [(s.start, s.end, s.label) for s in covered] == [
        (0.0, 0.1 + 0.2, SPEECH), (0.1 + 0.2, 1.0, MUSIC), (1.0, 1.25, UNLABELLED), (1.25, 2.0, SPEECH),
    ]  # fmt: skip
    write(tmp_path / "a.csv", covered)
    assert len(read(tmp_path / "a.csv")) == 4


def test_total_counts_one_label():
    segments = [Segment(0.0, 2.0, SPEECH), Segment(2.0, 3.0, BOTH), Segment(5.0, 5.5, SPEECH)]
    assert total(segments, SPEECH) == 2.5
    assert total(segments, MUSIC) == 0.0


instants = st.integers(0, 40).map(lambda n: n / 4)
overlapping = st.lists(
    st.tuples(instants, instants, st.sampled_from([SPEECH, MUSIC, BOTH, NOISE, UNLABELLED])).filter(
        lambda s: s[0] < s[1]
    ),
    max_size=8,
).map(lambda spans: [Segment(*s) for s in spans])


@given(overlapping)
def test_flatten_against_looking_at_every_instant(segments: list[Segment]):
    flat = flatten(segments)
    assert all(a.end <= b.start for a, b in zip(flat, flat[1:], strict=False))
    for t in np.arange(0.125, 10.5, 0.25):
        on = {s.label for s in segments if s.start <= t < s.end}
        speech, music = bool(on & {SPEECH, BOTH}), bool(on & {MUSIC, BOTH})
        expected = BOTH if speech and music else SPEECH if speech else MUSIC if music else None
        if expected is None and on:
            expected = NOISE if NOISE in on else UNLABELLED
        assert [s.label for s in flat if s.start <= t < s.end] == ([] if expected is None else [expected])


def test_noise_below_says_nothing_of_speech_and_music():
    noise = Segment(0.0, 2.0, NOISE, 0.1)
    (both,) = flatten([Segment(0.0, 2.0, SPEECH, 0.9), Segment(0.0, 2.0, MUSIC, 0.8), noise])
    assert both == Segment(0.0, 2.0, BOTH, 0.8)
    assert flatten([Segment(0.0, 2.0, BOTH, 0.7), noise._replace(probability=None)]) == [Segment(0.0, 2.0, BOTH, 0.7)]


def test_flatten_is_as_sure_as_its_least_sure_part():
    flat = flatten([Segment(0.0, 2.0, SPEECH, 0.9), Segment(1.0, 3.0, MUSIC, 0.6)])
    assert flat == [
        Segment(0.0, 1.0, SPEECH, 0.9),
        Segment(1.0, 2.0, BOTH, 0.6),
        Segment(2.0, 3.0, MUSIC, 0.6),
    ]


# ----------------------------------------------------------------------------------------------------- frames


@given(timelines(), st.integers(1, 50))
def test_frame_switches_against_looking_at_every_frame(segments: list[Segment], count: int):
    times = np.linspace(0.0, segments[-1].end * 1.1, count)
    switches = frame_switches(segments, times)
    for n, t in enumerate(times):
        label = next((s.label for s in segments if s.start <= t < s.end), UNLABELLED)
        expected = (label in (SPEECH, BOTH), label in (MUSIC, BOTH), label != UNLABELLED)
        assert (switches.speech[n], switches.music[n], switches.labelled[n]) == expected


def test_frame_switches_know_all_names_of_labels():
    """As files do: `Speech` was neither speech nor unlabelled, and what was said in it went into the music."""
    times = np.arange(0.25, 3, 0.5)
    names, others = ("speech", "music", "speech+music"), ("Speech", "jingle", "speech over music")
    timelines = ([Segment(float(n), n + 1.0, one) for n, one in enumerate(of)] for of in (names, others))
    expected, found = (frame_switches(timeline, times) for timeline in timelines)
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(UserError, match="the label 'cat' from 1 to 2 s is not known; use one of speech, music"):
        frame_switches([Segment(1.0, 2.0, "cat")], times)


def test_what_is_given_is_completed_in_our_words():
    given = [Segment(0.0, 1.0, "Speech"), Segment(2.0, 3.0, "unknown")]
    found = timeline.complete(given, ["music"] * 6, np.arange(0.25, 3, 0.5), 3.0)
    assert [s[:3] for s in found] == [(0.0, 1.0, "speech"), (1.0, 3.0, "music")]


def test_frame_switches_without_segments():
    assert not np.any(frame_switches([], np.arange(4.0)))


def test_what_a_person_labelled_stays_and_frames_fill_the_rest():
    times = np.arange(20) * 0.5
    labels = [MUSIC] * 8 + [BOTH] * 6 + [SPEECH] * 6
    mine = [Segment(0.1, 0.2, NOISE), Segment(2.13, 4.27, MUSIC), Segment(5.0, 6.0, UNLABELLED), Segment(9.9, 12.0, SPEECH)]
    assert timeline.complete(mine, labels, times, 10.0) == [
        Segment(0.0, 0.1, MUSIC), Segment(0.1, 0.2, NOISE), Segment(0.2, 4.27, MUSIC), Segment(4.27, 6.75, BOTH),
        Segment(6.75, 10.0, SPEECH),
    ]  # fmt: skip
    assert timeline.complete([], labels, times, 10.0) == from_frames(labels, times, 10.0)


@given(st.lists(st.sampled_from([SPEECH, MUSIC, BOTH]), min_size=1, max_size=30))
def test_frames_to_segments_and_back(labels: list[str]):
    times = (np.arange(len(labels)) + 0.5) * 0.1
    segments = from_frames(labels, times, len(labels) * 0.1)
    assert segments == merge(segments)
    switches = frame_switches(segments, times)
    assert switches.speech.tolist() == [label != MUSIC for label in labels]
    assert switches.music.tolist() == [label != SPEECH for label in labels]
    assert np.all(switches.labelled)


@given(st.lists(st.sampled_from([SPEECH, MUSIC]), min_size=1, max_size=40), st.floats(0.0, 1.0))
def test_short_runs_disappear(labels: list[str], shortest: float):
    duration = len(labels) * 0.1
    segments = from_frames(labels, (np.arange(len(labels)) + 0.5) * 0.1, duration, min_duration=shortest)
    assert (segments[0].start, segments[-1].end) == (0.0, duration)
    assert all(a.end == b.start and a.label != b.label for a, b in zip(segments, segments[1:], strict=False))
    assert all(s.end - s.start > shortest - 1e-9 for s in segments) or len(segments) == 1
    assert {s.label for s in segments} <= set(labels)


def test_a_short_run_belongs_to_what_came_before_it():
    labels = [MUSIC, SPEECH, SPEECH, SPEECH, MUSIC, SPEECH, SPEECH, MUSIC, MUSIC, MUSIC]
    sure = np.array([0.1, 0.8, 0.9, 1.0, 0.1, 0.9, 0.9, 0.5, 0.6, 0.7])
    segments = from_frames(labels, np.arange(10) + 0.5, 10.0, min_duration=2.0, probabilities=sure)
    assert segments == [
        Segment(0.0, 7.0, SPEECH, pytest.approx(0.9)), Segment(7.0, 10.0, MUSIC, pytest.approx(0.6))
    ]  # fmt: skip


def test_from_frames_needs_as_many_of_everything():
    with pytest.raises(ValueError):
        from_frames([], np.zeros(0), 1.0)
    with pytest.raises((ValueError, TypeError)):
        from_frames([SPEECH], np.zeros(2), 1.0)
