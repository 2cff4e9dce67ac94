"""Implementation of `bayessep reproduce`: run the experiment of a paper, write its tables and print them."""

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from bayessep import __version__, output
from bayessep.errors import UserError
from bayessep.terminal import Terminal, to_json

Lines = list[dict[str, Any]]
"""Results of an experiment, as stored in its folder."""


def _lines(held: Callable[[], Lines], run: Callable[..., Lines], finished: bool, terminal: Terminal) -> Lines:
    """Return the results that the folder already holds if `finished`, else all results after running the experiment."""
    if finished:
        return held()
    with terminal.working() as progress:
        return run(progress=progress)


def reproduce_mixtures(
    folder: Path,
    data: Path,
    seed: int,
    quick: bool,
    development: bool,
    jobs: int,
    finished: bool,
    device: str,
    terminal: Terminal,
) -> None:
    """Reproduce paper 000: run what the folder lacks (nothing if `finished`), then write and print the tables."""

    from bayessep import recognition, reproduction, tables
    from bayessep.pages import account

    if quick and development:
        raise UserError("--quick runs a part of the experiment, --development more than all of it; give only one of them.")
    if not (finished or recognition.is_installed()):
        later = "results stored without them are not transcribed later"
        terminal.warn(f"no word error rates: install a recogniser with pip install 'bayessep[asr]'; {later}.")
    tasks = reproduction.plan(quick, development)
    held = partial(reproduction.held, folder, tasks, seed=seed)
    lines = _lines(held, partial(reproduction.run, folder, data, tasks, seed=seed, jobs=jobs), finished, terminal)
    results = tables.Results(lines)
    found = tables.findings(results)
    seconds = sum(line["seconds"] for line in lines)
    extent = {"quick": quick, "development": development, "there": len(lines), "planned": len(reproduction.keys_of(tasks))}
    about = tables.about(**extent, seed=seed, seconds=seconds)
    document: dict[str, Any] = {"command": "reproduce", "experiment": "demir2011", "version": __version__, "device": device}
    document |= {"seed": seed, "quick": quick, "development": development, "about": about, "seconds": seconds}
    document["settings"] = dataclasses.asdict(reproduction.BEST)
    document |= {"means": results.rows(), "findings": [f._asdict() for f in found]}
    stem = "quick" if quick else "tables"
    names = {"json": f"{stem}.json", "csv": f"{stem}.csv", "markdown": f"{stem}.md", "png": f"{stem}.png"}
    document["output"] = {"folder": str(folder), "results": reproduction.RESULTS} | names
    with output.draft(folder) as part:
        (part / names["json"]).write_text(to_json(document), encoding="utf-8")
        (part / names["csv"]).write_text(tables.to_csv(results), encoding="utf-8")
        (part / names["markdown"]).write_text(tables.to_markdown(results, about, names["png"]), encoding="utf-8")
        (part / names["png"]).write_bytes(tables.picture(results))
    terminal.result(document, account(tables.tables(results), found, folder / names["markdown"]))


def reproduce_detection(
    folder: Path, data: Path, seed: int, budget: str, transfer: Path | None, finished: bool, device: str, terminal: Terminal
) -> None:
    """Reproduce paper 003: run what the folder lacks (nothing if `finished`), then write and print the tables."""

    from bayessep import bhattacharjee2022 as experiment
    from bayessep import bhattacharjee2022_tables as made
    from bayessep import reproduction
    from bayessep.bhattacharjee2022_rows import BUDGETS, plan
    from bayessep.pages import account

    if (budget == "quick" or finished) and transfer is not None:
        without = "--finished runs nothing" if finished else "--quick leaves Table V out"
        raise UserError(f"{without}, and --transfer says what Table V is run on; give only one of them.")
    corpus = experiment.Corpus(data)
    tasks = plan(budget, transfer=transfer is not None)
    held = partial(experiment.finished, folder, corpus, budget, seed=seed)
    lines = _lines(held, partial(experiment.run, folder, corpus, tasks, seed=seed, transfer=transfer), finished, terminal)
    results = made.Results(lines)
    found = made.findings(results)
    seconds = sum(line["seconds"] for line in lines)
    about = made.about(results, budget, seed=seed, seconds=seconds, spoken=corpus.seconds(), planned=len(tasks))
    stem = {"full": "tables"}.get(budget, budget)
    about += reproduction.notes_of(folder, stem)
    document: dict[str, Any] = {"command": "reproduce", "experiment": "bhattacharjee2022", "version": __version__, "device": device}
    document |= {"seed": seed, "budget": budget, "about": about, "seconds": seconds}
    document["settings"] = dataclasses.asdict(BUDGETS[budget])
    document |= {"means": results.rows(), "findings": [f._asdict() for f in found]}
    pictures = {f"{stem}-{name}.png": content for name, content in made.pictures(results).items()}
    names = {"json": f"{stem}.json", "csv": f"{stem}.csv", "markdown": f"{stem}.md", "png": list(pictures)}
    document["output"] = {"folder": str(folder), "results": experiment.RESULTS} | names
    with output.draft(folder) as part:
        (part / f"{stem}.json").write_text(to_json(document), encoding="utf-8")
        (part / f"{stem}.csv").write_text(made.to_csv(results), encoding="utf-8")
        (part / f"{stem}.md").write_text(made.to_markdown(results, about, list(pictures)), encoding="utf-8")
        for name, content in pictures.items():
            (part / name).write_bytes(content)
    terminal.result(document, account(made.tables(results, brief=True), found, folder / names["markdown"]))


