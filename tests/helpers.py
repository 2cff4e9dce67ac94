"""Random problems of the conjugate core, and what several tests do with them."""

import csv
import dataclasses
import itertools
import types
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats as st

from bayessep import audio, data, protocol
from bayessep.gamma import Gamma
from bayessep.inference import conjugate
from bayessep.inference.conjugate import Schedule
from bayessep.models import conditionals, frame_prior
from bayessep.models import jingle_mixture as jm

BASES = 3

# --- sound in containers ------------------------------------------------------------------------------------


def write_tracks(av: Any, path: Path, tracks: list[np.ndarray], rate: int) -> None:
    """Write stereo sounds (2, N) as AAC tracks of an mp4 file, by PyAV."""
    with av.open(str(path), "w", format="mp4") as container:
        streams = [container.add_stream("aac", rate=rate, layout="stereo") for _ in tracks]
        for stream, x in zip(streams, tracks, strict=True):
            for i in range(0, x.shape[1], 1024):
                piece = np.ascontiguousarray(x[:, i : i + 1024], np.float32)
                frame = av.AudioFrame.from_ndarray(piece, format="fltp", layout="stereo")
                frame.sample_rate, frame.pts = rate, i
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))


# --- compiling ----------------------------------------------------------------------------------------------


def _accepted(options: dict[str, Any]) -> dict[str, Any]:
    """The options that this version of the compiler knows."""
    known = {}
    for name, value in options.items():
        try:
            jax.jit(lambda: 0, compiler_options={name: value}).lower().compile()
        except Exception:  # what is raised differs between versions
            continue
        known[name] = value
    return known


def _sparing_jit(level: int) -> Any:
    options = {
        "xla_backend_optimization_level": level,
        "xla_llvm_disable_expensive_passes": level == 0,
        "xla_cpu_use_fusion_emitters": False,
        "xla_cpu_parallel_codegen_split_count": 1,
    }
    return partial(jax.jit, compiler_options=_accepted(options))


# Small problems take milliseconds to run and seconds to compile, so the compiler is told not to try hard: a quarter of
# the time. What draws many random numbers runs too slowly then; for that there is something in between.
quick_jit = _sparing_jit(0)
sampling_jit = _sparing_jit(1)


# --- problems -----------------------------------------------------------------------------------------------


class Setting(NamedTuple):
    """What a random problem is made of; problems of one setting have the same shapes and static choices."""

    music: Literal["none", "known", "latent"] = "known"
    chain: bool = False
    switches: Literal["on", "labelled", "unlabelled"] = "on"
    weights: bool = False  # frames count 0 to 2 times
    observed: bool = False  # a fifth of the bins is held out
    proper: bool = False  # Gamma priors on filter and gain; otherwise flat ones, read as modes
    learn: jm.Learn = jm.Learn()
    candidates: int | None = None
    rule: Literal["exact", "printed"] = "exact"
    starts: bool = False  # every other frame starts a sequence


