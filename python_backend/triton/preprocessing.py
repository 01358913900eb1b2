"""`preprocessing`: prompts to token ids, as the engine's inputs want them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import triton_python_backend_utils as pb_utils

from python_backend.contract import ENSEMBLE, PREPROCESSING
from python_backend.errors import InvalidRequest
from python_backend.text.chat_request import ChatRequest
from python_backend.text.chat_template import ChatTemplate
from python_backend.text.tokenizer import Tokenizer, decode_prompt
from python_backend.text.word_list import Word, bad_word_ids
from python_backend.triton.failure import error_response
from python_backend.triton.logs import log_to_stderr
from python_backend.triton.request_parameters import refuse_unknown
from python_backend.triton.settings import PreprocessingSettings
from python_backend.triton.tensors import check_required, read_inputs

Arrays = dict[str, npt.NDArray[Any]]


class TritonPythonModel:
    """Tokenizes requests of one or several prompts."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the tokenizer. Raises SetupError, whose message Triton shows as the reason."""
        log_to_stderr()
        self._settings = PreprocessingSettings.of(args)
        self._tokenizer = Tokenizer.load(self._settings.tokenizer_dir)
        self._chat_template = ChatTemplate.load(self._settings.tokenizer_dir)

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response a request; a bad request fails alone."""
        return [self._respond(request) for request in requests]

    def _respond(self, request: Any) -> Any:
        try:
            refuse_unknown(request, ENSEMBLE)
            inputs = read_inputs(request)
            check_required(inputs, PREPROCESSING)
            arrays = self._tokenize(inputs)
        except Exception as error:
            # Also what nobody foresaw must fail this request alone, and without a traceback to its client.
            return error_response(error, request.request_id())
        wanted = request.requested_output_names()
        return pb_utils.InferenceResponse(
            [pb_utils.Tensor(name, array) for name, array in arrays.items() if name in wanted]
        )

    def _tokenize(self, inputs: Arrays) -> Arrays:
        end_id = inputs.get("END_ID", np.array([[self._tokenizer.end_id]], np.int32))
        pad_id = inputs.get("PAD_ID", np.array([[self._tokenizer.pad_id]], np.int32))
        queries = inputs["QUERY"].reshape(-1)
        conversations = inputs["MESSAGES"].reshape(-1) if "MESSAGES" in inputs else [b""] * len(queries)
        prompts = [self._prompt(query, messages) for query, messages in zip(queries, conversations, strict=True)]
        rows = len(prompts)
        lengths = np.array([[prompt.size] for prompt in prompts], np.int32)
        ids = np.full((rows, lengths.max()), pad_id.reshape(-1)[0], np.int32)
        for row, prompt in zip(ids, prompts, strict=True):
            row[: prompt.size] = prompt
        extra = inputs.get("PROMPT_TABLE_EXTRA_ID", np.zeros((rows, 1), np.uint64))
        return {
            "INPUT_ID": ids,
            "REQUEST_INPUT_LEN": lengths,
            "DECODER_INPUT_ID": np.broadcast_to(pad_id, (rows, 1)).astype(np.int32),
            "REQUEST_DECODER_INPUT_LEN": np.ones((rows, 1), np.int32),
            "BAD_WORDS_IDS": self._words(inputs, "BAD_WORDS_DICT", rows, self._bad_word),
            "STOP_WORDS_IDS": self._words(inputs, "STOP_WORDS_DICT", rows, self._stop_word),
            "EMBEDDING_BIAS": self._bias(inputs, rows),
            "REQUEST_OUTPUT_LEN": inputs["REQUEST_OUTPUT_LEN"],
            "OUT_END_ID": np.broadcast_to(end_id, (rows, 1)).astype(np.int32),
            "OUT_PAD_ID": np.broadcast_to(pad_id, (rows, 1)).astype(np.int32),
            "OUT_PROMPT_TABLE_EXTRA_IDS": np.broadcast_to(extra, ids.shape).astype(np.uint64),
        }

    def _prompt(self, query: bytes, messages: bytes) -> npt.NDArray[np.int32]:
        """Token ids of a text, or of a conversation through the chat template, which writes the special tokens."""
        if not messages:
            return self._tokenizer.encode(decode_prompt(query), self._settings.add_special_tokens)
        if query:
            raise InvalidRequest("both text_input and messages are there. Send messages with an empty text_input.")
        text = self._chat_template.render(ChatRequest.parse(messages))
        return self._tokenizer.encode(text, add_special_tokens=False)

    def _words(
        self, inputs: Arrays, name: str, rows: int, ids_of: Callable[[str], list[Word]]
    ) -> npt.NDArray[np.int32]:
        """[rows, 2, n]: all words' ids in row 0, padded with 0; the end of each word in row 1, padded with -1."""
        # An empty string stands for "no words": clients that send all fields send "".
        texts = [[raw for raw in row.reshape(-1) if raw] for row in inputs[name]] if name in inputs else [[]] * rows
        lists = [[word for raw in row for word in ids_of(decode_prompt(raw))] for row in texts]
        longest = max(sum(map(len, words)) for words in lists)
        table = np.zeros((rows, 2, longest), np.int32)
        table[:, 1] = -1
        for row, words in zip(table, lists, strict=True):
            ends = np.cumsum([len(word) for word in words], dtype=np.int32)
            row[0, : ends[-1] if words else 0] = [token for word in words for token in word]
            row[1, : len(words)] = ends
        return table

    def _stop_word(self, text: str) -> list[Word]:
        return [tuple(self._tokenizer.encode(text, add_special_tokens=False).tolist())]

    def _bad_word(self, text: str) -> list[Word]:
        return bad_word_ids(self._tokenizer, text)

    def _bias(self, inputs: Arrays, rows: int) -> npt.NDArray[np.float32]:
        if "EMBEDDING_BIAS_WORDS" not in inputs:
            return np.zeros((rows, 0), np.float32)
        words, weights = inputs["EMBEDDING_BIAS_WORDS"], inputs.get("EMBEDDING_BIAS_WEIGHTS")
        if weights is None or weights.shape != words.shape:
            shape = None if weights is None else list(weights.shape)
            raise InvalidRequest(
                f"embedding_bias_words has shape {list(words.shape)} and embedding_bias_weights {shape}; "
                "send one weight for each word."
            )
        bias = np.zeros((rows, self._tokenizer.vocab_size), np.float32)
        for row, row_words, row_weights in zip(bias, words, weights, strict=True):
            for raw, weight in zip(row_words, row_weights, strict=True):
                row[self._tokenizer.encode(decode_prompt(raw), add_special_tokens=False)] += weight
        return bias
