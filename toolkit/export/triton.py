"""What Triton serves: one description of the models, and their configurations for three back ends.

    back end      folder        runs                                      for
    cpu           models/       ONNX file in the Python backend, FP32     development, and checks without a GPU
    onnxruntime   onnxruntime/  ONNX file with TensorRT's provider, FP16  a GPU; engines are built as Triton starts
    tensorrt      tensorrt/     engine, FP16                              a GPU; engines are built beforehand

Models and tensors are the same, so the gateway serves with any of them. docs/adr/0010 has the reasons for
the numbers. Standard library only.
"""

import json
from dataclasses import dataclass

from toolkit.errors import InputError

FOLDERS = {"cpu": "models", "onnxruntime": "onnxruntime", "tensorrt": "tensorrt"}
PROFILES = "profiles.json"
SAFETY_CHECKER = "safety_checker"  # the contract's optional model

FLOAT = "FLOAT"  # a tensor in the precision that the back end computes in
PRECISION = {"cpu": "FP32", "onnxruntime": "FP16", "tensorrt": "FP16"}


@dataclass(frozen=True)
class Sizes:
    """Dimensions of a family, and how its CPU back end runs.

    L, D, S, E, h and H of ARCHITECTURE.md, "Contract": tokens, width, subjects, encoder, latent, image.
    cpu_rows: of one execution. cpu_threads: of the encoders, and of UNets and decoder; 0 is one a core. cpu_arena:
    whether a network keeps the memory of its largest run.
    """

    tokens: int
    width: int
    subjects: int
    encoder: int
    latent: int
    image: int
    cpu_rows: int = 8
    cpu_threads: tuple[int, int] = (1, 2)
    cpu_arena: bool = True


# At 64×64, the scores of one attention layer take half a GiB a row in FP32 (8 heads × 4096² × 4 bytes): a CPU gets
# the two rows of a step at a time, and all of it works on them. Six networks that each kept that memory would hold more
# than their weights; to ask for it anew costs nothing beside seconds of arithmetic.
LARGE = {"cpu_rows": 2, "cpu_threads": (0, 0), "cpu_arena": False}
SD15 = Sizes(tokens=77, width=768, subjects=4, encoder=224, latent=64, image=512, **LARGE)


def sizes(preset) -> Sizes:
    """Of a family that `toolkit.models` describes."""
    return Sizes(
        tokens=preset.max_length,
        width=preset.width,
        subjects=preset.max_subjects,
        encoder=preset.reference_size,
        latent=preset.latent_size,
        image=preset.image_size,
        **(LARGE if preset.latent_size > 32 else {}),
    )


@dataclass(frozen=True)
class Tensor:
    """dims: of one row, () for a scalar."""

    name: str
    dims: tuple[int, ...]
    datatype: str = FLOAT


@dataclass(frozen=True)
class Model:
    """On a GPU, engines take rows[0] to rows[2] and are tuned for rows[1]; batches of `graphs` rows run as
    CUDA graphs. cpu_rows, threads and arena: of the CPU back end. optional: a family may do without it.
    """

    name: str
    inputs: tuple[Tensor, ...]
    output: Tensor
    cpu_rows: int
    threads: int
    arena: bool
    rows: tuple[int, int, int] = (1, 1, 4)
    graphs: tuple[int, ...] = (1,)
    optional: bool = False

    def max_batch_size(self, backend: str) -> int:
        return self.cpu_rows if backend == "cpu" else self.rows[2]


# The gateway sends a UNet two rows a picture and step, so batches are even; large ones hide their launches anyway.
UNET = {"rows": (1, 8, 16), "graphs": (2, 4, 6, 8)}


def models(sizes: Sizes) -> tuple[Model, ...]:
    """The contract of ARCHITECTURE.md, in its order."""
    states = (sizes.tokens, sizes.width)
    latents = (4, sizes.latent, sizes.latent)
    pixels = Tensor("pixel_values", (3, sizes.encoder, sizes.encoder))
    unet = (
        Tensor("sample", latents),
        Tensor("timestep", (), "FP32"),  # the embedding's frequencies are computed in FP32 everywhere
        Tensor("encoder_hidden_states", states),
    )
    embeds, positions = Tensor("image_embeds", (sizes.subjects, sizes.width)), (sizes.subjects,)
    light, heavy = (
        {"cpu_rows": sizes.cpu_rows, "threads": threads, "arena": sizes.cpu_arena} for threads in sizes.cpu_threads
    )
    return (
        Model(
            "text_encoder",
            (Tensor("input_ids", (sizes.tokens,), "INT64"),),
            Tensor("hidden_states", states),
            **light,
        ),
        Model("image_encoder", (pixels,), Tensor("image_embeds", (sizes.width,)), **light),
        Model(
            "subject_fuser",
            (Tensor("hidden_states", states), embeds, Tensor("subject_positions", positions, "INT64")),
            Tensor("hidden_states_augmented", states),
            **light,
        ),
        Model("unet_tdm", unet, Tensor("noise_pred", latents), **heavy, **UNET),
        Model("unet_sdm", unet, Tensor("noise_pred", latents), **heavy, **UNET),
        Model("vae_decoder", (Tensor("latents", latents),), Tensor("image", (3, sizes.image, sizes.image)), **heavy),
    )


