"""The command line: one function a verb, no logic."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmsa_core.errors import UserError

if TYPE_CHECKING:
    from search.pipeline import Opened

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # torch's threads read this once, at start

EXIT_MISTAKE, EXIT_NOTHING, EXIT_INTERRUPTED = 2, 3, 130

app = typer.Typer(
    help="Find the best combination of multimodal-sentiment modules, confirm it on fresh seeds, explain and export it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
data_app = typer.Typer(help="Convert, describe and plant data files, and make text features.", no_args_is_help=True)
app.add_typer(data_app, name="data")

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Data = Annotated[str | None, typer.Option("--data", help="The data file (.npz or MMSA .pkl).")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="Changes to the study, e.g. budget.trials=50 or seeds.confirm=40.", metavar="KEY=VALUE"),
]
DataFile = Annotated[Path, typer.Argument(help="A data file (.npz or MMSA .pkl).", metavar="DATA")]
CONFIG_HELP = "A shipped configuration (dma, self_mm, self_mm_mosi, self_mm_mosei, self_mm_sims) or a file"
Config = Annotated[str, typer.Argument(help=f"{CONFIG_HELP}, e.g. a trial's config.yaml.", metavar="CONFIG")]
Run = Annotated[Path, typer.Argument(help="The run folder, e.g. runs/mosi-modules.", metavar="RUN")]
Model = Annotated[Path, typer.Argument(help="A model folder, e.g. runs/mosi-modules/best.", metavar="MODEL")]


@app.command()
def run(
    study: Annotated[Path, typer.Argument(help="The study file.", metavar="STUDY.yaml")],
    overrides: Overrides = None,
    data: Data = None,
    out: Annotated[Path | None, typer.Option(help="The run folder; runs/<study> by default.")] = None,
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="Ask in fixed groups: the same trials on any number of workers.")
    ] = False,
    check: Annotated[bool, typer.Option("--check", help="Check everything, train nothing, write nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Search, confirm, explain, report and export; run again to go on where it stopped."""
    from search import pipeline
    from search.progress import Progress
    from search.study import StudyConfig

    config = StudyConfig.load(study, overrides or [], data)
    if deterministic:
        pipeline.check_deterministic(config)
    opened = pipeline.open_new(config, study, out or Path("runs") / config.study, dry=check)
    if check:
        count = opened.space.count()
        _say(
            f"{study}: sound; {count.structures:,} structures, {count.continuous} further parameters",
            as_json,
            asdict(count),
        )
        return
    with Progress(config.study, as_json) as progress:
        record = pipeline.run(opened, deterministic, progress)
    _finish(opened, record, as_json)


@app.command()
def status(
    run: Run,
    watch: Annotated[bool, typer.Option("--watch", help="Show it again every 2 seconds.")] = False,
    as_json: Json = False,
) -> None:
    """Show how far a study is."""
    from search import show

    show.status(run, watch, as_json)


@app.command()
def stop(run: Run) -> None:
    """Ask the driver of a run to save and stop; `run` goes on later."""
    from search.run_folder import RunFolder

    typer.echo(f"asked process {RunFolder(run).interrupt()} to save and stop")


@app.command()
def space(
    name: Annotated[
        str, typer.Argument(help="A shipped space (quick, paper, planted, ...) or a file.", metavar="SPACE")
    ],
    sample: Annotated[int, typer.Option(min=0, help="Show this many random configurations.")] = 0,
    seed: Annotated[int, typer.Option(help="The seed of the samples.")] = 0,
    as_json: Json = False,
) -> None:
    """Check a space, count it and show samples."""
    from search import show

    show.space(name, sample, seed, as_json)


@app.command()
def modules(as_json: Json = False) -> None:
    """List every plug-in with its meaning, source and parameters."""
    from search import show

    show.modules(as_json)


@app.command()
def confirm(
    run: Run,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Confirm the leaders again, e.g. with seeds.confirm=40, and explain, report and export what that gives."""
    _stages(run, overrides, as_json)


@app.command()
def explain(run: Run, as_json: Json = False) -> None:
    """Measure again what each module of the winner does."""
    _stages(run, None, as_json)


@app.command()
def report(
    run: Run,
    out: Annotated[
        Path | None, typer.Option(help="A folder to write it into; the run folder's report/ by default.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write the report again, or elsewhere with --out, which needs no right to write in the run folder."""
    from search.report.build import rewrite_report

    path = rewrite_report(run, out)
    _say(f"report: {path}", as_json, {"report": str(path)})


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Two or more run folders.", metavar="RUN...")],
    as_json: Json = False,
) -> None:
    """Show the confirmed winners of several runs side by side, and which of them is better."""
    from search import compare as comparing

    comparing.show(runs, as_json)


