"""What optimisers and quantisers ask of a file before they start from it, and how OpenVINO's are written."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from stopt.convert.exporters import silent
from stopt.errors import ConversionError, OptionError, suggest

__all__ = [
    "canonical_digest",
    "has_external_data",
    "require_float32",
    "require_nodes",
    "save_openvino",
    "typed",
]


def save_openvino(model: Any, file: Path, *, half: bool = False) -> None:
    """Write a model of OpenVINO.

    Args:
        model: The ``openvino.Model``.
        file: The .xml file; its .bin is put beside it.
        half: Whether weights become float16.

    Raises:
        ConversionError: If it cannot be written, which OpenVINO has no error of its own for.
    """
    import openvino

    try:
        openvino.save_model(model, file, compress_to_fp16=half)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ConversionError(
            f"OpenVINO cannot write {file.name}: {lines[-1] if lines else 'it does not say why'}",
            "is the disk full?",
        ) from error


def require_float32(source: Path, name: str) -> None:
    """Make sure that a file has float32 weights: what is made of any other is invalid, or worse twice over.

    Args:
        source: The file.
        name: What to call it.

    Raises:
        ConversionError: If it has not, or cannot be read.
    """
    try:
        found = _openvino_types(source) if source.suffix == ".xml" else _onnx_types(source)
    except Exception as error:  # parsers raise whatever they met
        raise ConversionError(f"{name} cannot be read: {error}", "export it again, with --force") from error
    if found:
        raise ConversionError(
            f"{name} has {' and '.join(sorted(found))} weights; conversions start from float32",
            "start from another file: --from FILE",
        )


def require_nodes(source: Path, names: Sequence[str]) -> None:
    """Make sure that the nodes that are to stay in float exist; a misspelt one would be quantised silently.

    Raises:
        OptionError: If one does not; suggests the nearest.
    """
    import onnx

    known = [node.name for node in onnx.load(source, load_external_data=False).graph.node]
    for name in names:
        if name not in known:
            raise OptionError(f"{source.name} has no node {name!r}", suggest(name, known))


def _onnx_types(source: Path) -> set[str]:
    import onnx

    kinds = onnx.TensorProto
    narrow = {
        kinds.FLOAT16: "float16",
        kinds.BFLOAT16: "bfloat16",
        kinds.INT8: "int8",
        kinds.UINT8: "int8",
    }
    tensors = onnx.load(source, load_external_data=False).graph.initializer
    return {narrow[tensor.data_type] for tensor in tensors if tensor.data_type in narrow}


def _openvino_types(source: Path) -> set[str]:
    with silent():
        import openvino

    # float16 is how OpenVINO stores many a float32 model, and nncf takes it for one
    narrow = {"i8": "int8", "u8": "int8"}
    constants = [
        node for node in openvino.Core().read_model(source).get_ops() if node.get_type_name() == "Constant"
    ]
    types = {node.get_element_type().get_type_name() for node in constants}
    return {narrow[name] for name in types if name in narrow}


def canonical_digest(file: Path) -> str:
    """Hash what an .onnx or .xml file computes: its nodes and weights, whatever their order in the file and remarks.

    Left out are names of producers, documentation, metadata and, for OpenVINO, the runtime information; a weight is
    taken with its type, shape and values wherever it is stored.
    """
    digest = hashlib.sha256()
    for line in sorted(_openvino_lines(file) if file.suffix == ".xml" else _onnx_lines(file)):
        digest.update(line)
    return digest.hexdigest()


def _onnx_lines(file: Path) -> Iterator[bytes]:
    import onnx

    model = onnx.load(file)
    graph = model.graph
    for tensor in graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        yield f"{tensor.name} {tensor.data_type} {array.shape} ".encode() + _sha256(array.tobytes())
    for number, node in enumerate(graph.node):  # their order is that of the computation
        bare = onnx.NodeProto()
        bare.CopyFrom(node)
        bare.doc_string = ""
        del bare.metadata_props[:]
        yield f"node {number:08d} ".encode() + _sha256(bare.SerializeToString(deterministic=True))
    for port in (*graph.input, *graph.output):
        yield f"port {port.name} {port.type}".encode()
    for opset in model.opset_import:
        yield f"opset {opset.domain} {opset.version}".encode()


def _openvino_lines(file: Path) -> Iterator[bytes]:
    with silent():
        import openvino

    # names are numbered by all that a process has made before: nodes are told apart by their place instead
    nodes = openvino.Core().read_model(file).get_ordered_ops()
    places = {node.get_friendly_name(): place for place, node in enumerate(nodes)}
    for place, node in enumerate(nodes):
        sources = [port.get_source_output() for port in node.inputs()]
        inputs = [(places[each.get_node().get_friendly_name()], each.get_index()) for each in sources]
        types = [f"{port.get_element_type()} {port.get_partial_shape()}" for port in node.outputs()]
        if node.get_type_name() == "Constant":
            settings = _sha256(node.data.tobytes())
        else:
            settings = repr(sorted(node.get_attributes().items())).encode()
        yield f"{place:08d} {node.get_type_name()} {inputs} {types} ".encode() + settings


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def typed(source: Path, folder: Path) -> Path:
    """The file, or a copy in ``folder`` that says what the quantiser must know and cannot infer.

    Inference of types ends at fused operators (O2 and up), which are not ONNX's own; what products read and make is
    float. A plain graph is used as it is, so that the result has the same bits as elsewhere.
    """
    import onnx

    # types follow from operators: no weights are needed
    bare = onnx.load(source, load_external_data=False)
    graph = onnx.shape_inference.infer_shapes(bare).graph
    values = (*graph.value_info, *graph.input, *graph.output)
    known = {value.name for value in values if value.type.tensor_type.elem_type}
    known |= {tensor.name for tensor in graph.initializer}
    products = [node for node in graph.node if node.op_type in ("MatMul", "Gemm")]
    # ONNX Runtime makes a product and a sum of a Gemm before it quantises, and names the value between them so
    between = {f"{node.output[0]}_MatMul" for node in products if node.op_type == "Gemm"}
    unknown = {name for node in products for name in (*node.input, *node.output) if name} - known
    unknown |= between if unknown else set()
    if not unknown:
        return source
    model = onnx.load(source)
    model.graph.value_info.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in sorted(unknown)
    )
    copy = folder / "typed" / source.name
    copy.parent.mkdir()
    onnx.save_model(model, copy, save_as_external_data=has_external_data(source))
    return copy


def has_external_data(source: Path) -> bool:
    """Whether an .onnx file has weights in other files."""
    import onnx
    from onnx.external_data_helper import uses_external_data

    graph = onnx.load(source, load_external_data=False).graph
    return any(uses_external_data(tensor) for tensor in graph.initializer)