def random_problem(
    seed: int,
    setting: Setting = Setting(),
    *,
    shape: tuple[int, int] = (9, 7),
    entries: int = 4,
    bases: int = BASES,
    least_shape: float = 0.3,
    level: float = 3.0,
    whole: bool = False,
    dtype: Any = jnp.float32,
) -> jm.JingleMixture:
    """A problem with random data, catalogue, switches and priors. `least_shape` bounds the prior shapes from below."""
    rng = np.random.default_rng(seed)
    (n_frames, n_bins), n_music = shape, 0 if setting.music == "none" else entries
    x = rng.gamma(1.0, level, shape) * (rng.random(shape) < 0.9)
    music = rng.choice([0, 0.3, 0.9], n_frames) if setting.switches == "unlabelled" else np.ones(n_frames)
    speech = np.ones(n_frames)
    if setting.switches == "labelled":
        music, speech = np.array([[0, 1], [1, 1], [1, 0]])[rng.integers(0, 3, n_frames)].T
    latent = np.arange(n_music) % 2 == 1 if setting.music == "latent" else np.zeros(n_music)
    entry = frame_prior.uniform(n_music, p_null=0.3, dtype=dtype)
    prior = frame_prior.independent(entry)
    if setting.chain:
        order = np.concatenate([[0], 1 + np.roll(np.arange(n_music), -1)])
        prior = frame_prior.left_to_right(entry, jnp.asarray(order), advance=0.7, stay=0.1, stay_null=0.8)

    def array(values):
        return jnp.asarray(values, dtype)

    shapes = least_shape + rng.uniform(0, 2, 5)
    return jm.build(
        array(np.round(x) if whole else x),
        prior=jm.priors(
            n_bins,
            array(level),
            n_bases=bases,
            template_shape=shapes[0],
            excitation_shape=shapes[1],
            catalogue_shape=shapes[2],
            filter_shape=shapes[3] if setting.proper else None,
            gain_shape=shapes[4] if setting.proper else None,
            dtype=dtype,
        ),
        catalogue=array(rng.gamma(1.0, level, (n_music, n_bins))) if n_music else None,
        latent=array(latent) if n_music else None,
        frames_prior=prior,
        speech=array(speech),
        music=array(music) if n_music else None,
        weight=array(rng.choice([0, 0.5, 1, 2], n_frames)) if setting.weights else None,
        observed=array(rng.random(shape) < 0.8) if setting.observed else None,
        starts=array(np.arange(n_frames) % 2 == 0) if setting.starts else None,
        chain=setting.chain,
        rule=setting.rule,
        learn=setting.learn,
        candidates=setting.candidates,
        unit_filter=not setting.proper,
    )


def readings(kind: str, *, proper: bool = False) -> jm.Blocks:
    """Every block read as `kind`, filter and gain as modes where their priors are flat."""
    point = kind if proper else "mode"
    return jm.Blocks(kind, kind, point, point, kind)


@partial(jax.tree_util.register_dataclass, data_fields=["leaves"], meta_fields=["structure"])
@dataclasses.dataclass(frozen=True)
class Stack:
    """Pytrees of equal structure, their leaves joined along a new first axis; `one` is for use under vmap.

    Only the leaves are stacked: a problem of stacked arrays would fail the shape checks of its class.
    """

    leaves: list
    structure: Any

    def one(self, leaves: list) -> Any:
        return jax.tree.unflatten(self.structure, leaves)


def stack(items: list) -> Stack:
    leaves = [jax.tree.leaves(item) for item in items]
    return Stack([jnp.stack(column) for column in zip(*leaves, strict=True)], jax.tree.structure(items[0]))


def moments_of(posterior: jm.Blocks, model: jm.JingleMixture, how: jm.Blocks) -> jm.Blocks:
    return jm.Blocks(*(jm.read(model, n, getattr(posterior, n), getattr(how, n)) for n in jm.Blocks._fields))


def random_posterior(seed: int, model: jm.JingleMixture, bases: int = BASES) -> jm.Blocks:
    """Gamma distributions of any width: nothing that an algorithm would arrive at."""
    rng = np.random.default_rng(seed)
    (n_frames, n_bins), n_entries = model.frames.x.shape, model.catalogue.shape[0]

    def some(*shape):
        like = model.frames.x.dtype
        return Gamma(jnp.asarray(rng.uniform(0.5, 3, shape), like), jnp.asarray(rng.uniform(0.2, 1, shape), like))

    return jm.Blocks(
        some(bases, n_bins), some(n_frames, bases), some(n_bins), some(n_frames), some(n_entries, n_bins)
    )


@partial(quick_jit, static_argnames=("how", "schedule", "steps", "module", "sampled"))
def run(
    problems: Stack,
    starts: Stack,
    keys: Any,
    *,
    how: jm.Blocks,
    schedule: Schedule = Schedule(),
    steps: int,
    module: Any = conditionals,
    sampled: bool = False,
) -> tuple[conjugate.State, Any]:
    """Sweeps over a stack of problems at once: final states, and the trace of each, shape (problems, steps)."""

    def one(problem, posterior, key):
        problem, posterior = problems.one(problem), starts.one(posterior)
        algorithm = conjugate.algorithm(
            module, problem, lambda key: posterior, readings=how, schedule=schedule, sampled=sampled
        )
        key, key_init = jax.random.split(key)

        def step(state, key):
            state, info = algorithm.step(key, state)
            return state, info.objective

        return jax.lax.scan(step, algorithm.init(key_init), jax.random.split(key, steps))

    return jax.vmap(one)(problems.leaves, starts.leaves, keys)


