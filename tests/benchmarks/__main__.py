"""`make bench`: our speed beside somebody else's, as ratios from one run.

Every row is measured in a process of its own, so that its peak memory is its own. Within a row the two sides take turns, both
warm, and medians are compared: a machine that slows down slows both. In rows about training, freed memory is kept for both, as
`bayessep train` keeps it.

    python -m tests.benchmarks [--only NAME] [--json]
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from bayessep.devices import keep_memory
from bayessep.errors import UserError

ROUNDS = 5


def _seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def _in_turns(ours: Callable[[], object], theirs: Callable[[], object], rounds: int = ROUNDS) -> tuple[float, float]:
    """Medians of both, A B A B …, after one warm-up each."""
    ours(), theirs()
    pairs = [(_seconds(ours), _seconds(theirs)) for _ in range(rounds)]
    return median(a for a, _ in pairs), median(b for _, b in pairs)


def _warm(run: Callable[[], object], rounds: int = ROUNDS) -> float:
    """The median after one warm-up."""
    run()
    return median(_seconds(run) for _ in range(rounds))


def _row(ours: float, theirs: float, target: float, what: str, **more: object) -> dict:
    ratio = ours / theirs
    return {"ours": ours, "theirs": theirs, "ratio": ratio, "target": target, "met": ratio <= target, "what": what, **more}


def sweep() -> dict:
    """One CAVI sweep against one multiplicative update of scikit-learn: F=513, T=3750, B=300, float32."""
    import jax
    import numpy as np
    from sklearn.decomposition import NMF

    from bayessep.inference import cavi, loop
    from bayessep.models import conditionals, jingle_mixture
    from bayessep.models.jingle_mixture import Blocks, Start

    n, few, many = 300, 5, 15  # what is done once, as scikit-learn's loss before and after, is no part of an update
    rng = np.random.default_rng(0)
    x = rng.gamma(0.3, 3.0, (3750, 513)).astype(np.float32)
    problem = jingle_mixture.build(jax.numpy.asarray(x), prior=jingle_mixture.priors(513, 1.0, n_bases=n))
    start = jax.tree_util.Partial(Start(n), problem, None)
    algorithm = cavi.cavi(conditionals, problem, start, readings=Blocks("mean", "mean", "fixed", "fixed", "fixed"))
    key = jax.random.key(0)
    state = loop.fit(algorithm, key, max_steps=few, tolerance=0.0).state
    w, h = rng.random((3750, n), np.float32), rng.random((n, 513), np.float32)

    def ours(sweeps):
        jax.block_until_ready(loop.fit(algorithm, key, max_steps=sweeps, tolerance=0.0, state=state).state)

    def theirs(updates):
        model = NMF(n, init="custom", solver="mu", beta_loss="kullback-leibler", max_iter=updates, tol=0.0)
        model.fit_transform(x, W=w.copy(), H=h.copy())

    short, long = (_in_turns(partial(ours, steps), partial(theirs, steps)) for steps in (few, many))
    a, b = ((after - before) / (many - few) for before, after in zip(short, long, strict=True))
    return _row(a, b, 1.25, "CAVI sweep / scikit-learn KL update")


def _catalogue(n_bases: int) -> dict:
    """A sweep with 500 catalogue entries, pruned, against one with one entry: F=513, T=3750.

    The bound lost is what all entries would add at the state that the pruned run ends in.
    """
    import jax
    import jax.numpy as jnp

    from bayessep.broadcast import generate_broadcast
    from bayessep.inference import cavi, loop
    from bayessep.models import conditionals, jingle_mixture
    from bayessep.models.jingle_mixture import Blocks, Start
    from bayessep.preparation import magnitude
    from bayessep.settings import Settings
    from bayessep.stft import stft_for_rate

    made = generate_broadcast(0, seconds=120.0, jingle_seconds=16.0)
    window = stft_for_rate(made.sample_rate)
    x = magnitude(made.mixture, window)[:3750]
    x = jnp.asarray(x * (0.5 / x.mean()))
    entries = magnitude(made.jingle, window)[:500]
    entries = jnp.asarray(entries / entries.mean() * 0.25)
    prior = jingle_mixture.priors(x.shape[1], 0.5, n_bases=n_bases, filter_shape=30.0, gain_shape=30.0)
    key, sweeps = jax.random.key(0), 20

    def algorithm(rows, candidates):
        problem = jingle_mixture.build(x, prior=prior, catalogue=rows, candidates=candidates)
        start = jax.tree_util.Partial(Start(n_bases), problem, None)
        return problem, cavi.cavi(conditionals, problem, start, readings=Blocks("mean", "mean", "mean", "mean", "fixed"))

    (problem, many), (_, one) = algorithm(entries, Settings().candidates), algorithm(entries[:1], None)

    def run(chosen, state):
        return lambda: jax.block_until_ready(loop.fit(chosen, key, max_steps=sweeps, tolerance=0.0, state=state))

    warm = [loop.fit(a, key, max_steps=sweeps, tolerance=0.0).state for a in (many, one)]
    a, b = _in_turns(run(many, warm[0]), run(one, warm[1]))
    fit = run(many, warm[0])()

    @jax.jit
    def evidence(state, candidates):
        return conditionals.local(problem, state.hyper, state.moments, candidates).log_evidence

    lost = evidence(fit.state, None) - evidence(fit.state, fit.state.candidates)
    relative = float(lost.sum() / abs(fit.trace[-1]))
    what = f"500 entries, pruned / 1 entry, {n_bases} bases, sweeps 20 to 40"
    return _row(a / sweeps, b / sweeps, 3.0, what, bound_lost=relative)


def catalogue() -> dict:
    """The size of the row `sweep`."""
    return _catalogue(300)


def catalogue80() -> dict:
    """As many bases as `separate` takes by default: there is less beside the catalogue to do."""
    from bayessep.settings import Settings

    return _catalogue(Settings().bases)


def transform() -> dict:
    """STFT and its inverse of ten minutes at 16 kHz, against librosa."""
    import jax
    import librosa
    import numpy as np

    from bayessep.stft import Stft, istft, stft

    x = np.random.default_rng(0).standard_normal(600 * 16000).astype(np.float32)
    device, settings = jax.numpy.asarray(x), Stft()

    def ours():
        istft(stft(device, settings), settings, len(x)).block_until_ready()

    def theirs():
        librosa.istft(librosa.stft(x, n_fft=1024, hop_length=512), hop_length=512, length=len(x))

    return _row(*_in_turns(ours, theirs), 1.0, "STFT and inverse, 10 min / librosa")


def hpss() -> dict:
    """Harmonic and percussive part of a minute at 16 kHz (400/160), against librosa."""
    import jax
    import librosa
    import numpy as np

    from bayessep import features

    x = np.random.default_rng(0).gamma(0.3, 1.0, (6000, 201)).astype(np.float32)
    on_device, theirs = jax.numpy.asarray(x), np.ascontiguousarray(x.T)
    ours_s, theirs_s = _in_turns(
        lambda: jax.block_until_ready(features.hpss(on_device)),
        lambda: librosa.decompose.hpss(theirs, kernel_size=(21, 11), power=2.0),
    )
    return _row(ours_s, theirs_s, 1 / 40, "HPSS of 1 min: ours / librosa")


def separation() -> dict:
    """The whole separation of a 5-minute recording, training included, against its duration."""
    from bayessep.broadcast import generate_broadcast
    from bayessep.pipeline import separate
    from bayessep.preparation import Known

    made = generate_broadcast(0, seconds=300.0)
    known = Known([made.training_speech], [made.labelled_music])
    run = partial(separate, made.mixture[None], made.sample_rate, known)
    run()
    return _row(median(_seconds(run) for _ in range(3)), 300.0, 0.1, "separate, 5 min / its duration")


def scores() -> dict:
    """BSS-Eval of two sources of ten seconds, against mir_eval."""
    import warnings

    import mir_eval
    import numpy as np

    from bayessep.metrics import bss_eval

    rng = np.random.default_rng(0)
    references = rng.standard_normal((2, 160000))
    estimates = references + 0.3 * references[::-1] + 0.1 * rng.standard_normal((2, 160000))
    warnings.simplefilter("ignore", FutureWarning)
    theirs = partial(mir_eval.separation.bss_eval_sources, references, estimates, False)
    return _row(*_in_turns(lambda: bss_eval(references, estimates), theirs), 1.0, "BSS-Eval, 10 s / mir_eval")


def _write_hour(path: Path, minute: Any, sample_rate: int, channels: int, subtype: str = "PCM_24") -> None:
    """Write a minute of sound sixty times, in equal channels."""
    import numpy as np

    from bayessep import audio

    with audio.Writer(path, sample_rate, channels, subtype) as out:
        for _ in range(60):
            out.append(np.tile(minute, (channels, 1)))


def hour() -> dict:
    """An hour of audio separated from file to file; the target is its duration, and 2 GiB."""
    from bayessep import streaming
    from bayessep.broadcast import generate_broadcast
    from bayessep.preparation import Known
    from bayessep.settings import Settings

    made = generate_broadcast(0, seconds=60.0)
    with tempfile.TemporaryDirectory() as folder:
        mix = Path(folder) / "mix.wav"
        _write_hour(mix, made.mixture, made.sample_rate, 1)
        known = Known([made.training_speech], [made.labelled_music])
        stems = [Path(folder) / name for name in ("speech.wav", "music.wav")]
        seconds = _seconds(lambda: streaming.separate_file(mix, known, Settings(), *stems))
    return _row(seconds, 3600.0, 1.0, "separate, 1 hour / its duration (memory: 2 GiB)", most_gib=2.0)


def detector() -> dict:
    """Speech and music found in an hour of stereo at 44.1 kHz, compressed; against a hundredth of its duration, and 1 GiB."""
    import numpy as np

    from bayessep import audio, detection
    from bayessep.broadcast import generate_broadcast

    made = generate_broadcast(0, seconds=60.0, sample_rate=44100)
    with tempfile.TemporaryDirectory() as folder:
        short, recording = Path(folder) / "short.wav", Path(folder) / "hour.ogg"
        audio.write(short, np.tile(made.mixture, (2, 1)), 44100)
        _write_hour(recording, made.mixture, 44100, 2, "VORBIS")
        detection.detect(short)
        seconds = _seconds(lambda: detection.detect(recording))
    return _row(seconds, 3600.0, 0.01, "detect, 1 hour / its duration (memory: 1 GiB)", most_gib=1.0)


def conv_tasnet() -> dict:
    """What the network of paper 001 says of a mixture, against the same network of torch.nn modules."""
    from bayessep.models.conv_tasnet import PRESETS
    from tests.benchmarks import waveforms

    compared = waveforms.forward(PRESETS["paper"])
    what = f"Conv-TasNet of paper 001, {waveforms.SECONDS:g} s / torch.nn"
    row = _row(*_in_turns(compared.ours, compared.theirs), 0.1, what, difference=compared.difference)
    return row | {"products": _warm(waveforms.products(PRESETS["paper"], gradients=False))}


def conv_tasnet_step() -> dict:
    """A step of its training on one mixture, for that is as much as ours computes at a time, against the same."""
    from bayessep.models.conv_tasnet import PRESETS
    from tests.benchmarks import waveforms

    compared = waveforms.steps(PRESETS["paper"])
    what = f"a step of its training, 1 mixture of {waveforms.SECONDS:g} s / torch.nn"
    row = _row(*_in_turns(compared.ours, compared.theirs), 0.5, what, difference=compared.difference)
    return row | {"products": _warm(waveforms.products(PRESETS["paper"], gradients=True))}


def separators_step() -> dict:
    """A step of both networks of `reproduce woo2020 --part separation`; below the target, that of the BiLSTM mask lasts longer."""
    from bayessep.woo2020 import BUDGETS, FREQUENCY, TIME
    from tests.benchmarks import waveforms

    recipes = BUDGETS["full"].recipes
    epochs = {name: sum(recipe.epochs for recipe in own) for name, own in recipes.items()}
    compared = _in_turns(*(waveforms.training(recipes[name][0]) for name in (TIME, FREQUENCY)), 10)
    return _row(*compared, epochs[FREQUENCY] / epochs[TIME], "a step of Conv-TasNet / of the BiLSTM mask, presets small")


def conv_tasnet_separate() -> dict:
    """A recording of five minutes by the preset small, against its duration; how long it takes does not depend on the weights."""
    from tests.benchmarks import waveforms

    run, duration = waveforms.recording(300.0)
    return _row(_warm(run, 3), duration, 1 / 20, "separate by Conv-TasNet (small), 5 min / its duration")


def conv_tasnet_hour() -> dict:
    """An hour of stereo at 44.1 kHz by the preset small, from file to file, against its duration, and 2 GiB."""
    from bayessep.broadcast import generate_broadcast
    from bayessep.neural import separate_file
    from tests.benchmarks import waveforms

    made, separator = generate_broadcast(0, seconds=60.0, sample_rate=44100), waveforms.separator()
    with tempfile.TemporaryDirectory() as folder:
        mix, *stems = (Path(folder) / name for name in ("mix.wav", "speech.wav", "music.wav"))
        _write_hour(mix, made.mixture, made.sample_rate, 2)
        seconds = _seconds(lambda: separate_file(mix, separator, *stems))
    return _row(seconds, 3600.0, 1 / 20, "separate by Conv-TasNet (small), 1 hour / its duration (memory: 2 GiB)", most_gib=2.0)


def masker_step() -> dict:
    """A step of training of the networks of paper 002 on one image of each kind, against the same of torch.nn modules."""
    from bayessep.models.idempotent_masker import PRESETS
    from tests.benchmarks import images

    compared = images.steps(PRESETS["paper"])
    what = "a step of training of paper 002, 1 mixture and 1 piece of music / torch.nn"
    # A step takes most of a minute on two cores.
    return _row(*_in_turns(compared.ours, compared.theirs, 2), 1 / 1.5, what, difference=compared.difference)


def _words(run: Callable[[], object], target: float, what: str, utterances: int) -> dict:
    from tests.benchmarks.words import SECONDS

    return _row(_warm(run), utterances * SECONDS, target, f"{what}, {utterances} utterances of {SECONDS:g} s / their duration")


def recogniser_step() -> dict:
    """A step of training of the recogniser of paper 001, preset small, against how long what it hears lasts."""
    from bayessep.models.attention_asr import PRESETS
    from tests.benchmarks import words

    return _words(words.step(PRESETS["small"]), 1 / 50, "a step of attention-asr (small)", words.UTTERANCES)


def joint_step() -> dict:
    """A step of tuning a Conv-TasNet and a recogniser together, presets small, against the same."""
    from bayessep.models import attention_asr, conv_tasnet
    from bayessep.models.joint_asr import JointAsr
    from tests.benchmarks import words

    config = JointAsr(conv_tasnet.PRESETS["small"], attention_asr.PRESETS["small"])
    utterances = 8  # as the experiment
    run = words.joint_step(config, utterances)
    return _words(run, 1 / 25, "a step of conv-tasnet and attention-asr together (small)", utterances)


def recogniser_decode() -> dict:
    """Search for the likeliest words with four hypotheses, against the same."""
    from bayessep.models.attention_asr import PRESETS
    from tests.benchmarks import words

    return _words(words.decoding(PRESETS["small"]), 1 / 50, "decoding by attention-asr (small), beam 4", words.UTTERANCES)


ROWS = {
    f.__name__: f
    for f in (
        *(sweep, catalogue, catalogue80, transform, hpss, separation, scores, hour, detector),
        *(conv_tasnet, conv_tasnet_step, conv_tasnet_separate, conv_tasnet_hour, separators_step, masker_step),
        *(recogniser_step, joint_step, recogniser_decode),
    )
}


def _measure(name: str) -> dict:
    """A row in a process of its own, with that process's peak memory."""
    own = {"JAX_PLATFORMS": "cpu"} | os.environ  # where everything that it is compared with runs
    done = subprocess.run([sys.executable, "-m", "tests.benchmarks", "--row", name], capture_output=True, text=True, env=own)
    if done.returncode:
        raise SystemExit(f"the benchmark {name} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--only", choices=ROWS, action="append", help="measure only this row")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--row", choices=ROWS, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.row:
        if chosen.row.endswith("_step"):
            keep_memory()
        try:
            row = ROWS[chosen.row]()
        except UserError as error:  # a library that is not installed
            print(json.dumps({"name": chosen.row, "skipped": str(error)}))
            return
        row["peak_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        row["met"] &= row["peak_gib"] <= row.get("most_gib", float("inf"))
        print(json.dumps({"name": chosen.row} | row))
        return
    rows = []
    if not chosen.json:
        print(f"{'':20} {'ours (s)':>10} {'other (s)':>10} {'ratio':>8} {'target':>8}  met  {'GiB':>5}")
    for name in chosen.only or ROWS:
        row = _measure(name)
        rows.append(row)
        if not chosen.json and "skipped" in row:
            print(f"{name:20} skipped: {row['skipped']}", flush=True)
        elif not chosen.json:
            met = "yes" if row["met"] else "NO"
            numbers = f"{row['ours']:10.4f} {row['theirs']:10.4f} {row['ratio']:8.3f} {row['target']:8.2f}"
            lost = f"; bound lost {row['bound_lost']:.1e}" if "bound_lost" in row else ""
            lost += f"; outputs differ by {row['difference']:.1e}" if "difference" in row else ""
            lost += f"; products of matrices alone {row['products']:.2f} s" if "products" in row else ""
            print(f"{name:20} {numbers}  {met:3}  {row['peak_gib']:5.2f}  {row['what']}{lost}", flush=True)
    if chosen.json:
        print(json.dumps({"rows": rows}))


if __name__ == "__main__":
    main()
