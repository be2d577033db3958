"""deploy/engines/build.py with stand-ins for trtexec and nvidia-smi, which need a GPU: they print what the real
ones print, keep a record of their arguments and write a file. What TensorRT makes of a graph is not shown here."""

import importlib.util
import json
import os
import select
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from toolkit.export import configs, triton

SCRIPT = Path(__file__).parents[2] / "deploy" / "engines" / "build.py"
MODELS = ["text_encoder", "image_encoder", "subject_fuser", "unet_tdm", "unet_sdm", "vae_decoder"]

TRTEXEC = """\
#!/bin/sh
echo "&&&& RUNNING TensorRT.trtexec [TensorRT $FAKE_TENSORRT] # $0 $*"
[ "$1" = --help ] && exit 0
echo "$*" >> "$FAKE_RECORD"
for argument in "$@"; do
  case "$argument" in
    --saveEngine=*) engine=${argument#*=} ;;
    --fp16 | --int8 | --best) echo "[E] Unknown option: $argument"; exit 1 ;;
    --stronglyTyped) case $FAKE_TENSORRT in v11*) echo "[E] Unknown option: $argument"; exit 1 ;; esac ;;
  esac
done
[ "$FAKE_MODE" = nothing ] && exit 0
echo "$*" > "$engine"
[ "$FAKE_MODE" = fail ] && { echo "[E] Error Code 10: no kernel for a node"; exit 1; }
exit 0
"""
SMI = """\
#!/bin/sh
[ -n "$FAKE_GPU" ] && echo "$FAKE_GPU" || { echo "No devices were found"; exit 6; }
"""


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine with a GPU and TensorRT 11, and a family on it. machine(...) runs the script, machine.commands()
    are trtexec's command lines so far."""
    return Machine(tmp_path, monkeypatch)


class Machine:
    def __init__(self, folder, monkeypatch):
        self.family, self.bin, self.record = folder / "family", folder / "bin", folder / "record"
        self.set = monkeypatch.setenv
        self.bin.mkdir()
        for name, text in (("trtexec", TRTEXEC), ("nvidia-smi", SMI)):
            (self.bin / name).write_text(text)
            (self.bin / name).chmod(0o755)
        configs.write(self.family, triton.SD15)
        for model in MODELS:
            self.write_onnx(model, f"graph of {model}")
        monkeypatch.setenv("PATH", f"{self.bin}:{os.environ['PATH']}")
        monkeypatch.setenv("FAKE_RECORD", str(self.record))
        monkeypatch.setenv("FAKE_TENSORRT", "v11.1.0.106] [b48")
        monkeypatch.setenv("FAKE_GPU", "9.0, NVIDIA H100 80GB HBM3")
        monkeypatch.setenv("FAKE_MODE", "")
        spec = importlib.util.spec_from_file_location("build_engines", SCRIPT)
        self.script = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.script)

    def __call__(self, *arguments):
        return self.script.main([str(self.family), *arguments])

    def write_onnx(self, model, text, suffix=""):
        path = self.family / "onnxruntime" / model / "1" / f"model.onnx{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def commands(self):
        lines = self.record.read_text().splitlines() if self.record.exists() else []
        return [line.split() for line in lines]

    def plan(self, model):
        return self.family / "tensorrt" / model / "1" / "model.plan"

    def leftovers(self):
        return [path for path in self.family.rglob("*.part")]


@pytest.mark.parametrize(
    ("banner", "version", "typed"),
    [
        ("v101201] [b36", "10.12.1.36", ["--stronglyTyped"]),
        ("v110000", "11.0.0", []),
        ("v11.1.0.106] [b48", "11.1.0.106", []),
    ],
)
def test_every_model_is_built_and_installed(machine, capsys, banner, version, typed):
    machine.set("FAKE_TENSORRT", banner)
    assert machine() == 0
    engines = machine.family / "engines"
    by_model = dict(zip(MODELS, machine.commands(), strict=True))
    assert by_model["unet_sdm"] == [
        f"--onnx={machine.family}/onnxruntime/unet_sdm/1/model.onnx",
        f"--saveEngine={engines}/unet_sdm.plan.part",
        "--minShapes=sample:1x4x64x64,timestep:1,encoder_hidden_states:1x77x768",
        "--optShapes=sample:8x4x64x64,timestep:8,encoder_hidden_states:8x77x768",
        "--maxShapes=sample:16x4x64x64,timestep:16,encoder_hidden_states:16x77x768",
        "--builderOptimizationLevel=4",
        f"--timingCacheFile={engines}/timing.trt-{version}.sm-90.cache",
        "--device=0",
        "--skipInference",
        *typed,
    ]
    for model in MODELS:
        assert f"engines/{model}.plan.part" in machine.plan(model).read_text()
        (kept,) = engines.glob(f"{model}.trt-{version}.sm-90.precision-fp16.onnx-*.options-*.plan")
        assert kept.samefile(machine.plan(model))  # gigabytes are not written twice
        assert json.loads(kept.with_name(kept.name + ".json").read_text())["trt"] == version
    assert "[6/6] vae_decoder: built in" in capsys.readouterr().out and not machine.leftovers()