def run_one(model: jm.JingleMixture, posterior: jm.Blocks, **choices: Any) -> tuple[conjugate.State, np.ndarray]:
    """`run` on a single problem."""
    state, trace = run(stack([model]), stack([posterior]), jax.random.key(0)[None], **choices)
    return jax.tree.map(lambda leaf: leaf[0], state), np.asarray(trace[0])


class PriorDraws(NamedTuple):
    """Draws of the blocks from their priors, and log p(x, r | blocks) for every sequence r: exact inference by weights."""

    blocks: jm.Blocks
    log_joint: np.ndarray  # (draws, sequences)
    sequences: np.ndarray  # (sequences, T)


def prior_draws(model: jm.JingleMixture, n: int, bases: int, seed: int = 0) -> PriorDraws:
    """For problems of very few frames and small counts, in numpy and scipy."""
    rng = np.random.default_rng(seed)
    x, speech, music = map(np.asarray, model.frames[:3])
    (n_frames, n_bins), n_entries = x.shape, model.catalogue.shape[0]

    def draw(prior, *shape):
        return rng.gamma(np.asarray(prior.shape), 1, (n, *shape)) * np.asarray(prior.scale)

    p = model.hyper.prior
    d, e = draw(p.templates, bases, n_bins), draw(p.excitations, n_frames, bases)
    f, v, c = draw(p.filter, n_bins), draw(p.gain, n_frames), draw(p.catalogue, n_entries, n_bins)
    c = np.where(np.asarray(model.latent)[:, None] > 0, c, np.asarray(model.catalogue))
    rate = (speech[:, None] * (e @ d))[:, :, None] + np.einsum("nt,nu,nju->ntju", v, f, c)
    log_likelihood = st.poisson.logpmf(x[:, None], rate).sum(-1)
    with np.errstate(divide="ignore"):
        log_likelihood += np.log(np.where(np.arange(n_entries) == 0, 1 - music[:, None], music[:, None]))
    sequences = np.array(list(itertools.product(range(n_entries), repeat=n_frames)))
    r, starts = model.hyper.frame_prior, model.frames.starts
    if model.chain:
        log_p = np.asarray(quick_jit(jax.vmap(lambda s: frame_prior.log_prob(s, r, starts)))(jnp.asarray(sequences)))
    else:
        log_p = np.log(np.asarray(r.entry))[sequences].sum(1)
    log_joint = log_p + sum(log_likelihood[:, t, sequences[:, t]] for t in range(n_frames))
    return PriorDraws(jm.Blocks(d, e, f, v, c), log_joint, sequences)


def broken(module: types.ModuleType, **replacements: Any) -> types.ModuleType:
    """A copy of a module in which some functions are replaced; the module itself stays as it is."""
    copy = types.ModuleType(module.__name__ + "_broken")
    vars(copy).update(vars(module) | replacements)
    return copy


# --- recordings ---------------------------------------------------------------------------------------------


def recordings_of_the_protocol(folder: Path) -> Path:
    """A folder with the names that `bayessep.protocol` asks for, and noise in the place of speech and music."""
    rng = np.random.default_rng(0)
    rows = []

    def add(place: str, category: str, group: str, seconds: float, transcript: str = "") -> None:
        path = folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        bursts = np.repeat(rng.random(round(seconds * 20)) ** 3, 800)  # loud and quiet, as sound is
        samples = 0.1 * bursts * rng.standard_normal(len(bursts))
        audio.write(path, samples[None].astype(np.float32), protocol.RATE)
        rows.append([place, category, group, f"{seconds:.3f}", protocol.RATE, 1, transcript, "", "", "", "CC0"])

    for cast in (protocol.EXPERIMENT, protocol.DEVELOPMENT):
        for group, n_items in cast.speakers.items():
            for n in range(2 * n_items + 1):
                add(f"speech/{group}/{n:02}.wav", "speech", group, 6.0, f"word{n}")
        for name, begin in cast.jingles:
            add(str(Path(name).with_suffix(".wav")), "music", "band", begin + 4.5)
            wav = folder / Path(name).with_suffix(".wav")
            wav.rename(folder / name)  # the name decides nothing when sound is read
            rows[-1][0] = name
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([data.MANIFEST_COLUMNS, *rows])
    return folder
