"""The modules behind the transformer: golden values, sentence-transformers and torch.nn, in numpy and in torch."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sentence_transformers.sentence_transformer.modules import Pooling as ReferencePooling

from stopt.errors import CorruptModel, StoptError, UnsupportedModel, UntrustedModel
from stopt.runtime.modules import activate, l2_normalize, load_modules, pool, read_weights, without_prompt
from stopt.spec import (
    Activation,
    Dense,
    LayerNorm,
    ModelKind,
    ModelSpec,
    ModuleSpec,
    Normalize,
    Pooling,
    PoolingMode,
    TokenizerSpec,
    TransformerSpec,
)

# float32 sums of a few dozen terms in another order
TOLERANCE = 1e-6
# float16 keeps 11 bits; one rounding of each of two or three steps
HALF_TOLERANCE = 2e-3

# rows A (padded on the right) and B of the golden values
TOKENS = [[[1, 2], [3, 4], [5, 6], [99, 99]], [[10, 20], [30, 40], [50, 60], [70, 80]]]
MASK = [[1, 1, 1, 0], [1, 1, 1, 1]]
GOLDEN = {
    PoolingMode.CLS: [[1, 2], [10, 20]],
    PoolingMode.MAX: [[5, 6], [70, 80]],
    PoolingMode.MEAN: [[3, 4], [40, 50]],
    PoolingMode.MEAN_SQRT_LEN: [[9 / 3**0.5, 12 / 3**0.5], [80, 100]],
    PoolingMode.WEIGHTED_MEAN: [[22 / 6, 28 / 6], [50, 60]],
    PoolingMode.LAST_TOKEN: [[5, 6], [70, 80]],
}
GOLDEN_WITHOUT_PROMPT = {
    PoolingMode.CLS: [[3, 4], [30, 40]],
    PoolingMode.MAX: [[5, 6], [70, 80]],
    PoolingMode.MEAN: [[4, 5], [50, 60]],
    PoolingMode.MEAN_SQRT_LEN: [[8 / 2**0.5, 10 / 2**0.5], [150 / 3**0.5, 180 / 3**0.5]],
    PoolingMode.WEIGHTED_MEAN: [[21 / 5, 26 / 5], [490 / 9, 580 / 9]],
    PoolingMode.LAST_TOKEN: [[5, 6], [70, 80]],
}

Convert = Callable[[Any], Any]


@pytest.fixture(params=["numpy", "torch"])
def array(request: pytest.FixtureRequest) -> Convert:
    """Turns numbers into an array of either engine: integers for masks, else float32."""

    def convert(values: Any, dtype: str = "float32") -> Any:
        made = np.asarray(values, dtype)
        return made if request.param == "numpy" else torch.from_numpy(made)

    return convert


def _run(module: ModuleSpec, features: dict[str, Any], root: Path = Path(), *more: ModuleSpec) -> Any:
    """Run modules as a model of them would."""

    def constant(weights: np.ndarray) -> Any:
        like = features.get("sentence_embedding", features.get("token_embeddings"))
        return torch.from_numpy(weights).to(like.dtype) if isinstance(like, torch.Tensor) else weights

    spec = ModelSpec(
        ModelKind.DENSE, TransformerSpec("", "bert", 2), TokenizerSpec("", None), (module, *more), {}
    )
    for loaded in load_modules(root, spec.modules, constant):
        features = loaded(features)
    return features["sentence_embedding"]


def _close(ours: Any, expected: Any, tolerance: float = TOLERANCE) -> None:
    np.testing.assert_allclose(np.asarray(ours), np.asarray(expected), rtol=tolerance, atol=tolerance)


def _reference_pool(tokens: torch.Tensor, mask: torch.Tensor, modes: Any, **features: Any) -> torch.Tensor:
    include = "prompt_length" not in features
    module = ReferencePooling(tokens.shape[-1], pooling_mode=modes, include_prompt=include)
    return module({"token_embeddings": tokens, "attention_mask": mask, **features})["sentence_embedding"]


# ---- pooling --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", PoolingMode)
def test_pooling_gives_the_golden_values(array: Convert, mode: PoolingMode) -> None:
    _close(pool(array(TOKENS), array(MASK, "int64"), mode), GOLDEN[mode])


@pytest.mark.parametrize("mode", PoolingMode)
def test_pooling_without_the_prompt_gives_the_golden_values(array: Convert, mode: PoolingMode) -> None:
    features = {
        "token_embeddings": array(TOKENS),
        "attention_mask": array(MASK, "int64"),
        "prompt_length": 1,
    }
    _close(_run(Pooling((mode,), include_prompt=False), features), GOLDEN_WITHOUT_PROMPT[mode])


@pytest.mark.parametrize("mode", PoolingMode)
def test_include_prompt_false_changes_nothing_without_a_prompt(array: Convert, mode: PoolingMode) -> None:
    features = {
        "token_embeddings": array(TOKENS),
        "attention_mask": array(MASK, "int64"),
        "prompt_length": 0,
    }
    _close(_run(Pooling((mode,), include_prompt=False), features), GOLDEN[mode])


@pytest.mark.parametrize("mask", [MASK, [[0, 1, 1, 1], [1, 1, 1, 1]], [[0, 0, 1, 1], [0, 0, 0, 1]]])
@pytest.mark.parametrize("mode", PoolingMode)
def test_pooling_equals_sentence_transformers_for_padding_on_either_side(
    array: Convert, mode: PoolingMode, mask: Any
) -> None:
    expected = _reference_pool(torch.tensor(TOKENS).float(), torch.tensor(mask), str(mode))
    _close(pool(array(TOKENS), array(mask, "int64"), mode), expected)


@pytest.mark.parametrize("mask", [MASK, [[0, 1, 1, 1], [1, 1, 1, 1]], [[0, 0, 1, 1], [0, 0, 0, 1]]])
@pytest.mark.parametrize("prompt_length", [1, 2, 4])
@pytest.mark.parametrize("mode", PoolingMode)
def test_leaving_out_the_prompt_equals_sentence_transformers_for_padding_on_either_side(
    array: Convert, mode: PoolingMode, prompt_length: int, mask: Any
) -> None:
    expected = _reference_pool(
        torch.tensor(TOKENS).float(), torch.tensor(mask), str(mode), prompt_length=prompt_length
    )
    narrowed = without_prompt(array(mask, "int64"), prompt_length)
    _close(pool(array(TOKENS), narrowed, mode), expected)


def test_cls_of_a_text_padded_on_the_left_is_its_first_token(array: Convert) -> None:
    _close(
        pool(array(TOKENS), array([[0, 0, 1, 1], [0, 1, 1, 1]], "int64"), PoolingMode.CLS), [[5, 6], [30, 40]]
    )


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        (PoolingMode.CLS, [1, 2]),
        (PoolingMode.MAX, [-np.inf, -np.inf]),
        (PoolingMode.MEAN, [0, 0]),
        (PoolingMode.MEAN_SQRT_LEN, [0, 0]),
        (PoolingMode.WEIGHTED_MEAN, [0, 0]),
        (PoolingMode.LAST_TOKEN, [0, 0]),
    ],
)
def test_a_text_without_a_token_gives(array: Convert, mode: PoolingMode, expected: Any) -> None:
    pooled = pool(array(TOKENS), array([[0, 0, 0, 0], [1, 1, 1, 1]], "int64"), mode)
    _close(pooled[0], expected)


@pytest.mark.parametrize("mode", PoolingMode)
def test_a_text_without_a_token_equals_sentence_transformers(array: Convert, mode: PoolingMode) -> None:
    mask = [[0, 0, 0, 0], [1, 1, 1, 1]]
    expected = _reference_pool(torch.tensor(TOKENS).float(), torch.tensor(mask), str(mode))
    _close(pool(array(TOKENS), array(mask, "int64"), mode), expected)


def test_several_modes_stand_side_by_side_in_the_given_order(array: Convert) -> None:
    modes = (PoolingMode.LAST_TOKEN, PoolingMode.CLS, PoolingMode.MEAN)
    features = {"token_embeddings": array(TOKENS), "attention_mask": array(MASK, "int64")}
    _close(_run(Pooling(modes), features), [[5, 6, 1, 2, 3, 4], [70, 80, 10, 20, 40, 50]])


def test_six_modes_equal_sentence_transformers(array: Convert) -> None:
    features = {"token_embeddings": array(TOKENS), "attention_mask": array(MASK, "int64")}
    expected = _reference_pool(
        torch.tensor(TOKENS).float(), torch.tensor(MASK), [str(mode) for mode in PoolingMode]
    )
    _close(_run(Pooling(tuple(PoolingMode)), features), expected)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("mode", PoolingMode)
def test_pooling_stays_in_the_dtype_of_the_embeddings(array: Convert, mode: PoolingMode, dtype: str) -> None:
    assert dtype in str(pool(array(TOKENS, dtype), array(MASK, "int64"), mode).dtype)


@pytest.mark.parametrize("mode", PoolingMode)
def test_more_padding_does_not_change_a_pooled_text(array: Convert, mode: PoolingMode) -> None:
    tokens = np.pad(np.asarray(TOKENS), ((0, 0), (0, 3), (0, 0)), constant_values=1000)
    mask = np.pad(np.asarray(MASK), ((0, 0), (0, 3)))
    _close(pool(array(tokens), array(mask, "int64"), mode), GOLDEN[mode])


def test_leaving_out_the_prompt_does_not_write_into_the_mask(array: Convert) -> None:
    mask = array(MASK, "int64")
    without_prompt(mask, 2)
    assert mask.tolist() == MASK


def test_pooling_twice_gives_the_same(array: Convert) -> None:
    features = {
        "token_embeddings": array(TOKENS),
        "attention_mask": array(MASK, "int64"),
        "prompt_length": 1,
    }
    twice = (Pooling((PoolingMode.MEAN,), include_prompt=False),) * 2
    _close(_run(twice[0], features, Path(), twice[1]), GOLDEN_WITHOUT_PROMPT[PoolingMode.MEAN])


# ---- activations ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", Activation)
def test_activations_equal_torch(array: Convert, activation: Activation) -> None:
    values = np.concatenate([np.linspace(-12, 12, 97), [-100, 100, 0.0, -0.0, 20.5, 88.8, -88.8]])
    expected = getattr(torch.nn, activation.value)()(torch.from_numpy(values.astype(np.float32)))
    _close(activate(array(values), activation), expected)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("activation", Activation)
def test_activations_stay_in_their_dtype(array: Convert, activation: Activation, dtype: str) -> None:
    assert dtype in str(activate(array([[-1.0, 2.0]], dtype), activation).dtype)


# ---- modules with weights -------------------------------------------------------------------------------------------


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _save_dense(root: Path, dtype: torch.dtype = torch.float32, *, bias: bool = True) -> torch.nn.Linear:
    linear = torch.nn.Linear(6, 4, bias=bias)
    with torch.no_grad():
        linear.weight.copy_(_random(4, 6))
        if bias:
            linear.bias.copy_(_random(4, seed=1))
    linear = linear.to(dtype)
    (root / "2_Dense").mkdir()
    save_file(
        {f"linear.{name}": value.detach() for name, value in linear.named_parameters()},
        root / "2_Dense" / "model.safetensors",
    )
    return linear


def _dense(**changes: Any) -> Dense:
    return Dense(**{"path": "2_Dense", "in_features": 6, "out_features": 4, **changes})


@pytest.mark.parametrize("bias", [True, False])
def test_dense_equals_torch(array: Convert, tmp_path: Path, bias: bool) -> None:
    linear = _save_dense(tmp_path, bias=bias)
    values = _random(3, 6, seed=2)
    result = _run(_dense(bias=bias), {"sentence_embedding": array(values)}, tmp_path)
    _close(result, torch.tanh(linear(values)).detach())


def test_dense_can_work_on_token_embeddings(array: Convert, tmp_path: Path) -> None:
    linear = _save_dense(tmp_path)
    tokens = _random(2, 4, 6, seed=2)
    spec = _dense(source="token_embeddings", target="token_embeddings", activation=Activation.IDENTITY)
    features = {"token_embeddings": array(tokens), "attention_mask": array(MASK, "int64")}
    result = _run(spec, features, tmp_path, Pooling((PoolingMode.CLS,)))
    _close(result, linear(tokens)[:, 0].detach())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_weights_of_any_float_type_are_read_exactly(tmp_path: Path, dtype: torch.dtype) -> None:
    linear = _save_dense(tmp_path, dtype)
    found = read_weights(tmp_path, "2_Dense", {"linear.weight": (4, 6)})["linear.weight"]
    assert np.array_equal(found, linear.weight.detach().float().numpy())


def test_weights_are_float32_whatever_the_file_has(tmp_path: Path) -> None:
    _save_dense(tmp_path, torch.bfloat16)
    assert read_weights(tmp_path, "2_Dense", {"linear.bias": (4,)})["linear.bias"].dtype == np.float32


def test_layer_norm_equals_torch(array: Convert, tmp_path: Path) -> None:
    (tmp_path / "3_LayerNorm").mkdir()
    weight, bias = 1 + 0.2 * _random(6), _random(6, seed=1)
    save_file({"norm.weight": weight, "norm.bias": bias}, tmp_path / "3_LayerNorm" / "model.safetensors")
    values = 3 * _random(5, 6, seed=2) + 1
    result = _run(LayerNorm("3_LayerNorm", 6), {"sentence_embedding": array(values)}, tmp_path)
    _close(result, torch.nn.functional.layer_norm(values, (6,), weight, bias, eps=1e-5), 2 * TOLERANCE)


def test_normalize_equals_torch(array: Convert) -> None:
    values = _random(5, 6)
    expected = torch.nn.functional.normalize(values, dim=1)
    _close(_run(Normalize(), {"sentence_embedding": array(values)}), expected)


@pytest.mark.parametrize("values", [[[0.0, 0.0]], [[1e-13, 0.0]], [[1e-20, 1e-20]], [[1e18, 1e18]]], ids=repr)
def test_tiny_and_huge_vectors_normalise_as_in_torch(array: Convert, values: Any) -> None:
    expected = torch.nn.functional.normalize(torch.tensor(values), dim=-1)
    np.testing.assert_allclose(np.asarray(l2_normalize(array(values))), expected.numpy(), rtol=1e-5, atol=0)


def test_half_precision_vectors_with_a_large_norm_normalise_as_in_torch(array: Convert) -> None:
    values = 20 * _random(2, 384)  # the sum of squares, 150 000, is beyond float16
    expected = torch.nn.functional.normalize(values.half(), dim=-1)
    _close(l2_normalize(array(values, "float16")), expected, HALF_TOLERANCE)


def test_half_precision_layer_norm_of_large_values_equals_torch(tmp_path: Path) -> None:
    (tmp_path / "3_LayerNorm").mkdir()
    weight, bias = torch.ones(64), torch.zeros(64)
    save_file({"norm.weight": weight, "norm.bias": bias}, tmp_path / "3_LayerNorm" / "model.safetensors")
    values = (400 * _random(2, 64)).half()  # squares are beyond float16
    result = _run(LayerNorm("3_LayerNorm", 64), {"sentence_embedding": values}, tmp_path)
    expected = torch.nn.functional.layer_norm(values, (64,), weight.half(), bias.half())
    _close(result.float(), expected.float(), HALF_TOLERANCE)


# ---- weights that cannot be used ------------------------------------------------------------------------------------


def _refused(kind: type[StoptError], match: str, root: Path, path: str = "2_Dense") -> StoptError:
    with pytest.raises(kind, match=match) as caught:
        read_weights(root, path, {"linear.weight": (4, 6)})
    return caught.value


def test_missing_weights_are_named(tmp_path: Path) -> None:
    (tmp_path / "2_Dense").mkdir()
    assert _refused(CorruptModel, r"2_Dense.model\.safetensors is missing", tmp_path).hint == (
        "fetch the model again"
    )


class _Canary:
    """Pickles into a call that leaves a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return Path.touch, (self.file,)


