"""Measures the paper's tables and writes the page that shows them.

Each row's guidance, stage bounds and alpha are chosen on validation pairs (in the reference), then the
row is measured on the held-out pairs: TDM only, SDM only and the full method through a running gateway,
the others in the reference on the same ONNX files. Everything measured is cached in one CSV a row and one
a sweep point under --out, with a digest of what it depends on: a run that was cut goes on where it was,
and what was measured with other weights, pairs or metric networks is measured again, with a word about it.
Deleting a CSV (and its pictures in --work-dir) measures it again in any case.

--page-only rebuilds the page from the committed files; it needs neither gateway nor weights.
"""

import argparse
import hashlib
import json
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path

import requests
from tqdm import tqdm

from toolkit.card import write_part
from toolkit.evaluate.client import GatewayError
from toolkit.evaluate.pairs import Pair, pair_set
from toolkit.export.description import weights_sha256
from toolkit.report import agreement, examples
from toolkit.report.choice import Choices
from toolkit.report.measure import Bench, Folders, MeasuringError, pictures_planned
from toolkit.report.page import markdown, page
from toolkit.report.results import agreement_pairs, load
from toolkit.report.rows import FULL, ROWS, SETS, Row
from toolkit.report.scores import Basis, StaleError

VALIDATION, AGREEMENT = "validation", "agreement"
STAGES = (VALIDATION, *SETS, AGREEMENT)
OUT = Path("docs/report")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    url = os.environ.get("FACEDIFFUSER_URL", "http://127.0.0.1:8080")
    parser.add_argument("--page-only", action="store_true", help="measure nothing, rebuild the page")
    names = [row.name for row in ROWS]
    parser.add_argument("--rows", nargs="+", choices=names, default=names, metavar="ROW",
                        help=f"rows to measure, of {', '.join(names)} (default: all)")  # fmt: skip
    parser.add_argument("--sets", nargs="+", choices=STAGES, default=list(STAGES), metavar="SET",
                        help=f"what to measure, of {', '.join(STAGES)} (default: all, in this order)")  # fmt: skip
    parser.add_argument("--url", default=url, help=f"of the gateway (default: FACEDIFFUSER_URL or {url})")
    parser.add_argument(
        "--family", type=Path, default=Path("model_repository/mini"), help="folder of the family (default: %(default)s)"
    )
    parser.add_argument("--work-dir", type=Path, default=Path.home() / "face-diffuser-work" / "report",
                        help="where pictures are kept, outside the checkout (default: %(default)s)")  # fmt: skip
    parser.add_argument("--out", type=Path, default=OUT, help="committed results and the page (default: %(default)s)")
    parser.add_argument(
        "--card", type=Path, help="model card whose table is rewritten (default: README.md of the family)"
    )
    parser.add_argument(
        "--workers", type=int, default=2, help="pictures in work at a time (default: %(default)s, one a core)"
    )
    parser.add_argument("--limit", type=int, help="a trial on the first pairs of each set; needs an --out of its own")


