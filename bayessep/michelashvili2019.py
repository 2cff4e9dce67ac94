"""Run paper 002's experiment: singing-voice separation without examples of vocals, one line of JSON per result.

Compared are the masker, with all its losses and without some of them; the methods that the paper compares with (NMF with known
accompaniment, a masking GAN, neural egg separation, GLO masking); and networks that are trained on voices
(`bayessep.michelashvili2019_rows`). They are tested on songs with stems (`song_stems`): the test songs of a corpus, or all of a
manifest, from whose stems nothing learns.

Songs are tested in mono at the networks' sample rate; vocals are the mixture minus the accompaniment.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from bayessep import __version__, data, metrics, reproduction, shipped, song_stems, taught_songs, unmatched
from bayessep.detector_data import Item, about_items, seconds_of
from bayessep.detector_release import sources_of
from bayessep.errors import UserError
from bayessep.michelashvili2019_rows import BUDGETS, SHIPPED, TAUGHT, Budget, Song, Takes, Work
from bayessep.reproduction import RESULTS, append, drop_half_a_line, key_of, read
from bayessep.song_stems import Listed
from bayessep.train import CHECKPOINTS, Diverged, Progress
from bayessep.unmatched import RATE, Recipe, Unmatched

KEY = ("row", "song")
WINDOW, HOP = 30 * RATE, 15 * RATE
"""Length and hop of the windows that are scored, in samples."""


class Corpus(NamedTuple):
    """Training material and test songs."""

    sounds: Unmatched
    tested: list[Listed]
    songs: int  # how often songs were made of speech and all music: as in the recipe if there is speech, else 0
    voices: str  # available to train and validate other networks: a key of `michelashvili2019_tables.VOICES`, or empty


def corpus(folder: Path, recipe: Recipe = Recipe()) -> Corpus:
    """Read the training material and list the test songs; no file of vocals is opened here.

    For a corpus with a training set these are the mixtures and accompaniments of its songs, and all other songs; for another
    folder, what `unmatched.read_unmatched` finds by the recipe, and all songs with stems.

    Raises:
        UserError: as `song_stems.listed`, `song_stems.read_part`, `unmatched.read_unmatched` and `refuse_tested`; or the corpus
            lacks a mixture to learn from, or test songs.
    """
    songs = song_stems.listed(folder)
    learned = [song for song in songs if song.part == "train"]
    if not learned:
        speaks = _speaks(folder)
        made = recipe.songs if speaks else 0
        sounds = unmatched.read_unmatched(folder, songs=made, quieter=recipe.quieter, seed=recipe.seed)
        refuse_tested(folder, sounds, songs)
        several = len({item.group for item in sounds.music}) > 1
        return Corpus(sounds, songs, made, ("sung" if made else "spoken") if speaks and several else "")
    if absent := [song.name for song in learned if not song.mixture]:
        raise UserError(f"{folder}: {absent[0]} is to be learned from, but has no mixture; add mixture.wav to it.")

    def items(part: str) -> list[Item]:
        read = (song_stems.read_part(song.name, getattr(song, part), RATE) for song in learned)
        return [Item(f"{song.name}: {part}", song.group, samples[0]) for song, samples in zip(learned, read, strict=True)]

    tested = [song for song in songs if song.part != "train"]
    if not tested:
        raise UserError(f"{folder} has no songs to test with; those in its folder train are for learning.")
    sounds = Unmatched(items(song_stems.MIXTURE), items(song_stems.ACCOMPANIMENT))
    return Corpus(sounds, tested, 0, "stems" if len({song.group for song in learned}) > 1 else "")


def _speaks(folder: Path) -> bool:
    """Return whether a manifest lists speech, of which songs can be made."""
    return (folder / "manifest.csv").exists() and bool(data.select(data.read_manifest(folder), category="speech"))


def refuse_tested(folder: Path, sounds: Unmatched, songs: Sequence[Listed]) -> None:
    """Check that training material and test songs do not overlap.

    Raises:
        UserError: a training recording is of a test song, or by an artist of one.
    """
    groups = {song.group for song in songs} | {song.name for song in songs}
    if (folder / "manifest.csv").exists():
        groups |= {r.split_group for r in data.select(data.read_manifest(folder), category="stems")}
    for item in (*sounds.mixtures, *sounds.music):
        # Paths name the song, too: mixtures/train/A.wav, mixtures/train/A/mixture.wav.
        for of in (item.group, *PurePath(item.name).with_suffix("").parts[1:]):
            if of in groups:
                raise UserError(f"{folder}: {item.name} is of {of}, which is tested with; remove one of the two.")


def run(
    folder: Path, recordings: Path, budget: str, *, seed: int = 0, progress: Progress = lambda *_: None
) -> list[dict[str, Any]]:
    """Train what `folder` lacks, test, and append each result to its results.jsonl at once. Return all results.

    Raises:
        UserError: the recordings cannot be used, or the folder holds results of others, of another budget, seed or version.
    """
    recipe = dataclasses.replace(BUDGETS[budget].recipe, seed=seed)
    found = corpus(recordings, recipe)
    own = dataclasses.replace(BUDGETS[budget], recipe=dataclasses.replace(recipe, songs=found.songs))
    listed = found.tested[: own.songs or None]
    _check_setup(folder, found, listed, budget, own)
    drop_half_a_line(folder / RESULTS)
    songs = cache(lambda n: Song(listed[n], np.concatenate(song_stems.read(listed[n], RATE))))
    voiced = partial(taught_songs.read, recordings, found.sounds.music, found.songs, seed)
    work = Work(folder, found.sounds, [lambda n=n: songs(n) for n in range(len(listed))], own, progress, voiced)
    done = {key_of(result, KEY) for result in read(folder, KEY)}
    rows = [row for row in own.rows if found.voices or row not in TAUGHT]
    for row in rows:
        left = [n for n, song in enumerate(listed) if (row, song.name) not in done]
        if not left:
            continue
        started = time.perf_counter()
        try:
            takes, learned = work.row(row)
        except Diverged as error:
            takes, learned = None, {"diverged": str(error)}
        learned |= {"learning": round(time.perf_counter() - started, 1)}
        if row == SHIPPED:
            learned |= {"heard": has_heard(row, recordings)}
        if row in TAUGHT:
            learned |= {"voices": found.voices}
        for k, n in enumerate(left):
            progress(row, k, len(left), float("nan"))
            line = {"row": row, "song": listed[n].name, "group": listed[n].group, "learned": learned}
            append(folder, line | (tested(songs(n), takes) if takes else {"scores": {}, "seconds": 0.0}))
    for checkpoints in (folder / "training").rglob(CHECKPOINTS):
        shutil.rmtree(checkpoints)
    wanted = {(row, song.name) for row in rows for song in listed}
    return [result for result in read(folder, KEY) if key_of(result, KEY) in wanted]


def has_heard(network: str, folder: Path) -> bool:
    """Return whether a shipped network was trained on recordings from the same sources as a manifest's stems."""
    if not (folder / "manifest.csv").exists():
        return False
    own = sources_of(data.select(data.read_manifest(folder), category="stems"))
    known = shipped.info(network).settings.get("sources", [])
    return bool({line.partition(":")[0] for line in own} & {line.partition(":")[0] for line in known})


