#!/usr/bin/env python3
"""Builds a family's TensorRT engines, inside the Triton release that will serve them.

    docker compose -f deploy/compose.yaml run --rm engines

reads FAMILY/profiles.json (shapes) and FAMILY/onnxruntime/<model>/1/model.onnx, and writes
FAMILY/tensorrt/<model>/1/model.plan, or into the folder that --into names. An engine belongs to one TensorRT version,
one GPU architecture, one ONNX file and one set of options; FAMILY/engines keeps every one under a name that says so,
and what is there is not built again. Needs Python 3.9 or later and nothing else. docs/real-weights.md has the rest.
"""

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

OLDEST = (10, 12)  # weak typing is deprecated from here on; the export is strongly typed
TRTEXEC = "/usr/src/tensorrt/bin/trtexec"  # where NVIDIA's images have it, outside PATH
SMI = ["nvidia-smi", "--query-gpu=compute_cap,name", "--format=csv,noheader"]
LEVELS = ("none", "ampere+", "sameComputeCapability")


class BuildError(Exception):
    """What is wrong, what was expected, and what to do."""


def main(arguments):
    args = parser().parse_args(arguments)
    try:
        return dry_run(args) if args.dry_run else build(args)
    except (BuildError, OSError) as error:
        print(f"engines: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("engines: interrupted; what was built before is kept", file=sys.stderr)
        return 130


def parser():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("family", type=Path, help="folder of the family (profiles.json, onnxruntime/, tensorrt/)")
    p.add_argument("--into", metavar="FOLDER", default="tensorrt", help="of the family, for Triton (default tensorrt)")
    p.add_argument("--models", metavar="NAME,NAME", help="only these")
    p.add_argument("--device", type=int, default=0, help="GPU to build on (default 0)")
    p.add_argument("--optimization-level", type=int, choices=range(6), help="of the builder (default: profiles.json's)")
    p.add_argument("--version-compatible", action="store_true", help="engines that later TensorRT releases load too")
    p.add_argument("--hardware-compatibility", choices=LEVELS, default="none", help="engines for other GPUs too")
    p.add_argument("--rebuild", action="store_true", help="build even what is there")
    p.add_argument("--dry-run", action="store_true", help="print the commands; needs neither a GPU nor TensorRT")
    return p


def build(args):
    described, models = read(args)
    tool = find_trtexec()
    version = tensorrt_version(tool)
    gpu = find_gpu(args.device, args.hardware_compatibility)
    sources = find_sources(args.family, models)
    print(f"TensorRT {dotted(version)}, {gpu.name} (sm {gpu.sm}), {len(sources)} models")
    folder = args.family / "engines"
    folder.mkdir(exist_ok=True)
    with lock(folder):
        for i, (name, onnx) in enumerate(sources.items(), start=1):
            engine = Engine(args, described, name, onnx, version, gpu)
            engine.make(tool, folder, f"[{i}/{len(sources)}] {name}")
    print(f"done: {args.family / args.into} has the engines of {', '.join(sources)}")
    return 0


def dry_run(args):
    described, models = read(args)
    try:
        tool = find_trtexec()
        version = tensorrt_version(tool)
    except BuildError as error:
        print(f"# {error}\n# The commands are those for TensorRT 11.")
        tool, version = TRTEXEC, (11, 0)
    folder = args.family / "engines"
    for name, entry in models.items():
        if entry["optional"] and not configuration(args.family, entry).exists():
            continue
        onnx = args.family / entry["onnx"]
        print(shlex.join(command(args, described, entry, tool, version, "SM", onnx, part(folder, name))))
    return 0


class Engine:
    """One model's engine: what it is made of, and where it goes."""

    def __init__(self, args, described, name, onnx, version, gpu):
        self.args, self.described, self.name, self.entry = args, described, name, described["models"][name]
        self.onnx, self.version, self.gpu = onnx, version, gpu
        self.plan = args.family / args.into / Path(*Path(self.entry["plan"]).parts[1:])

    def make(self, tool, folder, label):
        """From the folder of engines if it is there, else from trtexec, into the model repository."""
        print(f"{label}: reading {self.onnx} ...", flush=True)
        key = self.key()
        cached = None if self.args.rebuild else self.find(folder, key)
        if cached:
            print(f"{label}: {cached.name} is there")
        else:
            cached = folder / f"{self.name}.{name_of(key)}.plan"
            self.run(tool, folder, cached, key, label)
        install(cached, self.plan)
        if self.args.into != "tensorrt":
            shutil.copyfile(configuration(self.args.family, self.entry), self.plan.parents[1] / "config.pbtxt")

    def key(self):
        """What an engine depends on, in the order of its file's name."""
        options = {kind: self.entry[kind] for kind in ("min", "opt", "max")}
        options["level"] = level(self.args, self.described)
        options["version_compatible"] = self.args.version_compatible
        compatibility = options["hardware_compatibility"] = self.args.hardware_compatibility
        if compatibility == "none":  # tuned for this model of GPU, not for others of its architecture
            options["gpu"] = self.gpu.name
        return {
            "trt": dotted(self.version),
            "sm": compatibility if compatibility == "ampere+" else self.gpu.sm,
            "precision": self.described["precision"],
            "onnx": hash_files(self.onnx),
            "options": hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest(),
        }

    def find(self, folder, key):
        """The engine of this key, or one that its TensorRT loads too."""
        exact = folder / f"{self.name}.{name_of(key)}.plan"
        if exact.exists():
            return exact
        if not self.args.version_compatible:
            return None
        older = []
        for path in folder.glob(f"{self.name}.*.plan"):
            version = re.match(r"trt-([\d.]+)\.sm-", path.name[len(self.name) + 1 :])
            version = version and numbers(version[1])
            if version and version[0] == self.version[0] and version < self.version:
                if path.name == f"{self.name}.{name_of({**key, 'trt': dotted(version)})}.plan":
                    older.append((version, path))
        return max(older)[1] if older else None

    def run(self, tool, folder, target, key, label):
        partial, log = part(folder, self.name), folder / f"{self.name}.log"
        self.check_disk(folder)
        line = command(self.args, self.described, self.entry, tool, self.version, self.gpu.sm, self.onnx, partial)
        started = time.monotonic()
        print(f"{label}: building {self.entry['opt']} and up to {self.entry['max']}; log: {log}", flush=True)
        try:
            with open(log, "w") as output:
                output.write(shlex.join(line) + "\n")
                output.flush()
                # CUDA counts GPUs by speed, nvidia-smi by slot: with several, both must mean the same one
                env = {**os.environ, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
                process = subprocess.Popen(line, stdout=output, stderr=subprocess.STDOUT, env=env)
                status = wait(process, label, started)
            if status != 0:
                raise BuildError(f"{label}: trtexec failed ({status}); the end of {log}:\n{tail(log)}")
            if not partial.exists() or partial.stat().st_size == 0:
                raise BuildError(f"{label}: trtexec succeeded and wrote no engine; the end of {log}:\n{tail(log)}")
            sync(partial)
            os.replace(partial, target)
        finally:
            with contextlib.suppress(FileNotFoundError):
                partial.unlink()
        made = {**key, "gpu": self.gpu.name, "command": line}
        target.with_name(target.name + ".json").write_text(json.dumps(made, indent=2) + "\n")
        size = target.stat().st_size / 2**20
        print(f"{label}: built in {time.monotonic() - started:.0f} s, {size:,.0f} MiB", flush=True)

    def check_disk(self, folder):
        """An engine holds its weights once and little else; where the model repository is another file system,
        it is written a second time."""
        weights = sum(path.stat().st_size for path in files(self.onnx))
        need, free = int(1.2 * weights) + 2**26, shutil.disk_usage(folder).free
        if free < need:
            raise BuildError(
                f"{self.name}: {folder} has {free / 2**20:,.0f} MiB free, and the engine needs about "
                f"{need / 2**20:,.0f}: make room, for example by deleting engines of other TensorRT versions there"
            )


def command(args, described, entry, tool, version, sm, onnx, plan):
    """trtexec's command line. Precision is in the graph (TensorRT 11 has no flags for it)."""
    line = [
        str(tool),
        f"--onnx={onnx}",
        f"--saveEngine={plan}",
        f"--minShapes={entry['min']}",
        f"--optShapes={entry['opt']}",
        f"--maxShapes={entry['max']}",
        f"--builderOptimizationLevel={level(args, described)}",
        f"--timingCacheFile={plan.parent}/timing.trt-{dotted(version)}.sm-{sm}.cache",
        f"--device={args.device}",
        "--skipInference",
    ]
    if version < (11,):
        line.append("--stronglyTyped")  # TensorRT 11 knows nothing else
    if args.version_compatible:
        line.append("--versionCompatible")
    if args.hardware_compatibility != "none":
        line.append(f"--hardwareCompatibilityLevel={args.hardware_compatibility}")
    return line


def read(args):
    path = args.family / "profiles.json"
    try:
        described = json.loads(path.read_text())
        models = described["models"]
    except FileNotFoundError:
        raise BuildError(
            f"{path} is missing: `python -m toolkit convert` writes it, and `python -m toolkit configs --out "
            f"{args.family}` writes it anew"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise BuildError(
            f"{path} is not what `python -m toolkit configs` writes ({error!r}): write it anew"
        ) from None  # fmt: skip
    if args.models is None:
        return described, dict(models)
    chosen = args.models.split(",")
    if unknown := [name for name in chosen if name not in models]:
        raise BuildError(f"--models {','.join(unknown)}: the family has {', '.join(models)}")
    return described, {name: models[name] for name in models if name in chosen}


def level(args, described):
    return described["builder_optimization_level"] if args.optimization_level is None else args.optimization_level


def find_trtexec():
    tool = shutil.which("trtexec") or shutil.which(TRTEXEC)
    if tool is None:
        raise BuildError(
            f"trtexec is neither in PATH nor at {TRTEXEC}: run this in the Triton image that will serve the engines"
        )
    return tool


def tensorrt_version(tool):
    """From the first line that trtexec prints: [TensorRT v101201] [b36], or [TensorRT v11.1.0.106] later."""
    run = subprocess.run([tool, "--help"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    banner = re.search(r"\[TensorRT v([\d.]+)\](?: \[b(\d+)\])?", run.stdout)
    if banner is None:
        raise BuildError(f"{tool} does not say its version; it printed: {run.stdout[:200]!r}")
    text, build = banner.groups()
    if "." in text:
        version = numbers(text)
    else:
        digits = int(text)
        # two digits each for minor and patch; one digit each before version 10
        version = (digits // 10000, digits // 100 % 100, digits % 100) if digits >= 100000 else (digits // 1000,)
        version += (int(build),) if build else ()
    if version < OLDEST:
        raise BuildError(
            f"{tool} is of TensorRT {dotted(version)}, and engines of strongly typed graphs want "
            f"{dotted(OLDEST)} or later: take a newer Triton image"
        )
    return version


GPU = namedtuple("GPU", "sm name")


def find_gpu(device, compatibility):
    try:
        run = subprocess.run([*SMI, f"--id={device}"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    except FileNotFoundError:
        run = None
    found = run and run.returncode == 0 and re.match(r"(\d+)\.(\d+), (.+)", run.stdout)
    if not found:
        said = f" (nvidia-smi: {run.stdout.strip()})" if run else " (there is no nvidia-smi)"
        raise BuildError(
            f"no GPU {device}{said}: engines are built on the GPU that serves them; give the container one "
            "(docker run --gpus all, or the compose file's reservation) and see that the driver is loaded"
        )
    gpu = GPU(found[1] + found[2], found[3].strip())
    if compatibility == "ampere+" and int(gpu.sm) < 80:
        raise BuildError(f"--hardware-compatibility ampere+ wants an Ampere GPU or newer: {gpu.name} is sm {gpu.sm}")
    return gpu


def find_sources(family, models):
    """Model → ONNX file. An optional model that the family lacks is left out."""
    sources, missing = {}, []
    for name, entry in models.items():
        onnx, config = family / entry["onnx"], configuration(family, entry)
        if onnx.exists() and config.exists():
            sources[name] = onnx
        elif not entry["optional"]:
            missing += [path for path in (onnx, config) if not path.exists()]
        elif config.exists():
            raise BuildError(
                f"{name}: {onnx} is missing. The family may do without {name}, but then remove {config.parent}: Triton "
                "does not start with a model that has a configuration and no engine"
            )
    if missing:
        raise BuildError(
            f"missing: {', '.join(map(str, missing))}. `python -m toolkit convert` writes the ONNX files in FP16, "
            f"`python -m toolkit configs --out {family}` the configurations"
        )
    return sources


def configuration(family, entry):
    return (family / entry["plan"]).parents[1] / "config.pbtxt"


def files(onnx):
    """A graph and the weights beside it, which pass 2 GiB in one file at times."""
    return sorted(path for path in onnx.parent.iterdir() if path.name.startswith(onnx.name))


def hash_files(onnx):
    digest = hashlib.sha256()
    for path in files(onnx):
        digest.update(path.name.encode() + b"\0")
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def name_of(key):
    return ".".join(f"{part}-{value[:12]}" for part, value in key.items())


def install(engine, plan):
    """Puts an engine where Triton looks, whole or not at all."""
    plan.parent.mkdir(parents=True, exist_ok=True)
    temporary = plan.with_name(plan.name + ".part")
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()
    try:
        try:
            os.link(engine, temporary)  # the same file under a second name
        except OSError:  # another file system, or one without links
            shutil.copyfile(engine, temporary)
            sync(temporary)
        os.replace(temporary, plan)
    except OSError as error:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        raise BuildError(f"cannot install {plan}: {error}; the engine is kept at {engine}") from None


@contextlib.contextmanager
def lock(folder):
    """One builder a folder: they would write the same files."""
    with open(folder / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise BuildError(f"another build is at work in {folder}: wait for it") from None
        yield


def wait(process, label, started):
    """Exit status. Says every minute that it goes on; ends the process when this program is ended."""
    try:
        while True:
            try:
                return process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                print(f"{label}: {(time.monotonic() - started) / 60:.0f} min ...", flush=True)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def part(folder, name):
    return folder / f"{name}.plan.part"


def sync(path):
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def tail(log):
    return "\n".join(log.read_text(errors="replace").splitlines()[-12:])


def numbers(text):
    return tuple(int(part) for part in text.split("."))


def dotted(version):
    return ".".join(map(str, version))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # `docker stop` cleans up as Ctrl-C does
    sys.exit(main(sys.argv[1:]))