@pytest.fixture
def canary(tmp_path: Path) -> tuple[bytes, Path]:
    file = tmp_path / "canary"
    return pickle.dumps(_Canary(file)), file


def test_a_pickle_is_refused_unopened(tmp_path: Path, canary: tuple[bytes, Path]) -> None:
    (tmp_path / "2_Dense").mkdir()
    (tmp_path / "2_Dense" / "pytorch_model.bin").write_bytes(canary[0])
    error = _refused(UnsupportedModel, "only as a pickle", tmp_path)
    assert "safetensors" in error.hint
    assert not canary[1].exists()


def test_a_pickle_called_safetensors_is_corrupt_and_not_run(
    tmp_path: Path, canary: tuple[bytes, Path]
) -> None:
    (tmp_path / "2_Dense").mkdir()
    (tmp_path / "2_Dense" / "model.safetensors").write_bytes(canary[0])
    _refused(CorruptModel, "is not a safetensors file", tmp_path)
    assert not canary[1].exists()


def _header(tensors: Any, size: int = 96) -> bytes:
    text = json.dumps(tensors).encode() if not isinstance(tensors, bytes) else tensors
    return len(text).to_bytes(8, "little") + text + bytes(size)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        bytes(7),
        (2**63).to_bytes(8, "little") + bytes(100),
        _header(b"{}"[:1]),
        _header({"linear.weight": {"dtype": "F32", "shape": [4, 6], "data_offsets": [0, 96]}}, 90),
        _header({"linear.weight": {"dtype": "F32", "shape": [2**40, 6], "data_offsets": [0, 96]}}),
        _header({"linear.weight": {"dtype": "F32", "shape": [4, 6], "data_offsets": [8, 104]}}, 104),
    ],
    ids=["empty", "7 bytes", "huge header", "bad header", "cut short", "huge shape", "hole"],
)
def test_malformed_safetensors_are_corrupt(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "2_Dense").mkdir()
    (tmp_path / "2_Dense" / "model.safetensors").write_bytes(content)
    assert _refused(CorruptModel, "is not a safetensors file", tmp_path).hint == "fetch the file again"


