"""The recogniser: its size, padding that changes nothing, its attention and its search by brute force, and that it learns."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bayessep.errors import UserError
from bayessep.models import attention_asr as asr
from bayessep.models.attention_asr import BEGIN, END, PRESETS, AttentionAsr, Batch, Recogniser, State, features, graph, state_count
from bayessep.models.beam_search import decode

TINY = AttentionAsr(
    labels=4, layers=2, units=3, channels=2, attention=5, filters=2, reach=4, mels=8, window=16, hop=4, sample_rate=200, rate=1e-2
)  # fmt: skip
EXACT = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture(scope="module")
def state() -> State:
    """A recogniser that has learned nothing, but whose weights are large enough for labels to differ."""
    begun = asr.init(TINY, jax.random.key(3))
    return begun._replace(parameters=jax.tree.map(lambda x: 3 * x, begun.parameters))


def _batch(seed: int = 0, n: int = 160) -> Batch:
    rng = np.random.default_rng(seed)
    labels = np.array([[BEGIN, 2, 3, END], [BEGIN, 3, END, END]])
    return Batch(rng.normal(size=(2, n)).astype(np.float32), np.array([160, 101]), labels, np.array([4, 3]))


def test_the_papers_network_has_the_size_of_its_sentence() -> None:
    """30.54 million of the authors' code, whose LSTM layers have two biases each (12,800 more in the encoder)."""
    convolutions = (9 + 3) * 32 + (9 * 32 + 3) * 32
    directions = sum(4 * 320 * (n + 320 + 1) for n in (320, 640, 640, 640, 640))
    attention = 320 * 640 + 641 * 640 + 10 * (640 + 100) + 640
    decoder = 9515 * (1280 + 320 + 1) + 1280 * (960 + 1 + 1280 + 1) + 320 * (640 + 1 + 320)
    size = asr.parameter_count(PRESETS["paper"])
    assert size == convolutions + 2 * directions + 2 * 640 + attention + decoder == 30_526_451
    assert round((size + 12_800) / 1e6, 2) == 30.54


def test_places_are_those_that_the_encoder_makes() -> None:
    for n in (40, 41, 55, 56, 160):
        x = features(TINY, jnp.ones((1, n)), jnp.array([n]))
        count = state_count(TINY, jnp.array([n]))
        made = jax.eval_shape(lambda x, c: Recogniser(TINY, nnx.Rngs(0)).encoder(x, c), x, count)
        assert made.shape == (1, int(count[0]), 6)
    assert int(state_count(TINY, jnp.array([TINY.shortest]))[0]) == 1
    assert int(state_count(TINY, jnp.array([TINY.shortest - 1]))[0]) == 0


@pytest.mark.parametrize("training", [False, True])
def test_padding_and_company_change_nothing(state: State, training: bool) -> None:
    """Not what is heard, nor the loss, nor its gradient, nor the running statistics, whatever lies behind an end."""
    batch, key = _batch(), None
    if training:  # without dropout, whose noise depends on shapes
        key = jax.random.key(0)
    config = AttentionAsr(**{**vars(TINY), "dropout": 0.0})
    longer = np.pad(np.asarray(batch.waveform), ((0, 0), (0, 77)), constant_values=9)
    longer[1, 101:] = -9
    labels = np.pad(np.asarray(batch.labels), ((0, 0), (0, 3)), constant_values=2)
    padded = Batch(longer, batch.samples, labels, batch.length)

    def loss(parameters: object, of: Batch) -> tuple[jax.Array, object]:
        found, statistics = asr.losses(config, parameters, state.statistics, of, key)
        return found.loss, statistics

    graded = jax.jit(jax.value_and_grad(loss, has_aux=True))
    both = (jax.tree.leaves(graded(state.parameters, of)) for of in (batch, padded))
    for one, other in zip(*both, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)
    if not training:
        alone = sum(
            asr.measure(config, state, Batch(*(np.asarray(x)[k : k + 1] for x in batch))).loss for k in range(2)
        )
        np.testing.assert_allclose(alone, asr.measure(config, state, padded).loss, **EXACT)


