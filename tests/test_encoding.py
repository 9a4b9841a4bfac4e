"""``encode`` on the torch backend against sentence-transformers: values, types, shapes, prompts and errors."""

import json
import logging
import warnings
from collections.abc import Callable
from functools import cache
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformer as Reference
from tiny import ARCHITECTURES, CORPUS, HIDDEN, POOLING_MODES, POSITIONS

from stopt import SentenceTransformer, SparseEncoder
from stopt.errors import InputError, OptionError, StoptWarning

Tiny = Callable[..., Path]

# the same torch kernels on batches of other shapes; relative to the largest component where that exceeds 1
TOLERANCE = 1e-5
# float16 keeps 11 bits, and a pooled sum of a few dozen tokens loses some of them
HALF_TOLERANCE = 5e-3

TEXTS = [*CORPUS, "", " ", "a", "word " * 200]
PAIRS = [("a man plays", "guitar on a stage"), ("", "fox"), ("word " * 200, "short")]
PROMPTS = {"query": "query: ", "document": "passage: ", "other": "find: "}


@cache
def _ours(folder: Path) -> SentenceTransformer:
    return SentenceTransformer(folder, backend="torch", device="cpu")


@cache
def _theirs(folder: Path) -> Reference:
    return Reference(str(folder), device="cpu")


def _close(ours: Any, theirs: Any, tolerance: float = TOLERANCE) -> None:
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape
    scale = max(
        1.0, float(np.abs(theirs, where=np.isfinite(theirs), out=np.zeros_like(theirs)).max(initial=0))
    )
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * scale)


def _compare(folder: Path, inputs: Any = TEXTS, **options: Any) -> None:
    _close(_ours(folder).encode(inputs, **options), _theirs(folder).encode(inputs, **options))


# ---- values ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inputs", [TEXTS, PAIRS], ids=["texts", "pairs"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_gives_the_vectors_of_sentence_transformers(
    tiny: Tiny, architecture: str, inputs: Any
) -> None:
    _compare(tiny(architecture), inputs)


@pytest.mark.parametrize("pooling", [*POOLING_MODES, ["cls", "max", "lasttoken"]], ids=str)
@pytest.mark.parametrize("architecture", ["bert", "qwen3"])
def test_every_pooling_gives_the_vectors_of_sentence_transformers(
    tiny: Tiny, architecture: str, pooling: Any
) -> None:
    folder = tiny(architecture, pooling=pooling)
    # weightedmean counts columns, pads on the left included: vectors are comparable only from the same batch
    ours = _ours(folder).encode(TEXTS, max_batch_tokens=10**6)
    _close(ours, _theirs(folder).encode(TEXTS))


@pytest.mark.parametrize(
    "options",
    [
        {"normalize": True},
        {"dense": 8},
        {"dense": 8, "normalize": True},
        {"layer_norm": True},
        {"dense": 8, "layer_norm": True, "dropout": True, "normalize": True},
        {"layout": "legacy", "dense": 8, "max_seq_length": 12, "do_lower_case": True},
        {"truncate_dim": 5},
        {"truncate_dim": 5, "normalize": True},
        {"modules_json": False},
    ],
    ids=str,
)
def test_every_chain_of_modules_gives_the_vectors_of_sentence_transformers(
    tiny: Tiny, options: dict[str, Any]
) -> None:
    _compare(tiny("bert", **options))


def test_dense_on_tokens_gives_the_vectors_of_sentence_transformers(tiny_copy: Tiny) -> None:
    folder = tiny_copy(dense=HIDDEN)
    names = {"module_input_name": "token_embeddings", "module_output_name": "token_embeddings"}
    file = folder / "2_Dense" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **names}))
    entries = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps([entries[0], entries[2], entries[1]]))
    _compare(folder)


@pytest.mark.parametrize("options", [{}, {"normalize": True}, {"dense": 8}, {"pooling": "max"}], ids=str)
def test_half_precision_gives_the_vectors_of_sentence_transformers(tiny: Tiny, options: Any) -> None:
    folder, kwargs = tiny("bert", **options), {"torch_dtype": "float16"}
    ours = SentenceTransformer(folder, backend="torch", device="cpu", model_kwargs=kwargs)
    theirs = Reference(str(folder), device="cpu", model_kwargs=kwargs)
    _close(ours.encode(TEXTS).astype(float), theirs.encode(TEXTS).astype(float), HALF_TOLERANCE)


