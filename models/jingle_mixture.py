"""Speech as Gamma-Poisson NMF plus music as a mixture over catalogue frames: paper 000 and its variants as one model family.

    d_iu ~ Gamma(a^d, b^d)     e_ti ~ Gamma(a^e, b^e)     c_ju ~ Gamma(a^c, b^c) or known
    f_u  ~ Gamma(a^f, b^f)     v_t  ~ Gamma(a^v, b^v)     r_t ~ Categorical(pi), or a Markov chain (`frame_prior`)
    x_tu ~ Poisson( s_t sum_i e_ti d_iu  +  v_t f_u c_{r_t u} )

NMF, variational, ICM, joint and unsupervised separation differ only in which frames are stacked, which prior the templates
get, and how each block's Gamma conditional is read (`bayessep.gamma.read`). This file defines the problem. `conditionals`
holds its algebra: the local step q(S, M | R) q(R), the Poisson counts that it passes to each block, the block conditionals and
the objective. `entries` computes q(R), and `sources` turns the posterior into separated sources. The algorithms, in
`bayessep.inference`, do not depend on the model.

The paper's symbols and the names here (time comes first, so every matrix is the transpose of the paper's):

| paper | here | shape | |
|---|---|---|---|
| x_ut | `frames.x` | T F | magnitude spectrogram, scaled (below) |
| d_ui, D | `templates` | B F | speech templates |
| e_it, E | `excitations` | T B | their excitations |
| C_uj | `catalogue` | J F | catalogue of music frames; entry 0 is the null entry, no music |
| f_u | `filter` | F | equalisation of the music |
| v_t | `gain` | T | fades of the music |
| r_t, pi_j | `frame_prior` | J | catalogue index of a frame and its prior |
| a, b | `Gamma.shape`, `Gamma.scale` | | b is a scale (equation 15) |
| alpha, beta | posterior `Gamma.shape`, `.scale` | | |
| s_uit, m_ut | never formed; their sums are `conditionals.Local.counts` | | latent sources |
| G_ut | `entries.geometric_speech` | T F | geometric rate of speech, s_t sum_i exp(E[log e_it] + E[log d_ui]) |
| lambda_utj | `entries.visit_entries` | T F, entry by entry | rate of entry j, v_t f_u C_uj, of geometric means |
| q(r_t = j), rho_tj | `conditionals.Local.responsibility` | T K | over all entries, or over K candidates per frame |

In angle brackets, as in <lambda_utj>, a rate is that of arithmetic means.

Results on real recordings, method by method, are in docs/demir2011/tables.md, which ``bayessep reproduce demir2011`` prints.

**Scale.** x is real, so the Poisson likelihood is used formally (it is the generalised KL divergence). The scale of x sets how many
counts a unit of magnitude is worth against the priors; nothing here rescales it.

**Frame weights.** A frame of weight w counts as w copies of itself, excitations and gain included: the weighted joint
estimation that the paper names as future work. The frame's own local quantities do not depend on w; templates, filter, catalogue
and pi do. With w = 0 on mixed frames the templates are learned from the speech frames alone; w = 1 is the joint method.

**Labels.** Frames whose music switch p (`Frames.music`) lies strictly between 0 and 1 are unlabelled, and 1 - responsibility[:, 0]
is their posterior probability of music. log p is added to the log likelihood of each music entry, log(1 - p) to that of the null
entry: p is evidence in addition to the prior of r_t, and 1/2 is neutral. In a chain the evidence of all frames adds up: p = 0.6 in
each of many frames all but decides that there is music.
"""

import dataclasses
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from bayessep import gamma
from bayessep.gamma import Gamma, Moments, Reading
from bayessep.models import frame_prior
from bayessep.models.frame_prior import FramePrior

TINY = 1e-30  # keeps logarithms and ratios finite where a rate is zero


class Frames(NamedTuple):
    """The data of one problem, frame by frame."""

    x: Float[Array, "T F"]  # magnitudes, >= 0
    speech: Float[Array, " T"]  # s_t: 1 where there may be speech, 0 where there is none
    music: Float[Array, " T"]  # music switch p: 1 music, 0 none, in between unlabelled (see above)
    weight: Float[Array, " T"]  # how many times the frame counts
    observed: Float[Array, "T F"] | None = None  # 0 for bins held out from inference
    starts: Float[Array, " T"] | None = None  # 1 where a sequence starts; None: one sequence that starts at the first frame


class Blocks(NamedTuple):
    """One field for each block of the posterior, holding Gammas, Moments, counts … depending on the use."""

    templates: Any  # B F
    excitations: Any  # T B
    filter: Any  # F
    gain: Any  # T
    catalogue: Any  # J F


class Hyper(NamedTuple):
    """Hyper-parameters theta, learned as point estimates if at all."""

    prior: Blocks  # of Gamma; parameters are tied along an axis of length 1
    frame_prior: FramePrior