def run(args: argparse.Namespace) -> int:
    if args.limit and args.out == OUT:
        print(f"--limit is for trials and {OUT} for the whole: give another --out", file=sys.stderr)
        return 2
    sets = {name: pair_set(name)[: args.limit] for name in (VALIDATION, *SETS)}
    folders, basis = Folders(args.out), read_basis(args.family)
    try:
        if not args.page_only:
            measure(args, folders, basis, sets)
        results = load(folders, basis, sets)
    except (StaleError, MeasuringError, GatewayError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        return 1
    args.out.mkdir(parents=True, exist_ok=True)
    index = args.out / "index.html"
    index.write_text(page(results, basis.weights), encoding="utf-8")
    print(index)
    card = args.card or args.family / "README.md"
    if args.out == OUT and not write_part(card, "report", markdown(results)):
        print(f"{card} has no <!-- report --> to write the table behind", file=sys.stderr)
    return 0


def read_basis(family: Path) -> Basis:
    """What scores depend on, from files that are committed."""
    from toolkit.evaluate.metrics.mini import WEIGHTS

    weights = json.loads((family / "pipeline.json").read_text(encoding="utf-8"))["weights_sha256"]
    return Basis(weights, hashlib.sha256(WEIGHTS.read_bytes()).hexdigest())


def measure(args: argparse.Namespace, folders: Folders, basis: Basis, sets: dict[str, list[Pair]]) -> None:
    """Raises MeasuringError where the gateway or a choice is missing."""
    import torch

    from toolkit.evaluate.metrics import load_metrics
    from toolkit.report.pictures import Album, GatewayArtist, ReferenceArtist

    torch.set_num_threads(1)  # the networks' threads are ONNX Runtime's; PyTorch's would only be in their way
    if weights_sha256(args.family / "models") != basis.weights:
        raise MeasuringError(f"{args.family}/pipeline.json names other weights than lie in models/: export again")
    rows = [row for row in ROWS if row.name in args.rows]
    tables = [name for name in SETS if name in args.sets]
    compared = AGREEMENT in args.sets and FULL in args.rows
    gateway = None
    if compared or tables and any(row.gateway for row in rows):
        check_gateway(args.url, basis.weights)
        gateway = GatewayArtist(args.url, basis.weights)
    bench = Bench(
        folders,
        Album(args.work_dir / "pictures"),
        basis,
        load_metrics("mini"),
        ReferenceArtist(args.family),
        gateway,
        args.workers,
    )
    planned = pictures_planned(
        rows, len(sets[VALIDATION]) if VALIDATION in args.sets else 0, sum(len(sets[name]) for name in tables)
    )
    with tqdm(
        total=planned + compared * len(agreement_pairs(sets)), desc="report", unit="picture", smoothing=0.05
    ) as bench.bar:
        if VALIDATION in args.sets:
            for row in rows:
                bench.choose(row, sets[VALIDATION])
        chosen = read_choices(folders, basis, rows) if tables or compared else {}
        for name in tables:
            for row in rows:
                bench.tabulate(row, name, chosen[row.name].parameters, sets[name])
        if compared:
            compare(bench, chosen[FULL].parameters, agreement_pairs(sets))
    for name in tables:
        show(bench, name, sets[name])
    note_machine(folders.machine)


def read_choices(folders: Folders, basis: Basis, rows: Sequence[Row]) -> dict:
    try:
        choices = Choices(folders.choices, basis.weights, basis.metrics).read()
    except FileNotFoundError:
        choices = {}
    if missing := [row.name for row in rows if row.name not in choices]:
        raise MeasuringError(f"nothing was chosen yet for {', '.join(missing)}: measure the set {VALIDATION} first")
    return choices


def compare(bench: Bench, parameters, pairs: Sequence[Pair]) -> None:
    full = next(row for row in ROWS if row.name == FULL)
    path = bench.folders.agreement
    try:
        agreement.read_fresh(path, [agreement.digest(full, parameters, pair, bench.basis) for pair in pairs])
        bench.bar.update(len(pairs))
    except (FileNotFoundError, StaleError):
        found = agreement.compare(
            full, parameters, pairs, bench.gateway, bench.reference, bench.metrics, bench.basis, bench.bar
        )
        agreement.write(path, found)


def show(bench: Bench, name: str, pairs: Sequence[Pair]) -> None:
    """The example pictures of a set, of all rows that are measured by now."""
    choices = Choices(bench.folders.choices, bench.basis.weights, bench.basis.metrics).read()
    measured = [row for row in ROWS if row.name in choices and bench.folders.row(row, name).exists()]
    rows = [(row, choices[row.name].parameters) for row in measured]
    path = bench.folders.examples(name)
    try:
        examples.read_fresh(path, pairs, rows, bench.basis)
    except (FileNotFoundError, StaleError):
        examples.write(path, pairs, rows, bench.basis, bench.picture)


def check_gateway(url: str, weights: str) -> None:
    """Raises MeasuringError unless a gateway answers that serves these weights."""
    try:
        answer = requests.get(f"{url}/v1/capabilities", timeout=10)
        answer.raise_for_status()
    except requests.RequestException as error:
        raise MeasuringError(
            f"no gateway at {url} ({error}); start one with `make run`, or use `make report`, which brings its own"
        ) from None
    served = [family["weights"] for family in answer.json()["families"]]
    if weights not in served:
        raise MeasuringError(
            f"the gateway at {url} serves weights {served}, not {weights} of the family's pipeline.json"
        )


def note_machine(path: Path) -> None:
    processor = platform.processor() or platform.machine()
    if (info := Path("/proc/cpuinfo")).exists():
        models = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        processor = models[0] if models else processor
    machine = {"cores": len(os.sched_getaffinity(0)), "processor": processor}
    path.write_text(json.dumps(machine, indent=1) + "\n", encoding="utf-8")