def test_the_real_minilm_gives_the_vectors_of_sentence_transformers(minilm: Path) -> None:
    _compare(minilm, CORPUS)


# ---- types and shapes ------------------------------------------------------------------------------------------------

FORMS = {
    "numpy": {},
    "tensor": {"convert_to_tensor": True},
    "tensor wins": {"convert_to_tensor": True, "convert_to_numpy": True},
    "list": {"convert_to_numpy": False},
    "int8": {"precision": "int8"},
    "uint8 tensor": {"precision": "uint8", "convert_to_tensor": True},
    "binary": {"precision": "binary"},
    "ubinary list": {"precision": "ubinary", "convert_to_numpy": False},
    "binary tensor": {"precision": "binary", "convert_to_tensor": True},
    "no precision": {"precision": None},
}


def _describe(result: Any) -> Any:
    """Types and shapes of a result."""
    if isinstance(result, list):
        return [_describe(item) for item in result]
    return type(result), tuple(result.shape), str(result.dtype)


@pytest.mark.parametrize("wrong", [0, -1, True, 5.0, "8", np.int64(-3), np.bool_(True)])
def test_no_dimensions_to_keep_are_refused_wherever_they_are_given(tiny: Tiny, wrong: Any) -> None:
    with pytest.raises(OptionError, match="truncate_dim is") as caught:
        SentenceTransformer(tiny(), backend="torch", truncate_dim=wrong)
    assert "from 1 up" in caught.value.hint
    model = SentenceTransformer(tiny(), backend="torch", truncate_dim=np.int64(5))
    with pytest.raises(OptionError, match="truncate_dim is"):
        model.truncate_dim = wrong
    assert model.encode("a").shape == (5,)
    model.truncate_dim = None
    assert model.encode("a").shape == (HIDDEN,)


