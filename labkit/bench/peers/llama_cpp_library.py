"""Loads and runs models, and quantizes files, with llama.cpp's library and the low-level functions of llama-cpp-python."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labkit.errors import NotAvailable

CELLS = 256
"""llama.cpp rounds the KV cache of a sequence up to a multiple of this number of tokens."""

LEVEL_ERROR = 4
_errors: list[str] = []


class LlamaModel:
    """A model that llama.cpp has loaded from a GGUF file, and a context with room for `batch` sequences of equal length.

    `open` makes the context. Every call uses `num_threads` threads. `cache_type` is GGUF's name for the type of the KV cache,
    such as "F16".
    """

    def __init__(self, path: Path, num_threads: int, cache_type: str) -> None:
        self._context = self._model = None
        self._batches: dict[int, _TokenBatch] = {}
        self._threads, self._cache_type, self._room = num_threads, cache_type, (0, 0)
        library = _library()
        params = library.llama_model_default_params()
        params.n_gpu_layers = 0
        # The file is copied, not mapped, because it may change or be removed while the model runs.
        params.load_mode = library.LLAMA_LOAD_MODE_NONE
        self._model = library.llama_model_load_from_file(str(path).encode(), params)
        if not self._model:
            raise NotAvailable(f"llama.cpp could not load {path}: {_reason()}")

    def open(self, batch: int, length: int) -> None:
        """Make room for `batch` empty sequences of `length` tokens. If this room exists already, only empty the sequences."""
        library = _library()
        if self._room != (batch, length):
            self._close_context()
            if batch > library.llama_max_parallel_sequences():
                most = library.llama_max_parallel_sequences()
                raise NotAvailable(f"batch is {batch}; llama.cpp runs at most {most} sequences at once")
            params = library.llama_context_default_params()
            params.n_ctx = batch * -(-length // CELLS) * CELLS
            params.n_batch = batch * length
            params.n_seq_max = batch
            params.kv_unified = False  # each sequence has its own cells, so attention is not computed between sequences
            params.n_threads = params.n_threads_batch = self._threads
            kind = getattr(library, f"GGML_TYPE_{self._cache_type}")
            params.type_k = params.type_v = kind
            self._context = library.llama_init_from_model(self._model, params)
            if not self._context:
                raise NotAvailable(f"llama.cpp could not make a context for {batch} sequences of {length} tokens: {_reason()}")
            self._room = (batch, length)
        library.llama_memory_clear(library.llama_get_memory(self._context), False)

    def feed(self, tokens: NDArray[np.int64], position: int) -> NDArray[np.int64]:
        """Run `tokens` `[batch, count]`. In each sequence, the first of these tokens has the position `position`.

        Returns each sequence's most likely next token.
        """
        library, (batch, count) = _library(), tokens.shape
        if count not in self._batches:
            self._batches[count] = _TokenBatch(batch, count)
        filled = self._batches[count].fill(tokens, position)
        if code := library.llama_decode(self._context, filled):
            raise NotAvailable(f"llama_decode failed with code {code}: {_reason()}")
        vocab = library.llama_vocab_n_tokens(library.llama_model_get_vocab(self._model))
        logits = np.ctypeslib.as_array(library.llama_get_logits(self._context), (batch, vocab))
        best: NDArray[np.int64] = logits.argmax(-1)
        return best

    def close(self) -> None:
        """Free the context and the model."""
        self._close_context()
        if self._model:
            _library().llama_model_free(self._model)
        self._model = None

    def _close_context(self) -> None:
        for batch in self._batches.values():
            batch.free()
        self._batches = {}
        if self._context:
            _library().llama_free(self._context)
        self._context, self._room = None, (0, 0)


class _TokenBatch:
    """A `llama_batch` with `count` tokens of each of `batch` sequences. Only a sequence's last token gets logits."""

    def __init__(self, batch: int, count: int) -> None:
        size = batch * count
        self._batch: Any = _library().llama_batch_init(size, 0, 1)
        self._batch.n_tokens = size
        for index in range(size):
            self._batch.n_seq_id[index] = 1
            self._batch.seq_id[index][0] = index // count
            self._batch.logits[index] = (index + 1) % count == 0
        self._tokens = np.ctypeslib.as_array(self._batch.token, (batch, count))
        self._positions = np.ctypeslib.as_array(self._batch.pos, (batch, count))

    def fill(self, tokens: NDArray[np.int64], position: int) -> Any:
        """Fill the batch with these tokens and return it. The first token of each sequence has the position `position`."""
        self._tokens[:] = tokens
        self._positions[:] = np.arange(position, position + tokens.shape[1])
        return self._batch

    def free(self) -> None:
        """Free the memory of the batch."""
        _library().llama_batch_free(self._batch)


def quantize_file(source: Path, target: Path, num_threads: int) -> None:
    """Quantize the weights of the file `source` to Q4_K_M with llama.cpp's own quantizer, and write them to the file `target`.

    The weights in `source` have 16 or 32 bits each.
    """
    library = _library()
    params = library.llama_model_quantize_default_params()
    params.nthread = num_threads
    params.ftype = library.LLAMA_FTYPE_MOSTLY_Q4_K_M
    if library.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params)):
        raise NotAvailable(f"llama.cpp could not quantize {source}: {_reason()}")


def _library() -> Any:
    """Return the package `llama_cpp`, and forget earlier errors, so that `_reason` returns the first error of the next call."""
    _errors.clear()
    return _loaded()


@cache
def _loaded() -> Any:
    """Import the package `llama_cpp` and initialise its library.

    The library's log is not printed, because it would be hundreds of lines on stderr.
    """
    import llama_cpp

    library: Any = llama_cpp
    library.llama_log_set(_keep_errors(library), None)
    library.llama_backend_init()
    return library


@cache
def _keep_errors(library: Any) -> Any:
    """Make a callback that collects the errors of the library's log.

    `functools.cache` keeps the callback alive as long as the library can call it.
    """

    def keep(level: int, text: bytes, data: Any) -> None:
        if level == LEVEL_ERROR and text.strip():
            _errors.append(text.decode(errors="replace").strip())

    return library.llama_log_callback(keep)


def _reason() -> str:
    """The first error since the last call of `_library`. Later errors are only consequences of the first error."""
    return _errors[0] if _errors else "it gave no reason"