def test_engines_are_used_again_and_only_where_they_fit(machine, capsys):
    def built(*arguments):
        before = len(machine.commands())
        assert machine("--models", "unet_tdm", *arguments) == 0
        return len(machine.commands()) - before

    assert built() == 1 and built() == 0 and "is there" in capsys.readouterr().out
    first = machine.plan("unet_tdm").read_text()
    machine.plan("unet_tdm").unlink()
    assert built() == 0 and machine.plan("unet_tdm").read_text() == first  # installed anew
    assert built("--optimization-level", "3") == 1
    assert built() == 0 and machine.plan("unet_tdm").read_text() == first  # and what is asked for is installed
    assert built("--rebuild") == 1
    machine.set("FAKE_TENSORRT", "v11.1.0.107")
    assert built() == 1
    machine.set("FAKE_GPU", "8.9, NVIDIA L4")
    assert built() == 1
    machine.set("FAKE_GPU", "8.9, NVIDIA L40S")  # the same architecture, another number of everything
    assert built() == 1 and built() == 0
    machine.write_onnx("unet_tdm", "other weights", ".data")
    assert built() == 1
    machine.write_onnx("unet_tdm", "other weights still", ".data")
    assert built() == 1 and built() == 0
    profiles = machine.family / "profiles.json"
    profiles.write_text(profiles.read_text().replace("sample:16x", "sample:32x"))
    assert built() == 1


def test_compatible_engines_are_built_with_flags_and_used_elsewhere(machine):
    def built(*arguments):
        before = len(machine.commands())
        assert machine("--models", "vae_decoder", *arguments) == 0
        return [a for line in machine.commands()[before:] for a in line if a.startswith(("--versionC", "--hardwareC"))]

    anywhere = ("--version-compatible", "--hardware-compatibility", "ampere+")
    machine.set("FAKE_TENSORRT", "v11.0.0.50")
    assert built(*anywhere) == ["--versionCompatible", "--hardwareCompatibilityLevel=ampere+"]
    machine.set("FAKE_TENSORRT", "v11.2.0.80")
    machine.set("FAKE_GPU", "8.0, NVIDIA A100")
    assert built(*anywhere) == []  # a later TensorRT and another GPU
    machine.set("FAKE_TENSORRT", "v11.0.0.49")
    assert built(*anywhere) == ["--versionCompatible", "--hardwareCompatibilityLevel=ampere+"]  # an earlier one
    assert built("--hardware-compatibility", "sameComputeCapability") == [
        "--hardwareCompatibilityLevel=sameComputeCapability"
    ]
    machine.set("FAKE_GPU", "8.0, NVIDIA A30")
    assert built("--hardware-compatibility", "sameComputeCapability") == []
    assert machine("--models", "vae_decoder") == 0 and len(machine.commands()) == 4  # an ordinary one is another


@pytest.mark.parametrize(
    ("mode", "said"), [("fail", "Error Code 10: no kernel for a node"), ("nothing", "wrote no engine")]
)
def test_a_failure_leaves_nothing_half_written(machine, capsys, mode, said):
    assert machine("--models", "unet_tdm") == 0
    before = machine.plan("unet_tdm").read_text()
    kept = set(machine.family.rglob("*.plan"))
    machine.set("FAKE_MODE", mode)
    assert machine("--rebuild") == 1
    assert said in capsys.readouterr().err
    machine.write_onnx("unet_tdm", "other weights")
    assert machine("--models", "unet_tdm") == 1
    assert machine.plan("unet_tdm").read_text() == before
    assert set(machine.family.rglob("*.plan")) == kept and not machine.leftovers()


def test_an_engine_is_copied_where_it_cannot_be_linked(machine, capsys, monkeypatch):
    def no_links(*_):
        raise OSError("Invalid cross-device link")

    monkeypatch.setattr(machine.script.os, "link", no_links)
    assert machine("--models", "unet_tdm") == 0
    (kept,) = (machine.family / "engines").glob("unet_tdm.*.plan")
    assert machine.plan("unet_tdm").read_text() == kept.read_text() and not kept.samefile(machine.plan("unet_tdm"))

    def full(source, target):
        Path(target).write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(machine.script.shutil, "copyfile", full)
    machine.write_onnx("unet_tdm", "other weights")
    assert machine("--models", "unet_tdm") == 1 and "No space left on device" in capsys.readouterr().err
    assert machine.plan("unet_tdm").read_text() == kept.read_text() and not machine.leftovers()


def test_engines_of_another_release_lie_beside_those_that_serve(machine):
    assert machine() == 0
    serving = {model: machine.plan(model).read_text() for model in MODELS}
    machine.set("FAKE_TENSORRT", "v11.2.0.80")
    assert machine("--into", "tensorrt-26.08") == 0
    assert {model: machine.plan(model).read_text() for model in MODELS} == serving
    for model in MODELS:
        there, here = machine.family / "tensorrt-26.08" / model, machine.family / "tensorrt" / model
        assert (there / "1" / "model.plan").read_text() != serving[model]
        assert (there / "config.pbtxt").read_text() == (here / "config.pbtxt").read_text()