def safety_checker(sizes: Sizes) -> Model:
    """The contract's optional model; a score is compared with a limit, so it stays FP32."""
    return Model(
        SAFETY_CHECKER,
        (Tensor("pixel_values", (3, sizes.encoder, sizes.encoder)),),
        Tensor("nsfw_score", (1,), "FP32"),
        cpu_rows=sizes.cpu_rows,
        threads=sizes.cpu_threads[0],
        arena=sizes.cpu_arena,
        optional=True,
    )


def tensors(model: Model, backend: str) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Name → (datatype on the wire, dims of a row), inputs first."""
    return {t.name: (_datatype(t, backend), t.dims) for t in (*model.inputs, model.output)}


def hold(model: Model, backend: str, found: dict[str, tuple[str, tuple[int, ...]]]) -> None:
    """Raises InputError if a network has other tensors than the description, which clients are written for."""
    wanted = tensors(model, backend)
    if found != wanted:
        raise InputError(f"{model.name}: the network has the tensors {found}, but the contract says {wanted}")


def files(sizes: Sizes, checker: bool = False, weights: str = "") -> dict[str, str]:
    """Path → text of everything that a family has beside its weights: the configurations of all back ends, and the
    shapes that deploy/engines builds engines for.

    Triton loads whatever has a configuration, so that of the safety checker lies apart, in optional/, unless the family
    has one (`checker`). weights: `weights_sha256` of pipeline.json, if it is known.
    """
    family = (*models(sizes), safety_checker(sizes))
    configs = {
        f"{'optional/' if model.optional and not checker else ''}{folder}/{model.name}/config.pbtxt": config(
            model, backend, weights
        )
        for backend, folder in FOLDERS.items()
        for model in family
    }
    return {**configs, PROFILES: json.dumps(profiles(family), indent=2) + "\n"}


def profiles(family: tuple[Model, ...]) -> dict:
    """Where a model's ONNX file lies and its engine goes, and TensorRT's optimisation profile for it."""
    entries = {
        m.name: {
            "onnx": f"onnxruntime/{m.name}/1/model.onnx",
            "plan": f"tensorrt/{m.name}/1/model.plan",
            "optional": m.optional,
            **_profile(m),
        }
        for m in family
    }
    return {
        "precision": PRECISION["tensorrt"].lower(),
        "builder_optimization_level": _LEVEL,
        "models": entries,
    }


def _profile(model: Model) -> dict[str, str]:
    """Least, usual and largest shapes, as TensorRT's tools write them."""

    def shapes(rows: int) -> str:
        return ",".join(f"{t.name}:{'x'.join(map(str, (rows, *t.dims)))}" for t in model.inputs)

    return {kind: shapes(rows) for kind, rows in zip(("min", "opt", "max"), model.rows, strict=True)}


def config(model: Model, backend: str, weights: str = "") -> str:
    """config.pbtxt of one model. weights: whose it is, which those for GPUs say, since engines and caches do not: the
    gateway refuses a Triton that serves another family. (`models/` is hashed by a gateway that starts it itself.)"""
    lines = [
        f"# Written by `python -m toolkit {'export' if backend == 'cpu' else 'configs'}`.",
        f'name: "{model.name}"',
        *_RUNS[backend],
        f"max_batch_size: {model.max_batch_size(backend)}",
        *(f"input [{{ {_tensor(t, backend)} }}]" for t in model.inputs),
        f"output [{{ {_tensor(model.output, backend)} }}]",
    ]
    if backend == "cpu":
        lines += [
            "dynamic_batching {}",
            "instance_group [{ kind: KIND_CPU, count: 1 }]",
            _parameter("intra_op_threads", model.threads),
            *([] if model.arena else [_parameter("memory_arena", "off")]),
        ]
    else:
        accelerate = _cuda_graphs if backend == "tensorrt" else _tensorrt_provider
        lines += [*_GPU, *accelerate(model), *_warmup(model, backend)]
        if weights and not model.optional:
            lines.append(_parameter("weights_sha256", weights))
    return "\n".join(lines) + "\n"


