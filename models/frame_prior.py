"""Prior and posterior of the catalogue index r_t: a mixture of independent frames, or a left-to-right hidden Markov model.

The hidden state is the index: from entry i it stays at i with probability `stay[i]`, advances to `successor[i]` with probability
`advance[i]` (a jingle is played in order), and otherwise jumps to an entry drawn from `entry`, the pi of paper 000. Independent
frames, equation 6 of the paper, are the case stay = advance = 0. Entry 0 is the **null entry**: no music at all. Several sequences
may be concatenated: the first frame of each is drawn from `entry`, as after a jump.

Inference is exact, by the forward-backward algorithm. Since jumps forget where they came from, a pass costs O(T J) over all
entries, or O(T K^2) over K candidates per frame, instead of the O(T J^2) of a general transition matrix.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp, xlogy
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

RAREST = 1e-6
"""Least probability of an entry to which the index may jump."""


class FramePrior(NamedTuple):
    """Initial and transition probabilities of the index; J includes the null entry, which comes first."""

    entry: Float[Array, " J"]
    stay: Float[Array, " J"]
    advance: Float[Array, " J"]
    successor: Int[Array, " J"]


class FramePosterior(NamedTuple):
    """The posterior q(r) as inference needs it: marginals, evidence and expected jumps."""

    responsibility: Float[Array, "T K"]  # rho_tj = q(r_t = j), over all entries or over the candidates
    log_evidence: Float[Array, " T"]  # its sum over frames is log sum_r p(r) prod_t likelihood
    jumps: Float[Array, " J"]  # expected number of jumps to each entry, frame weights included


def independent(entry: Float[Array, " J"]) -> FramePrior:
    """Prior under which each frame is drawn independently from `entry` (paper 000, equation 6)."""
    zero = jnp.zeros_like(entry)
    return FramePrior(entry, zero, zero, jnp.arange(entry.shape[0]))


def left_to_right(
    entry: Float[Array, " J"],
    successor: Int[Array, " J"],
    *,
    advance: float = 0.98,
    stay: float = 0.0,
    stay_null: float = 0.98,
) -> FramePrior:
    """Prior for music played in order: a left-to-right chain in which entry j is followed by `successor[j]` unless the index jumps.

    `successor` must be a permutation with successor[0] = 0; an entry that is its own successor can only stay or jump.
    Music that does not start over ends in a jump: let its last entry be followed by its first, and learn or set `entry`.
    The null entry stays with probability `stay_null`. `advance + stay` must leave some probability for jumps.

    Raises ValueError if one of these conditions does not hold.
    """
    if not (advance + stay < 1 and stay_null < 1):
        raise ValueError("advance + stay, and stay_null, must be below 1: some probability is left for jumps")
    n = entry.shape[0]
    with suppress(jax.errors.TracerArrayConversionError):  # under jit the values are unknown and cannot be checked
        follow = np.asarray(successor)
        if follow.shape != (n,) or follow[0] != 0 or not np.array_equal(np.sort(follow), np.arange(n)):
            raise ValueError("successor must be a permutation of all entries that leaves the null entry, 0, where it is")
    null = jnp.arange(n) == 0
    floor = jnp.maximum(entry, RAREST)  # every entry stays reachable, whatever the likelihood says
    return FramePrior(
        floor / floor.sum(),
        jnp.where(null, stay_null, stay).astype(entry.dtype),
        jnp.where(null, 0.0, advance).astype(entry.dtype),
        successor,
    )


def uniform(n_entries: int, p_null: float = 0.1, dtype=jnp.float32) -> Float[Array, " J"]:
    """Return pi with probability `p_null` for the null entry and the rest spread evenly over the other `n_entries`."""
    rest = jnp.full((n_entries,), (1 - p_null) / max(n_entries, 1), dtype)
    return jnp.concatenate([jnp.asarray([p_null if n_entries else 1.0], dtype), rest])


def posterior(
    log_likelihood: Float[Array, "T K"],
    prior: FramePrior,
    weight: Float[Array, " T"],
    *,
    chain: bool,
    candidates: Int[Array, "T K"] | None = None,
    starts: Float[Array, " T"] | None = None,
) -> FramePosterior:
    """Return the exact posterior of r given the log likelihood of each entry in each frame: the E-step.

    A chain (static `chain`) is handled by the scaled forward-backward algorithm; independent frames need only a softmax over
    entries, without a scan. `weight` (how often a frame counts) and `starts` (where a sequence starts) are as in
    `jingle_mixture.Frames`; weights enter only the expected jumps. With `candidates`, distinct within a frame, all other entries
    are impossible, and likelihoods and responsibilities are over the candidates.
    """
    if not chain:
        joint = log_likelihood + _log(prior.entry[None, :] if candidates is None else prior.entry[candidates])
        log_evidence = logsumexp(joint, axis=1)
        rho = jnp.exp(joint - log_evidence[:, None])
        return FramePosterior(rho, log_evidence, sum_by_entry(weight[:, None] * rho, candidates, len(prior.entry)))

    moves = _moves(prior, candidates, starts)
    alpha, scale, peak, likelihood = _forward(log_likelihood, moves)

    def back(beta_next, inputs):
        likelihood_next, scale_next, between = inputs
        ahead = likelihood_next * beta_next / scale_next
        beta = moves.back(ahead, between)
        return beta, (beta, ahead)

    ones = jnp.ones_like(alpha[0])
    _, (beta, ahead) = jax.lax.scan(back, ones, (likelihood[1:], scale[1:], moves.between), reverse=True)
    beta = jnp.concatenate([beta, ones[None]])
    rho = alpha * beta
    rho = rho / rho.sum(1, keepdims=True)
    # A jump to j at frame t may leave from any entry of frame t-1; alpha explains the frames before t, `ahead` those from t on.
    landed = (alpha[:-1] * moves.jump).sum(1)[:, None] * moves.landing * ahead
    jumps = jnp.concatenate([weight[:1, None] * rho[:1], weight[1:, None] * landed])
    return FramePosterior(rho, jnp.log(scale) + peak, sum_by_entry(jumps, candidates, len(prior.entry)))


def sum_by_entry(
    values: Float[Array, "T K"], candidates: Int[Array, "T K"] | None, n_entries: int
) -> Float[Array, " J"]:
    """Sum the values of each entry over frames."""
    if candidates is None:
        return values.sum(0)
    return jnp.zeros(n_entries, values.dtype).at[candidates].add(values)


def sample(
    key: PRNGKeyArray,
    log_likelihood: Float[Array, "T J"],
    prior: FramePrior,
    *,
    chain: bool,
    starts: Float[Array, " T"] | None = None,
) -> tuple[Int[Array, " T"], Float[Array, " J"]]:
    """Draw the whole sequence r from its posterior; return it and how many of its transitions were jumps to each entry.

    The chain is drawn by forward filtering and backward sampling. A transition that could be either a jump or a stay/advance is
    attributed to one of them by a further draw.
    """
    n = prior.entry.shape[0]
    if not chain:
        r = jax.random.categorical(key, log_likelihood + _log(prior.entry)[None, :])
        return r, jax.nn.one_hot(r, n, dtype=log_likelihood.dtype).sum(0)
    alpha, *_ = _forward(log_likelihood, _moves(prior, None, starts))
    key_last, key_back = jax.random.split(key)
    last = jax.random.categorical(key_last, _log(alpha[-1]))
    index = jnp.arange(n)
    successor = prior.successor.astype(index.dtype)

    def back(r_next, inputs):
        key, alpha_t, goes_on = inputs
        key_state, key_move = jax.random.split(key)
        stay, advance, jump = _chances(prior.stay, prior.advance, goes_on)
        by_jump = jump * prior.entry[r_next]
        stayed, advanced = index == r_next, successor == r_next
        in_order = jnp.where(stayed, stay, 0) + jnp.where(advanced, advance, 0)
        r = jax.random.categorical(key_state, _log(alpha_t * (by_jump + in_order)))
        jumped = jax.random.bernoulli(key_move, by_jump[r] / (by_jump[r] + in_order[r]))
        return r, (r, jumped & (index == r_next))

    keys = jax.random.split(key_back, alpha.shape[0] - 1)
    _, (path, jumped) = jax.lax.scan(back, last, (keys, alpha[:-1], _goes_on(starts)), reverse=True)
    r = jnp.concatenate([path, last[None]])
    first = (index == r[0]).astype(log_likelihood.dtype)
    return r, first + jumped.astype(log_likelihood.dtype).sum(0)


def log_prob(r: Int[Array, " T"], prior: FramePrior, starts: Float[Array, " T"] | None = None) -> Float[Array, ""]:
    """Return log p(r)."""
    return log_moves(r, prior, starts).sum()


def log_moves(r: Int[Array, " T"], prior: FramePrior, starts: Float[Array, " T"] | None = None) -> Float[Array, " T"]:
    """Return log p(r_t | r_{t-1}) of each frame, which is log p(r_t) where a sequence starts."""
    before, after = r[:-1], r[1:]
    stay, advance, jump = _chances(prior.stay[before], prior.advance[before], _goes_on(starts))
    step = (
        jnp.where(before == after, stay, 0)
        + jnp.where(prior.successor[before].astype(after.dtype) == after, advance, 0)
        + jump * prior.entry[after]
    )
    return jnp.concatenate([_log(prior.entry[r[:1]]), _log(step)])


def is_led_to(prior: FramePrior) -> Bool[Array, " J"]:
    """Return, for each entry, whether it can be reached by a jump or an advance; other entries are never played."""
    in_order = jnp.zeros_like(prior.entry).at[prior.successor].max(prior.advance)
    return (prior.entry > 0) | (in_order > 0)


def learn_entry(prior: FramePrior, jumps: Float[Array, " J"], concentration: float = 1.0) -> FramePrior:
    """M-step of pi from the expected jumps, under a Dirichlet prior of the given concentration (1: maximum likelihood).

    Entries that had a probability keep at least `RAREST`. At zero they could not return, and a frame that no entry may play, such
    as one that the labels say holds music, would have no evidence.
    """
    mass = jumps + (concentration - 1)
    entry = mass / mass.sum()
    rare = (entry < RAREST) & (prior.entry > 0)
    others = jnp.where(rare, 0, entry)
    return prior._replace(entry=jnp.where(rare, RAREST, others * (1 - RAREST * rare.sum(dtype=entry.dtype)) / others.sum()))


def log_dirichlet(prior: FramePrior, concentration: float) -> Float[Array, ""]:
    """Log density of pi under the Dirichlet prior up to a constant: the term of the objective that `learn_entry` accounts for."""
    return xlogy(concentration - 1, prior.entry).sum()


def _log(p):
    return jnp.log(jnp.where(p > 0, p, 0))


class _Moves(NamedTuple):
    """The transition probabilities between neighbouring frames, as products with a vector in either direction."""

    first: Float[Array, " K"]  # probabilities of the initial state
    jump: Float[Array, "#pairs K"]  # probability of leaving an entry by a jump
    landing: Float[Array, "#pairs K"]  # probability that a jump lands on an entry of the next frame
    between: Any  # per pair of frames, the second argument of `on` and `back`
    on: Callable[[Array, Any], Array]  # forward: the transposed transition matrix times a vector
    back: Callable[[Array, Any], Array]  # backward: the transition matrix times a vector


def _goes_on(starts: Float[Array, " T"] | None) -> Float[Array, " pairs"] | None:
    """For each pair of neighbouring frames: 0 where a new sequence starts with the second, 1 elsewhere."""
    return None if starts is None else 1 - starts[1:]


def _chances(stay: Array, advance: Array, goes_on: Array | None) -> tuple[Array, Array, Array]:
    """Probabilities of staying, advancing and jumping; between two sequences the index always jumps."""
    if goes_on is not None:
        stay, advance = goes_on * stay, goes_on * advance
    return stay, advance, 1 - stay - advance


def _moves(prior: FramePrior, candidates: Int[Array, "T K"] | None, starts: Float[Array, " T"] | None) -> _Moves:
    goes_on = _goes_on(starts)
    return _moves_of_all(prior, goes_on) if candidates is None else _moves_of(candidates, prior, goes_on)


def _moves_of_all(prior: FramePrior, goes_on: Float[Array, " pairs"] | None) -> _Moves:
    predecessor = jnp.argsort(prior.successor)

    def on(alpha, goes_on):
        stay, advance, jump = _chances(prior.stay, prior.advance, goes_on)
        return stay * alpha + (advance * alpha)[predecessor] + prior.entry * (jump * alpha).sum()

    def back(ahead, goes_on):
        stay, advance, jump = _chances(prior.stay, prior.advance, goes_on)
        return stay * ahead + advance * ahead[prior.successor] + jump * (prior.entry * ahead).sum()

    *_, jump = _chances(prior.stay[None, :], prior.advance[None, :], None if goes_on is None else goes_on[:, None])
    return _Moves(prior.entry, jump, prior.entry[None, :], goes_on, on, back)


def _moves_of(candidates: Int[Array, "T K"], prior: FramePrior, goes_on: Float[Array, " pairs"] | None) -> _Moves:
    """Transitions by the full K x K matrix between two frames' candidates, built where it is used: cheaper than all entries."""
    here, there = candidates[:-1], candidates[1:]
    stay, advance, jump = _chances(prior.stay[here], prior.advance[here], None if goes_on is None else goes_on[:, None])
    between = (here, stay, advance, prior.successor[here].astype(here.dtype), jump, there, prior.entry[there])

    def matrix(between):
        i, stay, advance, successor, jump, j, entry = between
        stayed, advanced = (index[:, None] == j[None, :] for index in (i, successor))
        in_order = jnp.where(stayed, stay[:, None], 0) + jnp.where(advanced, advance[:, None], 0)
        return in_order + jump[:, None] * entry[None, :]

    def on(alpha, between):
        return (alpha[:, None] * matrix(between)).sum(0)

    def back(ahead, between):
        return (matrix(between) * ahead[None, :]).sum(1)

    return _Moves(prior.entry[candidates[0]], jump, prior.entry[there], between, on, back)


def _forward(log_likelihood, moves: _Moves):
    """Scaled forward pass: filtered probabilities, normalisers, peak log likelihoods, and likelihoods relative to the peak."""
    peak = log_likelihood.max(1)
    likelihood = jnp.exp(log_likelihood - peak[:, None])

    def forward(alpha, inputs):
        likelihood_t, between = inputs
        alpha = moves.on(alpha, between) * likelihood_t
        scale = alpha.sum()
        alpha = alpha / scale
        return alpha, (alpha, scale)

    first = moves.first * likelihood[0]
    scale_0 = first.sum()
    first = first / scale_0
    _, (alpha, scale) = jax.lax.scan(forward, first, (likelihood[1:], moves.between))
    alpha = jnp.concatenate([first[None], alpha])
    scale = jnp.concatenate([scale_0[None], scale])
    return alpha, scale, peak, likelihood
