"""The console script ``whymatch``.

Apache Beam takes seconds to import and torch more: both, and ``export``, are imported by the command that needs them, so
that ``--help`` and a wrong option answer at once.

Exit codes: 0 done, 1 a gate or rate failed, 2 usage or configuration, 3 the run broke.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from transforms.core.errors import RunError, UsageError

_INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")

DESCRIPTION = (
    "Explains, for every pair of a recommendation catalogue, why an image-similarity model says that they match."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    # before numpy loads its BLAS: results must not depend on a thread count nobody set
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    given = list(sys.argv[1:] if arguments is None else arguments)
    given, beam_args = _split(given)
    options = build_parser().parse_args(given)
    if beam_args and options.command != "audit":
        return _complain(UsageError("arguments after -- go to Beam's runner; only `audit` has one"))
    options.beam_args = tuple(beam_args)
    try:
        done: int = options.run(options)
        return done
    except UsageError as error:
        return _complain(error)
    except RunError as error:
        print(f"whymatch: {_safe(error)}", file=sys.stderr)
        return 3
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except KeyboardInterrupt:
        print("whymatch: interrupted; nothing of an unfinished run counts", file=sys.stderr)
        return 3


def _split(given: list[str]) -> tuple[list[str], list[str]]:
    if "--" not in given:
        return given, []
    at = given.index("--")
    return given[:at], given[at + 1 :]


def _complain(error: UsageError) -> int:
    print(f"whymatch: {_safe(error)}", file=sys.stderr)
    return 2


def _safe(error: Exception) -> str:
    from transforms import storage

    return storage.redact(str(error))


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(prog="whymatch", description=DESCRIPTION)
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in (_demo, _train, _export, _bundle, _pairs, _audit, _sql, _show):
        add(commands)
    return parser


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any, **__: Any) -> None:
        from importlib import metadata

        print(f"whymatch {metadata.version('whymatch')}")
        parser.exit()


def _command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], int], summary: str, more: str = ""
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}. {more}".strip(),
        formatter_class=_Formatter,
    )
    parser.set_defaults(run=run)
    return parser


class _Formatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows a default only where there is one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, False, (), []) or action.required:
            return action.help
        return super()._get_help_string(action)


# One function a command: its options, then what it runs.


def _demo(commands: Any) -> None:
    parser = _command(
        commands,
        "demo",
        _run_demo,
        "draw a catalogue of garments with known ground truth",
        "It comes with a manifest of pairs, region masks, and a planted shortcut: one brand's photographs carry a badge.",
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write")
    parser.add_argument("--products", type=int, default=600, help="how many garments")
    parser.add_argument("--seed", type=int, default=0, help="seed of the drawing")


def _run_demo(options: argparse.Namespace) -> int:
    import shutil

    from pipeline import demo

    print(demo.draw(options.out, products=options.products, seed=options.seed))
    for name in demo.BUNDLES:
        shutil.copytree(demo.embedded(name), options.out / "bundles" / name, dirs_exist_ok=True)
        print(f"{options.out / 'bundles' / name}: model bundle, similar = of one {name}")
    return 0


def _train(commands: Any) -> None:
    parser = commands.add_parser("train", help="train a network on a catalogue (needs the extra 'export')")
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    similarity = _command(
        kinds, "similarity", _run_train_similarity, "train an embedding network by triplet loss with online mining"
    )
    similarity.add_argument(
        "--similar-by",
        required=True,
        type=_names,
        metavar="COLUMN,…",
        help="columns in which two similar products agree",
    )
    similarity.add_argument("--embedding", type=int, default=128, help="length of the embedding")
    similarity.add_argument("--margin", type=float, default=0.2, help="of the triplet loss, in cosine distance")
    similarity.add_argument(
        "--mining", choices=("semi-hard", "batch-hard"), default="semi-hard", help="which triplets count"
    )
    attributes = _command(
        kinds,
        "attributes",
        _run_train_attributes,
        "train an attribute network: trunk, 3x3 convolution to activation maps, their average as scores",
    )
    attributes.add_argument(
        "--columns", type=_names, metavar="COLUMN,…", help="attribute columns; all that are categorical when left out"
    )
    attributes.add_argument("--min-count", type=int, default=20, help="leave out attributes of fewer training products")
    for each in (similarity, attributes):
        data = each.add_argument_group("data")
        data.add_argument(
            "--catalogue", required=True, help="CSV, JSONL or Parquet with id, image and attribute columns"
        )
        data.add_argument("--out", required=True, type=Path, help="folder for the checkpoint and the training record")
        data.add_argument(
            "--image-root",
            action="append",
            default=[],
            dest="image_roots",
            metavar="FOLDER",
            help="local folder that images may lie in, besides the catalogue's",
        )
        net = each.add_argument_group("network")
        net.add_argument("--backbone", default="resnet18", help="a torchvision model's name, or module:factory")
        net.add_argument(
            "--weights", help="'default' for torchvision's own, or a checkpoint file; random when left out"
        )
        net.add_argument("--size", type=_size, default=(224, 224), metavar="HxW", help="input size")
        net.add_argument("--resize", choices=("squash", "crop", "pad"), default="squash", help="how an image is fitted")
        net.add_argument("--interpolation", choices=_INTERPOLATIONS, default="bilinear", help="of the resize")
        net.add_argument(
            "--shorter", type=int, metavar="PIXELS", help="with crop: the shorter side before the centre crop"
        )
        net.add_argument(
            "--scale",
            type=float,
            help="pixels 0…255 are multiplied by this; what the backbone was trained with when left out",
        )
        net.add_argument("--mean", type=_triple, metavar="R,G,B", help="subtracted after scaling; likewise")
        net.add_argument("--std", type=_triple, metavar="R,G,B", help="divided by; likewise")
        how = each.add_argument_group("training")
        how.add_argument("--epochs", type=int, default=30, help="passes over the training split at most")
        how.add_argument(
            "--patience", type=int, default=10, help="stop after this many epochs without a better validation"
        )
        how.add_argument("--batch", type=int, default=64, help="images a step")
        how.add_argument("--learning-rate", type=float, default=1e-3, help="of AdamW at its peak")
        how.add_argument(
            "--trunk-rate", type=float, default=1.0, help="the backbone's learning rate as a part of that; 0 freezes it"
        )
        how.add_argument("--weight-decay", type=float, default=1e-4, help="of AdamW")
        how.add_argument("--seed", type=int, default=0, help="seed of every random draw")
        how.add_argument("--threads", type=int, default=0, help="CPU threads; 0 takes all cores")
        how.add_argument("--device", default="cpu", help="torch's name of it, such as cuda")


def _run_train_similarity(options: argparse.Namespace) -> int:
    from export.training import train_similarity

    own = {name: getattr(options, name) for name in ("similar_by", "embedding", "margin", "mining")}
    train_similarity(**_training(options), **own)
    return 0


def _run_train_attributes(options: argparse.Namespace) -> int:
    from export.training import train_attributes

    train_attributes(**_training(options), columns=options.columns, min_count=options.min_count)
    return 0


def _training(options: argparse.Namespace) -> dict[str, Any]:
    """What both trainings take."""
    _find_factories()
    from export.backbones import Normalisation
    from export.fitting import Recipe
    from transforms.core.images import Resize
    from transforms.storage import Access

    given = [options.scale, options.mean, options.std]
    if any(value is not None for value in given) and None in given:
        raise UsageError("--scale, --mean and --std go together: give all three, or none for the backbone's own")
    recipe = ("epochs", "patience", "batch", "learning_rate", "trunk_rate", "weight_decay", "seed", "threads", "device")
    roots = (*options.image_roots, os.path.dirname(os.path.abspath(options.catalogue)))
    return {
        "catalogue": options.catalogue,
        "out": options.out,
        "backbone": options.backbone,
        "weights": options.weights,
        "resize": Resize(options.size, options.resize, options.interpolation, options.shorter),
        "normalisation": None if None in given else Normalisation(*given),
        "recipe": Recipe(**{name: getattr(options, name) for name in recipe}),
        "access": Access(roots=roots),
    }


def _find_factories() -> None:
    """Lets module:factory name a module of the current folder, as `python -m` would."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())


