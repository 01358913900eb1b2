"""``python -m build_engines plan``: what fits on which GPUs, and how fast it can be."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from build_engines.planning.changes import changes
from build_engines.planning.formats import FORMATS, named_format
from build_engines.planning.gpu_names import GpuSet, read_gpus
from build_engines.planning.gpus import PCIE_4, Gpu
from build_engines.planning.memory import KV_CACHE_FRACTION
from build_engines.planning.model_file import PlannedModel, read_model
from build_engines.planning.plan import Plan, Workload
from build_engines.planning.recommend import Choices, recommend
from build_engines.planning.report import document, show, verdict
from build_engines.whole_number import at_least
from python_backend.errors import SetupError

if TYPE_CHECKING:
    from argparse import _SubParsersAction


def add_plan_parser(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to ``python -m build_engines``."""
    plan = commands.add_parser("plan", help="say what fits on given GPUs, in which precision, and how fast it can be")
    plan.add_argument(
        "model",
        type=Path,
        metavar="MODEL",
        help="config.json, Hugging Face directory (weights are not needed), .gguf, TensorRT-LLM checkpoint or recipe",
    )
    plan.add_argument("--gpus", metavar="GPUS", help='such as "H100 SXM", "2x A100 80GB", "4 x RTX 4090"')
    plan.add_argument("--json", action="store_true", help="print JSON instead of tables")
    _add_workload(plan)
    _add_choices(plan)
    _add_own_gpu(plan)
    plan.set_defaults(run=run_plan)


def run_plan(options: argparse.Namespace) -> None:
    """Raises SetupError after the report when the model does not fit, so that scripts notice."""
    model = read_model(options.model)
    gpus = _gpus(options, model)
    workload = Workload(
        options.input_tokens, options.output_tokens, options.concurrency, options.max_seq_len or model.max_seq_len
    )
    choices = _choices(options, model.choices)
    plan = recommend(model.config, gpus.gpu, gpus.count, workload, choices)
    found = () if plan.fits else changes(model.config, gpus.gpu, gpus.count, workload, choices)
    notices = [*model.notices, *_notices(plan, gpus, model, workload, choices)]
    title = _title(options.model)
    if options.json:
        print(json.dumps(document(title, plan, found, notices), indent=2))
    else:
        show(Console(highlight=False, markup=False), title, plan, found, notices)
    if not plan.fits:
        raise SetupError(f"{title}: {verdict(plan, found)}")


def _add_workload(plan: argparse.ArgumentParser) -> None:
    usual = Workload()
    group = plan.add_argument_group("what is asked of it")
    group.add_argument(
        "--input-tokens", type=at_least(1), default=usual.input_tokens, metavar="N",
        help="average length of a prompt (default: %(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--output-tokens", type=at_least(1), default=usual.output_tokens, metavar="N",
        help="average length of an answer (default: %(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--concurrency", type=at_least(1), default=usual.concurrency, metavar="N",
        help="requests that must fit at once (default: %(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--max-seq-len", type=at_least(1), metavar="N",
        help="longest prompt and answer together that must fit (default: the average)",
    )  # fmt: skip


def _add_choices(plan: argparse.ArgumentParser) -> None:
    group = plan.add_argument_group("what is decided (all else is chosen)")
    group.add_argument("--format", metavar="FORMAT", help=f"of the weights: {', '.join(FORMATS)}")
    group.add_argument(
        "--kv-cache", choices=("none", "fp8", "int8"), help="of the KV cache; none: like the activations"
    )
    group.add_argument("--tp-size", type=at_least(1), metavar="N", help="GPUs that share every layer")
    group.add_argument("--pp-size", type=at_least(1), metavar="N", help="stages of consecutive layers")
    group.add_argument("--max-batch-size", type=at_least(1), metavar="N", help="most requests in a step")
    group.add_argument("--max-num-tokens", type=at_least(1), metavar="N", help="most tokens in a step")
    group.add_argument(
        "--kv-cache-fraction", type=_fraction, default=KV_CACHE_FRACTION, metavar="SHARE",
        help="of the memory that the engine leaves free (default: %(default)s)",
    )  # fmt: skip


