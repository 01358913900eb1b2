"""What can be wrong with the form of a request, with its prompt and its conversation."""

from __future__ import annotations

import json
from typing import Final

import numpy as np

from tests.integration.error_row import Row, id_row, id_tensors, tensor_of, text_row, text_tensors

_GENERATE_ONE = (
    "generate expects model to produce exactly 1 response, use generate stream for model that generates various number "
    "of responses"
)
_PLACE = "[request id: <id_unknown>] "

FORM: Final = (
    Row(
        did="names a model that is not there",
        message="Request for unknown model: 'ensembel' is not found",
        error="Triton",
        model="ensembel",
        tensors=text_tensors(),
        code="NOT_FOUND",
        generate=404,
        infer=404,
        todo="Use a name of /v2/repository/index.",
    ),
    Row(
        did="names a version that is not there",
        message="Request for unknown model: 'ensemble' version 7 is not found",
        error="Triton",
        tensors=text_tensors(),
        version="7",
        code="NOT_FOUND",
        generate=404,
        infer=404,
        todo="Leave the version out.",
    ),
    Row(
        did="leaves out the prompt",
        message="preprocessing needs QUERY (text_input of the ensemble), which the request does not hold.",
        tensors={"max_tokens": tensor_of(5)},
    ),
    Row(
        did="leaves out max_tokens and sends an optional input",
        message="preprocessing needs REQUEST_OUTPUT_LEN (max_tokens of the ensemble), which the request does not hold.",
        tensors={"text_input": tensor_of("x"), "temperature": tensor_of(0.5)},
    ),
    Row(
        did="leaves out a required input of the engine and sends an optional one",
        message="tensorrt_llm needs input_lengths, which the request does not hold.",
        model="tensorrt_llm",
        tensors={name: array for name, array in id_tensors().items() if name != "input_lengths"},
        todo="Send it.",
    ),
    Row(
        did="sends an input that the model does not have",
        message="unexpected inference input 'temprature' for model 'ensemble'",
        error="Triton",
        tensors=text_tensors(temprature=0.5),
        doors=("stream", "unary", "infer"),
        todo="Send only inputs of [the contract](contract.md).",
    ),
    Row(
        did="sends a parameter, or over HTTP /generate a key, that nothing reads",
        message='ensemble has no input "temprature"; did you mean "temperature"?',
        tensors=text_tensors(),
        parameters={"temprature": "0.5"},
    ),
    Row(
        did="sends a parameter, or over HTTP /generate a key, that is like no other",
        message='tensorrt_llm has no input "frobnicate"; leave it out.',
        model="tensorrt_llm",
        tensors=id_tensors(),
        parameters={"frobnicate": 1},
    ),
    Row(
        did="sends a value of the wrong type",
        message=f"{_PLACE}inference input 'max_tokens' data-type is 'INT64', but model 'ensemble' expects 'INT32'",
        error="Triton",
        tensors=text_tensors() | {"max_tokens": np.array([[5]])},
        doors=("stream", "unary", "infer"),
        todo="Send the type of [the contract](contract.md).",
    ),
    Row(
        did="sends a value of the wrong type in JSON",
        message="Unable to parse 'data': attempt to access JSON non-signed-integer as signed-integer",
        error="Triton",
        body=b'{"text_input": "hi", "max_tokens": "five"}',
        doors=("generate",),
        generate=500,
        todo="Send a number. One that does not fit 32 bits wraps around without an error: that is Triton's parser.",
    ),
    Row(
        did="sends a number or an object where a text belongs",
        message="Unable to parse JSON bytes array: attempt to access JSON non-string as string",
        error="Triton",
        body=b'{"text_input": 5, "max_tokens": 5}',
        doors=("generate",),
        generate=500,
        todo="Send a text.",
    ),
    Row(
        did="sends a tensor of the wrong shape",
        message=f"{_PLACE}unexpected shape for input 'max_tokens' for model 'ensemble'. Expected [-1,1], got [1,2]. …",
        error="Triton",
        tensors=text_tensors() | {"max_tokens": tensor_of([5, 6])},
        doors=("stream", "unary", "infer"),
        todo="Send [batch, dims of the contract].",
    ),
    Row(
        did="sends inputs of different batch sizes",
        message=f"{_PLACE}input 'text_input' batch size does not match other inputs for 'ensemble'",
        error="Triton",
        tensors=text_tensors() | {"text_input": np.array([[b"one"], [b"two"]], np.object_)},
        todo="Send as many rows in each.",
    ),
    Row(
        did="sends more prompts than max_batch_size",
        message=f"{_PLACE}inference request batch-size must be <= 64 for 'ensemble'",
        error="Triton",
        tensors={name: np.repeat(array, 65, axis=0) for name, array in text_tensors().items()},
        todo="Send fewer, or several requests.",
    ),
    Row(
        did="sends a body that is no JSON",
        message="failed to parse the request JSON buffer: Missing a name for object member. at 1",
        error="Triton",
        body=b"{",
        doors=("generate", "infer"),
        generate=500,
        infer=500,
        todo="Send a JSON object.",
    ),
    Row(
        did="sends a list or an object under a key that is no input",
        message="parameter 'stop_word' has invalid type. It should be either 'int', 'bool', or 'string'.",
        error="Triton",
        body=b'{"text_input": "hi", "max_tokens": 5, "stop_word": ["end"]}',
        doors=("generate",),
        todo="Correct the key.",
    ),
    Row(
        did="sends 16-bit floats as JSON",
        message="receiving FP16 data via JSON is not supported. Please use the binary data format for input "
        "prompt_embedding_table",
        error="Triton",
        tensors=text_tensors(prompt_embedding_table=np.zeros((1, 2, 64), np.float16)),
        doors=("generate", "infer"),
        todo="Use gRPC, or binary data over /infer.",
    ),
    Row(
        did="calls /infer or ModelInfer on a decoupled model (the profile `cpu`)",
        message="…doesn't support models with decoupled transaction policy",
        error="Triton",
        tensors=text_tensors(),
        server="narrow",
        code="UNIMPLEMENTED",
        infer=501,
        doors=("unary", "infer"),
        todo="Use ModelStreamInfer, /generate or /generate_stream, or serve the profile `cpu-unary`.",
    ),
    Row(
        did="asks /generate for several responses: several prompts, num_return_sequences above 1, or stream",
        message=_GENERATE_ONE,
        error="Triton",
        tensors=text_tensors(num_return_sequences=2),
        doors=("generate",),
        generate=200,
        todo="Use /generate_stream. Look at the body: Triton sends this error with status 200, after the engine has "
        "answered; a model is not told which address a request came to.",
    ),
)