class Learn(NamedTuple):
    """Which hyper-parameters the M-step may change."""

    templates: bool = False  # shape, with the prior mean held (it would otherwise trade against the excitations')
    excitations: bool = False  # shape and scale
    catalogue: bool = False  # shape and scale of the latent entries
    entry: bool = False  # pi


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["frames", "hyper", "catalogue", "latent"],
    meta_fields=["chain", "rule", "learn", "candidates", "concentration", "unit_filter", "speech_shape"],
)
@dataclasses.dataclass(frozen=True)
class JingleMixture:
    """A problem: data, priors and choices. The arrays are traced under jit, the choices below them are static."""

    frames: Frames
    hyper: Hyper
    catalogue: Float[Array, "J F"]  # known entries; row 0 is zero (null); rows of latent entries are starting values
    latent: Float[Array, " J"]  # 1 where the entry is learned
    chain: bool = False  # whether the frame prior is a Markov chain; frames are independent otherwise
    rule: Literal["exact", "printed"] = "exact"  # q(r): exact coordinate ascent, or as the paper prints it
    learn: Learn = Learn()
    candidates: int | None = None  # number of entries kept per frame after pruning; None keeps all
    concentration: float = 1.0  # of the Dirichlet prior on pi
    unit_filter: bool = False  # keep mean(f) = 1 after each sweep; for flat priors on filter and gain (`conditionals.rescale`)
    speech_shape: float | None = None  # how closely a bin of speech keeps to its templates (`sources.own_rate`); None: exactly

    @property
    def has_music(self) -> bool:
        """Whether there is any entry besides the null entry (static, since it follows from the shape)."""
        return self.catalogue.shape[0] > 1


def build(
    x: Float[Array, "T F"],
    *,
    prior: Blocks,
    catalogue: Float[Array, "Jm F"] | None = None,
    latent: Float[Array, " Jm"] | None = None,
    frames_prior: FramePrior | None = None,
    speech: Float[Array, " T"] | None = None,
    music: Float[Array, " T"] | None = None,
    weight: Float[Array, " T"] | None = None,
    observed: Float[Array, "T F"] | None = None,
    starts: Float[Array, " T"] | None = None,
    **choices: Any,
) -> JingleMixture:
    """Build a problem; omitted arguments default to plain separation (speech and music anywhere, weight 1).

    `catalogue` and `latent` are given without the null entry, which is added here; `frames_prior` includes it.

    Raises ValueError if the concentration is below 1, or for the printed rule in a chain, whose transitions it does not count.
    """
    if choices.get("rule") == "printed" and choices.get("chain"):
        raise ValueError("the printed rule is for independent frames, not for a chain")
    if choices.get("concentration", 1.0) < 1:
        raise ValueError(f"concentration is {choices['concentration']}, but must be at least 1: pi has no mode inside below that")
    n_frames, n_bins = x.shape
    ones = jnp.ones(n_frames, x.dtype)
    music_rows = jnp.zeros((0, n_bins), x.dtype) if catalogue is None else catalogue
    n_music = music_rows.shape[0]
    latent = jnp.zeros(n_music, x.dtype) if latent is None else latent
    music = (ones if n_music else 0 * ones) if music is None else music
    if frames_prior is None:
        frames_prior = frame_prior.independent(frame_prior.uniform(n_music, dtype=x.dtype))
    speech = ones if speech is None else speech
    weight = ones if weight is None else weight
    return JingleMixture(
        Frames(x, speech, music, weight, observed, starts),
        Hyper(prior, frames_prior),
        jnp.concatenate([jnp.zeros((1, n_bins), x.dtype), music_rows]),
        jnp.concatenate([jnp.zeros(1, x.dtype), latent]),
        **choices,
    )


def padded(model: JingleMixture, n_frames: int, n_entries: int) -> JingleMixture:
    """Pad a problem with empty frames at the end and with catalogue entries that are never played.

    The posterior of the original frames and entries is unchanged up to rounding. Problems of different sizes can thus share one
    shape and be compiled once. Each padding frame has weight 0 and is a sequence of its own.

    Args:
        model: the problem; its priors must be tied along frames and entries, except those of gain and catalogue, which need not be.
        n_frames: padded number of frames T, at least the present one.
        n_entries: padded number of entries J, including the null entry, at least the present one; a problem without music keeps its
            single entry.

    Raises:
        ValueError: the concentration is above 1, so that the added entries would get some probability.
    """
    frames, (prior, r) = model.frames, model.hyper
    more, others = n_frames - len(frames.x), n_entries - len(model.catalogue) if model.has_music else 0
    if others and model.concentration > 1:
        raise ValueError(f"with a concentration of {model.concentration}, above 1, every entry has some probability")

    def longer(array: Array, n: int, fill: float = 0.0) -> Array:  # in numpy, to avoid compilation
        return jnp.asarray(np.pad(array, [(0, n)] + [(0, 0)] * (array.ndim - 1), constant_values=fill)) if n else array

    def each(q: Gamma, n: int) -> Gamma:
        return q if len(q.shape) == 1 else Gamma(*(longer(values, n, 1.0) for values in q))

    successor = jnp.asarray(np.r_[r.successor, len(r.successor) : len(r.successor) + others], r.successor.dtype)
    starts = jnp.zeros_like(frames.weight) if frames.starts is None else frames.starts
    return dataclasses.replace(
        model,
        frames=Frames(
            longer(frames.x, more),
            longer(frames.speech, more),
            longer(frames.music, more, 0.5),
            longer(frames.weight, more),
            None if frames.observed is None else longer(frames.observed, more),
            longer(starts, more, 1.0),
        ),
        hyper=Hyper(
            prior._replace(gain=each(prior.gain, more), catalogue=each(prior.catalogue, others)),
            FramePrior(longer(r.entry, others), longer(r.stay, others), longer(r.advance, others), successor),
        ),
        catalogue=longer(model.catalogue, others),
        latent=longer(model.latent, others),
    )