@pytest.mark.parametrize(
    ("tensors", "what"),
    [
        ({"linear.weight": torch.zeros(6, 4)}, r"linear\.weight is F32 \(6, 4\), expected .* \(4, 6\)"),
        ({"linear.weight": torch.zeros(4, 6, dtype=torch.int8)}, r"linear\.weight is I8 \(4, 6\)"),
        ({"weight": torch.zeros(4, 6)}, r"linear\.weight is missing, expected floats of shape \(4, 6\)"),
    ],
    ids=["shape", "integers", "name"],
)
def test_weights_of_another_kind_are_corrupt(tmp_path: Path, tensors: Any, what: str) -> None:
    (tmp_path / "2_Dense").mkdir()
    save_file(tensors, tmp_path / "2_Dense" / "model.safetensors")
    _refused(CorruptModel, what, tmp_path)


def test_weights_linked_to_another_place_are_refused(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "model", tmp_path / "elsewhere"
    (root / "2_Dense").mkdir(parents=True)
    elsewhere.mkdir()
    _save_dense(elsewhere)
    (root / "2_Dense" / "model.safetensors").symlink_to(elsewhere / "2_Dense" / "model.safetensors")
    assert "copy the file" in _refused(UntrustedModel, "outside the model folder", root).hint


def test_weights_in_the_model_folder_itself_are_found(tmp_path: Path) -> None:
    save_file({"linear.weight": torch.zeros(4, 6)}, tmp_path / "model.safetensors")
    assert read_weights(tmp_path, "", {"linear.weight": (4, 6)})["linear.weight"].shape == (4, 6)
