"""The commands that take a model to where it is used: export, serve, consolidate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from continual.cli.given import say_right
from continual.cli.loading import loading_pytorch
from continual.cli.options import (
    FALSE_ALARMS,
    Device,
    Method,
    Model,
    Set,
    Weights,
    check_false_alarms,
    check_shares,
    check_there,
)
from continual.console import (
    can_ask,
    check_target,
    confirmed,
    console,
    count,
    make_folder,
    new_folder,
    size,
    write_text,
)
from continual.errors import InputError
from continual.lifecycle import contents, versions
from continual.options import assignments

if TYPE_CHECKING:
    from continual.learning.learner import IncrementalLearner
    from continual.methods.mos.learner import MOSLearner

    Learner = IncrementalLearner[Any]

app = typer.Typer()


@app.command()
def export(
    model: Model,
    onnx: Annotated[
        Path, typer.Option(metavar="FILE|DIR", help="A file .onnx, or a folder for it and the runner to copy along.")
    ],
    images: Annotated[
        list[Path] | None,
        typer.Option("--images", "-i", metavar="IMAGE|DIR", help="Compare with PyTorch on these, not synthetic ones."),
    ] = None,
    false_alarm_rate: Annotated[
        float, typer.Option(*FALSE_ALARMS, help="Share of known images that the runner may call unknown by default.")
    ] = 0.05,
    int8: Annotated[
        bool, typer.Option("--int8", help="The backbone's weights in 8 bits; says what that costs and saves.")
    ] = False,
    learnable: Annotated[
        bool, typer.Option("--learnable", help="Write its sums as well: the device adds and corrects classes.")
    ] = False,
    method: Method = None,
    weights: Weights = None,
) -> None:
    """Write a model as one ONNX file, compared with PyTorch before it is done."""
    check_false_alarms(false_alarm_rate)
    check_there(images or ())
    try:
        with loading_pytorch():
            from continual.export import standalone, writing
    except ImportError as error:
        raise InputError(f"export needs the extra: pip install 'equimos[export]' ({error})") from None
    from continual.cli import opening
    from continual.cli.progress import ProgressBars

    folder = onnx.suffix != ".onnx"
    file = onnx / f"{model.stem}.onnx" if folder else onnx
    found = contents.read(model)
    with new_folder(onnx if folder else None), ProgressBars(console(stderr=True)) as bars:
        check_target(file)
        paths = opening.readable(images or (), bars, found.channels)
        with bars.waiting("loading the model"):
            learner = opening.load_learner(found, weights, "cpu", method)
        with bars.waiting("writing the graph, and comparing its answers with PyTorch's"):
            agreed = writing.export_onnx(
                learner,
                file,
                images=paths or None,
                false_alarm_rate=false_alarm_rate,
                int8=int8,
                learnable=learnable,
                progress=bars,
            )
    if folder:
        write_text(onnx / "onnx_runner.py", standalone.source())
        if learnable:
            write_text(onnx / "onnx_learner.py", standalone.source(standalone.LEARNER))
    out = console()
    if getattr(learner.settings, "passes", None) is not None:
        out.print(f"passes={learner.settings.passes:g} is of PyTorch alone: the graph looks at all views of an image")
    out.print(f"{file}: {learner.method}, {count(len(learner.classes), 'class')}, {size(file.stat().st_size)}")
    out.print(
        f"compared with PyTorch on {count(agreed.images, 'image' if paths else 'synthetic image')}: "
        f"{agreed.same_answers} answers the same, scores within {agreed.largest:.1g}"
    )
    if agreed.int8 is not None:
        small = agreed.int8
        out.print(
            f"in 8 bits: {small.same_answers} of {agreed.images} answers the same, scores within {small.largest:.1g}; "
            f"{size(small.float_bytes)} -> {size(small.bytes)}, "
            f"{small.float_milliseconds:.1f} -> {small.milliseconds:.1f} ms per image here"
        )
        say_right(images or (), learner, agreed.answers, small.answers)


@app.command()
def serve(
    model: Model,
    host: Annotated[str, typer.Option(help="The address to listen at; 0.0.0.0 for all, and then with a key.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 for any that is free.")] = 8000,
    api_key: Annotated[
        str | None,
        typer.Option(
            envvar="EQUIMOS_API_KEY",
            help="Answer only who sends it. Other users can read a command line: better set the variable.",
        ),
    ] = None,
    false_alarm_rate: Annotated[
        float, typer.Option(*FALSE_ALARMS, help="The share of known images that may be called unknown.")
    ] = 0.05,
    max_bytes: Annotated[int, typer.Option(min=1, help="Bytes per image at most.")] = 10 * 2**20,
    max_pixels: Annotated[int, typer.Option(min=1, help="Pixels per image at most.")] = 25_000_000,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds for an upload, and for its answer.")] = 30.0,
    batch: Annotated[int, typer.Option(min=1, help="Images answered together at most.")] = 32,
    per_address: Annotated[
        int, typer.Option(min=0, help="Connections from one address at most; 0 for any number, behind a proxy.")
    ] = 32,
    name: Annotated[
        list[str] | None, typer.Option(help="A name to answer to, such as that of a proxy in front; may be repeated.")
    ] = None,
    collect: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Store images that people name on the page here, in a folder per class."),
    ] = None,
    learn: Annotated[
        bool, typer.Option("--learn", help="Let the page learn these into the model file: a new version, with undo.")
    ] = False,
    max_flips: Annotated[
        float | None, typer.Option(min=0, max=1, help="Keep no version that breaks more than this share of answers.")
    ] = None,
    set_: Set = None,
    method: Method = None,
    weights: Weights = None,
    device: Device = "auto",
) -> None:
    """Answer over HTTP, with a page to drop images on; a changed model file is loaded without a stop.

    With --collect the page takes corrections, and with --learn it learns them. Who reaches the server can then change
    the model, so that a server for others needs a key.
    """
    try:
        with loading_pytorch():
            from continual.serving import server
            from continual.serving.answering import ServingOptions
            from continual.serving.model import ModelInUse
            from continual.serving.uploads import Limits
    except ImportError as error:
        raise InputError(f"serve needs the extra: pip install 'equimos[serve]' ({error})") from None
    from continual.cli import opening
    from continual.cli.progress import waiting

    check_false_alarms(false_alarm_rate)
    check_shares(max_flips=max_flips)

    def load(before: Learner | None) -> Learner:
        found = contents.read(model)
        if not found.classes:
            raise InputError(f"{model} has learned nothing yet")
        backbone = None if before is None else before.backbone
        if backbone is not None and backbone.describe() != found.header["backbone"]:
            backbone = None
        return opening.load_learner(found, weights, device, method, set_, backbone)

    contents.read(model)
    limits, hosts = Limits(max_bytes, max_pixels), server.names(host, *(name or ()))
    if learn and collect is None:
        collect = model.with_name(f"{model.stem}-corrections")
    if collect is not None:
        if api_key is None and not server.is_loopback(host):
            raise InputError(f"anyone who reaches {host} could change the model: set EQUIMOS_API_KEY for a key")
        make_folder(collect)
    asked = ServingOptions(
        api_key,
        false_alarm_rate,
        limits,
        timeout,
        batch=batch,
        hosts=hosts,
        per_address=per_address,
        collect=collect,
        learn=learn,
        max_flips=max_flips,
        weights=tuple(weights or ()),
    )
    with waiting("loading the model, and trying an answer"):
        in_use = ModelInUse(model, load)
    if api_key is None and not server.is_loopback(host):
        console(stderr=True).print(f"warning: anyone who reaches {host} is answered; set EQUIMOS_API_KEY for a key")
    about = f"{model}: {in_use.now.learner.method}, {count(len(in_use.now.learner.classes), 'class')}"
    with server.listening(host, port) as sockets:
        console(stderr=True).print(f"{about}, at http://{server.address(sockets)} (Ctrl+C stops it)")
        server.run(in_use, asked, sockets)


@app.command()
def consolidate(
    model: Model,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The new model file.")],
    images: Annotated[
        Path | None,
        typer.Option("--images", "-i", metavar="DIR", help="Measure the cost on these: one folder per class, or none."),
    ] = None,
    rule: Annotated[
        str,
        typer.Option(metavar="RULE", help="The single adapter: the first, or a merge (`equimos list merging`)."),
    ] = "first",
    args: Annotated[
        list[str] | None, typer.Option("--arg", metavar="KEY=VALUE", help="A setting of that rule: ratio=0.1.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Write it without asking.")] = False,
    method: Method = None,
    weights: Weights = None,
    device: Device = "auto",
) -> None:
    """Make a MOS model that answers in one pass, with a single adapter; says first what that costs."""
    with loading_pytorch():
        from continual.cli import opening
        from continual.cli.progress import waiting
        from continual.merging import RULES
        from continual.methods.mos import consolidation
        from continual.methods.mos.learner import MOSLearner

    if not yes and not can_ask():
        raise InputError("there is no terminal to ask on: --yes writes the model without asking")
    check_target(out)
    if out.exists():
        raise InputError(f"{out} is there already: name a new file with --out")
    found = contents.read(model)
    with waiting("loading the model"):
        learner = opening.load_learner(found, weights, device, method)
    if not isinstance(learner, MOSLearner):
        raise InputError(f"consolidate is for models of method mos, and not of {learner.method}")
    rule = RULES.resolve(rule)
    with waiting("joining the adapters, and estimating what that costs"):
        single = consolidation.consolidated(learner, rule, **assignments("--arg", args or []))
        guess = consolidation.estimate(learner, single)
    say = console().print
    say(f"{learner.state.experiences} adapters -> 1 ({rule}), one pass per image")
    say(f"features drawn from class statistics answered right: {guess.before:.1%} -> {guess.after:.1%} (an estimate)")
    if images is not None:
        _say_cost(learner, single, images)
    if not (yes or confirmed(f"Write {out}?")):
        say("nothing written")
        return
    event = f"consolidated from {model.name} ({rule})"
    versions.save(single, out, event, embed_backbone=found.embedded, seen=found.seen)
    say(f"{out}: {count(len(single.classes), 'class')}, {size(model.stat().st_size)} -> {size(out.stat().st_size)}")


def _say_cost(learner: MOSLearner, single: MOSLearner, folder: Path) -> None:
    """Print what changes for real images: which are right, where their folders say, and which are answered alike."""
    from continual.cli import opening
    from continual.cli.progress import ProgressBars

    with ProgressBars(console(stderr=True)) as bars:
        paths = opening.readable([folder], bars)
        before, after = (one.predict(paths, progress=bars) for one in (learner, single))
    rows = say_right([folder], learner, before.labels, after.labels)
    say = console().print
    same = sum(a == b for a, b in zip(before.labels, after.labels, strict=True))
    say(f"{same} of {count(len(paths), 'image')} answered as before")
    alarms = [found.p_value[rows] <= 0.05 for found in (before, after) if found.p_value is not None]
    if rows and len(alarms) == 2:
        shares = [float(found.float().mean()) for found in alarms]
        say(f"of the known, called unknown at a rate of 5 %: {shares[0]:.1%} -> {shares[1]:.1%}")