@pytest.mark.filterwarnings("ignore::stopt.errors.StoptWarning")
@pytest.mark.parametrize("options", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("inputs", ["a text", ["a text"], ["a", "b", "c d"], [], ("a", "b"), ""], ids=str)
def test_results_have_the_type_shape_and_dtype_of_sentence_transformers(
    tiny: Tiny, inputs: Any, options: dict[str, Any]
) -> None:
    folder = tiny()
    ours = _ours(folder).encode(inputs, **options, ranges="call")
    assert _describe(ours) == _describe(_theirs(folder).encode(inputs, **options))


@pytest.mark.parametrize(("dtype", "form"), [("float16", "float16"), ("bfloat16", "float32")])
def test_half_precision_arrays_are_float16_and_bfloat16_becomes_float32(
    tiny: Tiny, dtype: str, form: str
) -> None:
    model = SentenceTransformer(tiny(), backend="torch", device="cpu", model_kwargs={"dtype": dtype})
    assert model.encode(["a"]).dtype == form


def test_bfloat16_tensors_stay_bfloat16(tiny: Tiny) -> None:
    model = SentenceTransformer(tiny(), backend="torch", device="cpu", model_kwargs={"dtype": "bfloat16"})
    assert model.encode(["a"], convert_to_tensor=True).dtype == torch.bfloat16


@pytest.mark.parametrize(
    "inputs",
    [
        np.array(["a fox", "b"]),
        np.array(["a fox", "b"], dtype=object),
        ("a fox", "b"),
        [np.str_("a fox"), np.str_("b")],
    ],
    ids=["U array", "O array", "tuple", "numpy texts"],
)
def test_every_form_of_many_texts_is_a_batch(tiny: Tiny, inputs: Any) -> None:
    folder = tiny()
    _close(_ours(folder).encode(inputs), _theirs(folder).encode(["a fox", "b"]))


def test_a_pair_in_a_list_is_one_input(tiny: Tiny) -> None:
    assert _ours(tiny()).encode([("a", "b")]).shape == (1, HIDDEN)


def test_a_list_may_mix_texts_and_pairs(tiny: Tiny) -> None:
    model = _ours(tiny())
    mixed = model.encode(["a fox", ("a", "b")])
    _close(mixed, np.stack([model.encode("a fox"), model.encode([("a", "b")])[0]]))


def test_sentences_is_the_older_name_of_inputs(tiny: Tiny) -> None:
    model = _ours(tiny())
    with pytest.warns(DeprecationWarning, match="now called inputs="):
        result = model.encode(sentences=["a"])
    _close(result, model.encode(["a"]))


# ---- truncation, normalisation, codes --------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [1, 5, HIDDEN, 100, np.int64(5)])
@pytest.mark.parametrize("normalize", [True, False])
def test_truncate_dim_and_normalize_embeddings_do_as_in_sentence_transformers(
    tiny: Tiny, dim: int, normalize: bool
) -> None:
    _compare(tiny(normalize=True), truncate_dim=dim, normalize_embeddings=normalize)


def test_truncate_dim_of_the_call_wins_over_the_models(tiny: Tiny) -> None:
    _compare(tiny(truncate_dim=5), truncate_dim=9)


def test_truncate_dim_of_the_constructor_wins_over_the_files(tiny: Tiny) -> None:
    model = SentenceTransformer(tiny(truncate_dim=5), backend="torch", truncate_dim=9)
    assert (model.encode("a").shape, model.get_embedding_dimension()) == ((9,), 9)


@pytest.mark.filterwarnings("ignore::stopt.errors.StoptWarning")
@pytest.mark.parametrize("precision", ["binary", "ubinary"])
def test_codes_are_those_of_sentence_transformers(tiny: Tiny, precision: str) -> None:
    folder = tiny()
    ours = _ours(folder).encode(TEXTS, precision=precision)
    assert np.array_equal(ours, _theirs(folder).encode(TEXTS, precision=precision))


def test_ranges_of_codes_are_those_of_the_whole_call(tiny: Tiny) -> None:
    folder, texts = tiny(), TEXTS * 5
    ours = _ours(folder).encode(texts, precision="uint8", batch_size=3).astype(int)
    theirs = _theirs(folder).encode(texts, precision="uint8").astype(int)
    assert np.abs(ours - theirs).max() <= 1  # a value on the edge of a step may fall to either side


def test_few_texts_in_int8_with_ranges_of_their_own_warn(tiny: Tiny) -> None:
    with pytest.warns(StoptWarning, match="only 2 embedding"):
        _ours(tiny()).encode(["a", "b"], precision="int8", ranges="call")


# ---- prompts ---------------------------------------------------------------------------------------------------------

CALLS: list[dict[str, Any]] = [
    {},
    {"prompt": "find: "},
    {"prompt": ""},
    {"prompt_name": "query"},
    {"prompt_name": "other"},
    {"prompt_name": "document"},
]


@pytest.mark.parametrize("call", CALLS, ids=str)
@pytest.mark.parametrize("method", ["encode", "encode_query", "encode_document"])
@pytest.mark.parametrize("default", [None, "other"])
@pytest.mark.parametrize("include_prompt", [True, False])
def test_prompts_are_put_in_front_as_in_sentence_transformers(
    tiny: Tiny, method: str, call: dict[str, Any], default: str | None, include_prompt: bool
) -> None:
    folder = tiny(prompts=PROMPTS, default_prompt_name=default, include_prompt=include_prompt)
    texts = [*TEXTS[:3], "", "word " * 200]
    _close(getattr(_ours(folder), method)(texts, **call), getattr(_theirs(folder), method)(texts, **call))


@pytest.mark.parametrize("pooling", POOLING_MODES)
@pytest.mark.parametrize("architecture", ["bert", "qwen3", "t5"])
def test_leaving_out_the_prompt_gives_the_vectors_of_sentence_transformers(
    tiny: Tiny, architecture: str, pooling: str
) -> None:
    folder = tiny(architecture, pooling=pooling, include_prompt=False)
    _compare(folder, TEXTS[:6], prompt="Represent this: ")


@pytest.mark.parametrize("method", ["encode_query", "encode_document"])
def test_empty_prompts_suppress_the_default_as_in_sentence_transformers(tiny: Tiny, method: str) -> None:
    folder = tiny(prompts={"other": "find: "}, default_prompt_name="other")
    result = getattr(_ours(folder), method)(TEXTS)
    _close(result, getattr(_theirs(folder), method)(TEXTS))
    _close(result, _ours(folder).encode(TEXTS, prompt=""))


@pytest.mark.parametrize("name", ["passage", "corpus"])
def test_passage_and_corpus_prompts_are_dead_as_in_sentence_transformers(tiny: Tiny, name: str) -> None:
    folder = tiny(prompts={name: "passage: "})
    result = _ours(folder).encode_document(TEXTS)
    _close(result, _theirs(folder).encode_document(TEXTS))
    _close(result, _ours(folder).encode(TEXTS))


def test_a_prompt_goes_before_the_first_text_of_a_pair(tiny: Tiny) -> None:
    _compare(tiny(), PAIRS, prompt="find: ")


def test_both_prompt_and_prompt_name_warn_and_the_prompt_is_used(tiny: Tiny) -> None:
    model = _ours(tiny(prompts=PROMPTS))
    with pytest.warns(StoptWarning, match="both prompt and prompt_name"):
        result = model.encode("a", prompt="find: ", prompt_name="query")
    _close(result, model.encode("a", prompt_name="other"))


def test_prompts_of_the_constructor_win_over_the_models(tiny: Tiny) -> None:
    folder, prompts = tiny(prompts=PROMPTS), {"query": "mine: "}
    ours = SentenceTransformer(folder, backend="torch", prompts=prompts)
    theirs = Reference(str(folder), device="cpu", prompts=prompts)
    _close(ours.encode_query(TEXTS), theirs.encode_query(TEXTS))


def test_the_empty_prompt_of_a_model_is_no_prompt(tiny: Tiny) -> None:
    folder = tiny(include_prompt=False)
    _close(_ours(folder).encode_query(TEXTS), _ours(folder).encode(TEXTS))


def test_set_pooling_include_prompt_does_as_in_sentence_transformers(tiny: Tiny) -> None:
    folder = tiny(prompts=PROMPTS)
    ours, theirs = SentenceTransformer(folder, backend="torch"), Reference(str(folder), device="cpu")
    ours.set_pooling_include_prompt(False)
    theirs.set_pooling_include_prompt(False)
    _close(ours.encode_query(TEXTS), theirs.encode_query(TEXTS))


def test_unknown_prompt_name_is_refused_with_a_suggestion(tiny: Tiny) -> None:
    with pytest.raises(OptionError, match="no prompt named 'qeury'") as caught:
        _ours(tiny()).encode("a", prompt_name="qeury")
    assert caught.value.hint == "did you mean 'query'?"


def test_unknown_default_prompt_name_is_refused(tiny: Tiny) -> None:
    with pytest.raises(OptionError, match="default_prompt_name 'nothing' is not among the prompts") as caught:
        SentenceTransformer(tiny(), backend="torch", default_prompt_name="nothing")
    assert "query" in caught.value.hint


# ---- other outputs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["bert", "qwen3"])
@pytest.mark.parametrize("include_prompt", [True, False])
def test_token_embeddings_are_those_of_sentence_transformers(
    tiny: Tiny, architecture: str, include_prompt: bool
) -> None:
    folder = tiny(architecture, include_prompt=include_prompt)
    options = {"output_value": "token_embeddings", "prompt": "find: ", "batch_size": 4}
    ours, theirs = _ours(folder).encode(TEXTS[:4], **options), _theirs(folder).encode(TEXTS[:4], **options)
    for mine, other in zip(ours, theirs, strict=True):
        _close(mine, other)


def test_token_embeddings_of_a_text_are_one_matrix(tiny: Tiny) -> None:
    assert _ours(tiny()).encode("fox", output_value="token_embeddings").shape[1] == HIDDEN


def test_all_features_of_each_text_are_those_of_sentence_transformers(tiny: Tiny) -> None:
    folder, texts = tiny(), TEXTS[:3]  # sentence-transformers fails from five texts on
    ours = _ours(folder).encode(texts, output_value=None)
    theirs = _theirs(folder).encode(texts, output_value=None)
    for mine, other in zip(ours, theirs, strict=True):
        for name in ("input_ids", "attention_mask", "token_embeddings", "sentence_embedding"):
            _close(mine[name], other[name])


def test_all_features_of_many_texts_are_one_dict_each(tiny: Tiny) -> None:
    assert len(_ours(tiny()).encode(TEXTS, output_value=None)) == len(TEXTS)


@pytest.mark.parametrize("value", ["token_embeddings", None])
def test_other_outputs_of_no_text_are_an_empty_list(tiny: Tiny, value: str | None) -> None:
    assert _ours(tiny()).encode([], output_value=value) == []


# ---- batches ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["bert", "qwen3", "modernbert"])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.permutations(TEXTS).flatmap(lambda order: st.integers(1, len(order)).map(lambda n: order[:n])),
    batch_size=st.integers(1, 40),
)
def test_batch_size_and_order_do_not_change_the_vector_of_a_text(
    tiny: Tiny, architecture: str, texts: list[str], batch_size: int
) -> None:
    model = _ours(tiny(architecture))
    alone = _alone(model)
    _close(model.encode(texts, batch_size=batch_size), np.stack([alone[text] for text in texts]))


