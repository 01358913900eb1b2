"""A model repository that needs no engine: one Python model, with the text interface of the real ``ensemble``."""

from __future__ import annotations

from pathlib import Path

CONFIG = """
backend: "python"
max_batch_size: 0
model_transaction_policy { decoupled: true }
input [
  { name: "text_input" data_type: TYPE_STRING dims: [ 1 ] },
  { name: "max_tokens" data_type: TYPE_INT32 dims: [ 1 ] },
  { name: "priority" data_type: TYPE_FP32 dims: [ 1 ] optional: true }
]
output [ { name: "text_output" data_type: TYPE_STRING dims: [ 1 ] } ]
instance_group [ { kind: KIND_CPU count: 1 } ]
"""

# Answers "HI" to "hi" after max_tokens / 20 seconds. "hang" makes it never answer again, "quit" ends its process.
MODEL = """
import os, threading, time
import numpy as np
import triton_python_backend_utils as pb_utils
from python_backend.errors import SetupError  # the launcher makes the package importable

class TritonPythonModel:
    hanging = False

    def initialize(self, args):
        pass

    def execute(self, requests):
        for request in requests:
            text = pb_utils.get_input_tensor_by_name(request, "text_input").as_numpy()[0].decode()
            tokens = int(pb_utils.get_input_tensor_by_name(request, "max_tokens").as_numpy()[0])
            if text == "quit":
                os._exit(1)
            self.hanging = self.hanging or text == "hang"
            threading.Thread(target=self.answer, args=(request.get_response_sender(), text, tokens)).start()

    def answer(self, sender, text, tokens):
        time.sleep(3600 if self.hanging else tokens / 20)
        answer = np.array([text.upper().encode()], dtype=np.object_)
        response = pb_utils.InferenceResponse([pb_utils.Tensor("text_output", answer)])
        sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""


def write_tiny_repository(directory: Path, initialize: str = "pass", model: str = "ensemble") -> Path:
    """Writes the repository; ``initialize`` is the statement that the model runs when it is loaded."""
    (directory / model / "1").mkdir(parents=True)
    (directory / model / "configs").mkdir()
    (directory / model / "config.pbtxt").write_text(CONFIG)
    (directory / model / "configs/cpu.pbtxt").write_text(CONFIG)
    code = MODEL.replace("        pass\n", f"        {initialize}\n")
    (directory / model / "1/model.py").write_text(code)
    return directory
