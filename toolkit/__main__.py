"""`python -m toolkit <command>`: one argparse sub-command a room."""

import argparse
import importlib
import sys

from toolkit.errors import InputError

# Commands are imported when named, so that `export --help` needs no drawing library and a room
# that is not installed does not break the others. Each module has add_arguments and run.
COMMANDS = {
    "init-family": ("toolkit.models.init_family", "random networks of the mini family, to try an export"),
    "dataset": ("toolkit.data.build", "draw a data set"),
    "train": ("toolkit.train.command", "run one training stage or all"),
    "judges": ("toolkit.evaluate.judges", "train the classifiers that judge pictures"),
    "metrics": ("toolkit.evaluate.metrics.command", "train the networks that measure identity and prompt consistency"),
    "evaluate": ("toolkit.evaluate.evaluate", "score a running gateway or a folder of pictures"),
    "sheet": ("toolkit.evaluate.sheet", "picture sheet and scores through a running gateway"),
    "examples": ("toolkit.evaluate.examples", "write the sample faces of held-out identities"),
    "report": ("toolkit.report.command", "measure the paper's tables and write docs/report"),
    "convert": ("toolkit.convert.command", "Stable Diffusion's, the authors' or training's weights to a family"),
    "export": ("toolkit.export.command", "networks to ONNX"),
    "configs": ("toolkit.export.configs", "write Triton's configurations of Stable Diffusion 1.5"),
    "check-sd15": ("toolkit.check_sd15.command", "random weights of the real size, all the way to a picture"),
    "calibrate": ("toolkit.quantize.calibrate", "record what both UNets are fed, for a quantization"),
    "quantize": ("toolkit.quantize.command", "both UNets to INT8, and what that costs"),
    "goldens": ("toolkit.goldens.command", "write the golden files"),
    "generate": ("toolkit.reference.command", "a picture from the reference pipeline"),
}


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m toolkit", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    for name, (_, purpose) in COMMANDS.items():
        commands.add_parser(name, help=purpose, add_help=False)
    chosen, rest = parser.parse_known_args(argv)
    module = importlib.import_module(COMMANDS[chosen.command][0])
    sub = argparse.ArgumentParser(prog=f"python -m toolkit {chosen.command}", description=module.__doc__)
    module.add_arguments(sub)
    try:
        return module.run(sub.parse_args(rest)) or 0
    except InputError as error:
        print(f"{chosen.command}: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
