"""The TensorRT-LLM checkpoint directory: ``config.json``, ``rankN.safetensors`` and the tokenizer's files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from build_engines.checkpoint.config import CONFIG_FILE, CheckpointConfig
from build_engines.checkpoint.draft_vocabulary import DRAFT_VOCABULARY_FILE, TokenIds, read_draft_vocabulary
from build_engines.checkpoint.dtypes import Array
from build_engines.checkpoint.safetensors_file import SafetensorsFile
from build_engines.checkpoint.sharding import holds, merge, rank_name, rank_type
from build_engines.checkpoint.tensor_table import EMBEDDING, LM_HEAD, Entry, tensor_table
from build_engines.content_hash import sha256_of
from python_backend.errors import SetupError, did_you_mean

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
#: What else of a tokenizer goes where the weights go, if there is any.
OPTIONAL_FILES = ("chat_template.jinja", "generation_config.json", "special_tokens_map.json")


def rank_file(rank: int) -> str:
    """The name of a rank's weights."""
    return f"rank{rank}.safetensors"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint directory whose config and tensor names, shapes and types have been checked.

    However many ranks it has, ``tensor`` gives the whole model.
    """

    directory: Path
    config: CheckpointConfig
    table: dict[str, Entry]
    ranks: tuple[SafetensorsFile, ...]

    @classmethod
    def open(cls, directory: Path) -> Checkpoint:
        """Check and open ``directory``. Raises SetupError that names the file and what is wrong with it."""
        config = CheckpointConfig.read(directory)
        table = tensor_table(config)
        ranks = range(config.mapping.world_size)
        checkpoint = cls(directory, config, table, tuple(SafetensorsFile(directory / rank_file(r)) for r in ranks))
        for rank in ranks:
            checkpoint._check_rank(rank)
        for name in TOKENIZER_FILES:
            if not (directory / name).is_file():
                raise SetupError(f"{directory / name} does not exist. Copy the model's tokenizer there.")
        return checkpoint

    def tensor(self, name: str) -> Array:
        """A whole tensor, as ``tensor_table`` names it; a view of the file where one rank holds all of it.

        Raises SetupError when ranks that should hold the same do not.
        """
        entry = self.table[name]
        return merge(self.config, entry, [self.part(name, rank) for rank in self._ranks_with(entry)])

    def part(self, name: str, rank: int) -> Array:
        """What ``rank`` holds of a whole tensor. Raises KeyError when it is in another stage."""
        entry = self.table[name]
        if not holds(self.config, entry, rank // self.config.mapping.tp_size):
            raise KeyError(f"rank {rank} does not hold {name}")
        if name == LM_HEAD and LM_HEAD not in self.ranks[rank].tensors:
            return self.part(EMBEDDING, rank)
        return self.ranks[rank].tensor(rank_name(self.config, entry))

    @property
    def tokenizer_files(self) -> tuple[str, ...]:
        """The names of the files that an engine needs beside its weights."""
        return (*TOKENIZER_FILES, *(name for name in OPTIONAL_FILES if (self.directory / name).is_file()))

    def draft_vocabulary(self) -> TokenIds | None:
        """The tokens that a draft model may propose; None where these are all. Raises SetupError for a broken file."""
        return read_draft_vocabulary(self.directory, self.config.vocab_size)

    def sha256(self) -> str:
        """Identifies the content: config, weights and tokenizer, and the draft vocabulary if there is one."""
        ranks = [rank_file(rank) for rank in range(len(self.ranks))]
        reduced = [DRAFT_VOCABULARY_FILE] if (self.directory / DRAFT_VOCABULARY_FILE).is_file() else []
        names = (CONFIG_FILE, *ranks, *self.tokenizer_files, *reduced)
        return sha256_of(*(self.directory / name for name in names))

    def _ranks_with(self, entry: Entry) -> range:
        mapping = self.config.mapping
        stage = next(stage for stage in range(mapping.pp_size) if holds(self.config, entry, stage))
        return range(stage * mapping.tp_size, (stage + 1) * mapping.tp_size)

    def _check_rank(self, rank: int) -> None:
        file, config = self.ranks[rank], self.config
        entries = [entry for entry in self.table.values() if rank in self._ranks_with(entry)]
        expected = {rank_name(config, entry): rank_type(config, entry) for entry in entries}
        # A tied model may leave its lm_head to the embedding, where that is in the same stage and split the same way.
        if (
            config.tie_word_embeddings
            and expected.get(EMBEDDING) == expected.get(LM_HEAD)
            and LM_HEAD not in file.tensors
        ):
            expected.pop(LM_HEAD, None)
        for name in file.tensors:
            if name not in expected:
                raise SetupError(f'{file.path}: unknown tensor "{name}"{did_you_mean(name, expected)}')
        for name, kind in expected.items():
            if name not in file.tensors:
                raise SetupError(f'{file.path}: tensor "{name}" is missing; {CONFIG_FILE} calls for it.')
            if file.tensors[name] != kind:
                raise SetupError(
                    f'{file.path}: tensor "{name}" is {file.tensors[name]}; {CONFIG_FILE} calls for {kind}.'
                )
