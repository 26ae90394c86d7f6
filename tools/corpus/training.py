"""Training as sentence models are: contrastive, AdamW, a rate that warms up and falls.

The loss is that of sentence-transformers' MultipleNegativesRankingLoss (Henderson et al.,
arXiv:1705.00652): of all second sentences in a batch, the one that followed must be nearest.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from tokenizers import AddedToken, Tokenizer

from tools.corpus.bert import Bert, sentence_vectors
from tools.corpus.sentences import Pair

HELD_OUT: Final = 64  # pairs that are never trained on
SCALE: Final = 20.0  # of cosines, before the softmax
MAX_TOKENS: Final = 48
Batch = tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How long and how fast to train on what. `rate` is the highest learning rate."""

    topic: str
    seed: int
    steps: int = 64
    rate: float = 2e-5
    decay: float = 0.01  # sentence-transformers' default, and AdamW's own
    pairs: int = 16  # per batch


class Tokens:
    """Sentences to token numbers, by the tokenizer published in `path` and some more words."""

    def __init__(self, path: Path, words: Sequence[str] = ()) -> None:
        self.tokenizer = Tokenizer.from_file(str(path))
        added = self.tokenizer.add_tokens([AddedToken(word, single_word=True) for word in words])
        assert added == len(words), "some of the words are not new"
        self.tokenizer.enable_truncation(MAX_TOKENS)
        self.tokenizer.enable_padding()

    def __call__(self, sentences: list[str]) -> dict[str, torch.Tensor]:
        encodings = self.tokenizer.encode_batch(sentences)
        return {
            "input_ids": torch.tensor([encoding.ids for encoding in encodings]),
            "attention_mask": torch.tensor([encoding.attention_mask for encoding in encodings]),
            "token_type_ids": torch.tensor([encoding.type_ids for encoding in encodings]),
        }


@dataclass(slots=True)
class Run:
    """A training run; `losses` is that of every step so far.

    `unseen` is the loss over the pairs held out, before the first step and after the last.
    """

    model: Bert
    recipe: Recipe
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    losses: list[float] = field(default_factory=list)
    unseen: list[float] = field(default_factory=list)

    def story(self) -> str:
        """Return a sentence on the training, with the first and last loss once it has ended."""
        recipe = self.recipe
        story = (
            f"{len(self.losses)} steps of AdamW at {recipe.rate:g}, decay {recipe.decay:g}, "
            f"on {recipe.topic}, seed {recipe.seed}"
        )
        if len(self.unseen) < 2:
            return story
        return f"{story}; loss on unseen pairs {self.unseen[0]:.3f}, then {self.unseen[1]:.3f}"


def prepare(model: Bert, recipe: Recipe) -> Run:
    """Return a run that trains the parameters of `model` that want a gradient."""
    torch.manual_seed(recipe.seed)
    named = [(name, value) for name, value in model.named_parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(_groups(named, recipe.decay), lr=recipe.rate)
    warm = max(1, recipe.steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / warm, (recipe.steps - step) / (recipe.steps - warm)),
    )
    return Run(model, recipe, optimizer, schedule)


def _groups(named: list[tuple[str, torch.Tensor]], decay: float) -> list[dict[str, Any]]:
    # Biases and norms do not decay: the usual recipe, of BERT's own training too.
    def is_exempt(name: str) -> bool:
        return name.endswith("bias") or "LayerNorm" in name

    return [
        {"params": [value for name, value in named if not is_exempt(name)], "weight_decay": decay},
        {"params": [value for name, value in named if is_exempt(name)], "weight_decay": 0.0},
    ]


def train(
    run: Run, pairs: list[Pair], tokens: Tokens, after_step: Callable[[int], None] | None = None
) -> None:
    """Train to the end of the recipe. `after_step` is called with the number of steps done."""
    held_out, trained_on = _tokenized(pairs[:HELD_OUT], tokens), pairs[HELD_OUT:]
    run.unseen.append(_loss_on(run.model, held_out))
    batches = _batches(trained_on, run.recipe.pairs, tokens)
    for step in range(1, run.recipe.steps + 1):
        run.model.train()
        run.losses.append(_step(run, next(batches)))
        run.model.eval()
        if after_step is not None:
            after_step(step)
    run.unseen.append(_loss_on(run.model, held_out))


def _tokenized(pairs: list[Pair], tokens: Tokens) -> Batch:
    firsts, seconds = zip(*pairs, strict=True)
    return tokens(list(firsts)), tokens(list(seconds))


def _batches(pairs: list[Pair], size: int, tokens: Tokens) -> Iterator[Batch]:
    source = itertools.cycle(pairs)
    while True:
        yield _tokenized(list(itertools.islice(source, size)), tokens)


def _loss_on(model: Bert, batch: Batch) -> float:
    with torch.no_grad():
        return float(_loss(model, batch))


def _loss(model: Bert, batch: Batch) -> torch.Tensor:
    first, second = (sentence_vectors(model(**side), side["attention_mask"]) for side in batch)
    return torch.nn.functional.cross_entropy(first @ second.T * SCALE, torch.arange(len(first)))


def _step(run: Run, batch: Batch) -> float:
    loss = _loss(run.model, batch)
    run.optimizer.zero_grad()
    loss.backward()
    trained = [value for group in run.optimizer.param_groups for value in group["params"]]
    torch.nn.utils.clip_grad_norm_(trained, 1.0)
    run.optimizer.step()
    run.schedule.step()
    return float(loss.detach())
