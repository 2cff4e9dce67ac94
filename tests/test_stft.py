"""The transform against librosa, against itself (there and back, block by block), and its gradient."""

import jax
import jax.numpy as jnp
import librosa
import numpy as np
import pytest
import scipy
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from bayessep.errors import UserError
from bayessep.stft import (
    WINDOWS,
    Stft,
    bin_frequencies,
    frame_count,
    frame_times,
    is_invertible,
    istft,
    istream_finish,
    istream_init,
    istream_push,
    stft,
    stft_for_rate,
    stream_finish,
    stream_init,
    stream_push,
)


def noise(*shape, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def librosa_window(s):
    """A window as librosa wants it: a name, or the samples where librosa knows no such name."""
    if s.window == "sqrt_hann":
        return np.sqrt(librosa.filters.get_window("hann", s.win_length or s.n_fft))
    return "boxcar" if s.window == "rectangular" else s.window


def librosa_stft(x, s):
    spectrum = librosa.stft(
        x,
        n_fft=s.n_fft,
        hop_length=s.hop,
        win_length=s.win_length,
        window=librosa_window(s),
        center=s.center,
        pad_mode=s.pad_mode,
        dtype=np.result_type(x.dtype, np.complex64),
    )
    return spectrum.swapaxes(-1, -2)


CASES = [
    *(Stft(64, 16, window) for window in WINDOWS),
    Stft(),
    Stft(center=False),
    Stft(pad_mode="reflect"),
    Stft(512, 160, win_length=400, center=False),
    Stft(255, 64, "hamming", win_length=200, pad_mode="reflect"),
    Stft(64, 100, center=False),
    Stft(32, 2),
]


# --- values -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("s", CASES, ids=str)
def test_equals_librosa(s):
    x = noise(2, 3001)
    ours = stft(x, s)
    assert ours.dtype == jnp.complex64
    np.testing.assert_allclose(ours, librosa_stft(x, s), atol=1e-5 * np.sqrt(s.n_fft))


@pytest.mark.parametrize("s", CASES[6:], ids=str)
def test_float64_equals_librosa_closely(s, x64):
    x = noise(3001, dtype=np.float64)
    ours = stft(x, s)
    assert ours.dtype == jnp.complex128
    theirs = librosa_stft(x, s)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12 * np.abs(theirs).max())


@pytest.mark.parametrize("s", [s for s in CASES[4:] if is_invertible(s)], ids=str)
def test_inverse_equals_librosa_on_a_changed_spectrum(s, x64):
    n = 3001
    gains = noise(frame_count(n, s), s.n_bins, seed=1, dtype=np.float64)
    spectrum = np.asarray(stft(noise(n, dtype=np.float64), s)) * gains
    theirs = librosa.istft(
        np.asarray(spectrum).T,
        n_fft=s.n_fft,
        hop_length=s.hop,
        win_length=s.win_length,
        window=librosa_window(s),
        center=s.center,
        length=n,
        dtype=np.float64,
    )
    # Relative to the largest sample: at the ends librosa, too, divides by next to nothing.
    np.testing.assert_allclose(istft(spectrum, s, n), theirs, rtol=1e-9, atol=1e-12 * np.abs(theirs).max())


@pytest.mark.parametrize("n", [1, 7, 512, 513])
@pytest.mark.parametrize("pad_end", [False, True])
def test_short_waveforms(n, pad_end, x64):
    s = Stft(pad_end=pad_end)
    x = noise(n, dtype=np.float64)
    spectrum = stft(x, s)
    assert spectrum.shape == (frame_count(n, s), 513)
    np.testing.assert_allclose(istft(spectrum, s, n), x, atol=1e-9)


def test_a_short_waveform_is_mirrored_as_often_as_needed():
    s = Stft(64, 16, pad_mode="reflect")
    x = noise(5)
    padded = np.pad(x, 32, mode="reflect")
    by_hand = np.stack([np.fft.rfft(padded[:64] * librosa.filters.get_window("hann", 64))])
    np.testing.assert_allclose(stft(x, s), by_hand, atol=1e-5)