def _add_own_gpu(plan: argparse.ArgumentParser) -> None:
    group = plan.add_argument_group("a GPU that is not in the table")
    group.add_argument("--gpu-count", type=at_least(1), default=1, metavar="N", help="how many (default: 1)")
    group.add_argument("--gpu-memory-gb", type=_positive_number, metavar="GIB", help="memory, as nvidia-smi reports")
    group.add_argument("--gpu-bandwidth-gbs", type=_positive_number, metavar="GB/S", help="memory bandwidth")
    group.add_argument("--sm", type=at_least(1), metavar="SM", help="compute capability without point, such as 89")
    group.add_argument(
        "--gpu-tflops", type=_positive_number, metavar="TFLOPS", help="dense FP16; unknown when left out"
    )
    group.add_argument(
        "--gpu-link-gbs", type=_positive_number, metavar="GB/S",
        help="one way between two GPUs, also for NVLink bridges between --gpus (default: the table's, or PCIe 4)",
    )  # fmt: skip


def _gpus(options: argparse.Namespace, model: PlannedModel) -> GpuSet:
    own = {name: getattr(options, name) for name in ("gpu_memory_gb", "gpu_bandwidth_gbs", "sm")}
    if any(own.values()):
        missing = ["--" + name.replace("_", "-") for name, value in own.items() if value is None]
        if options.gpus or missing:
            problem = f"{' and '.join(missing)} missing" if missing else "--gpus names another one"
            raise SetupError(f"a GPU of your own needs --gpu-memory-gb, --gpu-bandwidth-gbs and --sm; {problem}.")
        return GpuSet(_own_gpu(options), options.gpu_count)
    name = options.gpus or model.gpu
    if name is None:
        raise SetupError('name the GPUs, as in --gpus "2x A100 80GB".')
    gpus = read_gpus(name)
    if not options.gpus:
        gpus = replace(gpus, count=(model.choices.tp_size or 1) * (model.choices.pp_size or 1))
    if options.gpu_link_gbs:
        gpus = replace(gpus, gpu=replace(gpus.gpu, link_gbs=options.gpu_link_gbs))
    return gpus


def _own_gpu(options: argparse.Namespace) -> Gpu:
    """Arithmetic is taken to be twice as fast for each halving of the width, as on NVIDIA's data-center GPUs."""
    tflops: float | None = options.gpu_tflops
    gpu = Gpu(
        name=f"GPU of {options.gpu_memory_gb:g} GiB",
        sm=options.sm,
        memory_mib=round(options.gpu_memory_gb * 1024),
        bandwidth_gbs=options.gpu_bandwidth_gbs,
        fp16_tflops=tflops,
        int8_tops=2 * tflops if tflops else None,
        link_gbs=options.gpu_link_gbs or PCIE_4,
        source="command line",
    )
    if not tflops:
        return gpu
    return replace(gpu, fp8_tflops=2 * tflops if gpu.has_fp8 else None, fp4_tflops=4 * tflops if gpu.has_fp4 else None)


def _choices(options: argparse.Namespace, given: Choices) -> Choices:
    """The command line over what the file decides."""
    kv_caches = {None: given.kv_caches, "none": (None,), "fp8": ("fp8",), "int8": ("int8",)}[options.kv_cache]
    return Choices(
        form=named_format(options.format) if options.format else given.form,
        kv_caches=kv_caches,
        tp_size=options.tp_size or given.tp_size,
        pp_size=options.pp_size or given.pp_size,
        max_batch_size=options.max_batch_size or given.max_batch_size,
        max_num_tokens=options.max_num_tokens or given.max_num_tokens,
        kv_cache_fraction=options.kv_cache_fraction,
    )


def _notices(plan: Plan, gpus: GpuSet, model: PlannedModel, workload: Workload, choices: Choices) -> list[str]:
    notices = [gpus.notice] if gpus.notice else []
    if plan.fits and plan.world_size < gpus.count:
        decided = choices.tp_size or choices.pp_size
        why = "so it is decided" if decided else "it cannot be divided by more"
        notices.append(f"the model is spread over {plan.world_size} of the {gpus.count} GPUs: {why}.")
    if plan.fits and plan.world_size > 1 and not (choices.tp_size or choices.pp_size):
        same = replace(choices, form=plan.form, kv_caches=(plan.kv_cache,))
        alone = recommend(model.config, gpus.gpu, 1, workload, same)
        if alone.fits:
            notices.append(
                f"one GPU is enough. {gpus.count} copies, one a GPU, serve more requests; spread over all, each is "
                "answered sooner."
            )
    return notices


def _title(path: Path) -> str:
    resolved = path.resolve()
    return resolved.parent.name if path.name == "config.json" else resolved.name


def _positive_number(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number


def _fraction(text: str) -> float:
    number = float(text)
    if not 0 < number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return number
