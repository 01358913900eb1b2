"""Guided decoding on the CPU engine: masks of the tokens that keep an output inside a grammar."""

from python_backend.engine.guided.compiler import CompiledGuide, GuideCompiler
from python_backend.engine.guided.guide import Guide, GuideType
from python_backend.engine.guided.matcher import GuideMatcher

__all__ = ["CompiledGuide", "Guide", "GuideCompiler", "GuideMatcher", "GuideType"]
