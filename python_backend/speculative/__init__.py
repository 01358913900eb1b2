"""Speculative decoding: cheap guesses at the next tokens, which the target verifies in one step.

Leviathan et al., "Fast Inference from Transformers via Speculative Decoding", 2023.
"""