def reproduce_karaoke(
    folder: Path, data: Path, seed: int, budget: str, finished: bool, device: str, terminal: Terminal
) -> None:
    """Reproduce paper 004: run what the folder lacks (nothing if `finished`), then write and print figures and tables."""

    from bayessep import simpson2015 as experiment
    from bayessep import simpson2015_tables as made
    from bayessep.pages import account

    corpus = experiment.Corpus(data)
    held = partial(experiment.finished, folder, corpus, budget, seed=seed)
    lines = _lines(held, partial(experiment.run, folder, corpus, budget, seed=seed), finished, terminal)
    results = made.Results(lines)
    found, of = made.findings(results), experiment.BUDGETS[budget]
    planned, lasting = len(experiment.plan(corpus, budget)), corpus.seconds(of)
    about = made.about(results, budget, seed=seed, planned=planned, lasting=lasting, artists=corpus.artists_met)
    document: dict[str, Any] = {"command": "reproduce", "experiment": "simpson2015", "version": __version__, "device": device}
    document |= {"seed": seed, "budget": budget, "about": about, "seconds": results.seconds(), "settings": dataclasses.asdict(of)}
    document |= {"means": results.rows(), "findings": [f._asdict() for f in found], "silent": results.silent()}
    before = "quick-" if budget == "quick" else ""
    pictures = {f"{before}{name}.png": content for name, content in made.pictures(results).items()}
    curves = {f"{before}figure2.csv": results.rows(), f"{before}figure3.csv": made.figure_3(results)}
    names = {"json": f"{before}figures.json", "markdown": f"{before}figures.md", "csv": list(curves), "png": list(pictures)}
    document["output"] = {"folder": str(folder), "results": experiment.RESULTS} | names
    with output.draft(folder) as part:
        (part / names["json"]).write_text(to_json(document), encoding="utf-8")
        (part / names["markdown"]).write_text(made.to_markdown(results, about, list(pictures)), encoding="utf-8")
        for name, records in curves.items():
            (part / name).write_text(made.to_csv(records), encoding="utf-8")
        for name, content in pictures.items():
            (part / name).write_bytes(content)
    terminal.result(document, account(made.tables(results, brief=True), found, folder / names["markdown"], about, ""))


def reproduce_separation(
    folder: Path, data: Path, seed: int, budget: str, finished: bool, device: str, terminal: Terminal
) -> None:
    """Reproduce the separation of paper 001: train and test what the folder lacks (nothing if `finished`), and print tables."""

    from bayessep import woo2020, woo2020_tables

    _trained_and_tested("separation", woo2020, woo2020_tables, folder, data, seed, budget, finished, device, terminal)


def reproduce_recognition(
    folder: Path, data: Path, seed: int, budget: str, finished: bool, device: str, terminal: Terminal, speech: Path | None = None
) -> None:
    """Reproduce the recognition of paper 001: train and test what the folder lacks (nothing if `finished`), and print tables."""

    from bayessep import woo2020_recognition, woo2020_recognition_tables

    made = woo2020_recognition_tables
    own = woo2020_recognition
    _trained_and_tested("recognition", own, made, folder, data, seed, budget, finished, device, terminal, speech=speech)


def reproduce_masking(
    folder: Path, data: Path, seed: int, budget: str, finished: bool, device: str, terminal: Terminal
) -> None:
    """Reproduce paper 002: train and test what the folder lacks (nothing if `finished`), and print tables."""

    from bayessep import michelashvili2019 as experiment
    from bayessep import michelashvili2019_tables as made

    _trained_and_tested("tables", experiment, made, folder, data, seed, budget, finished, device, terminal)


def _trained_and_tested(
    stem: str,
    experiment: ModuleType,
    made: ModuleType,
    folder: Path,
    data: Path,
    seed: int,
    budget: str,
    finished: bool,
    device: str,
    terminal: Terminal,
    **more: Any,
) -> None:
    """Run an experiment whose stored setup holds all that its results depend on; `more` are further arguments of its `run`."""

    from bayessep.pages import account

    held = partial(experiment.finished, folder, budget, seed)
    lines = _lines(held, partial(experiment.run, folder, data, budget, seed=seed, **more), finished, terminal)
    setup = experiment.setup_of(folder)
    results = made.Results(lines)
    found, about = made.findings(results), made.about(results, setup)
    name = experiment.__name__.rpartition(".")[-1]
    document: dict[str, Any] = {"command": "reproduce", "experiment": name, "version": __version__, "device": device, **setup}
    document |= {"about": about, "means": results.rows(), "findings": [f._asdict() for f in found]}
    names = {"json": f"{stem}.json", "csv": f"{stem}.csv", "markdown": f"{stem}.md"}
    document["output"] = {"folder": str(folder), "results": experiment.RESULTS} | names
    with output.draft(folder) as part:
        (part / names["json"]).write_text(to_json(document), encoding="utf-8")
        (part / names["csv"]).write_text(made.to_csv(results), encoding="utf-8")
        (part / names["markdown"]).write_text(made.to_markdown(results, about), encoding="utf-8")
    terminal.result(document, account(made.tables(results), found, folder / names["markdown"]))
