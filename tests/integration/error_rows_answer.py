"""What can be wrong with how an answer is asked for."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from tests.integration.error_row import Row, id_row, id_tensors, text_row, text_tensors

SAMPLING: Final = (
    text_row(
        "temperature below 0, or not a number", "temperature is -1.0; it must be a number from 0 up.", temperature=-1.0
    ),
    text_row(
        "top_k out of range",
        "top_k (runtime_top_k) is 5000; it must lie between 0 (unset) and 1024.",
        top_k=5000,
    ),
    text_row("top_p above 1", "top_p (runtime_top_p) is 1.5; it must be above 0 and at most 1.", top_p=1.5),
    id_row(
        "runtime_top_p_min above 1",
        "top_p_min (runtime_top_p_min) is 2.0; it must be above 0 and at most 1.",
        runtime_top_p_min=2.0,
    ),
    id_row(
        "runtime_top_p_decay out of range",
        "top_p_decay (runtime_top_p_decay) is 0.0; it must be above 0 and at most 1.",
        runtime_top_p_decay=0.0,
    ),
    text_row(
        "repetition_penalty out of range",
        "repetition_penalty is 0.0; it must lie between 1e-10 and 1e+10.",
        repetition_penalty=0.0,
    ),
    text_row(
        "presence_penalty out of range",
        "presence_penalty is inf; it must lie between -1e+10 and 1e+10.",
        presence_penalty=np.float32(np.inf),
    ),
    text_row(
        "frequency_penalty out of range",
        "frequency_penalty is 1.0000000200408773e+20; it must lie between -1e+10 and 1e+10.",
        frequency_penalty=np.float32(1e20),
    ),
    text_row("min_tokens below 0", "min_tokens is -4; it must be a number from 0 up.", min_tokens=-4),
    text_row(
        "both names of one thing, with different values",
        "seed is 1 and random_seed, its older name, is 2. Send only seed.",
        seed=np.uint64(1),
        random_seed=np.uint64(2),
    ),
    text_row(
        "num_return_sequences out of range",
        "num_return_sequences is 1000; it lies between 1 and 64, the most sequences that run at once.",
        num_return_sequences=1000,
    ),
    Row(
        did="num_return_sequences above 1 in the profile `cpu-unary`",
        message="num_return_sequences is 2; a model that is not decoupled answers with one sequence. Leave it out, or "
        "serve the profile whose model_transaction_policy is decoupled.",
        error="Unsupported",
        tensors=text_tensors(num_return_sequences=2),
        doors=("unary", "infer"),
    ),
    Row(
        did="several prompts in the profile `cpu-unary`",
        message="the request has 2 prompts; a model that is not decoupled answers one. Send one prompt a request, or "
        "serve the profile whose model_transaction_policy is decoupled.",
        error="Unsupported",
        tensors={name: np.repeat(array, 2, axis=0) for name, array in text_tensors().items()},
        doors=("unary", "infer"),
    ),
    Row(
        did="stream in the profile `cpu-unary`",
        message="streaming needs a decoupled model, and this profile is not. Leave `streaming` out, or serve the "
        "profile whose model_transaction_policy is decoupled.",
        error="Unsupported",
        tensors=text_tensors(stream=True),
        doors=("unary", "infer"),
    ),
    text_row("priority out of range", "priority is 7; it lies between 0 and 1.", priority=7.0),
    Row(
        did="tenant that is not UTF-8",
        message="tenant is not valid UTF-8: invalid start byte at byte 0.",
        tensors=text_tensors(tenant=b"\xff"),
        doors=("stream", "unary"),
    ),
    Row(
        did="logits that do not fit one response",
        message="the logits asked for take up to 2000 MiB in one response (8000 tokens of 262144 bytes); at most 1024 "
        "MiB are sent. Ask for fewer tokens, or stream.",
        model="tensorrt_llm",
        tensors=id_tensors(request_output_len=8000, return_generation_logits=True),
        server="odd",
    ),
)

WORDS: Final = (
    text_row(
        "embedding_bias_words without as many weights",
        "embedding_bias_words has shape [1, 2] and embedding_bias_weights [1, 1]; send one weight for each word.",
        embedding_bias_words=["fox", "dog"],
        embedding_bias_weights=[1.0],
    ),
    id_row(
        "embedding_bias of another length than the vocabulary",
        "embedding_bias has 7 values; this model's vocabulary has 320 tokens. Send one value for each.",
        embedding_bias=[1.0] * 7,
    ),
    id_row(
        "embedding_bias with a value beyond the limits",
        "embedding_bias holds 1.0000000200408773e+20; values must lie between -1e+10 and 1e+10, or be -inf.",
        embedding_bias=[1e20] * 320,
    ),
    id_row(
        "embedding_bias that bans every token",
        "embedding_bias is -inf for every token. Leave at least one that may be chosen.",
        embedding_bias=[-np.inf] * 320,
    ),
    id_row(
        "a word list of another shape",
        "stop_words_list has a word that starts at 2 and ends at 1, with 2 ids in row 0. Row 1 holds the rising end of "
        "each word, then -1.",
        stop_words_list=np.array([[[5, 6], [2, 1]]], np.int32),
    ),
    id_row(
        "a word list with an end behind its padding",
        "bad_words_list has 2 behind a -1 in row 1. -1 is padding: send it only after all ends.",
        bad_words_list=np.array([[[5, 6], [-1, 2]]], np.int32),
    ),
    id_row(
        "a word list with an id that the model does not have",
        "stop_words_list has token id 999; ids of this model lie between 0 and 319. Tokenize with the engine's own "
        "tokenizer.",
        stop_words_list=np.array([[[5, 999], [2, -1]]], np.int32),
    ),
    text_row(
        "stop words of too many characters",
        "the stop words have 70000 characters; at most 65536 are allowed. Send fewer.",
        stop_words=["x" * 70000],
    ),
)

GUIDES: Final = (
    text_row(
        "a guide without its type",
        "guided_decoding_guide is there without guided_decoding_guide_type. Send one of json, json_schema, regex, "
        "ebnf_grammar with it, or leave both out.",
        guided_decoding_guide="[ab]+",
    ),
    text_row(
        "an unknown type",
        'guided_decoding_guide_type is "jsn_schema"; did you mean "json_schema"?; it is one of json, json_schema, '
        "regex, "
        "ebnf_grammar.",
        guided_decoding_guide_type="jsn_schema",
        guided_decoding_guide="{}",
    ),
    text_row(
        "type json with a guide",
        'guided_decoding_guide_type "json" takes no guided_decoding_guide: any object or array will do. Leave the '
        'guide out, or send it as "json_schema".',
        guided_decoding_guide_type="json",
        guided_decoding_guide="{}",
    ),
    text_row(
        "another type without a guide",
        'guided_decoding_guide_type "regex" needs a guided_decoding_guide. Send one.',
        guided_decoding_guide_type="regex",
    ),
    text_row(
        "a guide that is too long",
        "guided_decoding_guide has 140000 bytes; at most 131072 are taken. Simplify it.",
        guided_decoding_guide_type="regex",
        guided_decoding_guide="a" * 140_000,
    ),
    text_row(
        "a regular expression that is none",
        "guided_decoding_guide cannot be used as regex: unclosed group at '(a', position 0. Correct or simplify it.",
        guided_decoding_guide_type="regex",
        guided_decoding_guide="(a",
    ),
    text_row(
        "a schema that is no JSON",
        "guided_decoding_guide is no JSON schema: …. Send a schema as JSON.",
        guided_decoding_guide_type="json_schema",
        guided_decoding_guide="{",
    ),
    text_row(
        "a grammar with an error",
        "guided_decoding_guide is no EBNF grammar: line 1, column …, before …: …. Correct it.",
        guided_decoding_guide_type="ebnf_grammar",
        guided_decoding_guide='root ::= ("a"',
    ),
    text_row(
        "a grammar that never comes to an end",
        'guided_decoding_guide is no EBNF grammar: rule "root" leads to itself without end. Give it an alternative '
        "that "
        "does not.",
        guided_decoding_guide_type="ebnf_grammar",
        guided_decoding_guide='root ::= "a" root',
    ),
    text_row(
        "a grammar that is too large",
        "guided_decoding_guide has more than 10000 characters, names and groups; that is the limit of EBNF grammars. "
        "Simplify it.",
        guided_decoding_guide_type="ebnf_grammar",
        guided_decoding_guide="root ::= " + '[a] "b" ' * 6000,
    ),
    text_row(
        "a recursive grammar of too many words",
        "guided_decoding_guide has … words beside rules that are recursive, more than the CPU engine can tell apart. "
        "Simplify it.",
        guided_decoding_guide_type="ebnf_grammar",
        guided_decoding_guide="root ::= " + " | ".join(f'"w{i}" root?' for i in range(1200)),
    ),
    id_row(
        "a guide together with an end_id that the model does not have",
        "end_id is 9999; ids of this model lie between 0 and 319. Leave it out to end with the tokenizer's.",
        guided_decoding_guide_type="json",
        end_id=9999,
    ),
    Row(
        did="a guide where guided decoding cannot use the model's tokenizer",
        message="guided_decoding_guide_type is not available for this model: …",
        error="Unsupported",
        tensors=text_tensors(guided_decoding_guide_type="json"),
        server="odd",
        todo="Ask without a guide.",
    ),
    Row(
        did="a guide that is not UTF-8",
        message="guided_decoding_guide is not valid UTF-8: invalid start byte at byte 0.",
        tensors=text_tensors(guided_decoding_guide_type="regex", guided_decoding_guide=b"\xff"),
        doors=("stream", "unary"),
    ),
)


def _retention_row(
    did: str, message: str, starts: list[int], ends: list[int], priorities: list[int], **more: Any
) -> Row:
    named = {"starts": starts, "ends": ends, "priorities": priorities}
    ranges = {f"retention_token_range_{name}": value for name, value in named.items()}
    return Row(did=did, message=message, model="tensorrt_llm", tensors=id_tensors(**ranges, **more))


RETENTION: Final = (
    _retention_row(
        "a priority out of range",
        "retention priority is 101; it must lie between 0 (evicted first) and 100. 35 is what blocks have without it.",
        [0],
        [2],
        [101],
    ),
    _retention_row(
        "a duration below 0",
        "retention duration is -5 ms; it must be at least 0. Leave it out, or send -1, for a priority that lasts.",
        [0],
        [2],
        [50],
        retention_token_range_durations_ms=[-5],
    ),
    _retention_row(
        "an empty range",
        "retention range [2, 2) holds no token; it must start at 0 or later and end after its start.",
        [2],
        [2],
        [50],
    ),
    _retention_row(
        "ranges that overlap",
        "retention ranges [0, 2) and [1, 3) overlap; a token can have one priority. End the first at 1 or earlier.",
        [0, 1],
        [2, 3],
        [50, 60],
    ),
    _retention_row(
        "tensors of different lengths",
        "retention_token_range_ends has 1 values, retention_token_range_starts 2; send one for each range.",
        [0, 1],
        [2],
        [50, 60],
    ),
)

DRAFTS: Final = (
    id_row(
        "a draft longer than max_draft_len",
        "Number of draft tokens (40) is larger than maximum number of draft tokens (16). Send fewer in "
        "draft_input_ids, or raise max_draft_len in tensorrt_llm's config.pbtxt.",
        draft_input_ids=[5] * 40,
    ),
    id_row(
        "a draft with an id that the model does not have",
        "token id 999 in draft_input_ids is not in the vocabulary; ids of this model lie between 0 and 319. Draft with "
        "a model of the same vocabulary.",
        draft_input_ids=[999],
    ),
    Row(
        did="a draft for several sequences",
        message="num_return_sequences is 2, but the draft in draft_input_ids continues one sequence. Leave one of them "
        "out.",
        error="Unsupported",
        model="tensorrt_llm",
        tensors=id_tensors(draft_input_ids=[5], num_return_sequences=2),
        doors=("stream", "generate"),
    ),
    id_row(
        "a threshold without the draft's logits",
        "draft_acceptance_threshold is 0.5, but draft_logits is missing; without logits, only the target's own choices "
        "are accepted. Send draft_logits as well, or leave the threshold out.",
        draft_input_ids=[5],
        draft_acceptance_threshold=0.5,
    ),
    id_row(
        "logits without a draft",
        "draft_logits is there, but draft_input_ids is not. Send the tokens that were drawn.",
        draft_logits=np.zeros((1, 1, 320), np.float32),
    ),
    id_row(
        "logits that do not belong to the draft",
        "draft_logits has shape [1, 320]; 2 draft tokens and this model's vocabulary make [2, 320]. Send one row for "
        "each draft token, from a model of the same vocabulary.",
        draft_input_ids=[5, 6],
        draft_logits=np.zeros((1, 1, 320), np.float32),
    ),
    id_row(
        "logits of which nothing can have been drawn",
        "draft_logits has a row whose largest value is inf. Send the logits that the draft tokens were drawn from; "
        "-inf may stand only for tokens that were left out.",
        draft_input_ids=[5],
        draft_logits=np.full((1, 1, 320), np.inf, np.float32),
    ),
    id_row(
        "a threshold out of range",
        "draft_acceptance_threshold is 2; it lies between 0 and 1.",
        draft_input_ids=[5],
        draft_logits=np.zeros((1, 1, 320), np.float32),
        draft_acceptance_threshold=2.0,
    ),
    id_row(
        "num_draft_tokens out of range",
        "num_draft_tokens is 40; it lies between 0 and 16, max_draft_len in tensorrt_llm's config.pbtxt. Ask for "
        "fewer, or raise that.",
        num_draft_tokens=40,
    ),
    id_row(
        "a draft, and num_draft_tokens",
        "num_draft_tokens is 2, but draft_input_ids brings a draft already. Leave one of them out.",
        draft_input_ids=[5],
        num_draft_tokens=2,
    ),
)