def _export(commands: Any) -> None:
    parser = _command(
        commands, "export", _run_export, "turn trained checkpoints into a model bundle (needs the extra 'export')"
    )
    parser.add_argument("--similarity", required=True, type=Path, metavar="CHECKPOINT", help="of `train similarity`")
    parser.add_argument(
        "--attributes", type=Path, metavar="CHECKPOINT", help="of `train attributes`; maps only without"
    )
    parser.add_argument("--out", required=True, type=Path, metavar="BUNDLE", help="folder to write")
    parser.add_argument(
        "--phi", type=_pair, default=(0.5, 0.5), metavar="A,B", help="weights of confidence and map match"
    )
    parser.add_argument("--precision", choices=("float32", "float16"), default="float32", help="of the networks")
    parser.add_argument(
        "--factory",
        action="append",
        default=[],
        metavar="MODULE:FACTORY",
        help="a backbone's code that a checkpoint may run, where it is not whymatch's or torchvision's",
    )


def _run_export(options: argparse.Namespace) -> int:
    _find_factories()
    from export.onnx import export_command

    export_command(
        similarity=options.similarity,
        attributes=options.attributes,
        out=options.out,
        phi=options.phi,
        precision=options.precision,
        factories=options.factory,
    )
    return 0


def _bundle(commands: Any) -> None:
    parser = _command(
        commands,
        "bundle",
        _run_bundle,
        "make a model bundle of your own ONNX files, without torch (needs the extra 'onnx')",
        "Nothing is guessed: settings come from these options or from a preprocessor_config.json beside the file, and what "
        "was used is printed.",
    )
    parser.add_argument("--similarity-onnx", required=True, type=Path, metavar="FILE", help="the embedding network")
    parser.add_argument("--attributes-onnx", type=Path, metavar="FILE", help="the attribute network: scores and maps")
    parser.add_argument("--vocabulary", type=Path, metavar="FILE", help="attribute names, column=value, one a line")
    parser.add_argument("--out", required=True, type=Path, metavar="BUNDLE", help="folder to write")
    parser.add_argument("--input", help="name of the network's input, where it has several")
    parser.add_argument("--output", help="name of the embedding output, where it has several")
    parser.add_argument("--layout", choices=("nchw", "nhwc"), help="order of the input's axes")
    parser.add_argument("--channels", choices=("rgb", "bgr"), help="order of the input's channels")
    parser.add_argument("--scale", type=float, help="pixels 0…255 are multiplied by this first, such as 0.00392156863")
    parser.add_argument(
        "--mean", type=_triple, metavar="R,G,B", help="subtracted after scaling, in the network's channel order"
    )
    parser.add_argument("--std", type=_triple, metavar="R,G,B", help="divided by, in the network's channel order")
    parser.add_argument("--size", type=_size, metavar="HxW", help="input size")
    parser.add_argument("--resize", choices=("squash", "crop", "pad"), help="how an image is fitted")
    parser.add_argument(
        "--shorter", type=int, metavar="PIXELS", help="with crop: the shorter side before the centre crop"
    )
    parser.add_argument("--interpolation", choices=_INTERPOLATIONS, help="of the resize")
    parser.add_argument(
        "--similarity-function", choices=("cosine", "dot", "euclidean"), default="cosine", help="of embeddings"
    )
    parser.add_argument(
        "--attributes-input", metavar="NAME", help="the attribute network's input, where it has several"
    )
    parser.add_argument("--scores-output", metavar="NAME", help="its scores [B,A], where they cannot be told")
    parser.add_argument(
        "--maps-output", metavar="NAME", help="its activation maps [B,A,h,w], where they cannot be told"
    )
    parser.add_argument(
        "--activation", choices=("none", "sigmoid", "softmax"), default="none", help="from scores to 0…1"
    )
    parser.add_argument("--preprocessor-config", type=Path, metavar="FILE", help="where it is not beside the ONNX file")
    parser.add_argument(
        "--check",
        nargs=2,
        type=Path,
        metavar=("IMAGE", "EMBEDDING.npy"),
        help="compare with your own pipeline's embedding",
    )
    parser.add_argument("--check-tolerance", type=float, default=1e-3, help="largest difference allowed, at length 1")


