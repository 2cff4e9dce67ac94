"""What detectors look at, against scipy and librosa."""


import jax
import jax.numpy as jnp
import librosa
import numpy as np
import pytest
from scipy.ndimage import median_filter

from bayessep import features, medians
from bayessep.errors import UserError
from bayessep.features import Front

RATE = 16000


def _spectrogram(frames: int = 60, bins: int = 40, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).gamma(0.3, 1.0, (frames, bins)).astype(np.float32)


def _noise(seconds: float, seed: int = 0) -> np.ndarray:
    """As loud as speech: louder and quieter five times a second."""
    n = round(seconds * RATE)
    loudness = 0.05 + np.sin(np.arange(n) * (5 * np.pi / RATE)) ** 2
    return (loudness * np.random.default_rng(seed).standard_normal(n)).astype(np.float32)


# --- medians -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [3, 5, 7, 11, 13, 21])
def test_the_network_finds_the_median_of_all_zeros_and_ones(n: int) -> None:
    # What sorts (or selects from) every sequence of zeros and ones does so with every sequence (Knuth's 0-1 principle).
    every = np.arange(2**n)
    place = np.array([every >> bit & 1 for bit in range(n)], np.int8)
    majority = place.sum(0) > n // 2
    for a, b, lesser, greater in medians._selection(n):
        low, high = np.minimum(place[a], place[b]), np.maximum(place[a], place[b])
        place[a] = low if lesser else -9  # nothing may depend on what is said not to be needed
        place[b] = high if greater else -9
    np.testing.assert_array_equal(place[n // 2], majority)


@pytest.mark.parametrize(("size", "axis"), [(1, -1), (3, -2), (11, -1), (21, -2), (31, -1)])
@pytest.mark.parametrize("frames", [1, 4, 60])
def test_medians_are_scipys(size: int, axis: int, frames: int) -> None:
    x = _spectrogram(frames)
    window = (size, 1) if axis == -2 else (1, size)
    np.testing.assert_array_equal(medians.median(jnp.asarray(x), size, axis), median_filter(x, window, mode="reflect"))


@pytest.mark.parametrize("size", [0, -3, 20])
def test_a_median_needs_a_middle(size: int) -> None:
    with pytest.raises(UserError, match="odd"):
        medians.median(jnp.ones((5, 5)), size, -1)


# --- harmonic and percussive parts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(60, 40), (5, 201), (300, 3)])
def test_parts_are_librosas(shape: tuple[int, int]) -> None:
    x = _spectrogram(*shape)
    theirs = librosa.decompose.hpss(x.T, kernel_size=(21, 11), power=2.0)
    for ours, their in zip(features.hpss(jnp.asarray(x)), theirs, strict=True):
        np.testing.assert_allclose(ours, their.T, rtol=5e-7)


def test_parts_sum_to_the_whole_and_silence_is_halved() -> None:
    x = _spectrogram()
    x[:, :15] = 0
    x[20:50, 30:] = 0
    x[30, 35] = 2.0  # alone in silence: both medians say nothing
    harmonic, percussive = features.hpss(jnp.asarray(x))
    np.testing.assert_allclose(harmonic + percussive, x, rtol=1e-6)
    assert float(harmonic[30, 35]) == float(percussive[30, 35]) == 1.0


def test_lines_go_where_they_belong() -> None:
    x = np.full((100, 100), 1e-3, np.float32)
    x[:, 20] = 1.0
    x[50, :] = 1.0
    harmonic, percussive = (np.asarray(part) for part in features.hpss(jnp.asarray(x)))
    assert harmonic[10, 20] > 0.99 and percussive[50, 70] > 0.99


def test_recordings_do_not_mix() -> None:
    two = jnp.stack([_spectrogram(seed=1), _spectrogram(seed=2)])
    together = features.hpss(two)
    for n in range(2):
        for both, alone in zip(together, features.hpss(two[n]), strict=True):
            np.testing.assert_array_equal(both[n], alone)


def test_gradients_are_those_of_small_steps() -> None:
    with jax.enable_x64(True):
        x = jnp.asarray(_spectrogram(25, 15), jnp.float64) + 0.1
        weight = jnp.asarray(np.random.default_rng(5).standard_normal(x.shape))

        def level(x: jax.Array) -> jax.Array:
            return (features.hpss(x).harmonic * weight).sum()

        along = jnp.asarray(np.random.default_rng(6).standard_normal(x.shape))
        step = 1e-7
        numeric = (level(x + step * along) - level(x - step * along)) / (2 * step)
        assert float((jax.grad(level)(x) * along).sum()) == pytest.approx(float(numeric), rel=1e-5)


def test_equal_neighbours_share_the_gradient() -> None:
    found = jax.grad(lambda x: medians.median(x, 3, -1)[0, 2])(jnp.asarray([[1.0, 4.0, 4.0, 9.0, 2.0]]))
    np.testing.assert_array_equal(found, [[0, 0.5, 0.5, 0, 0]])


# --- mel bands and decibels ----------------------------------------------------------------------------------------------


def test_a_frame_may_have_a_longer_transform() -> None:
    waveform = np.random.default_rng(0).standard_normal(4000).astype(np.float32)
    front = Front("LS", n_fft=512)
    spectrum = np.abs(librosa.stft(waveform, n_fft=512, win_length=400, hop_length=160, center=False))
    found = features.extract_in_pieces(waveform, front)
    assert found.shape == (spectrum.shape[1], 257) == (spectrum.shape[1], front.width)
    np.testing.assert_allclose(found, librosa.amplitude_to_db(spectrum.T), atol=1e-3)
    with pytest.raises(UserError, match="n_fft is 256"):
        Front(n_fft=256)


@pytest.mark.parametrize(("frame", "rate", "bands"), [(400, 16000, 120), (400, 16000, 21), (1024, 44100, 64), (512, 8000, 40)])
def test_mel_bands_are_librosas(frame: int, rate: int, bands: int) -> None:
    ours = features.mel_filters(features.Stft(n_fft=frame, hop=frame // 2), rate, bands)
    np.testing.assert_allclose(ours.T, librosa.filters.mel(sr=rate, n_fft=frame, n_mels=bands), atol=1e-7)
    with pytest.raises(ValueError, match="read-only"):
        ours[0, 0] = 1.0


def test_log_mel_is_the_logarithm_of_librosas_bands_of_htk_and_has_gradients_in_silence() -> None:
    x, settings = np.random.default_rng(0).standard_normal(4000).astype(np.float32), features.Stft(n_fft=400, hop=160, center=False)
    bands = librosa.filters.mel(sr=16000, n_fft=400, n_mels=40, htk=True, norm=None)
    expected = np.log(bands @ np.abs(librosa.stft(x, n_fft=400, hop_length=160, center=False))).T
    np.testing.assert_allclose(features.log_mel(jnp.asarray(x), settings, 16000, 40), expected, atol=1e-4)
    gradient = jax.grad(lambda x: features.log_mel(x, settings, 16000, 40).sum())
    assert np.isfinite(gradient(jnp.zeros(4000))).all() and np.asarray(gradient(jnp.asarray(x))).any()


@pytest.mark.parametrize("range_db", [40.0, 80.0])
def test_decibels_are_librosas(range_db: float) -> None:
    power = _spectrogram() ** 4
    theirs = librosa.power_to_db(power, top_db=range_db)
    np.testing.assert_allclose(features.decibels(jnp.asarray(power), range_db), theirs, atol=1e-4)


# --- features ------------------------------------------------------------------------------------------------------------


def _theirs(waveform: np.ndarray, feature: str) -> np.ndarray:
    spectrum = np.abs(librosa.stft(waveform, n_fft=400, hop_length=160, center=False))
    mel = librosa.filters.mel(sr=RATE, n_fft=400, n_mels=120)
    if feature == "LMS":
        return librosa.power_to_db(mel @ spectrum**2).T
    parts = librosa.decompose.hpss(spectrum, kernel_size=(21, 11), power=2.0)
    return np.concatenate([librosa.power_to_db((mel @ part) ** 2) for part in parts]).T


@pytest.mark.parametrize("feature", ["LMS", "LMHPS-EF"])
def test_features_are_what_the_authors_call_librosa_for(feature: str) -> None:
    waveform = _noise(1.5)
    ours = np.asarray(features.extract(jnp.asarray(waveform), Front(feature)))
    np.testing.assert_allclose(ours, _theirs(waveform, feature), atol=2e-3)  # decibels


@pytest.mark.parametrize("feature", features.FEATURES)
def test_every_feature_has_its_width(feature: str) -> None:
    front = Front(feature)
    found = features.extract(jnp.asarray(_noise(0.5)), front)
    assert found.shape == (48, front.width) and bool(jnp.isfinite(found).all())
    assert front.width == {"S": 201, "LS": 201, "HPS-EF": 402, "LHPS-EF": 402, "MHPS-EF": 240, "LMHPS-EF": 240}.get(feature, 120)


def test_louder_sound_is_higher_by_as_many_decibels() -> None:
    waveform = jnp.asarray(_noise(0.5))
    quiet, loud = (features.extract(level * waveform, Front("LMHPS-EF")) for level in (jnp.float32(1), jnp.float32(10)))
    np.testing.assert_allclose(loud - quiet, 20.0, atol=0.01)


def test_silence_has_features_and_less_than_a_frame_has_none() -> None:
    assert np.all(np.asarray(features.extract(jnp.zeros(4000), Front())) == -100)
    with pytest.raises(UserError, match="shorter than one frame"):
        features.extract(jnp.zeros(399), Front("LMS"))


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"feature": "MFCC"}, "choose"), ({"bands": 0}, "positive"), ({"harmonic": 20}, "odd"), ({"range_db": -1.0}, "positive")],
)
def test_settings_that_make_no_sense_are_refused(settings: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        Front(**settings)


@pytest.mark.parametrize("feature", ["MS", "MHPS-EF", "S", "LMS"])
def test_standardised_features_do_not_know_how_loud_a_recording_is(feature: str) -> None:
    front = Front(feature, bands=20)
    x = np.random.default_rng(0).standard_normal(RATE).astype(np.float32) * np.linspace(0.01, 1, RATE, dtype=np.float32)
    loud, quiet = (np.asarray(features.standardise(features.extract(jnp.asarray(gain * x), front))) for gain in (1.0, 2.0**-7))
    np.testing.assert_allclose(quiet, loud, atol=2e-3)
    np.testing.assert_allclose(quiet.std(0), 1, atol=1e-3)


def test_bands_are_standardised_and_steady_ones_are_zero() -> None:
    x = 3.0 * _spectrogram() + 7.0
    x[:, 4] = 2.0
    found = np.asarray(features.standardise(jnp.asarray(x)))
    np.testing.assert_allclose(found.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(np.delete(found, 4, axis=1).std(0), 1, rtol=1e-4)
    assert np.all(found[:, 4] == 0)


@pytest.mark.parametrize("steady", [-62.3, -41.7, 0.1])
def test_what_nothing_changes_is_zero_whatever_its_level(steady: float) -> None:
    x = np.full((80, 3), steady, np.float32)
    for found in (features.standardise(x), features.standardise(jnp.asarray(x))):
        np.testing.assert_allclose(found, 0, atol=1e-4)


def test_patches_tile_what_is_too_short_and_drop_what_is_left_over() -> None:
    x = _spectrogram(150, 3)
    made = features.patches(x, 68)
    assert made.shape == (2, 68, 3)
    np.testing.assert_array_equal(made[1], x[68:136])
    np.testing.assert_array_equal(features.patches(x, 68, 1)[82], x[82:])
    short = features.patches(x[:30], 68)
    assert len(short) == 1
    np.testing.assert_array_equal(short[0, 30:60], x[:30])
    for wrong in ({"length": 0}, {"hop": 0}):
        with pytest.raises(UserError, match="positive"):
            features.patches(x, **wrong)
    with pytest.raises(UserError, match="shorter than one frame"):
        features.patches(x[:0])


# --- waveforms -----------------------------------------------------------------------------------------------------------


def test_waveforms_are_centred_and_reach_one() -> None:
    found = features.normalise(0.01 * _noise(0.2) + np.float32(0.3))
    assert abs(found.mean()) < 1e-5 and np.abs(found).max() == pytest.approx(1.0)
    assert np.all(features.normalise(np.full(10, 0.5, np.float32)) == 0) and len(features.normalise(np.zeros(0, np.float32))) == 0


def _with_pauses(*pauses: float) -> tuple[np.ndarray, int]:
    """Half a second of noise around each pause; and how many samples of it sound."""
    tone = (0.5 * np.sin(np.arange(RATE // 2) * 0.3)).astype(np.float32)
    parts = [tone]
    for seconds in pauses:
        parts += [np.zeros(round(seconds * RATE), np.float32), tone]
    return np.concatenate(parts), len(tone) * (len(pauses) + 1)


def test_pauses_go_and_short_ones_stay() -> None:
    waveform, sounding = _with_pauses(0.5, 0.3)
    found = features.remove_silence(waveform, RATE)
    assert abs(len(found) - sounding) < 0.03 * RATE * 2 and np.abs(found).max() == np.abs(waveform).max()
    short, _ = _with_pauses(0.05)
    np.testing.assert_array_equal(features.remove_silence(short, RATE), short)
    one, sounding = _with_pauses(0.5)
    assert abs(len(features.remove_silence(one, RATE)) - sounding) < 0.03 * RATE
    np.testing.assert_array_equal(features.remove_silence(waveform[:100], RATE), waveform[:100])


def test_a_pause_at_the_end_goes_too() -> None:
    waveform, sounding = _with_pauses(0.4)
    ended = np.concatenate([waveform, np.zeros(RATE // 3, np.float32)])
    assert abs(len(features.remove_silence(ended, RATE)) - sounding) < 0.06 * RATE


def test_the_released_rule_keeps_one_pause_and_fills_the_end() -> None:
    one, _ = _with_pauses(0.5)
    np.testing.assert_array_equal(features.remove_silence(one, RATE, as_released=True), one)
    two, _ = _with_pauses(0.5, 0.3)
    found, right = (features.remove_silence(two, RATE, as_released=flag) for flag in (True, False))
    assert len(found) == len(two)
    np.testing.assert_array_equal(found[: len(right)], right)
    assert np.all(found[len(right) :] == 1)


@pytest.mark.parametrize("frames", [1, 7, 999, 1000, 1003, 2010])
@pytest.mark.parametrize("feature", ["LMHPS-EF", "MS"])
def test_in_pieces_it_is_the_same(frames, feature):
    front = features.Front(feature=feature)
    x = np.random.default_rng(frames).standard_normal(400 + 160 * (frames - 1) + 91).astype(np.float32)
    x *= np.linspace(0.01, 1, len(x), dtype=np.float32)
    whole = np.asarray(features.extract(jnp.asarray(x), front))
    np.testing.assert_allclose(features.extract_in_pieces(x, front), whole, rtol=2e-5, atol=2e-3)


def test_in_pieces_less_than_a_frame_is_refused():
    with pytest.raises(UserError, match="399 samples is shorter"):
        features.extract_in_pieces(np.zeros(399, np.float32))


@pytest.mark.parametrize("sizes", [[160], [399, 1], [160_000], [7, 100_000, 3, 250_000, 1_000, 16_000]])
def test_streamed_it_is_the_same_wherever_blocks_begin(sizes):
    front = features.Front(range_db=200.0)
    x = np.random.default_rng(3).standard_normal(400 + 160 * 2500 + 11).astype(np.float32)
    blocks, at = [], 0
    while at < len(x):
        blocks.append(x[at : at + sizes[len(blocks) % len(sizes)]])
        at += len(blocks[-1])
    if len(blocks) > 50:
        blocks, x = blocks[:50], x[: 50 * 160] if sizes == [160] else x[: 25 * 400]
    streamed = np.concatenate(list(features.stream_levels(iter(blocks), front)))
    np.testing.assert_allclose(streamed, np.asarray(features.extract(jnp.asarray(x), front)), rtol=2e-5, atol=2e-3)
