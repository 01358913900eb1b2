"""The EBNF of xgrammar (GBNF, nearly), which TensorRT-LLM takes as ebnf_grammar, for llguidance."""
