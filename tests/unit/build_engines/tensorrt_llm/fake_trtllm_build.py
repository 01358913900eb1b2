"""Stands in for ``trtllm-build``, which needs a GPU: notes its arguments, and leaves files as the real one does.

FAKE_TRTLLM_BUILD says how it ends. This is the only thing in these tests that is not real.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from itertools import pairwise
from pathlib import Path

SCRIPT = Path(__file__)


def install(folder: Path) -> Path:
    """Write the executable into ``folder``/bin, which belongs on PATH."""
    program = folder / "bin" / "trtllm-build"
    program.parent.mkdir()
    program.write_text(f"#!{sys.executable}\n{SCRIPT.read_text()}")
    program.chmod(0o755)
    return program.parent


def runs(folder: Path) -> list[list[str]]:
    """The arguments of every run."""
    notes = folder / "bin" / "runs.jsonl"
    return [json.loads(line) for line in notes.read_text().splitlines()] if notes.exists() else []


def main() -> None:
    arguments = sys.argv[1:]
    with Path(sys.argv[0]).with_name("runs.jsonl").open("a") as notes:
        notes.write(json.dumps(arguments) + "\n")
    given = dict(pairwise(arguments))
    output = Path(given["--output_dir"])
    pretrained = json.loads((Path(given["--checkpoint_dir"]) / "config.json").read_text())
    ending = os.environ.get("FAKE_TRTLLM_BUILD", "done")
    print("[TensorRT-LLM] TensorRT-LLM version: 1.2.1", flush=True)
    if ending == "fail":
        print("RuntimeError: Unsupported model architecture", file=sys.stderr)
        sys.exit(1)
    world_size = pretrained["mapping"]["world_size"]
    for rank in range(world_size - (ending == "rank missing")):
        (output / f"rank{rank}.engine").write_bytes(b"" if ending == "rank empty" else b"engine %d" % rank)
        print(f"[TRT-LLM] [I] rank {rank} is there", flush=True)
        if ending == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if ending == "full disk":
            print("OSError: [Errno 28] No space left on device", file=sys.stderr)
            sys.exit(1)
        if ending == "slow":
            time.sleep(60)
    config = {
        "version": "1.1.0" if ending == "other version" else "1.2.1",
        "pretrained_config": pretrained,
        "build_config": {
            "max_batch_size": int(given["--max_batch_size"]),
            "max_beam_width": int(given["--max_beam_width"]),
            "max_seq_len": int(given["--max_seq_len"]),
            "plugin_config": {"use_paged_context_fmha": given["--use_paged_context_fmha"] == "enable"},
        },
    }
    (output / "config.json").write_text(json.dumps(config))
    Path(given["--output_timing_cache"]).write_bytes(b"timings")


if __name__ == "__main__":
    main()
