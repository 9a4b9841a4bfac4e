"""A contender's process: ``python loaders.py REQUEST`` loads one library with one model and answers questions about its speed.

Each loader imports its library itself, so that start-up and memory are that library's alone.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from stopt.benchmarking.worker import Encode, serve

Loaded = tuple[Encode, dict[str, Any]]

FIRST = {
    "texts": ["The first text that a fresh process turns into an embedding."],
    "pairs": [("A question", "The first pair that a fresh process turns into a score.")],
}


def stopt(
    folder: str,
    threads: int | None,
    init: dict[str, Any],
    encode: dict[str, Any],
    devices: list[str] | None = None,
) -> Loaded:
    """With ``devices``, in a pool with a worker on each."""
    from stopt import SentenceTransformer

    init = {**init, "threads": threads} if threads else init
    model = SentenceTransformer(folder, **init)
    if devices:
        encode = {**encode, "pool": model.start_multi_process_pool(devices)}
    session = model.pipeline.session
    about = {"file": str(session.file), "device": session.device, "precision": session.precision}
    return lambda texts: model.encode(list(texts), **encode), about


def stopt_cross_encoder(folder: str, threads: int | None, init: dict[str, Any]) -> Loaded:
    from stopt import CrossEncoder

    model = CrossEncoder(folder, **({**init, "threads": threads} if threads else init))
    return lambda pairs: model.predict(list(pairs)), {}


def stopt_sparse_encoder(folder: str, threads: int | None, init: dict[str, Any]) -> Loaded:
    from stopt import SparseEncoder

    model = SparseEncoder(folder, **({**init, "threads": threads} if threads else init))
    return lambda texts: model.encode(list(texts)), {}


def sentence_transformers(
    folder: str, threads: int | None, init: dict[str, Any], devices: list[str] | None = None
) -> Loaded:
    """With ``devices``, in a pool with a worker on each; with none of them, in its default pool."""
    _quiet(threads)
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(folder, device="cpu", **_with_threads(init, threads))
    pool = None if devices is None else model.start_multi_process_pool(devices or None)
    return lambda texts: model.encode(list(texts), show_progress_bar=False, pool=pool), {}


def sentence_transformers_cross_encoder(folder: str, threads: int | None, init: dict[str, Any]) -> Loaded:
    _quiet(threads)
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(folder, device="cpu", **_with_threads(init, threads))
    return lambda pairs: model.predict(list(pairs), show_progress_bar=False), {}


def sentence_transformers_sparse_encoder(folder: str, threads: int | None, init: dict[str, Any]) -> Loaded:
    _quiet(threads)
    from sentence_transformers import SparseEncoder

    model = SparseEncoder(folder, device="cpu", **_with_threads(init, threads))
    return lambda texts: model.encode(list(texts), show_progress_bar=False), {}


def _quiet(threads: int | None) -> None:
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"
    if threads:
        import torch

        torch.set_num_threads(threads)


def _with_threads(init: dict[str, Any], threads: int | None) -> dict[str, Any]:
    """The constructor's keywords, with the engine held to a number of threads."""
    options = dict(init.get("model_kwargs", {}))
    if threads and init.get("backend") == "onnx":
        import onnxruntime

        options["session_options"] = onnxruntime.SessionOptions()
        options["session_options"].intra_op_num_threads = threads
    if threads and init.get("backend") == "openvino":
        options["ov_config"] = {**options.get("ov_config", {}), "INFERENCE_NUM_THREADS": threads}
    return {**init, "model_kwargs": options}


def ctranslate2(
    folder: str, threads: int | None, tokenizer: str, compute_type: str, max_length: int, batch_size: int
) -> Loaded:
    """CTranslate2 has no pooling and no batching of its own for encoders: texts in order of length, ``batch_size`` at a time."""
    import ctranslate2 as library
    import numpy as np
    from tokenizers import Tokenizer

    encoder = library.Encoder(folder, compute_type=compute_type, intra_threads=threads or 0)
    tokens = Tokenizer.from_file(tokenizer)
    tokens.no_padding()
    tokens.enable_truncation(max_length)

    def encode(texts: Any) -> Any:
        ids = [each.ids for each in tokens.encode_batch(list(texts))]
        order = sorted(range(len(ids)), key=lambda row: -len(ids[row]))
        vectors: Any = None
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            output = encoder.forward_batch([ids[row] for row in rows])
            hidden = np.asarray(output.last_hidden_state)
            lengths = np.array([len(ids[row]) for row in rows])
            mask = (np.arange(hidden.shape[1]) < lengths[:, None]).astype(np.float32)
            pooled = np.einsum("btd,bt->bd", hidden, mask) / lengths[:, None]
            if vectors is None:
                vectors = np.empty((len(ids), pooled.shape[1]), np.float32)
            vectors[rows] = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
        return vectors

    return encode, {"precision": encoder.compute_type}


