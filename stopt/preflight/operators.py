"""Which operators of ONNX a file may use.

All of ONNX's own, whose code is the engine's; of Microsoft's those that optimisers and quantisers put into encoders. Not
in the list, and so refused, are above all EPContext and PyOp, which load or run what a file names.
Source: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md.
"""

from __future__ import annotations

__all__ = ["LOOPS", "OWN_DOMAINS", "is_known"]

OWN_DOMAINS = frozenset({"", "ai.onnx"})
_MICROSOFT = "com.microsoft"

_FUSIONS = frozenset(
    {
        "Attention",
        "BiasAdd",
        "BiasGelu",
        "BiasSoftmax",
        "BiasSplitGelu",
        "ConvTransposeWithDynamicPads",
        "DequantizeLinear",
        "DynamicQuantizeMatMul",
        "EmbedLayerNormalization",
        "FastGelu",
        "FusedGemm",
        "FusedMatMul",
        "FusedMatMulActivation",
        "GatedRelativePositionBias",
        "GatherBlockQuantized",
        "Gelu",
        "GemmFastGelu",
        "GroupQueryAttention",
        "MatMulBnb4",
        "MatMulInteger16",
        "MatMulIntegerToFloat",
        "MatMulNBits",
        "MultiHeadAttention",
        "PackedAttention",
        "PackedMultiHeadAttention",
        "QAttention",
        "QEmbedLayerNormalization",
        "QGemm",
        "QLinearAdd",
        "QLinearConcat",
        "QLinearLeakyRelu",
        "QLinearMul",
        "QLinearReduceMean",
        "QLinearSigmoid",
        "QLinearSoftmax",
        "QLinearWhere",
        "QuantizeLinear",
        "QuickGelu",
        "RelativePositionBias",
        "RemovePadding",
        "RestorePadding",
        "RotaryEmbedding",
        "SimplifiedLayerNormalization",
        "SkipLayerNormalization",
        "SkipSimplifiedLayerNormalization",
        "TransposeMatMul",
    }
)

# nothing in a file bounds how often they run their body
LOOPS = frozenset({"Loop", "Scan", "SequenceMap"})


def is_known(domain: str, name: str) -> bool:
    """Whether an engine runs the operator with code of its own."""
    if domain == _MICROSOFT:
        return name in _FUSIONS
    return domain in OWN_DOMAINS
