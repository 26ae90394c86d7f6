"""Model files as frameworks write them: each by the framework's own writer."""

import json
import shutil
import warnings
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime  # type: ignore[import-untyped]
import torch
from onnxruntime.quantization import (  # type: ignore[import-untyped]
    QuantType,
    quantize_dynamic,
)
from safetensors.torch import save_file

from tools.corpus.bert import Bert
from tools.corpus.training import Run

TOKENIZER: Final = "tokenizer.json"
# What lies beside the weights in every folder of a published model.
COMPANIONS: Final = (
    "config.json",
    "special_tokens_map.json",
    TOKENIZER,
    "tokenizer_config.json",
    "vocab.txt",
)
INPUTS: Final = ("input_ids", "attention_mask", "token_type_ids")
TOLERANCE: Final = 1e-3  # between PyTorch's and ONNX Runtime's vectors


def write_companions(source: Path, folder: Path, config: dict[str, Any] | None = None) -> None:
    """Copy the files beside the weights; `config` replaces the source's."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in COMPANIONS:
        shutil.copyfile(source / name, folder / name)
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def write_safetensors(model: Bert, path: Path, dtype: torch.dtype = torch.float32) -> None:
    state = {
        name: value.detach().to(dtype) if value.is_floating_point() else value
        for name, value in model.state_dict().items()
    }
    save_file(state, path, metadata={"format": "pt"})


def write_pickle(model: Bert, path: Path) -> None:
    torch.save(model.state_dict(), path)


def write_onnx(model: Bert, path: Path) -> None:
    """Export as `optimum` does: constants folded, so the matrices lie transposed.

    Raises:
        ValueError: ONNX Runtime computes something else from the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    example = {name: torch.ones(2, 16, dtype=torch.int64) for name in INPUTS}
    with warnings.catch_warnings():
        # The exporter by tracing, which most published ONNX files were made with, is deprecated.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            tuple(example.values()),
            str(path),
            input_names=list(INPUTS),
            output_names=["last_hidden_state"],
            dynamic_axes={
                name: {0: "batch", 1: "sequence"} for name in (*INPUTS, "last_hidden_state")
            },
            opset_version=17,
            dynamo=False,
        )
    _compare(model, path)


def _compare(model: Bert, path: Path) -> None:
    asked = {name: torch.ones(1, 9, dtype=torch.int64) for name in INPUTS}
    asked["input_ids"] = torch.arange(1000, 1009)[None] % 1000
    with torch.no_grad():
        expected = model(**asked).numpy()
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {name: value.numpy() for name, value in asked.items()})
    if not np.allclose(output, expected, atol=TOLERANCE):
        raise ValueError(f"{path}: differs by {np.abs(output - expected).max()} from the model")


def write_external(inline: Path, path: Path) -> None:
    """Write the model in `inline` with its tensors in a file beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save_model(
        onnx.load(inline),
        path,
        save_as_external_data=True,
        all_tensors_to_one_file=True,
        location=f"{path.name}_data",
    )


def write_quantized(inline: Path, path: Path) -> None:
    """Write the model in `inline` with its weights as 8-bit integers."""
    quantize_dynamic(inline, path, weight_type=QuantType.QInt8)


def write_checkpoint(run: Run, step: int, folder: Path) -> None:
    """Write all that `transformers.Trainer` needs to go on from here."""
    write_safetensors(run.model, folder / "model.safetensors")
    torch.save(run.optimizer.state_dict(), folder / "optimizer.pt")
    torch.save(run.schedule.state_dict(), folder / "scheduler.pt")
    torch.save({"cpu": torch.get_rng_state()}, folder / "rng_state.pth")
    (folder / "trainer_state.json").write_text(json.dumps(_trainer_state(run, step), indent=2))


def _trainer_state(run: Run, step: int) -> dict[str, Any]:
    history = [{"step": at + 1, "loss": loss} for at, loss in enumerate(run.losses)]
    return {"global_step": step, "max_steps": run.recipe.steps, "log_history": history}