def test_too_short_is_said():
    with pytest.raises(UserError, match="shorter than one frame"):
        stft(noise(100), Stft(center=False))
    with pytest.raises(UserError, match="mirrored"):
        stft(noise(1), Stft(pad_mode="reflect"))


def test_what_no_frame_reaches_is_zero():
    s = Stft(8, 4, "boxcar", center=False)
    y = istft(stft(noise(11), s), s, 20)
    assert y.shape == (20,) and not y[8:].any() and y[:8].all()


# --- there and back -----------------------------------------------------------------------------------------


@given(
    n_fft=st.integers(2, 48),
    hop=st.integers(1, 48),
    n=st.integers(2, 150),
    window=st.sampled_from(WINDOWS),
    short=st.integers(0, 5),
    center=st.booleans(),
    pad_mode=st.sampled_from(["constant", "reflect"]),
)
@settings(max_examples=8)
@example(n_fft=16, hop=16, n=100, window="boxcar", short=0, center=True, pad_mode="constant")
@example(n_fft=9, hop=4, n=33, window="hann", short=0, center=True, pad_mode="reflect")
def test_reconstruction(n_fft, hop, n, window, short, center, pad_mode):
    """Wherever some window is not zero, the waveform comes back."""
    assume(short < n_fft - 1)
    s = Stft(n_fft, hop, window, n_fft - short, center, pad_mode, pad_end=True)
    if not is_invertible(s):
        with pytest.raises(UserError, match="cannot be inverted"):
            istft(jnp.zeros((3, s.n_bins), jnp.complex64), s, n)
        return
    with jax.enable_x64(True):
        x = noise(2, n, dtype=np.float64)
        y = istft(stft(x, s), s, n)
    # Without centring the edges of the window fall on the first samples; that is no fault of the inverse.
    edge = 0 if center else n_fft
    np.testing.assert_allclose(y[:, edge : n - edge], x[:, edge : n - edge], atol=1e-8)
    if window in ("boxcar", "rectangular") and not short:
        np.testing.assert_allclose(y, x, atol=1e-10)


@pytest.mark.parametrize(
    "s",
    [Stft(64, 64), Stft(64, 65, "boxcar"), Stft(64, 64, "sqrt_hann"), Stft(64, 32, win_length=32)],
    ids=str,
)
def test_gaps_are_refused(s):
    assert not is_invertible(s)
    for refused in (lambda: istft(jnp.zeros((3, 33), jnp.complex64), s, 100), lambda: istream_init(s)):
        with pytest.raises(UserError, match=f"hop {s.hop} cannot be inverted"):
            refused()


def test_padding_the_end_keeps_a_changed_spectrum_from_clicking():
    """Separation changes spectra. That must not make the last samples many times louder than the rest."""
    n = 1024 * 10 + 511  # the last sample lies on the faintest edge of the last window
    x = noise(n)
    loudest = {}
    for pad_end in (False, True):
        s = Stft(pad_end=pad_end)
        mask = np.random.default_rng(1).random((frame_count(n, s), s.n_bins)).astype(np.complex64)
        loudest[pad_end] = np.abs(istft(stft(x, s) * mask, s, n)).max() / np.abs(x).max()
    assert loudest[True] < 1 < 100 < loudest[False]


@pytest.mark.parametrize("window", WINDOWS)
def test_what_no_frame_reaches_is_not_blown_up(window):
    """Blackman's first value is zero but for rounding, and only the first frame has it over the first sample."""
    x, s = noise(5000), Stft(1024, 256, window, center=False, pad_end=True)
    found = np.asarray(istft(stft(x, s), s, len(x)))
    assert abs(found[0]) <= abs(x[0]) + 1e-3 and np.abs(found - x)[1:].max() < 0.05
    mask = np.random.default_rng(1).random((frame_count(len(x), s), s.n_bins)).astype(np.complex64)
    assert abs(np.asarray(istft(stft(x, s) * mask, s, len(x)))[0]) <= 10 * np.abs(x).max()


# --- jit, vmap, grad ----------------------------------------------------------------------------------------