def _run_bundle(options: argparse.Namespace) -> int:
    from export.bundle import bundle_command

    names = (
        "similarity_onnx attributes_onnx vocabulary out input output layout channels scale mean std size resize shorter "
        "interpolation similarity_function preprocessor_config attributes_input scores_output maps_output activation"
    )
    check = tuple(options.check) if options.check else None
    bundle_command(
        **{name: getattr(options, name) for name in names.split()}, check=check, tolerance=options.check_tolerance
    )
    return 0


def _pairs(commands: Any) -> None:
    parser = _command(
        commands, "pairs", _run_pairs, "write the manifest of what a model would recommend, by exact search"
    )
    parser.add_argument("--catalogue", required=True, help="CSV, JSONL or Parquet with id and image")
    parser.add_argument("--bundle", required=True, help="model bundle")
    parser.add_argument("--out", required=True, help="manifest to write: .csv, .jsonl or .parquet")
    parser.add_argument("--top-k", type=int, default=8, help="references a query")
    parser.add_argument("--split", help="only products of this split of the catalogue")
    parser.add_argument("--queries", type=int, help="how many queries, drawn by a hash of their ids; all when left out")
    parser.add_argument("--seed", type=int, default=0, help="seed of that draw")
    _add_serving(parser)


def _run_pairs(options: argparse.Namespace) -> int:
    from pipeline.pairs import make_pairs

    names = "catalogue bundle out top_k split queries seed device threads"
    make_pairs(**{name: getattr(options, name) for name in names.split()})
    return 0


