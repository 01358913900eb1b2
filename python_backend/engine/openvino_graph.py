"""One compiled copy of a model, and which of several copies (``graph_copies``) to compute a step with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy.typing as npt
import openvino as ov


class OpenVinoGraph:
    """A compiled model with the tensors it reads. ``tokens`` is the size of its latest step; 0: none yet."""

    def __init__(self, compiled: ov.CompiledModel, kv_cache: Mapping[str, ov.Tensor]) -> None:
        self._request = compiled.create_infer_request()
        for name, tensor in kv_cache.items():
            self._request.set_tensor(name, tensor)
        self._inputs: dict[str, npt.NDArray[Any]] = {}  # views of what the request reads, the KV cache aside
        self.tokens = 0

    def compute(self, inputs: Mapping[str, npt.NDArray[Any]]) -> None:
        """Raises RuntimeError when OpenVINO cannot."""
        self.tokens = 0  # unless it succeeds
        for name, array in inputs.items():
            self._set(name, array)
        self._request.infer()
        self.tokens = inputs["input_ids"].size

    def output(self, name: str, rows: int) -> npt.NDArray[Any]:
        """The first rows of what the latest step computed: a view that the next one overwrites."""
        view: npt.NDArray[Any] = self._request.get_tensor(name).data[:rows]
        return view

    def _set(self, name: str, array: npt.NDArray[Any]) -> None:
        view = self._inputs.get(name)
        if view is not None and view.shape == array.shape:
            view[...] = array  # Setting a tensor takes 6 µs, this 0.2; most steps are shaped like the last one.
        else:
            tensor = ov.Tensor(array)
            self._request.set_tensor(name, tensor)
            self._inputs[name] = tensor.data


class GraphChoice:
    """Copies of one model over one KV cache, ordered by when they were used last."""

    def __init__(self, graphs: list[OpenVinoGraph]) -> None:
        assert graphs, "nothing could be computed"
        self._graphs = graphs

    def of(self, tokens: int) -> OpenVinoGraph:
        """The copy that is ready for a step of so many tokens, or else the one that was used the longest ago."""
        chosen = next((graph for graph in self._graphs if graph.tokens == tokens), self._graphs[0])
        self._graphs.remove(chosen)
        self._graphs.append(chosen)
        return chosen
