"""A file system that keeps machine-learning models, each distinct tensor once.

Reading a store from Python, without a mount::

    import modelfs

    with modelfs.open("~/models.store") as store:
        for file in store.files("llama/"):
            print(file.path, file.size, len(file.tensors))
        tensor = store["llama/model.safetensors"].tensors["model.embed_tokens.weight"]
        weights = tensor.numpy()

`modelfs.reader` has the promises of a reader. A store is written through its mount.
"""

import sys

# The module of each public name, loaded at the first use of the name: the command line imports this
# package, and its `--help` must not wait for numpy.
_MODULES = {
    "open": "reader.entry",
    "create": "reader.entry",
    "Reader": "reader.reader",
    "File": "reader.file",
    "Tensor": "reader.tensor",
    "Statistics": "store.statistics",
    "FileReport": "jobs.inspect.report",
    "TensorReport": "jobs.inspect.report",
    "FormShare": "jobs.inspect.report",
    "Sharer": "jobs.inspect.report",
    "Base": "jobs.inspect.report",
    "ModelfsError": "errors",
    "NotAStore": "errors",
    "StoreBusy": "errors",
    "StoreNotTrusted": "errors",
    "UnsupportedFormat": "errors",
    "NotFound": "errors",
    "NotADirectory": "errors",
    "IsADirectory": "errors",
    "DirectoryNotEmpty": "errors",
    "InvalidArgument": "errors",
    "CorruptData": "errors",
    "CorruptChunk": "errors",
    "LostBytes": "errors",
}

__all__ = ["__version__", *_MODULES]  # noqa: PLE0604 - names, all of them


def __getattr__(name: str) -> object:
    value: object
    if name == "__version__":
        version = _load("importlib.metadata", "version")
        assert callable(version)
        value = version("modelfs")
    elif name in _MODULES:
        value = _load(f"modelfs.{_MODULES[name]}", name)
    else:
        raise AttributeError(f"module 'modelfs' has no attribute {name!r}")
    globals()[name] = value
    return value


def _load(module: str, name: str) -> object:
    # Not with importlib, which takes 0.5 ms to load.
    __import__(module)
    value: object = getattr(sys.modules[module], name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
