"""A model of a few kilobytes in all formats, built by hand: what the hostile variants start from."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "quick", "fox", "a", "b"]
WIDTH = 4
SECRET = b"the-secret-of-somebody-else-0123456789"

CONFIG: dict[str, Any] = {
    "model_type": "bert",
    "architectures": ["BertModel"],
    "hidden_size": WIDTH,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "intermediate_size": 4,
    "vocab_size": len(WORDS),
    "max_position_embeddings": 64,
    "type_vocab_size": 1,
    "pad_token_id": 0,
}
MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
]
POOLING = {"word_embedding_dimension": WIDTH, "pooling_mode_mean_tokens": True}
TOKENIZER: dict[str, Any] = {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": [
        {"id": i, "content": WORDS[i], "special": True, "single_word": False, "lstrip": False}
        | {"rstrip": False, "normalized": False}
        for i in range(4)
    ],
    "normalizer": {"type": "Lowercase"},
    "pre_tokenizer": {"type": "Whitespace"},
    "post_processor": None,
    "decoder": None,
    "model": {"type": "WordLevel", "vocab": {word: i for i, word in enumerate(WORDS)}, "unk_token": "[UNK]"},
}


def table() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((len(WORDS), WIDTH)).astype(np.float32)


def build(folder: Path) -> Path:
    """Write the folder of a model with an ONNX file and an OpenVINO IR."""
    write_json(folder / "modules.json", MODULES)
    write_json(folder / "config.json", CONFIG)
    write_json(folder / "1_Pooling" / "config.json", POOLING)
    write_json(folder / "tokenizer.json", TOKENIZER)
    write_json(folder / "tokenizer_config.json", {"model_max_length": 32, "tokenizer_class": "BertTokenizer"})
    save_onnx(folder, graph_model())
    save_openvino(folder)
    save_file(weights(), folder / "model.safetensors")
    return folder


def weights() -> dict[str, np.ndarray]:
    """The weights of a BertModel of this configuration, zeros but for the table, and ones where layers are normed."""
    names: dict[str, Any] = {
        "embeddings.word_embeddings.weight": table(),
        "embeddings.token_type_embeddings.weight": (1, WIDTH),
    }
    names["embeddings.position_embeddings.weight"] = (CONFIG["max_position_embeddings"], WIDTH)
    layer = "encoder.layer.0"
    places = [f"{layer}.attention.self.{part}" for part in ("query", "key", "value")]
    places += [f"{layer}.{part}.dense" for part in ("attention.output", "intermediate", "output")]
    for place in [*places, "pooler.dense"]:
        names |= {f"{place}.weight": (WIDTH, WIDTH), f"{place}.bias": (WIDTH,)}
    for place in ("embeddings", f"{layer}.attention.output", f"{layer}.output"):
        names |= {
            f"{place}.LayerNorm.weight": np.ones(WIDTH, np.float32),
            f"{place}.LayerNorm.bias": (WIDTH,),
        }
    return {
        name: value if isinstance(value, np.ndarray) else np.zeros(value, np.float32)
        for name, value in names.items()
    }


def write_json(file: Path, value: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")


# ---- ONNX -----------------------------------------------------------------------------------------------------------


def graph_model(
    nodes: list[Any] | None = None,
    initializers: list[Any] | None = None,
    *,
    keep: bool = True,
    **options: Any,
) -> onnx.ModelProto:
    """A graph that looks token embeddings up in a table; ``nodes`` and ``initializers`` come before its own."""
    ids, mask = (
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "tokens"])
        for name in ("input_ids", "attention_mask")
    )
    output = helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["batch", "tokens", WIDTH])
    own = [helper.make_node("Gather", ["table", "input_ids"], ["last_hidden_state"])] if keep else []
    sparse = options.pop("sparse", [])
    tables = [numpy_helper.from_array(table(), "table")] if keep else []
    graph = helper.make_graph(
        [*(nodes or []), *own],
        "victim",
        [ids, mask],
        [output],
        [*(initializers or []), *tables],
        sparse_initializer=sparse,
    )
    opsets = [helper.make_opsetid("", 17), *options.pop("opsets", [])]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9, **options)


def save_onnx(folder: Path, model: onnx.ModelProto | bytes) -> Path:
    file = folder / "onnx" / "model.onnx"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    return file


def external(name: str, elements: int = 8, **entries: str) -> TensorProto:
    """A float tensor that has its data elsewhere."""
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[elements])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def carried(carrier: str, tensor: TensorProto) -> onnx.ModelProto:
    """Put a float tensor of 8 elements into a graph, in one of the places where tensors may be."""
    match carrier:
        case "initializer":
            return graph_model([helper.make_node("Identity", [tensor.name], ["unused"])], [tensor])
        case "attribute":
            return graph_model([helper.make_node("Constant", [], ["unused"], value=tensor)])
        case "sparse":
            indices = numpy_helper.from_array(np.arange(8, dtype=np.int64), "indices")
            return graph_model(sparse=[helper.make_sparse_tensor(tensor, indices, [8])])
        case "sparse attribute":
            indices = numpy_helper.from_array(np.arange(8, dtype=np.int64), "indices")
            value = helper.make_sparse_tensor(tensor, indices, [8])
            return graph_model([helper.make_node("Constant", [], ["unused"], sparse_value=value)])
        case "subgraph":
            made = helper.make_tensor_value_info("made", TensorProto.FLOAT, [8])
            body = helper.make_graph(
                [helper.make_node("Identity", [tensor.name], ["made"])], "b", [], [made], [tensor]
            )
            true = numpy_helper.from_array(np.array(True), "true")
            branch = helper.make_node("If", ["true"], ["unused"], then_branch=body, else_branch=body)
            return graph_model([branch], [true])
        case "function":
            inside = helper.make_node("Constant", [], ["y"], value=tensor)
            function = helper.make_function("local", "f", [], ["y"], [inside], [helper.make_opsetid("", 17)])
            call = helper.make_node("f", [], ["unused"], domain="local")
            return graph_model([call], functions=[function], opsets=[helper.make_opsetid("local", 1)])
        case _:
            raise ValueError(carrier)


# ---- OpenVINO -------------------------------------------------------------------------------------------------------

_PORT = "<port id='{}' precision='{}'>{}</port>"
_IDS = "<dim>-1</dim><dim>-1</dim>"


def layer(
    number: int, kind: str, data: str = "", inputs: str = "", outputs: str = "", version: str = "opset1"
) -> str:
    ends = f"<input>{inputs}</input>" * bool(inputs) + f"<output>{outputs}</output>" * bool(outputs)
    return f"<layer id='{number}' name='l{number}' type='{kind}' version='{version}'>{data}{ends}</layer>"


def layers(offset: object = 0, size: object = len(WORDS) * WIDTH * 4, rows: object = len(WORDS)) -> list[str]:
    """The layers of the graph, in which the table's place can be changed."""
    parameters = [
        layer(
            number,
            "Parameter",
            "<data shape='?,?' element_type='i64'/>",
            outputs=f"<port id='0' precision='I64' names='{name}'>{_IDS}</port>",
        )
        for number, name in enumerate(("input_ids", "attention_mask"))
    ]
    wide = f"<dim>{rows}</dim><dim>{WIDTH}</dim>"
    hidden = f"{_IDS}<dim>{WIDTH}</dim>"
    return [
        *parameters,
        layer(
            2,
            "Const",
            f"<data element_type='f32' shape='{rows}, {WIDTH}' offset='{offset}' size='{size}'/>",
            outputs=_PORT.format(0, "FP32", wide),
        ),
        layer(
            3,
            "Const",
            "<data element_type='i64' shape='' offset='144' size='8'/>",
            outputs="<port id='0' precision='I64'/>",
        ),
        layer(
            4,
            "Gather",
            "<data batch_dims='0'/>",
            _PORT.format(0, "FP32", wide) + _PORT.format(1, "I64", _IDS) + "<port id='2' precision='I64'/>",
            f"<port id='3' precision='FP32' names='last_hidden_state'>{hidden}</port>",
            version="opset8",
        ),
        layer(5, "Result", inputs=_PORT.format(0, "FP32", hidden)),
        layer(6, "Result", inputs=_PORT.format(0, "I64", _IDS)),
    ]


EDGES = ["2 0 4 0", "0 0 4 1", "3 0 4 2", "4 3 5 0", "1 0 6 0"]


def ir(parts: list[str], edges: list[str] | None = None, head: str = "") -> str:
    """The text of an IR."""
    names = ("from-layer", "from-port", "to-layer", "to-port")
    drawn = [
        "<edge " + " ".join(f"{name}='{each}'" for name, each in zip(names, edge.split(), strict=True)) + "/>"
        for edge in (EDGES if edges is None else edges)
    ]
    return (
        f"<?xml version='1.0'?>{head}<net name='victim' version='11'><layers>{''.join(parts)}</layers>"
        f"<edges>{''.join(drawn)}</edges><rt_info/></net>"
    )


def save_openvino(folder: Path, text: str | bytes | None = None, weights: bytes | None = None) -> Path:
    file = folder / "openvino" / "openvino_model.xml"
    file.parent.mkdir(parents=True, exist_ok=True)
    text = ir(layers()) if text is None else text
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    content = table().tobytes() + struct.pack("<q", 0) if weights is None else weights
    file.with_suffix(".bin").write_bytes(content)
    return file