def tested(song: Song, takes: Takes) -> dict[str, Any]:
    """Return the scores of vocals and accompaniment: means over windows; None where there are none, as for silence."""
    started = time.perf_counter()
    found = takes(song) if song.mixture.any() else np.zeros_like(song.truth)
    spent = time.perf_counter() - started
    scores: dict[str, float | None] = {}
    for measure, values in _windows(song.truth, found)._asdict().items():
        for source, of in zip(("vocals", "accompaniment"), values, strict=True):
            heard = of[np.isfinite(of)]
            scores[f"{source} {measure.upper()}"] = round(float(heard.mean()), 4) if len(heard) else None
    return {"scores": scores, "seconds": round(spent, 3)}


def _windows(truth: Float[np.ndarray, "2 N"], found: Float[np.ndarray, "2 N"]) -> metrics.WindowScores:
    """Return the scores of all windows; NaN if one of the two sources is silent throughout, in the truth or the estimate."""
    if not (truth.any(1).all() and found.any(1).all()):
        return metrics.WindowScores(*(np.full((2, 1), np.nan),) * 3)
    return metrics.bss_eval_windows(truth, found, WINDOW, HOP)


def finished(folder: Path, budget: str, seed: int) -> list[dict[str, Any]]:
    """Return the results in a folder.

    Raises:
        UserError: there are none, or they have another budget or seed.
    """
    return reproduction.finished(folder, KEY, "michelashvili2019", setup_of, budget, seed)


def setup_of(folder: Path) -> dict[str, Any]:
    """Return the setup of a folder's results.

    Raises:
        UserError: it is missing or damaged.
    """
    return reproduction.read_setup(
        folder, lambda s: (s["seconds"]["mixtures"], s["steps"], s["preset"], s["settings"]["recipe"]["songs"])
    )


def _check_setup(folder: Path, found: Corpus, listed: Sequence[Listed], budget: str, own: Budget) -> None:
    lasting = {what: round(seconds_of(items, RATE), 1) for what, items in found.sounds._asdict().items()}
    setup = {"version": __version__, "budget": budget, "seed": own.recipe.seed, "seconds": lasting, "settings": asdict(own)}
    setup |= {"songs": [song.name for song in listed], "config": asdict(own.recipe.config)}
    setup |= {"steps": own.recipe.epochs * own.recipe.steps_per_epoch, "preset": own.recipe.preset}
    files = dict.fromkeys(source.path for song in listed for source in (*song.vocals, *song.accompaniment))
    digest = hashlib.sha256(b"".join(hashlib.sha256(path.read_bytes()).digest() for path in files)).hexdigest()
    setup |= {"sha256 of recordings": {"learned from": about_items(found.sounds)["sha256"], "tested with": digest}}
    reproduction.settle(folder, json.loads(json.dumps(setup)))