def test_batches_and_vmap_agree():
    s = Stft(64, 16)
    x = noise(2, 3, 200)
    spectrum = stft(x, s)
    mapped = jax.vmap(jax.vmap(lambda row: stft(row, s)))(x)
    np.testing.assert_allclose(spectrum, mapped, atol=1e-5)
    np.testing.assert_allclose(spectrum[1, 2], stft(x[1, 2], s), atol=1e-5)
    back = jax.vmap(jax.vmap(lambda rows: istft(rows, s, 200)))(spectrum)
    np.testing.assert_allclose(istft(spectrum, s, 200), back, atol=1e-6)


@pytest.mark.parametrize("s", [Stft(15, 4, pad_mode="reflect"), Stft(16, 8, center=False)], ids=str)
def test_gradients_are_those_of_finite_differences(s, x64):
    x = noise(41, dtype=np.float64)
    weights = noise(frame_count(41, s), s.n_bins, seed=1, dtype=np.float64)

    def energy(x):
        return jnp.sum(weights * jnp.abs(stft(x, s)) ** 2)

    def resynthesised(w):
        return jnp.sum(istft(w.astype(jnp.complex128) * stft(x, s), s, 41)[8:33] ** 2)

    check_grads(jax.jit(energy), (jnp.asarray(x),), order=1, modes=["rev"], rtol=1e-6)
    check_grads(jax.jit(resynthesised), (jnp.asarray(weights),), order=1, modes=["rev"], rtol=1e-6)


def test_settings_are_static_and_equal_settings_trace_once():
    traces = []

    @jax.jit
    def run(x):
        traces.append(None)
        return istft(stft(x, Stft(64, 16)), Stft(64, 16), x.shape[-1])

    run(noise(100)), run(noise(100, seed=1))
    assert len(traces) == 1 and hash(Stft(64, 16)) == hash(Stft(64, 16))


# --- block by block -----------------------------------------------------------------------------------------


def in_blocks(x, s, sizes):
    """Frames of a waveform pushed in blocks of these sizes, and then all of the rest."""
    state, frames = stream_init(s, x.shape[:-1], x.dtype), []
    cuts = [c for c in np.cumsum(sizes) if c < x.shape[-1]]
    for block in np.split(x, cuts, axis=-1):
        state, new = stream_push(state, block, s)
        frames.append(new)
    return [*frames, stream_finish(state, s)]


STREAMED = [
    Stft(32, 16),
    Stft(32, 8, pad_mode="reflect"),
    Stft(32, 8, pad_mode="reflect", pad_end=True),
    Stft(33, 12, "hamming", win_length=30, pad_end=True),
    Stft(32, 16, center=False),
    Stft(32, 32, "boxcar", center=False, pad_end=True),
    Stft(32, 24, "boxcar", pad_mode="reflect", pad_end=True),
]


@pytest.mark.parametrize(
    ("s", "n", "sizes"),
    [
        *((s, 201, [1] * 201) for s in STREAMED),
        *((s, 333, [0, 100, 0, 3, 90]) for s in STREAMED[2:4]),
        *((s, 33, [20, 12]) for s in STREAMED[1:3]),
    ],
)
def test_streaming_equals_one_shot(s, n, sizes):
    x = noise(2, n)
    spectrum = stft(x, s)
    blocks = in_blocks(x, s, sizes)
    np.testing.assert_allclose(np.concatenate(blocks, axis=-2), spectrum, atol=1e-5)

    whole = istft(spectrum, s, n)
    state, samples = istream_init(s, (2,)), []
    for frames in blocks:
        state, new = istream_push(state, frames, s)
        samples.append(new)
    samples.append(istream_finish(state, s, n))
    np.testing.assert_allclose(np.concatenate(samples, axis=-1), whole, atol=1e-6)


@pytest.mark.parametrize("n", [2, 16, 17])
@pytest.mark.parametrize("s", [STREAMED[0], STREAMED[2]], ids=str)
def test_streaming_of_less_than_a_frame(n, s):
    x = noise(n)
    np.testing.assert_allclose(np.concatenate(in_blocks(x, s, [1] * n), axis=-2), stft(x, s), atol=1e-5)