def priors(
    n_bins: int,
    level: float | Float[Array, ""],
    *,
    n_bases: int,
    template_shape: float = 0.5,
    excitation_shape: float = 0.5,
    catalogue_shape: float = 0.5,
    filter_shape: float | None = None,
    gain_shape: float | None = None,
    dtype: Any = jnp.float32,
) -> Blocks:
    """Return tied priors for spectrograms whose mean magnitude is `level`.

    Templates have prior mean 1/F, so that a template's bins sum to about one and an excitation is the total magnitude that
    its template adds to a frame. Filter and gain have flat priors (maximum likelihood) unless a shape is given, which makes them
    Gamma with mean 1.
    """

    def around(mean, shape, n_axes):
        full = (1,) * n_axes
        return Gamma(jnp.full(full, shape, dtype), jnp.full(full, mean / shape, dtype))

    def flat_or(shape):
        return gamma.flat(jnp.ones(1, dtype)) if shape is None else around(1.0, shape, 1)

    return Blocks(
        templates=around(1 / n_bins, template_shape, 2),
        excitations=around(level * n_bins / n_bases, excitation_shape, 2),
        filter=flat_or(filter_shape),
        gain=flat_or(gain_shape),
        catalogue=around(level, catalogue_shape, 2),
    )


# --- reading the posterior of the problem --------------------------------------------------------------------------------


def initial(key: PRNGKeyArray, model: JingleMixture, *, n_bases: int, templates: Gamma | None = None) -> Blocks:
    """Return a starting posterior for the algorithms.

    Templates are those given, or `n_bases` random ones: the prior mean times exponential noise. Excitations are random within half
    and one and a half times an equal share of the frame's level (of half of that level in frames that may hold music). Filter and
    gain start at their prior means, or at one if the prior is flat; latent catalogue entries at their row of `model.catalogue`.
    """
    x, prior = model.frames.x, model.hyper.prior
    n_frames, n_bins = x.shape
    key_d, key_e = jax.random.split(key)

    def concentrated(value):  # a Gamma around a starting value, narrow enough for its geometric mean to be close to it
        return gamma.around(jnp.maximum(value, TINY), 10)

    def expected(q, n):
        return jnp.broadcast_to(jnp.where(jnp.isfinite(q.scale), gamma.mean(q), 1), (n,)).astype(x.dtype)

    if templates is None:
        mean = gamma.mean(prior.templates) * jnp.ones((n_bases, n_bins), x.dtype)
        templates = concentrated(mean * jax.random.exponential(key_d, mean.shape, x.dtype))
    n_bases = templates.shape.shape[0]
    total = x.sum(1, keepdims=True) / (n_bases * jnp.maximum(gamma.mean(templates).sum(1).mean(), TINY))
    jitter = jax.random.uniform(key_e, (n_frames, n_bases), x.dtype, 0.5, 1.5)
    speech_share = jnp.where(model.frames.music > 0, 0.5, 1.0).astype(x.dtype)[:, None]
    return Blocks(
        templates=templates,
        excitations=concentrated(total * speech_share * jitter),
        filter=concentrated(expected(prior.filter, n_bins)),
        gain=concentrated(expected(prior.gain, n_frames)),
        catalogue=concentrated(model.catalogue),
    )


def read(
    model: JingleMixture, name: str, posterior: Gamma, reading: Reading, key: PRNGKeyArray | None = None
) -> Moments:
    """Return the moments of a block as an algorithm reads it; known catalogue entries keep their exact values."""
    moments = gamma.read(posterior, reading, key)
    if name == "catalogue":
        latent = model.latent[:, None] > 0
        moments = Moments(*(jnp.where(latent, m, model.catalogue) for m in moments))
    return moments


class Start(NamedTuple):
    """`initial` with its static argument bound: a hashable function of (problem, templates, key), so that it compiles only once."""

    n_bases: int

    def __call__(self, model: JingleMixture, templates: Gamma | None, key: PRNGKeyArray) -> Blocks:
        return initial(key, model, n_bases=self.n_bases, templates=templates)