def _audit(commands: Any) -> None:
    parser = _command(
        commands,
        "audit",
        _run_audit,
        "explain every pair of a manifest and write the tables",
        "Arguments after -- go to Beam's runner.",
    )
    data = parser.add_argument_group("what to explain")
    data.add_argument("--manifest", required=True, nargs="+", help="CSV, JSONL or Parquet files or globs of pairs")
    data.add_argument("--bundle", required=True, help="model bundle")
    data.add_argument("--out", required=True, help="folder of the tables; many runs share one")
    data.add_argument("--run-id", help="name of this run; the time when left out")
    data.add_argument("--period", help="what the manifest covers, such as 2026-10; goes into the table runs")
    data.add_argument("--catalogue", help="resolves ids to images, and says which attributes a product has")
    data.add_argument(
        "--columns", type=_mapping, default={}, metavar="OURS=YOURS,…", help="such as query_id=anchor_sku"
    )
    data.add_argument(
        "--keep", type=_names, default=(), metavar="COLUMN,…", help="manifest columns to keep, as JSON in `extra`"
    )
    data.add_argument(
        "--image-root",
        action="append",
        default=[],
        dest="image_roots",
        metavar="FOLDER",
        help="local folder that images may lie in, besides the manifest's and the catalogue's",
    )
    data.add_argument(
        "--allow-http", action="store_true", help="let the manifest name http(s) addresses of public hosts"
    )

    how = parser.add_argument_group("how to explain")
    how.add_argument("--method", choices=("rise", "sliding_window"), default="rise", help="saliency method")
    how.add_argument("--masks", type=int, default=2000, help="RISE: masks a query")
    how.add_argument("--cells", type=int, default=8, help="RISE: cells a side of a mask's grid")
    how.add_argument("--keep-probability", type=float, default=0.5, help="RISE: chance that a cell is kept")
    how.add_argument(
        "--banks",
        type=int,
        default=_default("banks"),
        help="RISE: independent sets of masks, chosen by the query's content",
    )
    how.add_argument("--window", type=int, default=32, help="sliding window: side in pixels")
    how.add_argument("--stride", type=int, default=4, help="sliding window: step in pixels")
    how.add_argument(
        "--fill",
        default=_default("fill"),
        help="what hides a pixel: auto (the image's border colour), mean, blur, #rrggbb",
    )
    how.add_argument("--seed", type=int, default=0, help="seed of every random draw")
    how.add_argument("--top", type=int, default=5, help="attributes kept a pair")
    how.add_argument("--map-size", type=_size, default=(28, 28), metavar="HxW", help="size of the stored maps")

    limits = parser.add_argument_group("limits")
    limits.add_argument("--max-failure-rate", type=float, default=0.05, help="exit with 1 where more pairs fail")
    limits.add_argument("--max-pixels", type=int, default=64_000_000, help="of an image")
    limits.add_argument("--max-bytes", type=int, default=32 * 2**20, help="of an image file")
    limits.add_argument(
        "--memory-limit", type=_bytes, default=4 * 2**30, metavar="SIZE", help="of a worker, such as 4G"
    )

    run = parser.add_argument_group("where to run")
    run.add_argument("--runner", choices=("local", "spark", "flink", "dataflow"), default="local", help="Beam runner")
    run.add_argument("--workers", type=int, default=1, help="processes of the local runner")
    run.add_argument("--batch", type=int, help="forward passes at once; 16 on a CPU, 256 on a GPU")
    run.add_argument("--shards", type=int, default=8, help="files a table")
    run.add_argument("--store-embeddings", action="store_true", help="keep embeddings in the table images")
    _add_serving(run)