def test_what_is_wrong_is_said_before_anything_is_built(machine, capsys, monkeypatch):
    def refused(*arguments):
        assert machine(*arguments) == 1 and not machine.commands() and not (machine.family / "engines").exists()
        return capsys.readouterr().err

    machine.set("FAKE_TENSORRT", "v100800")
    assert "TensorRT 10.8.0, and engines of strongly typed graphs want 10.12 or later" in refused()
    machine.set("FAKE_TENSORRT", "v8602")
    assert "TensorRT 8," in refused()
    machine.set("FAKE_TENSORRT", "no version")
    assert "does not say its version" in refused()
    machine.set("FAKE_TENSORRT", "v110000")
    machine.set("FAKE_GPU", "")
    assert "no GPU 1 (nvidia-smi: No devices were found)" in refused("--device", "1")
    machine.set("FAKE_GPU", "7.5, Tesla T4")
    assert "Tesla T4 is sm 75" in refused("--hardware-compatibility", "ampere+")
    assert "--models unet: the family has text_encoder, " in refused("--models", "unet")
    (machine.family / "onnxruntime/unet_sdm/1/model.onnx").unlink()
    (machine.family / "tensorrt/vae_decoder/config.pbtxt").unlink()
    error = refused()
    assert "onnxruntime/unet_sdm/1/model.onnx, " in error and "tensorrt/vae_decoder/config.pbtxt" in error
    (machine.family / "profiles.json").write_text("{}")
    assert "profiles.json is not what `python -m toolkit configs` writes" in refused()
    (machine.family / "profiles.json").unlink()
    assert "profiles.json is missing" in refused()
    configs.write(machine.family, triton.SD15)
    (machine.bin / "nvidia-smi").unlink()
    monkeypatch.setenv("PATH", str(machine.bin))
    assert "there is no nvidia-smi" in refused()
    (machine.bin / "trtexec").unlink()
    assert "trtexec is neither in PATH nor at /usr/src/tensorrt/bin/trtexec" in refused()


def test_a_full_disk_is_noticed_before_the_builder_starts(machine, capsys, monkeypatch):
    full = shutil.disk_usage(machine.family)._replace(free=2**20)
    monkeypatch.setattr(machine.script.shutil, "disk_usage", lambda path: full)
    assert machine() == 1 and not machine.commands()
    assert "has 1 MiB free, and the engine needs about 64" in capsys.readouterr().err


def test_the_safety_checker_is_built_where_the_family_has_one(machine, capsys):
    assert machine() == 0 and len(machine.commands()) == 6
    shutil.copytree(machine.family / "optional", machine.family, dirs_exist_ok=True)
    assert machine() == 1 and "The family may do without safety_checker, but then remove" in capsys.readouterr().err
    machine.write_onnx("safety_checker", "graph")
    assert machine() == 0 and len(machine.commands()) == 7 and machine.plan("safety_checker").exists()


def test_a_dry_run_prints_the_commands_and_does_nothing(machine, capsys, monkeypatch):
    machine.set("FAKE_TENSORRT", "v101201] [b36")
    assert machine() == 0
    commands = machine.commands()
    shutil.rmtree(machine.family / "engines")
    capsys.readouterr()
    assert machine("--dry-run") == 0
    printed = [line.split()[1:] for line in capsys.readouterr().out.splitlines()]
    assert [[a.replace("sm-SM", "sm-90") for a in line] for line in printed] == commands
    assert len(machine.commands()) == len(commands) and not (machine.family / "engines").exists()
    monkeypatch.setenv("PATH", "/nowhere")
    shutil.rmtree(machine.family / "onnxruntime")
    assert machine("--dry-run", "--models", "text_encoder") == 0
    notes, line = capsys.readouterr().out.rsplit("\n", 2)[:2]
    assert "TensorRT 11" in notes and line.startswith("/usr/src/tensorrt/bin/trtexec --onnx=")
    assert "--stronglyTyped" not in line


def test_two_builds_do_not_meet(machine, capsys):
    engines = machine.family / "engines"
    engines.mkdir()
    with machine.script.lock(engines):
        assert machine() == 1 and not machine.commands()
    assert "another build is at work" in capsys.readouterr().err


def test_an_ended_build_ends_trtexec_and_cleans_up(machine):
    at_work = Path(f"{machine.record}.pid")
    os.mkfifo(at_work)
    write = 'echo "$*" > "$engine"'
    (machine.bin / "trtexec").write_text(TRTEXEC.replace(write, f'{write}; echo $$ > "{at_work}"; exec sleep 600'))
    reader = os.open(at_work, os.O_RDWR)
    run = subprocess.Popen([sys.executable, str(SCRIPT), str(machine.family)], stderr=subprocess.PIPE, text=True)
    assert select.select([reader], [], [], 30)[0], "trtexec was not started"
    pid = int(os.read(reader, 100))
    assert machine.leftovers()
    run.terminate()
    assert "interrupted" in run.communicate()[1] and run.returncode == 130
    assert not Path(f"/proc/{pid}").exists() and not machine.leftovers()
    os.close(reader)
