"""The part of a model that is trained: all of it, a layer, an adapter, a few new words."""

import copy
import math
from typing import Any, Final

import torch
from torch import nn

from tools.corpus.bert import Bert

LORA_RANK: Final = 8
LORA_SCALE: Final = 2.0  # alpha 16 over rank 8
# Words of programmers, which BERT's vocabulary splits into parts.
NEW_WORDS: Final = (
    "autograd",
    "backend",
    "callable",
    "cuda",
    "dtype",
    "pytorch",
    "tensors",
    "tuple",
)


def copy_of(base: Bert) -> Bert:
    return copy.deepcopy(base)


def train_all(model: Bert) -> None:
    model.requires_grad_(True)


def last_layer_only(model: Bert) -> None:
    model.requires_grad_(False)
    model.encoder["layer"][-1].requires_grad_(True)


def frozen_embedding(model: Bert) -> None:
    model.embeddings.requires_grad_(False)


class LowRank(nn.Module):
    """A linear layer, frozen, and a change of low rank (LoRA: Hu et al., arXiv:2106.09685)."""

    def __init__(self, dense: nn.Linear) -> None:
        super().__init__()
        self.dense = dense
        self.down = nn.Parameter(torch.empty(LORA_RANK, dense.in_features))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))  # as peft begins
        self.up = nn.Parameter(torch.zeros(dense.out_features, LORA_RANK))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.dense(hidden) + hidden @ self.down.T @ self.up.T * LORA_SCALE

    def merged(self) -> nn.Linear:
        with torch.no_grad():
            self.dense.weight += self.up @ self.down * LORA_SCALE
        return self.dense


def add_adapters(model: Bert) -> None:
    """Put an adapter on every query and value projection, and have nothing else trained."""
    model.requires_grad_(False)
    for layer in model.encoder["layer"]:
        projections = layer.attention["self"]
        for name in ("query", "value"):
            projections[name] = LowRank(projections[name])


def merge_adapters(model: Bert) -> None:
    """Add each adapter, if there are any, to the matrix that it changes."""
    for layer in model.encoder["layer"]:
        projections = layer.attention["self"]
        for name, projection in projections.items():
            if isinstance(projection, LowRank):
                projections[name] = projection.merged()


def extend_vocabulary(model: Bert) -> None:
    """Append a row per new word, each the mean of all plus noise, and have only those trained."""
    model.requires_grad_(False)
    old = model.embeddings.word_embeddings
    count = len(NEW_WORDS)
    new = nn.Embedding(old.num_embeddings + count, old.embedding_dim)
    with torch.no_grad():
        new.weight[:-count] = old.weight
        new.weight[-count:] = old.weight.mean(0) + 0.02 * torch.randn(count, old.embedding_dim)
    model.embeddings.word_embeddings = new
    mask = torch.zeros(len(new.weight), 1)
    mask[-count:] = 1.0
    new.weight.register_hook(lambda gradient: gradient * mask)


def config_of(base: dict[str, Any], model: Bert) -> dict[str, Any]:
    """Return the base's configuration with the vocabulary size of `model`."""
    return base | {"vocab_size": model.embeddings.word_embeddings.num_embeddings}