PROMPT: Final = (
    text_row("sends an empty text", "the prompt is empty. Send at least one character.", text=""),
    Row(
        did="sends a text that is not UTF-8",
        message="the prompt is not valid UTF-8: invalid start byte at byte 2 of 4.",
        tensors=text_tensors(b"ab\xff\xfe"),
        doors=("stream", "unary"),
    ),
    id_row(
        "sends no token ids",
        "input_ids is missing; send the prompt's token ids.",
        input_ids=np.zeros((1, 0), np.int32),
    ),
    id_row(
        "sends an empty prompt", "the prompt is empty (input_lengths is 0). Send at least one token.", input_lengths=0
    ),
    id_row("sends fewer ids than it says", "input_lengths is 3, but input_ids holds 2 tokens.", input_lengths=3),
    id_row(
        "sends an id that the model does not have",
        "token id 320 is not in the vocabulary; ids of this model lie between 0 and 319. Tokenize with the engine's "
        "own tokenizer.",
        5,
        320,
    ),
    id_row(
        "sends a prompt longer than the engine's max_seq_len",
        "the prompt has 1024 tokens; this engine takes at most 1024, answer included. Shorten the prompt or rebuild "
        "the engine with a larger max_seq_len.",
        *([5] * 1024),
    ),
    text_row(
        "asks for no token",
        "max_tokens (request_output_len) is 0; ask for at least 1.",
        max_tokens=0,
    ),
    id_row(
        "asks for more than fits behind the prompt",
        "the prompt has 2 tokens and max_tokens is 1023, together 1025; this engine takes at most 1024. Shorten the "
        "prompt, or ask for at most 1022 tokens.",
        request_output_len=1023,
    ),
    Row(
        did="asks for more than the whole KV cache holds",
        message="2 prompt + 65000 new tokens need 2032 KV cache blocks; this engine has 1875 of 32 tokens. Shorten the "
        "request or enlarge the KV cache.",
        model="tensorrt_llm",
        tensors=id_tensors(request_output_len=65000),
        server="narrow",
    ),
    Row(
        did="sends a prompt longer than max_num_tokens, where enable_chunked_context is off",
        message="600 prompt + 5 new tokens may need a context of 600 tokens; without chunked context a step takes at "
        "most 512 (max_num_tokens). Shorten the request or set enable_chunked_context.",
        model="tensorrt_llm",
        tensors=id_tensors(*([5] * 600)),
        server="narrow",
    ),
)

