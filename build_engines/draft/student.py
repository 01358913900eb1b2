"""The draft model while it learns: some of the target's layers, between the target's embedding and its head."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from transformers import PreTrainedModel

from build_engines.checkpoint.dtypes import Array
from build_engines.checkpoint.tensor_table import FINAL_NORM, LM_HEAD, tensor_table
from build_engines.draft.generation import Text
from build_engines.draft.weights_file import trained_tensors
from build_engines.quantization.transformers_model import transformers_model
from build_engines.sources.hugging_face import NAMING
from build_engines.sources.model_source import ModelSource
from build_engines.sources.tensor_locations import locate


class Student:
    """``layers`` of the target in this order, and its last norm; both are trained. Embedding and head stay as they are.

    ``vocabulary`` i32 [draft tokens]: the ids that it may propose.
    """

    def __init__(self, target: ModelSource, layers: Sequence[int], vocabulary: torch.Tensor) -> None:
        self.config = target.config.changed(num_hidden_layers=len(layers))

        def tensor(name: str) -> Array:
            entry = table[name]
            if entry.layer is None:
                return target.tensor(name)
            return target.tensor(name.replace(f".{entry.layer}.", f".{layers[entry.layer]}.", 1))

        table = tensor_table(self.config)
        self.vocabulary = vocabulary
        self.model: PreTrainedModel = transformers_model(self.config, tensor)
        self.model.requires_grad_(False)
        self.full_head = torch.from_numpy(target.tensor(LM_HEAD).astype(np.float32))
        self.head = self.full_head[vocabulary.long()]
        #: What is trained, by its name in transformers.
        self.trained = {
            name: weight
            for name, weight in self.model.named_parameters()
            if ".layers." in name or name == NAMING.final_norm
        }
        for weight in self.trained.values():
            weight.requires_grad_(True)

    def states(self, texts: Sequence[Text]) -> torch.Tensor:
        """Normed hidden states [tokens, hidden size], one for each of the ``states`` of ``texts``, in their order."""
        longest = max(len(text.token_ids) for text in texts)
        ids = torch.zeros(len(texts), longest - 1, dtype=torch.int64)
        for row, text in zip(ids, texts, strict=True):
            row[: len(text.token_ids) - 1] = text.token_ids[:-1]
        hidden = self.model.model(
            input_ids=ids, use_cache=False
        ).last_hidden_state  # Padding comes after all that counts.
        return torch.cat(
            [row[text.prompt_tokens - 1 : len(text.token_ids) - 1] for row, text in zip(hidden, texts, strict=True)]
        )

    def tensors(self) -> dict[str, Array]:
        """What was trained, by its names in ``tensor_table``: float32."""
        less = 1 if self.config.architecture == "GemmaForCausalLM" else 0
        parts = locate(self.config, NAMING)
        found: dict[str, Array] = {}
        for name in trained_tensors(self.config):
            values = [self.trained[part.name].detach().numpy() for part in parts[name]]
            whole = np.concatenate(values)
            found[name] = whole + less if "norm" in name or name == FINAL_NORM else whole
        return found

    def load(self, tensors: dict[str, Array]) -> None:
        """Take these in place of what was trained, as ``tensors`` gives them."""
        less = 1 if self.config.architecture == "GemmaForCausalLM" else 0
        for name, parts in locate(self.config, NAMING).items():
            if name not in tensors:
                continue
            whole = tensors[name].astype(np.float32) - (less if "norm" in name or name == FINAL_NORM else 0)
            rows = np.cumsum([part.shape[0] for part in parts])[:-1]
            for part, values in zip(parts, np.split(whole, rows), strict=True):
                self.trained[part.name].data.copy_(torch.from_numpy(values))