def fastembed(folder: str, threads: int | None, dimension: int) -> Loaded:
    """The batch size is fastembed's default, 256."""
    import numpy as np
    from fastembed import TextEmbedding
    from fastembed.common.model_description import ModelSource, PoolingType

    # nothing is fetched: specific_model_path names the folder, the source is only a form to fill in
    TextEmbedding.add_custom_model(
        model="local",
        pooling=PoolingType.MEAN,
        normalization=True,
        sources=ModelSource(hf="local/local"),
        dim=dimension,
        model_file="model.onnx",
    )
    model = TextEmbedding("local", specific_model_path=folder, threads=threads, local_files_only=True)
    return lambda texts: np.stack(list(model.embed(list(texts)))), {}


def bare(file: str, threads: int | None, tokenizer: str, precision: str | None) -> Loaded:
    """One call of the engine and nothing else: the inputs of a text are kept once they are made."""
    import numpy as np
    from tokenizers import Tokenizer

    tokens = Tokenizer.from_file(tokenizer)
    tokens.no_padding()
    run, names = (_bare_onnx if file.endswith(".onnx") else _bare_openvino)(file, threads, precision)
    made: dict[str, dict[str, Any]] = {}

    def encode(texts: Any) -> Any:
        (text,) = texts
        if text not in made:
            ids = np.array([tokens.encode(text).ids], np.int64)
            values = {
                "input_ids": ids,
                "attention_mask": np.ones_like(ids),
                "token_type_ids": np.zeros_like(ids),
            }
            made[text] = {name: values[name] for name in names}
        return run(made[text])

    return encode, {}


def _bare_onnx(file: str, threads: int | None, precision: str | None) -> tuple[Any, list[str]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return lambda feed: session.run(None, feed)[0], [each.name for each in session.get_inputs()]


def _bare_openvino(file: str, threads: int | None, precision: str | None) -> tuple[Any, list[str]]:
    import openvino

    config: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
    if threads:
        config["INFERENCE_NUM_THREADS"] = threads
    if precision:
        config["INFERENCE_PRECISION_HINT"] = precision
    request = openvino.Core().compile_model(file, "CPU", config).create_infer_request()
    names = [each.any_name for each in request.model_inputs]
    return lambda feed: request.infer(feed, share_inputs=True, share_outputs=True)[0], names


def products(threads: int | None, rows: int, hidden: int, intermediate: int) -> Loaded:
    """The machine's ceiling: a feed-forward network's int8 products back to back, in as many streams as threads.

    Whatever the inputs, a call makes the same number of operations, which ``about`` tells.
    """
    import numpy as np
    import openvino
    from openvino import opset13 as operators

    random = np.random.default_rng(0)

    def quantised(node: Any, levels: int, low: Any, high: Any) -> Any:
        bounds = [operators.constant(np.asarray(each, np.float32)) for each in (low, high, low, high)]
        return operators.fake_quantize(node, *bounds, levels)

    first = operators.parameter([rows, hidden], np.float32)
    node: Any = first
    widths = [(hidden, intermediate), (intermediate, hidden)] * 4
    for inputs, outputs in widths:
        weights = random.standard_normal((outputs, inputs)).astype(np.float32)
        largest = np.abs(weights).max(axis=1, keepdims=True)
        kernel = quantised(operators.constant(weights), 255, -largest, largest)
        node = operators.matmul(quantised(node, 256, -4.0, 4.0 * 127 / 128), kernel, False, True)
    streams = threads or len(os.sched_getaffinity(0))
    config = {"NUM_STREAMS": streams, "INFERENCE_NUM_THREADS": streams}
    compiled = openvino.Core().compile_model(openvino.Model([node], [first]), "CPU", config)
    queue = openvino.AsyncInferQueue(compiled, streams)
    inputs = random.standard_normal((rows, hidden)).astype(np.float32)
    calls = 8 * streams

    def encode(_: Any) -> Any:
        for _each in range(calls):
            queue.start_async({0: inputs}, share_inputs=True)
        queue.wait_all()
        return np.zeros((1, 1), np.float32)

    kinds = {
        str(node.get_rt_info()["runtimePrecision"].astype(str))
        for node in compiled.get_runtime_model().get_ops()
    }
    about = {
        "operations": calls * sum(2 * rows * a * b for a, b in widths),
        "int8": bool(kinds & {"i8", "u8"}),
    }
    return encode, about


def main() -> None:
    request = json.loads(sys.argv[1])
    threads = request["threads"]
    if threads and hasattr(
        os, "sched_setaffinity"
    ):  # whatever an engine thinks of threads: no more cores than that
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    loader = globals()[request["loader"]]
    serve(lambda: loader(threads=threads, **request["options"]), FIRST[request["inputs"]])


if __name__ == "__main__":
    main()