CHAT: Final = (
    text_row(
        "sends both a text and a conversation",
        "both text_input and messages are there. Send messages with an empty text_input.",
        messages="[]",
    ),
    Row(
        did="sends a conversation that is not UTF-8",
        message="messages is not valid UTF-8: invalid start byte at byte 0 of 1.",
        tensors=text_tensors("", messages=b"\xff"),
        doors=("stream", "unary"),
    ),
    text_row(
        "sends a conversation that is no JSON",
        "messages is not valid JSON: Expecting property name enclosed in double quotes at line 1 column 3.",
        text="",
        messages="[{",
    ),
    text_row(
        "nests it beyond a JSON reader's depth",
        "messages is nested too deeply for a JSON reader.",
        text="",
        messages="[" * 100_000,
    ),
    text_row(
        "sends something else than a list of messages",
        "messages holds a str; send a list of messages.",
        text="",
        messages='"hello"',
    ),
    text_row(
        "leaves a message without a role",
        "messages[0].role: Field required. Send a list of messages, each with a role and content.",
        text="",
        messages='[{"content": "hi"}]',
    ),
    text_row(
        "sends a key that chat templates do not take",
        "messages has an unknown key 'tool'; did you mean \"tools\"?.",
        text="",
        messages='{"messages": [{"role": "user"}], "tool": []}',
    ),
    text_row(
        "hides a key of its own among the template's variables",
        "chat_template_kwargs has tools, a key of its own. Move it up.",
        text="",
        messages='{"messages": [{"role": "user", "content": "hi"}], "chat_template_kwargs": {"tools": []}}',
    ),
    text_row(
        "sends half of a surrogate pair",
        "the text holds half of a surrogate pair, which is no character: …",
        text="",
        messages='[{"role": "user", "content": "\\ud83d"}]',
    ),
    Row(
        did="sends a conversation to a model without a chat template",
        message="this model has no chat template, so it takes no messages. Send text_input instead.",
        tensors=text_tensors("", messages='[{"role": "user", "content": "hi"}]'),
        server="narrow",
    ),
    Row(
        did="sends messages that the template refuses",
        message="the chat template refuses these messages: only users may speak",
        tensors=text_tensors("", messages='[{"role": "assistant", "content": "hi"}]'),
        server="odd",
    ),
    Row(
        did="sends messages of a form on which the template fails",
        message="the chat template fails on these messages: TypeError: …. Send the form it expects.",
        tensors=text_tensors("", messages='[{"role": "user", "content": [{"type": "text"}]}]'),
        server="odd",
    ),
    Row(
        did="sends messages of which the template makes too much",
        message="the chat template makes more than 4194304 characters of these messages. Send fewer.",
        tensors=text_tensors("", messages=json.dumps([{"role": "user", "content": "x" * 100}])),
        server="odd",
    ),
    Row(
        did="sends messages that keep the template busy",
        message="the chat template ran for more than 2 s. Send fewer messages.",
        tensors=text_tensors("", messages=json.dumps([{"role": "user", "content": "forever"}])),
        server="odd",
    ),
)
