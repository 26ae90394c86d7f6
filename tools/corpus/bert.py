"""BERT's encoder (Devlin et al., arXiv:1810.04805) under the parameter names of `transformers`.

Published weights have these names. So a published file is loaded without renaming, and exported
files have the names that `transformers` and `optimum` would give.
"""

from dataclasses import dataclass
from typing import Any, Final, Self

import torch
from torch import nn

DROPOUT: Final = 0.1  # while training


@dataclass(frozen=True, slots=True)
class Shape:
    vocabulary: int
    positions: int
    hidden: int
    inner: int
    layers: int
    heads: int

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        return cls(
            vocabulary=config["vocab_size"],
            positions=config["max_position_embeddings"],
            hidden=config["hidden_size"],
            inner=config["intermediate_size"],
            layers=config["num_hidden_layers"],
            heads=config["num_attention_heads"],
        )


class Bert(nn.Module):
    """Maps token numbers to a vector for each token."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embeddings = Embeddings(shape)
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(map(Layer, [shape] * shape.layers))})
        # Part of every published file, but not used for sentence vectors.
        self.pooler = nn.ModuleDict({"dense": nn.Linear(shape.hidden, shape.hidden)})

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor
    ) -> torch.Tensor:
        hidden = self.embeddings(input_ids, token_type_ids)
        bias = (1.0 - attention_mask[:, None, None, :].to(hidden.dtype)) * -1e9
        for layer in self.encoder["layer"]:
            hidden = layer(hidden, bias)
        return hidden


class Embeddings(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(shape.vocabulary, shape.hidden)
        self.position_embeddings = nn.Embedding(shape.positions, shape.hidden)
        self.token_type_embeddings = nn.Embedding(2, shape.hidden)
        self.LayerNorm = _norm(shape)
        self.dropout = nn.Dropout(DROPOUT)
        self.register_buffer("position_ids", torch.arange(shape.positions)[None])

    def forward(self, input_ids: torch.Tensor, token_type_ids: torch.Tensor) -> torch.Tensor:
        positions = self.position_ids[:, : input_ids.shape[1]]
        hidden = self.word_embeddings(input_ids) + self.token_type_embeddings(token_type_ids)
        return self.dropout(self.LayerNorm(hidden + self.position_embeddings(positions)))


class Layer(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self._heads = shape.heads
        hidden, inner = shape.hidden, shape.inner
        projections = {name: nn.Linear(hidden, hidden) for name in ("query", "key", "value")}
        self.attention = nn.ModuleDict(
            {
                "self": nn.ModuleDict(projections),
                "output": nn.ModuleDict(
                    {"dense": nn.Linear(hidden, hidden), "LayerNorm": _norm(shape)}
                ),
            }
        )
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(hidden, inner)})
        self.output = nn.ModuleDict({"dense": nn.Linear(inner, hidden), "LayerNorm": _norm(shape)})
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, hidden: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        hidden = self._add(self.attention["output"], self._attend(hidden, bias), hidden)
        inner = nn.functional.gelu(self.intermediate["dense"](hidden))
        return self._add(self.output, inner, hidden)

    def _attend(self, hidden: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        query, key, value = (
            self._split(self.attention["self"][name](hidden)) for name in ("query", "key", "value")
        )
        scores = query @ key.transpose(-1, -2) / (query.shape[-1] ** 0.5)
        weights = self.dropout(torch.softmax(scores + bias, dim=-1))
        return (weights @ value).transpose(1, 2).flatten(2)

    def _split(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden.unflatten(-1, (self._heads, -1)).transpose(1, 2)

    def _add(
        self, block: nn.ModuleDict, change: torch.Tensor, hidden: torch.Tensor
    ) -> torch.Tensor:
        return block["LayerNorm"](hidden + self.dropout(block["dense"](change)))


def _norm(shape: Shape) -> nn.LayerNorm:
    return nn.LayerNorm(shape.hidden, eps=1e-12)


def sentence_vectors(hidden: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """Return the normalised mean of each sentence's token vectors, as the base was trained for."""
    mask = attention_mask[:, :, None].to(hidden.dtype)
    mean = (hidden * mask).sum(1) / mask.sum(1)
    return nn.functional.normalize(mean, dim=-1)