def _default(name: str) -> Any:
    from pipeline.options import AuditOptions

    return AuditOptions.__dataclass_fields__[name].default


def _run_audit(options: argparse.Namespace) -> int:
    from pipeline import launch
    from pipeline.options import AuditOptions

    given = {field.name: getattr(options, field.name) for field in fields(AuditOptions)}
    given["run_id"] = options.run_id or f"run-{datetime.now(UTC):%Y%m%dT%H%M%S}"
    given["threads"] = options.threads or launch.default_threads(options.workers)
    given["manifest"] = tuple(options.manifest)
    given["image_roots"] = tuple(options.image_roots)
    return 0 if launch.run(AuditOptions(**given)) else 1


def _sql(commands: Any) -> None:
    parser = _command(
        commands,
        "sql",
        _run_sql,
        "query the tables of all complete runs under a folder with DuckDB (needs the extra 'sql')",
        "Views: runs, strata, explanations, failures, images, products.",
    )
    parser.add_argument("out", metavar="DIR", help="the --out of the audits")
    parser.add_argument("query", metavar="SQL", help='such as "SELECT run_id, count(*) FROM explanations GROUP BY 1"')
    parser.add_argument("--format", choices=("table", "csv", "json"), default="table", help="of the answer")


def _run_sql(options: argparse.Namespace) -> int:
    from pipeline import sql

    print(sql.render(sql.query(options.out, options.query), options.format))
    return 0


def _show(commands: Any) -> None:
    parser = _command(
        commands, "show", _run_show, "draw pairs with their saliency maps, from the tables (needs the extra 'sql')"
    )
    parser.add_argument("tables", metavar="DIR", help="the --out of the audits")
    parser.add_argument("--out", required=True, type=Path, metavar="PICTURE", help="PNG or JPEG file to write")
    parser.add_argument("--run-id", help="which run; the last when left out")
    parser.add_argument("--where", metavar="SQL", help='which explanations, such as "border_share > 0.6"')
    parser.add_argument("--count", type=int, default=6, help="how many pairs")
    parser.add_argument(
        "--image-root",
        action="append",
        default=[],
        dest="image_roots",
        metavar="FOLDER",
        help="local folder that images may lie in; required for local images",
    )


def _run_show(options: argparse.Namespace) -> int:
    from pipeline.report.overlay import draw_pairs
    from transforms.storage import Access

    draw_pairs(
        options.tables,
        run_id=options.run_id,
        where=options.where,
        count=options.count,
        picture=options.out,
        access=Access(roots=tuple(options.image_roots)),
    )
    return 0


def _add_serving(parser: Any) -> None:
    parser.add_argument(
        "--device", choices=("cpu", "cuda", "auto"), default="auto", help="cuda fails where it cannot run"
    )
    parser.add_argument(
        "--threads", type=int, help="CPU threads a process; the cores shared among workers when left out"
    )


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _mapping(text: str) -> dict[str, str]:
    pairs = dict(item.partition("=")[::2] for item in _names(text))
    if not all(pairs.values()):
        raise argparse.ArgumentTypeError(f"expected OURS=YOURS,… and got {text!r}")
    return pairs


def _size(text: str) -> tuple[int, int]:
    height, by, width = text.lower().partition("x")
    if not (by and height.isdigit() and width.isdigit() and int(height) and int(width)):
        raise argparse.ArgumentTypeError(f"expected HxW in pixels, such as 224x224, and got {text!r}")
    return int(height), int(width)


def _numbers(text: str, count: int) -> tuple[float, ...]:
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != count:
        raise argparse.ArgumentTypeError(f"expected {count} numbers with commas between them, and got {text!r}")
    return numbers


def _triple(text: str) -> tuple[float, ...]:
    return _numbers(text, 3)


def _pair(text: str) -> tuple[float, ...]:
    return _numbers(text, 2)


def _bytes(text: str) -> int:
    number, unit = (text[:-1], text[-1].upper()) if text[-1:].isalpha() else (text, "")
    factors = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}
    if unit not in factors or not number.isdigit():
        raise argparse.ArgumentTypeError(f"expected a size such as 512M or 4G, and got {text!r}")
    return int(number) * factors[unit]


if __name__ == "__main__":
    sys.exit(main())
