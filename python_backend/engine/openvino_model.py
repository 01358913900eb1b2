"""How the model of a CPU engine directory is read, so that OpenVINO can compile it."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import openvino

from python_backend.engine.manifest import MODEL_FILE, CpuManifest, build_hint
from python_backend.errors import SetupError


def read_model(core: openvino.Core, engine_dir: Path, *, outputs: Collection[str] = ("token_ids",)) -> openvino.Model:
    """The model of ``engine_dir`` with only those of its outputs, ready for ``core.compile_model(model, "CPU")``.

    Raises SetupError when the engine is incomplete or was compiled for another OpenVINO.
    """
    manifest = CpuManifest.load(engine_dir)
    if manifest.openvino_version != openvino.__version__:
        raise SetupError(
            f"{engine_dir} was compiled with OpenVINO {manifest.openvino_version}, this is {openvino.__version__}, and "
            f"paged attention differs between versions; {build_hint(engine_dir)}"
        )
    core.get_property("CPU", "FULL_DEVICE_NAME")  # Loads the plugin, without which paged attention cannot be read.
    model = core.read_model(engine_dir / MODEL_FILE)
    for node in model.get_ops():
        if node.get_type_name() == "PagedAttentionExtension":
            _annotate(node, manifest)
    for result in model.get_results():
        if not result.input_value(0).get_names() & set(outputs):
            model.remove_result(result)
    return model


def _annotate(attention: openvino.Node, manifest: CpuManifest) -> None:
    # The plugin asks for these, and OpenVINO's model format does not carry them.
    info = attention.get_rt_info()
    info["num_k_heads"] = info["num_v_heads"] = manifest.num_key_value_heads
    info["k_head_size"] = info["v_head_size"] = manifest.head_size