@cache
def _alone(model: SentenceTransformer) -> dict[str, np.ndarray]:
    return {text: model.encode(text) for text in TEXTS}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=60))
def test_any_text_gives_the_vector_of_sentence_transformers(tiny: Tiny, text: str) -> None:
    _compare(tiny(), [text])


# ---- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong", [None, 3, 2.5, b"bytes", {"text": "a"}, ["nested"], ["a", "b", "c"], []], ids=repr
)
def test_something_else_than_a_text_is_refused_with_its_index(tiny: Tiny, wrong: Any) -> None:
    with pytest.raises(InputError, match=r"input 2 is .*, expected a text or a pair of texts") as caught:
        _ours(tiny()).encode(["a", "b", wrong])
    assert caught.value.index == 2
    assert "leave them out" in caught.value.hint


@pytest.mark.parametrize(
    "wrong",
    [None, 3, b"bytes", {"a"}, iter(["a"]), np.array([1, 2]), {"text": "a"}],
    ids=lambda wrong: type(wrong).__name__,
)
def test_something_else_than_texts_is_refused(tiny: Tiny, wrong: Any) -> None:
    with pytest.raises(InputError, match="expected a text or a list of texts, got") as caught:
        _ours(tiny()).encode(wrong)
    assert "list()" in caught.value.hint