def test_attention_says_what_the_equations_say(state: State) -> None:
    model = nnx.merge(graph(TINY), state.parameters, state.statistics)
    rng = np.random.default_rng(1)
    places_, said, before = rng.normal(size=(2, 7, 6)), rng.normal(size=(2, 3)), rng.dirichlet(np.ones(7), 2)
    heard = model.decoder.prepare(jnp.asarray(places_, jnp.float32), jnp.array([7, 5]))
    found = model.decoder.attend(heard, jnp.asarray(said, jnp.float32), jnp.asarray(before, jnp.float32))
    a = model.decoder.attend
    w, v, b, u, energy, kernel = (
        np.asarray(p[...], np.float64) for p in (a.of_said, a.of_heard, a.bias, a.of_before, a.energy, a.kernel)
    )
    for n, count in enumerate((7, 5)):
        padded = np.pad(before[n], (2, 2))
        seen = np.array([padded[t : t + 4] @ kernel for t in range(7)])  # half before, half from there on; the last is cut
        e = np.tanh(said[n] @ w + places_[n] @ v + b + seen @ u)[:count] @ energy
        np.testing.assert_allclose(found[n, :count], np.exp(e) / np.exp(e).sum(), rtol=1e-4)
        assert not found[n, count:].any()


@jax.jit
def _likely(state: State, waveform: jax.Array, samples: jax.Array, labels: jax.Array) -> jax.Array:
    model = nnx.merge(graph(TINY), state.parameters, state.statistics)
    heard = (jnp.repeat(x, len(labels), axis=0) for x in (features(TINY, waveform, samples), state_count(TINY, samples)))
    return jax.nn.log_softmax(model(*heard, labels))


def _log_probabilities(state: State, batch: Batch, said: list[tuple[int, ...]]) -> list[float]:
    """Of labels in the first utterance, with all before them told."""
    labels = np.array([(*one, *(END,) * (6 - len(one))) for one in said])
    likely = np.asarray(_likely(state, *(jnp.asarray(x[:1]) for x in batch[:2]), jnp.asarray(labels)))
    return [float(sum(likely[k, n, label] for n, label in enumerate(one))) for k, one in enumerate(said)]


def test_a_search_of_all_hypotheses_finds_the_likeliest_of_them(state: State) -> None:
    """By enumeration: everything that ends within three labels, and everything that does not."""
    every = [said for said in itertools.product(range(4), repeat=3) if END not in said[:-1]]
    every += [(*said, END) for n in range(2) for said in itertools.product((0, 2, 3), repeat=n)]
    for seed in range(3):
        batch = _batch(seed)
        chances = dict(zip(every, _log_probabilities(state, batch, every), strict=True))
        assert sum(np.exp(list(chances.values()))) == pytest.approx(1, abs=1e-4)
        best = max(chances, key=chances.get)
        heard = jnp.asarray(batch.waveform[:1]), jnp.asarray(batch.samples[:1])
        found = decode(TINY, state.parameters, state.statistics, *heard, 64, 3)
        assert tuple(np.asarray(found.labels[0, : int(found.length[0])]).tolist()) == best
        assert float(found.log_probability[0]) == pytest.approx(chances[best], abs=1e-4)
        assert float(jnp.log(found.probability[0, : len(best)]).sum()) == pytest.approx(chances[best], abs=1e-4)


def test_a_search_of_one_takes_the_likeliest_label_each_time(state: State) -> None:
    batch = _batch(1)
    found = decode(TINY, state.parameters, state.statistics, jnp.asarray(batch.waveform), jnp.asarray(batch.samples), 1, 6)
    said: tuple[int, ...] = ()
    for _ in range(int(found.length[0])):
        said += (int(np.argmax(_log_probabilities(state, batch, [(*said, label) for label in range(4)]))),)
    assert said == tuple(np.asarray(found.labels[0, : len(said)]).tolist())
    count = state_count(TINY, jnp.asarray(batch.samples))
    assert (np.asarray(found.place) < np.asarray(count)[:, None]).all()