_RUNS = {
    "cpu": ['backend: "python"'],
    "onnxruntime": ['backend: "onnxruntime"', 'default_model_filename: "model.onnx"'],
    "tensorrt": ['backend: "tensorrt"', 'default_model_filename: "model.plan"'],
}

# Whoever asks for priority 1 goes first. Nothing waits as long as the gateway does for one call (30 s), and a full
# queue sends its callers to another replica.
_GPU = """\
dynamic_batching {
  priority_levels: 2
  default_priority_level: 2
  default_queue_policy {
    timeout_action: REJECT
    default_timeout_microseconds: 25000000
    allow_timeout_override: true
    max_queue_size: 64
  }
}
instance_group [{ kind: KIND_GPU, count: 1 }]""".splitlines()

_LEVEL = 4  # of TensorRT's builder, 0 to 5: engines are built once and run for weeks
_WORKSPACE = 4 << 30  # bytes


def _cuda_graphs(model: Model) -> list[str]:
    """Without a list of its own, a model with dynamic batching gets graphs for one row and for max_batch_size
    alone (tensorrt_backend, src/instance_state.cc, InitializeGraphSpecs)."""
    shapes = [(t.name, f"{{ dim: {list(t.dims)} }}" if t.dims else "{}") for t in model.inputs]
    specs = [line for rows in model.graphs for line in _block(f"graph_spec [{{ batch_size: {rows}, input", shapes)]
    return ["optimization {", "  cuda {", "    graphs: true", *(f"    {line}" for line in specs), "  }", "}"]


def _tensorrt_provider(model: Model) -> list[str]:
    """Precision is in the graph, so none is asked for.

    ONNX Runtime names cached engines after the file's name and the graph's tensors, which both UNets share: each
    model needs a folder of its own, or one would run with the other's weights.
    """
    options = {
        "max_workspace_size_bytes": _WORKSPACE,
        "trt_builder_optimization_level": _LEVEL,
        "trt_engine_cache_enable": 1,
        "trt_engine_cache_path": f"/engines/{model.name}",
        "trt_timing_cache_enable": 1,
        "trt_timing_cache_path": "/engines",
    }
    options |= {f"trt_profile_{kind}_shapes": shapes for kind, shapes in _profile(model).items()}
    pairs = [(key, f'"{value}"') for key, value in options.items()]
    provider = _block('gpu_execution_accelerator [{ name: "tensorrt", parameters', pairs)
    return ["optimization {", "  execution_accelerators {", *(f"    {line}" for line in provider), "  }", "}"]


def _warmup(model: Model, backend: str) -> list[str]:
    """The smallest batch of everyday and the largest there is, before the model counts as ready."""
    inputs = [(t.name, f"{{ {_type(t, backend)}, dims: {_dims(t)}, zero_data: true }}") for t in model.inputs]
    heads = (
        f'model_warmup [{{ name: "{rows} row{"s" * (rows > 1)}", batch_size: {rows}, inputs'
        for rows in (model.graphs[0], model.rows[2])
    )
    return [line for head in heads for line in _block(head, inputs)]


def _parameter(key: str, value: object) -> str:
    return f'parameters {{ key: "{key}", value: {{ string_value: "{value}" }} }}'


def _block(head: str, pairs: list[tuple[str, str]]) -> list[str]:
    """A message that ends in a map, an entry a line."""
    entries = ",\n".join(f'  {{ key: "{key}", value: {value} }}' for key, value in pairs)
    return [f"{head} [", *entries.splitlines(), "] }]"]


def _tensor(tensor: Tensor, backend: str) -> str:
    text = f'name: "{tensor.name}", {_type(tensor, backend)}, dims: {_dims(tensor)}'
    return text if tensor.dims else text + ", reshape: { shape: [] }"


def _dims(tensor: Tensor) -> list[int]:
    # Triton has no rank-0 rows: a scalar a row is [1] on the wire and loses that axis on the way in
    return list(tensor.dims) or [1]


def _type(tensor: Tensor, backend: str) -> str:
    return f"data_type: TYPE_{_datatype(tensor, backend)}"


def _datatype(tensor: Tensor, backend: str) -> str:
    return PRECISION[backend] if tensor.datatype == FLOAT else tensor.datatype