def test_a_lone_surrogate_is_refused_with_its_index(tiny: Tiny) -> None:
    with pytest.raises(InputError, match="text 1 has a lone surrogate") as caught:
        _ours(tiny()).encode(["a", "\ud800"])
    assert caught.value.index == 1


def test_the_index_of_a_bad_text_is_its_place_in_the_call(tiny: Tiny) -> None:
    texts = ["a long text " * 3, "longer text " * 10, "\ud800", "another long text " * 5]
    with pytest.raises(InputError, match="text 2 has a lone surrogate") as caught:
        _ours(tiny()).encode(texts)
    assert caught.value.index == 2


@pytest.mark.parametrize("size", [0, -1, 2.5, True, "8"])
@pytest.mark.parametrize("option", ["batch_size", "max_batch_tokens"])
def test_a_batch_size_that_is_none_is_refused(tiny: Tiny, option: str, size: Any) -> None:
    with pytest.raises(OptionError, match=f"{option} is") as caught:
        _ours(tiny()).encode(["a"], **{option: size})
    assert "positive number" in caught.value.hint


@pytest.mark.parametrize(
    ("options", "match", "hint"),
    [
        ({"precision": "int4"}, "precision 'int4' is not supported", "did you mean 'int8'?"),
        ({"output_value": "sentence"}, "output_value 'sentence' is unknown", "sentence_embedding"),
        (
            {"output_value": "token_embeddings", "precision": "int8"},
            "needs output_value=",
            "no common length",
        ),
        ({"device": "cuda"}, "the model is on 'cpu', not on 'cuda'", "constructor"),
        ({"device": "c"}, "the model is on 'cpu', not on 'c'", "constructor"),
        ({"prompt": 5}, "prompt is 5, expected text", "prompt_name="),
        ({"prompt_name": 5}, "there is no prompt named 5", "known: document, query"),
        ({"prompt_name": []}, r"there is no prompt named \[\]", "known: document, query"),
        ({"truncate_dim": "8"}, "truncate_dim is '8'", "leading dimensions"),
        ({"truncate_dim": True}, "truncate_dim is True", "leading dimensions"),
        ({"truncate_dim": 0}, "truncate_dim is 0", "from 1 up"),
        ({"truncate_dim": -1}, "truncate_dim is -1", "from 1 up"),
        ({"truncate_dim": np.int64(0)}, "truncate_dim is np.int64", "from 1 up"),
        ({"truncate_dim": 5.0}, "truncate_dim is 5.0", "from 1 up"),
    ],
    ids=str,
)
def test_an_option_of_no_meaning_is_refused(tiny: Tiny, options: Any, match: str, hint: str) -> None:
    with pytest.raises(OptionError, match=match) as caught:
        _ours(tiny()).encode(["a"], **options)
    assert hint in caught.value.hint