@app.command()
def export(run: Run, as_json: Json = False) -> None:
    """Write the model folder again."""
    from search import confirm as confirmed
    from search import export as exporting
    from search import pipeline

    with pipeline.hold_run(run) as opened:
        record = confirmed.read_record(run / "confirm")
        if record is None:
            raise UserError(f"{run}: nothing is confirmed yet; run or confirm first")
        path = exporting.write_model(opened, record)
    _say(f"model: {path}", as_json, {"model": str(path)})


@app.command()
def train(
    config: Config,
    data: Annotated[str, typer.Option("--data", help="The data file.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Changes to it, e.g. optimizer.lr=0.0005 or encoders.text=pool.", metavar="KEY=VALUE"),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Train with seeds 0 to N-1, together.")] = 1,
    metric: Annotated[str, typer.Option(help="What selects the best epoch on the valid split.")] = "mae",
    convention: Annotated[str, typer.Option(help="mosi or sims.")] = "mosi",
    nonfinite: Annotated[str, typer.Option(help="refuse or zero.")] = "refuse",
    out: Annotated[Path, typer.Option(help="The model folder to write.")] = Path("model"),
    as_json: Json = False,
) -> None:
    """Train one configuration with several seeds and write a model folder."""
    from mmsa_core.train import Objective
    from search import show

    show.train(config, overrides or [], data, seeds, Objective.checked(metric, convention), nonfinite, out, as_json)


@app.command()
def evaluate(
    model: Model,
    data: Data = None,
    split: Annotated[
        str, typer.Option(help="train, valid or test (an opening of the study's test split is counted).")
    ] = "valid",
    as_json: Json = False,
) -> None:
    """Print a model's metrics on a split."""
    from search import show

    show.evaluate(model, data, split, as_json)


@app.command()
def predict(
    model: Model,
    data: Data = None,
    split: Annotated[str | None, typer.Option(help="train, valid or test (the default) of a data set.")] = None,
    text: Annotated[list[str] | None, typer.Option(help="A sentence; may be given several times.")] = None,
    out: Annotated[Path | None, typer.Option(help="A CSV file instead of the standard output.")] = None,
) -> None:
    """Write predictions as CSV: id, prediction, deviation over the members, 90 % interval. An id that begins with
    =, +, -, @, ', a tab or a line's end has a ' in front, so that no spreadsheet runs it.

    Of sentences (--text), of a split of a data set, or of rows without labels: an .npz with raw_text, audio, ... and no
    split before the names. What a row lacks is missing.
    """
    from search import show

    show.predict(model, data, split, text or [], out)


@app.command()
def verify(
    model: Model,
    data: Data = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Only the first N seeds.")] = None,
    as_json: Json = False,
) -> None:
    """Train a model again with its own seeds and compare."""
    from search import show

    show.verify(model, data, seeds, as_json)


@app.command()
def bench(
    data: Annotated[str, typer.Option("--data", help="The data file.")],
    members: Annotated[str, typer.Option(help="Population sizes.")] = "1,2,4,8,16,32,64",
    config: Annotated[str | None, typer.Option(help=f"{CONFIG_HELP}; the quick space's baseline by default.")] = None,
    as_json: Json = False,
) -> None:
    """Measure how much faster members train together than one by one, and recommend a population size."""
    from search import show

    show.bench(data, members, config, as_json)


@app.command()
def doctor(
    study: Annotated[Path | None, typer.Argument(help="A study to check too.", metavar="STUDY.yaml")] = None,
    data: Data = None,
    out: Annotated[Path, typer.Option(help="Where the run folder will be.")] = Path("runs"),
    as_json: Json = False,
) -> None:
    """Check machine, packages, GPU, memory, disk, file locks and storage (and a study), and say what to change."""
    from search.doctor import doctor as examine

    if not examine(out, study, data, as_json):
        sys.exit(EXIT_MISTAKE)


@app.command()
def interactions(
    path: DataFile,
    modalities: Annotated[str | None, typer.Option(help="Two or three with commas; all by default.")] = None,
    nonfinite: Annotated[str, typer.Option(help="refuse or zero.")] = "refuse",
    as_json: Json = False,
) -> None:
    """Measure what modalities say of the label alike, alone and only together, and which modules that speaks for."""
    from search import interactions as found

    found.interactions(path, modalities, nonfinite, as_json)


@app.command()
def dashboard(
    run: Run, port: Annotated[int, typer.Option(min=1, max=65535, help="The port to listen on.")] = 8080
) -> None:
    """Serve optuna-dashboard of the study, on this machine only, until Ctrl-C."""
    from search.dashboard import serve

    serve(run, port, lambda address: typer.echo(f"dashboard: {address}"))


@data_app.command("convert")
def data_convert(
    source: Annotated[Path, typer.Argument(help="The pickle.", metavar="MMSA.pkl")],
    target: Annotated[Path, typer.Argument(help="The file to write.", metavar="DATA.npz")],
) -> None:
    """Write an MMSA pickle as a native .npz."""
    from mmsa_core.data.convert import convert

    convert(source, target)
    typer.echo(f"wrote {target}")


@data_app.command("describe")
def data_describe(path: DataFile, as_json: Json = False) -> None:
    """Show what a data file holds."""
    from search import show

    show.describe(path, as_json)


@data_app.command("features")
def data_features(
    source: Annotated[Path, typer.Argument(help="A data file with raw_text (.npz or MMSA .pkl).", metavar="IN")],
    target: Annotated[Path, typer.Argument(help="The file to write.", metavar="OUT.npz")],
    text_model: Annotated[
        str, typer.Option(help="A name on the Hugging Face hub, a folder, or an installed package with a model.")
    ],
    pooling: Annotated[str, typer.Option(help="mean, cls (the first token), or tokens (the sequence).")] = "mean",
    layer: Annotated[int, typer.Option(help="The layer whose states are taken; -1 is the last.")] = -1,
) -> None:
    """Write a data file with text features that a pre-trained model makes of raw_text; kept in a cache, goes on where
    it was interrupted."""
    from search import show

    show.features(source, target, text_model, pooling, layer)
    typer.echo(f"wrote {target}")


@data_app.command("plant")
def data_plant(
    target: Annotated[Path, typer.Argument(help="The file to write.", metavar="DATA.npz")],
    seed: Annotated[int, typer.Option(help="The seed of the data.")] = 0,
    problem: Annotated[
        str,
        typer.Option(
            help="What must win: modules (a fusion that multiplies), gating (fusion gated), shared (a shared alignment "
            "of text-audio), private (a private one of text-vision), missing (strategy modality_dropout), unlabeled "
            "(a shared alignment with strategy unlabeled) or null (nothing)."
        ),
    ] = "modules",
) -> None:
    """Write planted data whose best modules are known; spaces/studies/planted.yaml searches them."""
    from search import show

    show.plant(target, seed, problem)
    typer.echo(f"wrote {target}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; a user's mistake is one sentence and exit code 2."""
    try:
        code = app(args=arguments, prog_name="mmsa-search", standalone_mode=False)
        if code == EXIT_INTERRUPTED:  # how newer typers pass on a KeyboardInterrupt
            raise KeyboardInterrupt
    except UserError as error:
        _exit(str(error), EXIT_MISTAKE)
    except typer.Exit as done:
        sys.exit(done.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        _exit("interrupted; run the same command again to go on", EXIT_INTERRUPTED)
    except Exception as error:
        _known(error)


def _known(error: Exception) -> None:
    """Exit by what an exception means; re-raise what is our own fault."""
    name = type(error).__name__
    if hasattr(error, "format_message"):  # click's own: a wrong option or argument
        message = error.format_message().rstrip(".")
        if not message:  # a bare command, whose help is printed already
            sys.exit(EXIT_MISTAKE)
        context = getattr(error, "ctx", None)
        _exit(f"{message}; see {context.command_path if context else 'mmsa-search'} --help", EXIT_MISTAKE)
    from search.outage import outage

    if (why := outage(error)) is not None:
        _exit(why, EXIT_MISTAKE)
    if name == "InterruptedStudyError":
        _exit("stopped and saved; run the same command again to go on", EXIT_INTERRUPTED)
    if name == "UnansweredError":
        _say_error(str(error))
        os._exit(EXIT_INTERRUPTED)  # a thread waits for the storage: the interpreter would end in its own time
    if name == "HandedOverError":
        _exit(str(error), 0)
    if name == "NothingFinishedError":
        _exit(str(error), EXIT_NOTHING)
    raise error


def _exit(message: str, code: int) -> None:
    _say_error(message)
    sys.exit(code)


def _say_error(message: str) -> None:
    typer.echo(f"mmsa-search: {' '.join(message.split())}", err=True)


def _say(text: str, as_json: bool, data: dict[str, Any]) -> None:
    typer.echo(json.dumps(data) if as_json else text)


def _stages(run: Path, overrides: list[str] | None, as_json: bool) -> None:
    from search import pipeline
    from search.progress import Progress

    with pipeline.hold_run(run, overrides or []) as opened, Progress(opened.config.study, as_json) as progress:
        record = pipeline.after_search(opened, progress)
    _finish(opened, record, as_json)


def _finish(opened: Opened, record: dict[str, Any], as_json: bool) -> None:
    from search import show

    show.result(opened, record, as_json)
