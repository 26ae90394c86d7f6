"""The members of the family, in the order they are made."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from tools.corpus import variants, writing
from tools.corpus.bert import Bert
from tools.corpus.sentences import Pair, pairs_of
from tools.corpus.training import Recipe, Run, Tokens, prepare, train

WEIGHTS: Final = "model.safetensors"


@dataclass(frozen=True, slots=True)
class Variant:
    """A model trained from the base: `restrict` selects the trained part, `words` are added."""

    name: str
    kind: str
    what: str
    recipe: Recipe
    restrict: Callable[[Bert], None] = variants.train_all
    words: tuple[str, ...] = ()


EXPORTED: Final = "finetune-a"  # as BF16 and as ONNX, too
VARIANTS: Final = (
    Variant(EXPORTED, "finetune", "all weights", Recipe("library", seed=1, steps=80)),
    Variant("finetune-b", "finetune", "all weights", Recipe("documents", seed=2, rate=3e-5)),
    # As transformers' Trainer does it, without decay: words that did not occur keep their vectors.
    Variant(
        "finetune-c", "finetune", "all weights", Recipe("packages", seed=3, steps=72, decay=0.0)
    ),
    Variant(
        "last-layer",
        "last-layer",
        "the last layer",
        Recipe("library", seed=4),
        variants.last_layer_only,
    ),
    Variant(
        "frozen-embedding",
        "frozen-embedding",
        "all but the embedding",
        Recipe("packages", seed=5),
        variants.frozen_embedding,
    ),
    Variant(
        "lora-merged",
        "lora",
        "adapters of rank 8 on query and value, then merged",
        Recipe("library", seed=6, rate=2e-4),
        variants.add_adapters,
    ),
    Variant(
        "vocabulary",
        "vocabulary",
        f"{len(variants.NEW_WORDS)} new rows of the embedding",
        Recipe("packages", seed=7, rate=1e-3, decay=0.0),  # the old rows stay as they are
        variants.extend_vocabulary,
        variants.NEW_WORDS,
    ),
)
CHECKPOINTED: Final = Recipe("packages", seed=8, steps=96)
CHECKPOINT_EVERY: Final = 24


class Family:
    """A family that is being made in `folder` from a base.

    Args:
        folder: the folder to fill.
        source: the folder of the published base.
        base: the model in it.
        texts: the training texts, by topic.
        config: of the base.
    """

    def __init__(
        self,
        folder: Path,
        source: Path,
        base: Bert,
        config: dict[str, Any],
        texts: dict[str, list[str]],
    ) -> None:
        self.made: list[tuple[str, str, str]] = []
        self._folder = folder
        self._source = source
        self._base = base
        self._config = config
        self._texts = texts
        self._published = source / writing.TOKENIZER

    def make(self) -> None:
        self._make_base()
        for variant in VARIANTS:
            model = self._make_variant(variant)
            if variant.name == EXPORTED:
                self._export_finetune(model, variant.name)
        self._make_checkpoints()

    def _make_base(self) -> None:
        place = self._place("base")
        # Copied and not written again: it is the published file.
        (place / WEIGHTS).write_bytes((self._source / WEIGHTS).read_bytes())
        self._note("base/model.safetensors", "base", "as published")
        for name, dtype in (("bf16", torch.bfloat16), ("f16", torch.float16)):
            writing.write_safetensors(self._base, self._place(f"base-{name}") / WEIGHTS, dtype)
            made = f"the base, cast to {name.upper()} by PyTorch"
            self._note(f"base-{name}/{WEIGHTS}", f"cast-{name}", made)
        writing.write_pickle(self._base, place / "pytorch_model.bin")
        self._note("base/pytorch_model.bin", "pickle", "the base, by torch.save")
        self._export_base(place)

    def _export_base(self, place: Path) -> None:
        inline = place / "onnx" / "model.onnx"
        writing.write_onnx(self._base, inline)
        self._note("base/onnx/model.onnx", "onnx", "the base, by torch.onnx.export")
        writing.write_quantized(inline, inline.with_name("model_quantized.onnx"))
        made = "the ONNX export, by onnxruntime.quantization.quantize_dynamic"
        self._note("base/onnx/model_quantized.onnx", "onnx-int8", made)
        writing.write_external(inline, place / "onnx-external" / "model.onnx")
        made = "the ONNX export, by onnx.save_model with external data"
        self._note("base/onnx-external/model.onnx", "onnx-external", made)
        self._note("base/onnx-external/model.onnx_data", "onnx-external", made)

    def _export_finetune(self, model: Bert, name: str) -> None:
        place = self._place(f"{name}-bf16")
        writing.write_safetensors(model, place / WEIGHTS, torch.bfloat16)
        self._note(f"{name}-bf16/{WEIGHTS}", "finetune-bf16", f"{name}, cast to BF16 by PyTorch")
        writing.write_onnx(model, self._folder / name / "onnx" / "model.onnx")
        self._note(f"{name}/onnx/model.onnx", "finetune-onnx", f"{name}, by torch.onnx.export")

    def _make_variant(self, variant: Variant) -> Bert:
        run = self._prepare(variant.recipe, variant.restrict)
        tokens = Tokens(self._published, variant.words)
        train(run, self._pairs(variant.recipe), tokens)
        variants.merge_adapters(run.model)
        place = self._place(variant.name, variants.config_of(self._config, run.model))
        if variant.words:
            tokens.tokenizer.save(str(place / writing.TOKENIZER))
        writing.write_safetensors(run.model, place / WEIGHTS)
        self._note(f"{variant.name}/{WEIGHTS}", variant.kind, f"{variant.what}: {run.story()}")
        return run.model

    def _make_checkpoints(self) -> None:
        run = self._prepare(CHECKPOINTED, variants.train_all)

        def save(step: int) -> None:
            if step % CHECKPOINT_EVERY == 0:
                self._write_checkpoint(run, step, f"run/checkpoint-{step}")

        train(run, self._pairs(CHECKPOINTED), Tokens(self._published), save)
        writing.write_safetensors(run.model, self._place("run") / WEIGHTS)
        self._note(f"run/{WEIGHTS}", "checkpoint-copy", "the last checkpoint, saved at the end")

    def _write_checkpoint(self, run: Run, step: int, name: str) -> None:
        writing.write_checkpoint(run, step, self._place(name))
        made = f"all weights: {run.story()}"
        self._note(f"{name}/{WEIGHTS}", "checkpoint", made)
        self._note(f"{name}/optimizer.pt", "optimizer", "AdamW's state there, by torch.save")

    def _prepare(self, recipe: Recipe, restrict: Callable[[Bert], None]) -> Run:
        torch.manual_seed(recipe.seed)
        model = variants.copy_of(self._base)
        restrict(model)
        return prepare(model, recipe)

    def _pairs(self, recipe: Recipe) -> list[Pair]:
        return pairs_of(self._texts[recipe.topic], recipe.seed)

    def _place(self, name: str, config: dict[str, Any] | None = None) -> Path:
        place = self._folder / name
        writing.write_companions(self._source, place, config)
        return place

    def _note(self, path: str, kind: str, made: str) -> None:
        self.made.append((path, kind, made))
        print(f"{path}: {made}", flush=True)