def test_counts_may_be_those_of_numpy(tiny: Tiny) -> None:
    model = SentenceTransformer(tiny(), backend="torch", device="cpu")
    expected = model.encode(TEXTS, batch_size=4)
    assert np.array_equal(model.encode(TEXTS, batch_size=np.int64(4)), expected)
    model.max_seq_length = np.int32(10)
    assert type(model.max_seq_length) is int
    assert model.encode(TEXTS, max_batch_tokens=np.uint16(64)).shape == expected.shape


@pytest.mark.parametrize("role", ["query", "document"])
@pytest.mark.parametrize(("kind", "cls"), [(None, SentenceTransformer), ("splade", SparseEncoder)])
def test_a_role_passes_its_options_by_name_to_an_encode_of_ones_own(
    tiny: Tiny, cls: Any, kind: str | None, role: str
) -> None:
    class Own(cls):  # type: ignore[misc]
        def encode(self, inputs: Any, **options: Any) -> Any:
            return inputs, options

    method = getattr(Own(tiny(kind=kind), backend="torch"), f"encode_{role}")
    inputs, options = method(["a"], "other", batch_size=8)
    assert inputs == ["a"]
    assert set(options) == {*signature(method).parameters, "task"} - {"inputs"}
    assert (options["prompt_name"], options["batch_size"]) == ("other", 8)


# ---- the rest of the surface -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [3, 10, POSITIONS])
def test_max_seq_length_can_be_set_as_in_sentence_transformers(tiny: Tiny, length: int) -> None:
    ours, theirs = SentenceTransformer(tiny(), backend="torch"), Reference(str(tiny()), device="cpu")
    ours.max_seq_length = theirs.max_seq_length = length
    assert ours.get_max_seq_length() == theirs.get_max_seq_length()
    _close(ours.encode(TEXTS), theirs.encode(TEXTS))


@pytest.mark.parametrize("length", [0, -1, 2.5, True, None, POSITIONS + 1])
def test_max_seq_length_must_fit_the_model(tiny: Tiny, length: Any) -> None:
    with pytest.raises(OptionError, match="max_seq_length"):
        _ours(tiny()).max_seq_length = length


def test_a_max_seq_length_of_special_tokens_only_does_as_in_sentence_transformers(tiny: Tiny) -> None:
    ours, theirs = SentenceTransformer(tiny(), backend="torch"), Reference(str(tiny()), device="cpu")
    ours.max_seq_length = theirs.max_seq_length = 2
    _close(ours.encode(TEXTS), theirs.encode(TEXTS))


@pytest.mark.parametrize(("shown", "expected"), [(True, True), (False, False), (None, False)])
def test_the_progress_bar_is_drawn_on_request(
    tiny: Tiny, capfd: pytest.CaptureFixture[str], shown: bool | None, expected: bool
) -> None:
    _ours(tiny()).encode(TEXTS, show_progress_bar=shown)
    assert ("Encoding" in capfd.readouterr().err) is expected


def test_the_progress_bar_is_drawn_where_logging_is_verbose(
    tiny: Tiny, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "stopt")
    _ours(tiny()).encode(TEXTS)
    assert "Encoding" in capfd.readouterr().err


def test_encoding_leaves_no_warning(tiny: Tiny) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _ours(tiny()).encode(TEXTS)


@pytest.mark.parametrize("name", ["cosine", "dot", "euclidean", "manhattan"])
def test_similarity_of_the_model_is_that_of_sentence_transformers(tiny: Tiny, name: str) -> None:
    folder = tiny(similarity=name)
    embeddings = _theirs(folder).encode(TEXTS)
    scores = _ours(folder).similarity(embeddings, embeddings[:3])
    _close(scores, _theirs(folder).similarity(embeddings, embeddings[:3]))


def test_unknown_similarity_is_refused(tiny: Tiny) -> None:
    with pytest.raises(OptionError, match="similarity_fn_name 'cosin' is unknown") as caught:
        SentenceTransformer(tiny(), backend="torch", similarity_fn_name="cosin")
    assert caught.value.hint == "did you mean 'cosine'?"


def test_trust_remote_code_warns_that_it_has_no_effect(tiny: Tiny) -> None:
    with pytest.warns(StoptWarning, match="never runs code from a model"):
        SentenceTransformer(tiny(), backend="torch", trust_remote_code=True)