@pytest.mark.parametrize("width", [1, 4])
def test_what_is_found_does_not_depend_on_padding(state: State, width: int) -> None:
    batch = _batch(2)
    longer = np.pad(np.asarray(batch.waveform), ((0, 0), (0, 50)), constant_values=5)
    samples = jnp.asarray(batch.samples)
    both = decode(TINY, state.parameters, state.statistics, jnp.asarray(longer), samples, width, 8)
    for k in range(2):
        x = jnp.asarray(batch.waveform[k : k + 1, : int(samples[k])])
        alone = decode(TINY, state.parameters, state.statistics, x, samples[k : k + 1], width, 8)
        n = int(alone.length[0])
        assert n == int(both.length[k])
        np.testing.assert_array_equal(both.labels[k, :n], alone.labels[0, :n])
        np.testing.assert_array_equal(both.place[k, :n], alone.place[0, :n])
        np.testing.assert_allclose(both.log_probability[k], alone.log_probability[0], **EXACT)


def test_the_loss_is_the_smoothed_cross_entropy_of_all_labels(state: State) -> None:
    batch = _batch()
    model = nnx.merge(graph(TINY), state.parameters, state.statistics)
    samples = jnp.asarray(batch.samples)
    said = model(features(TINY, jnp.asarray(batch.waveform), samples), state_count(TINY, samples), jnp.asarray(batch.labels))
    likely = np.asarray(jax.nn.log_softmax(said), np.float64)
    expected = 0.0
    for n, count in enumerate(batch.length):
        for k, label in enumerate(batch.labels[n][:count]):
            truth = np.full(4, 0.1 / 3)
            truth[label] = 0.9
            expected -= float(truth @ likely[n, k])
    assert float(asr.measure(TINY, state, batch).loss) == pytest.approx(expected, rel=1e-4)


@pytest.mark.loose_arrays  # optax
def test_it_learns_which_of_two_tones_comes_first() -> None:
    """And is compiled once."""
    config = AttentionAsr(**{**vars(TINY), "units": 16, "attention": 16, "channels": 4})
    time, rng = np.arange(80) / 200, np.random.default_rng(0)
    tones = [np.sin(2 * np.pi * f * time) for f in (15.0, 70.0)]

    def drawn() -> Batch:
        order = rng.integers(2, size=8)
        sound = np.stack([np.concatenate([tones[k], tones[1 - k]]) for k in order]) + 0.05 * rng.normal(size=(8, 160))
        labels = np.array([[BEGIN, 2 + k, 3 - k, END] for k in order])
        return Batch(sound.astype(np.float32), np.full(8, 160), labels, np.full(8, 4))

    state, before = asr.init(config, jax.random.key(0)), asr.step._cache_size()
    for n in range(80):
        state, found = asr.step(config, state, drawn(), jax.random.key(n))
    assert asr.step._cache_size() == before + 1
    assert float(found.right) == 1
    batch = drawn()
    said = decode(config, state.parameters, state.statistics, jnp.asarray(batch.waveform), jnp.asarray(batch.samples), 2, 6)
    np.testing.assert_array_equal(said.labels[:, :4], batch.labels)


@pytest.mark.parametrize(
    ("changes", "says"),
    [({"layers": 0}, "layers is 0"), ({"labels": 2}, "labels is 2"), ({"dropout": 1.0}, "dropout is 1"), ({"peak": 0.0}, "peak"),
     ({"labels": 4, "smoothing": 0.75}, "below 0.75")],
)
def test_impossible_settings_are_refused(changes: dict, says: str) -> None:
    with pytest.raises(UserError, match=says):
        AttentionAsr(**changes)
