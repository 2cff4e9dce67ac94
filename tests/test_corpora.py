"""Corpora in their published layouts, made small; and broken ones."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from bayessep import corpora
from bayessep.corpora import (
    MUSAN,
    detector_recordings,
    folds,
    is_under_gpl_alone,
    may_be_redistributed,
    read_dafx12,
    read_musan,
    speech_and_music,
)
from bayessep.data import MANIFEST_COLUMNS, Recording
from bayessep.errors import UserError
from bayessep.timeline import Segment

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
RATE = 8000


def _sound(path: Path, seconds: float = 0.5, value: float = 0.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.full(round(seconds * RATE), value), RATE)
    return path


def _text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


# --- MUSAN ---------------------------------------------------------------------------------------------------------------

FMA_LICENSE = """music-fma-0000
“A Song” (by Some Band)
music-fma-0001
Songs by Some Band is licensed under a Attribution-ShareAlike 3.0 International License.
Permissions beyond the scope of this license may be available at http://example.org
==============================================================================
“First” (by Other)
music-fma-0002
Attribution-NoDerivs 3.0 Unported (CC BY-ND 3.0)
“Second” (by Other)
music-fma-0003
A Record by Other is licensed under a Public Domain Mark 1.0 License.
music-fma-0004
http://example.org/Attribution_License
==============================================================================
music-fma-0005
says nothing
"""


@pytest.fixture
def musan(tmp_path: Path) -> Path:
    top = tmp_path / "musan"
    for part, names in MUSAN.items():
        for name in names:
            prefix = {"fma-western-art": "fma-wa", "hd-classical": "hd"}.get(name, name)
            for n in range(6 if name == "fma" else 1):
                _sound(top / part / name / f"{part}-{prefix}-000{n}.{'flac' if name == 'rfm' else 'wav'}")
            if part == "music" and name != "fma":
                _text(top / part / name / "ANNOTATIONS", f"music-{prefix}-0000 classical N Kevin_MacLeod Satie\n")
    rows = ["folk,pop Y Some_Band", "folk,pop N Some_Band", *(f"rock Y Other_{n}" for n in range(4))]
    _text(top / "music/fma/ANNOTATIONS", "".join(f"music-fma-000{n} {row}\n" for n, row in enumerate(rows)))
    _text(top / "music/fma/LICENSE", FMA_LICENSE)
    _text(top / "music/rfm/LICENSE", "CC BY 3.0\nhttp://example.org\n" + "=" * 20 + "\nmusic-rfm-0000\n")
    _text(top / "speech/librivox/ANNOTATIONS", "speech-librivox-0000 m english\n")
    _text(top / "speech/us-gov/LICENSE", "Hearings and debates \nthat are in the US Public Domain.\n")
    _text(top / "noise/free-sound/ANNOTATIONS", "Background noises:\nnoise-free-sound-0000\n")
    return top


@pytest.mark.parametrize("above", [False, True])
def test_musan_is_read(musan: Path, above: bool) -> None:
    found = {r.path.stem: r for r in read_musan(musan.parent if above else musan)}
    assert len(found) == 14
    assert found["music-fma-0001"] == Recording(
        musan / "music/fma/music-fma-0001.wav", "music", "some_band", 0.5, RATE, 1, "", "folk,pop", "CC BY-SA 3.0",
        "MUSAN/music/fma/music-fma-0001.wav",
    )  # fmt: skip
    assert found["music-fma-wa-0000"].split_group == found["music-rfm-0000"].split_group == "kevin_macleod"
    speech = found["speech-librivox-0000"]
    assert (speech.split_group, speech.note, speech.category) == ("speech-librivox-0000", "male", "speech")
    assert found["speech-us-gov-0000"].note == ""
    licences = [found[f"music-fma-000{n}"].licence for n in range(6)]
    assert licences == ["CC BY-SA 3.0", "CC BY-SA 3.0", "CC BY-ND 3.0", "Public domain", "Public domain", ""]
    assert found["music-rfm-0000"].licence == "CC BY 3.0"
    assert found["speech-us-gov-0000"].licence == "Public domain"


def test_parts_of_musan_and_music_without_vocals(musan: Path) -> None:
    assert {r.category for r in read_musan(musan, parts=("speech",))} == {"speech"}
    assert len(read_musan(musan, parts=["music"], vocals=False)) == 5
    with pytest.raises(UserError, match="babble is not part of"):
        read_musan(musan, parts=("babble",))


def test_what_musan_lacks_is_said(musan: Path) -> None:
    (musan / "music/fma/music-fma-0003.wav").unlink()
    (musan / "music/jamendo/ANNOTATIONS").unlink()
    (musan / "noise/sound-bible/noise-sound-bible-0000.wav").unlink()
    (musan / "noise/sound-bible").rmdir()
    with pytest.raises(UserError, match="fma lacks music-fma-0003; unpack"):
        read_musan(musan)
    told: list[str] = []
    found = {r.path.stem: r for r in read_musan(musan, missing=told.append)}
    assert len(found) == 12
    assert found["music-jamendo-0000"].split_group == "music-jamendo-0000"
    assert "music-fma-0003" in told[0] and "ANNOTATIONS" in told[1] and "sound-bible is missing" in told[2]


def test_broken_musan_is_named(musan: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds none of the folders"):
        read_musan(tmp_path / "elsewhere")
    _text(musan / "music/fma/ANNOTATIONS", "\nmusic-fma-0000 folk maybe Some_Band\n")
    with pytest.raises(UserError, match="ANNOTATIONS, line 2: expected recording, genres"):
        read_musan(musan)
    (musan / "music/fma/ANNOTATIONS").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(UserError, match="UTF-8"):
        read_musan(musan)
    _text(musan / "speech/us-gov/speech-us-gov-0000.wav", "words")
    with pytest.raises(UserError, match=r"speech-us-gov-0000\.wav"):
        read_musan(musan, parts=("speech",))
    (tmp_path / "bare" / "noise").mkdir(parents=True)
    with pytest.raises(UserError, match="holds no recordings of MUSAN"):
        read_musan(tmp_path / "bare", missing=lambda _: None)


# --- broadcasts ----------------------------------------------------------------------------------------------------------


def test_a_pair_of_tables_is_read(tmp_path: Path) -> None:
    _sound(tmp_path / "audio/332-RSR3-2012_02_01_10_45_01.wav", 10)
    name = "332-RSR3-2012_02_01_10_45_01.csv"
    _text(tmp_path / "labels/speech" / name, "start,duration,label\n0,2,0\n2,4,1\n6,0,1\n6,4,0\n")
    _text(tmp_path / "labels/music" / name, "start,duration,label\n0,5,1\n5,3,0\n8,9,1\n")
    [(recording, labels)] = read_dafx12(tmp_path)
    assert recording.split_group == "RSR3"
    assert labels == [
        Segment(0, 2, "music"), Segment(2, 5, "speech+music"), Segment(5, 6, "speech"), Segment(6, 8, "noise"),
        Segment(8, 10, "music"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "speech",
    ["start;end\n1;3\n", "1\t3\tspeech\n3\t4\tnospeech\n", "1 3\n", "onset, offset, label\n1, 3, 1\n", "1,2\n2,3,1\n"],
)
def test_tables_beside_the_audio(tmp_path: Path, speech: str) -> None:
    _sound(tmp_path / "FM4-h1.wav", 4)
    _text(tmp_path / "FM4-h1.speech", speech)
    _text(tmp_path / "FM4-h1.music", "")
    [(recording, labels)] = read_dafx12(tmp_path)
    assert recording.split_group == "FM4"
    assert [s for s in labels if s.label != "noise"] == [Segment(1, 3, "speech")]
    assert labels[0].start == 0 and labels[-1].end == 4


def test_one_label_file_beside_the_audio(tmp_path: Path) -> None:
    _sound(tmp_path / "show.wav", 4)
    _text(tmp_path / "show.txt", "0\t1\tspeech\n1\t2\tspeech+music\n")
    [(recording, labels)] = read_dafx12(tmp_path)
    assert recording.split_group == "show"
    assert labels == [Segment(0, 1, "speech"), Segment(1, 2, "speech+music")]


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ("1,x\n", "line 1: expected start, end and 1 or 0, found '1,x'"),
        ("start,duration,label\n0,1,perhaps\n", "line 2: expected start, duration"),
        ("3,1\n", "from 3 s to 1 s"),
        ("-1,1\n", "from -1 s to 1 s"),
        ("nan,1\n", "expected start|nan s"),
        ("1\n", "expected start, end"),
    ],
)
def test_broken_tables_are_named(tmp_path: Path, table: str, says: str) -> None:
    _sound(tmp_path / "a.wav")
    _text(tmp_path / "a.music", "")
    _text(tmp_path / "a.speech", table)
    with pytest.raises(UserError, match=says) as error:
        read_dafx12(tmp_path)
    assert "a.speech" in str(error.value)


def test_labels_that_are_missing_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no audio"):
        read_dafx12(tmp_path)
    _sound(tmp_path / "a.wav")
    with pytest.raises(UserError, match=r"a\.wav has no labels"):
        read_dafx12(tmp_path)
    _text(tmp_path / "a.speech", "")
    with pytest.raises(UserError, match=r"a\.music does not exist"):
        read_dafx12(tmp_path)


# --- folds ---------------------------------------------------------------------------------------------------------------


def _many(seed: int = 0) -> list[Recording]:
    random = np.random.default_rng(seed)
    made = []
    for n in range(600):
        category = ("music", "speech")[n % 2]
        note = random.choice(["rock", "folk", "classical"] if n % 2 == 0 else ["male", "female", ""])
        group = f"{category}-{note}-{random.integers(40)}"
        made.append(Recording(Path(f"{n:03}.wav"), category, group, float(random.gamma(2, 60)), RATE, 1, note=str(note)))
    return made


def test_folds_are_even_whole_and_the_same_each_time() -> None:
    recordings = _many()
    dealt = folds(recordings)
    assert sorted(r.path for fold in dealt for r in fold) == [r.path for r in recordings]
    assert folds(list(reversed(recordings))) == dealt
    groups = [{r.split_group for r in fold} for fold in dealt]
    assert not groups[0] & groups[1] and not groups[0] & groups[2] and not groups[1] & groups[2]

    def unevenness(*which: str) -> float:
        sums = [sum(r.duration for r in fold if {r.category, r.note} >= set(which)) for fold in dealt]
        return max(sums) / min(sums) - 1

    assert unevenness() < 0.03
    for note in ("rock", "folk", "classical", "male", "female", ""):
        assert unevenness(note) < 0.1
    for category in ("music", "speech"):
        assert unevenness(category) < 0.04


def test_a_long_artist_stays_in_one_fold() -> None:
    def one(name: str, group: str, seconds: float) -> Recording:
        return Recording(Path(name), "music", group, seconds, RATE, 1)

    dealt = folds([one("a", "x", 5), one("b", "x", 5), one("c", "y", 4), one("d", "z", 3), one("e", "w", 2)], n=2)
    assert [[r.path.name for r in fold] for fold in dealt] == [["a", "b"], ["c", "d", "e"]]
    with pytest.raises(UserError, match="1 split groups cannot be divided into 2 folds"):
        folds([one("a", "x", 5)], 2)
    with pytest.raises(UserError, match="folds"):
        folds([one("a", "x", 5)], 0)
    assert len(folds([one("a", "x", 0), one("b", "y", 0)], 2)[1]) == 1


# --- what a detector learns from -----------------------------------------------------------------------------------------


def _manifest(folder: Path, rows: list[tuple[str, str, str]]) -> None:
    lines = [",".join(MANIFEST_COLUMNS)]
    lines += [f"{path},{category},g,0.5,{RATE},1,,,repo,path,{licence}" for path, category, licence in rows]
    _text(folder / "manifest.csv", "\n".join(lines) + "\n")


def test_speech_and_music_of_a_manifest(tmp_path: Path) -> None:
    rows = [
        ("speech/a.wav", "speech", "CC BY 4.0"),
        ("speech/b.wav", "speech", "freely distributed for the evaluation campaign; repo MIT"),
        ("music/c.wav", "music", "CC BY-NC 3.0"),
        ("songs/d.wav", "songs", "CC BY-SA 3.0"),
        ("singing/e.wav", "singing", "CC0"),
        ("stems/s/vocals.wav", "stems", "CC0 1.0"),
        ("stems/s/accompaniment.wav", "stems", "CC0 1.0"),
        ("broadcast/sm_hpss/sp.wav", "broadcast", "repo GPL; audio from MUSAN (CC BY 4.0 / public domain collection)"),
        ("broadcast/sm_hpss/sp.mp3", "broadcast", "repo GPL; audio from MUSAN (CC BY 4.0 / public domain collection)"),
        ("broadcast/sm_hpss/mu.mp3", "broadcast", "repo GPL; audio from MUSAN (CC BY 4.0 / public domain collection)"),
    ]
    for path, *_ in rows:
        _sound(tmp_path / path, value={"vocals": 0.25, "accompaniment": 0.5}.get(Path(path).stem, 0.0))
    _manifest(tmp_path, rows)

    def names(redistributable: bool) -> list[str]:
        found = detector_recordings(tmp_path, redistributable=redistributable)
        assert all(s.recording.category == kind for kind, sounds in found._asdict().items() for s in sounds)
        return [" ".join("+".join(p.stem for p in s.paths) for s in sounds) for sounds in found]

    assert names(False) == ["a b sp", "c d mu accompaniment+vocals"]
    assert names(True) == ["a sp", "d accompaniment+vocals"]
    song = detector_recordings(tmp_path).music[-1]
    np.testing.assert_allclose(song.read(), np.full(RATE // 2, 0.75), atol=1e-4)
    assert len(song.read(16000)) == RATE

    _sound(tmp_path / "stems/s/vocals.wav", 0.4)
    with pytest.raises(UserError, match="not as long as its other stems"):
        song.read()
    _manifest(tmp_path, rows[:6])
    with pytest.raises(UserError, match=r"s has the stems vocals\.wav"):
        detector_recordings(tmp_path)
    _manifest(tmp_path, rows[1:3])
    with pytest.raises(UserError, match="lists no speech"):
        detector_recordings(tmp_path, redistributable=True)
    _manifest(tmp_path, rows[2:4])
    found = speech_and_music(tmp_path, needed=("music",))
    assert found.speech == [] and len(found.music) == 2, "where only music is wanted, there need be no speech"
    with pytest.raises(UserError, match="lists no speech"):
        speech_and_music(tmp_path)


def test_speech_and_music_of_musan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [
        Recording(tmp_path / f"{what} {licence}.wav", what, what, 1.0, RATE, 1, licence=licence)
        for what in ("speech", "music") for licence in ("CC0", "CC BY-NC")
    ]  # fmt: skip
    (tmp_path / "musan" / "speech").mkdir(parents=True)
    monkeypatch.setattr(corpora, "read_musan", lambda *_, **__: found)
    everything, free = (speech_and_music(tmp_path, redistributable=free) for free in (False, True))
    assert [len(part) for part in everything] == [2, 2] and [len(part) for part in free] == [1, 1]
    assert free.speech[0].recording.category == "speech" and free.music[0].recording.licence == "CC0"
    del found[2]
    with pytest.raises(UserError, match="holds no music that can be used here"):
        speech_and_music(tmp_path, redistributable=True)


@pytest.mark.parametrize(
    ("licence", "may"),
    [
        ("CC0-1.0", True),
        ("CC-BY-SA-3.0", True),
        ("CC BY-SA 3.0 or GPL", True),
        ("GPL-2.0-or-later (LMMS data)", False),
        ("free software (GPL-3.0); repo MIT", False),
        ("LGPL-2.1", False),
        ("BSD-2-Clause style (CMU Sphinx)", True),
        ("CMU ARCTIC (free software licence, no restriction on use/redistribution); repo MIT", True),
        ("MIT", True),
        ("", False),
        ("CC BY-NC-SA 4.0 (BRID); repo BSD-3-Clause", False),
        ("CC BY-NC-ND (Jamendo)", False),
        ("CC BY-ND 3.0", False),
        ("unstated; repo MIT", False),
        ("for scientific research only; repo MIT", False),
        ("Brad Sucks releases are CC BY-SA; repo MIT", False),
        ("all rights reserved; repo MIT", False),
        ("CC BY-NC4.0", False),
        ("CC BY_NC", False),
        ("CC BY-NCSA", False),
        ("CC-BYNC 3.0", False),
        ("CC BY, noncommercially", False),
        ("CC BY 4.0, 2nd edition", True),
        ("CC BY Non Commercial 4.0", False),
        ("CC BY 3.0, no derivatives", False),
        ("CC BY 4.0, by Ndugu Chancler and Nocole", True),
    ],
)
def test_licences_that_let_results_be_passed_on(licence: str, may: bool) -> None:
    assert may_be_redistributed(Recording(Path("a"), "music", "g", 1.0, RATE, 1, licence=licence)) == may


@pytest.mark.parametrize(
    ("licence", "alone"), [("GPL-2.0", True), ("GPL; repo MIT", True), ("CC BY-SA 3.0 or GPL", False), ("MIT; repo GPL", False)]
)
def test_what_is_under_the_gpl_alone(licence: str, alone: bool) -> None:
    assert is_under_gpl_alone(Recording(Path("a"), "music", "g", 1.0, RATE, 1, licence=licence)) == alone


@pytest.mark.skipif(not (SHARED / "manifest.csv").is_file(), reason="the recordings beside the checkout are absent")
def test_the_recordings_beside_the_checkout_make_folds() -> None:
    everything, free = (detector_recordings(SHARED, redistributable=free) for free in (False, True))
    assert 0 < len(free.music) < len(everything.music) and 0 < len(free.speech) < len(everything.speech)
    assert any(len(s.paths) == 2 for s in free.music)
    bound, left = ([s for s in of.music if s.recording.licence.startswith("GPL")] for of in (everything, free))
    assert bound and not left
    assert all(folds([s.recording for s in (*free.speech, *free.music)]))