def test_streams_come_out_as_they_go_in_and_are_bounded():
    s, block = Stft(64, 32), 100
    state, inverse = stream_init(s), istream_init(s)
    given_out = 0
    for i in range(30):
        state, frames = stream_push(state, noise(block, seed=i), s)
        inverse, samples = istream_push(inverse, frames, s)
        given_out += len(samples)
        assert given_out > (i + 1) * block - 64 - 5 * 32
        assert state.recent.size <= 64 + 32 + block and inverse.held.size <= 2 * 32


def test_blocks_of_constant_length_are_compiled_for_few_shapes():
    s, block = Stft(66, 31), 100  # sizes no other test uses
    state, inverse = stream_init(s), istream_init(s)
    compiled = []
    for i in range(40):
        state, frames = stream_push(state, noise(block, seed=i), s)
        inverse, _ = istream_push(inverse, frames, s)
        compiled.append(stft._cache_size())
    assert compiled[-1] == compiled[5]


def test_a_stream_that_is_too_long_is_refused():
    s = Stft(16, 8)
    state, _ = istream_push(istream_init(s), stft(noise(400), s), s)
    with pytest.raises(UserError, match="should have 100 samples"):
        istream_finish(state, s, 100)


# --- settings, times and frequencies ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (dict(n_fft=1), "n_fft is 1"),
        (dict(hop=0), "hop is 0"),
        (dict(window="kaiser"), "'kaiser' is not known"),
        (dict(win_length=2000), "win_length is 2000"),
        (dict(win_length=0), "win_length is 0"),
        (dict(pad_mode="wrap"), "'wrap' is not known"),
    ],
)
def test_wrong_settings_are_named(wrong, said):
    with pytest.raises(UserError, match=said):
        Stft(**wrong)


def test_settings_for_a_rate():
    assert (stft_for_rate(16000).n_fft, stft_for_rate(16000).hop) == (1024, 512)
    assert (stft_for_rate(8000).n_fft, stft_for_rate(48000, overlap=0.75).hop) == (512, 768)
    for rate in (11025, 22050, 44100, 96000):
        s = stft_for_rate(rate)
        assert s.n_fft % 2 == 0 and s.n_fft == 2 * s.hop and abs(s.n_fft / rate / 0.064 - 1) < 0.04
        assert is_invertible(s)
    assert stft_for_rate(16000, 0.0645).n_fft == 1024  # of 1032: the nearest good size, not the next
    for wrong in (lambda: stft_for_rate(0), lambda: stft_for_rate(16000, overlap=1.0)):
        with pytest.raises(UserError):
            wrong()


@pytest.mark.parametrize("s", [Stft(64, 16), Stft(64, 16, center=False), Stft(63, 20, pad_end=True)], ids=str)
def test_times_are_where_a_click_is_loudest(s):
    """A click in the middle of a frame is seen best by that frame, and at every frequency alike."""
    rate, n = 1000, 400
    times = frame_times(frame_count(n, s), s, rate)
    np.testing.assert_allclose(
        times, librosa.frames_to_time(np.arange(len(times)), sr=rate, hop_length=s.hop) + times[0]
    )
    for t in (3, 10):
        x = np.zeros(n, np.float32)
        x[round(times[t] * rate)] = 1
        assert np.argmax(np.abs(stft(x, s)).sum(axis=-1)) == t


@pytest.mark.parametrize("length", [1, 2, 5, 512, 1103])
@pytest.mark.parametrize("name", WINDOWS)
def test_windows_are_those_of_scipy(name, length):
    """The transform of a constant, transformed back, is the window."""
    s = Stft(1200, 1200, name, length, center=False)
    window = np.fft.irfft(np.asarray(stft(np.ones(1200), s))[0], 1200)
    expected = scipy.signal.get_window({"sqrt_hann": "hann", "rectangular": "boxcar"}.get(name, name), length)
    expected = np.sqrt(expected) if name == "sqrt_hann" else expected
    before = (1200 - length) // 2
    np.testing.assert_allclose(window, np.pad(expected, (before, 1200 - length - before)), atol=1e-6)


def test_frequencies():
    np.testing.assert_allclose(bin_frequencies(Stft(), 16000), librosa.fft_frequencies(sr=16000, n_fft=1024))
    assert Stft(255).n_bins == len(bin_frequencies(Stft(255), 8000)) == 128
