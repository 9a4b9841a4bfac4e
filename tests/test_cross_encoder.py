"""What a cross-encoder refuses, and what it accepts besides sentence-transformers' own ways."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from installed import run_without

from stopt import CrossEncoder, InputError, OptionError, SentenceTransformer, StoptError

Tiny = Callable[..., Path]

PAIR = ("What is the capital of France?", "Paris.")
PAIRS_HINT = "give (query, document), or a list of such pairs"


@pytest.fixture(scope="module")
def model(tiny: Tiny) -> CrossEncoder:
    """With one label."""
    folder = tiny("bert", kind="cross-encoder", prompts={"query": "query: "})
    return CrossEncoder(folder, backend="torch", device="cpu")


@pytest.fixture(scope="module")
def classifier(tiny: Tiny) -> CrossEncoder:
    """With three labels."""
    return CrossEncoder(tiny("bert", kind="cross-encoder", num_labels=3), backend="torch", device="cpu")


def error_of(call: Callable[[], Any], kind: type[StoptError]) -> tuple[str, str]:
    """Message and hint of the error that a call raises."""
    with pytest.raises(kind) as caught:
        call()
    assert type(caught.value) is kind
    return caught.value.message, caught.value.hint


# ---- pairs ----------------------------------------------------------------------------------------------------------

BAD_INPUTS: dict[str, tuple[Any, int | None, str, str]] = {
    "one text": ("a", None, "expected a pair of texts or a list of pairs, got one text", PAIRS_HINT),
    "one text in a list": (["a"], None, "the input is 1 text, expected a pair of texts", PAIRS_HINT),
    "three texts": (["a", "b", "c"], None, "the input is 3 texts, expected a pair of texts", PAIRS_HINT),
    "a triple": (
        [("a", "b"), ("a", "b", "c")],
        1,
        "input 1 is 3 texts, expected a pair of texts",
        PAIRS_HINT,
    ),
    "triples": (np.array([["a", "b", "c"]]), 0, "input 0 is 3 texts, expected a pair of texts", PAIRS_HINT),
    "an empty pair": ([[]], 0, "input 0 is 0 texts, expected a pair of texts", PAIRS_HINT),
    "a text among pairs": (
        [("a", "b"), "c"],
        1,
        "input 1 is one text, expected a pair of texts",
        PAIRS_HINT,
    ),
    "a pair among texts": (
        ["a", ("b", "c")],
        0,
        "input 0 is one text and input 1 is not: texts and pairs are mixed",
        PAIRS_HINT,
    ),
    "None": (None, None, "expected a pair of texts or a list of pairs, got NoneType", "wrap other"),
    "a generator": (
        (pair for pair in [PAIR]),
        None,
        "expected a pair of texts or a list of pairs, got generator",
        "wrap other iterables in list()",
    ),
    "numbers": (
        np.zeros((2, 2)),
        None,
        "expected a pair of texts or a list of pairs, got ndarray",
        "wrap other",
    ),
    "None as a pair": (
        [("a", "b"), None],
        1,
        "input 1 is None, expected a pair of texts",
        PAIRS_HINT,
    ),
    "a missing second text": (
        [("a", "b"), ("a", None)],
        1,
        "input 1 has None as its second text, expected text",
        "replace missing values by ''",
    ),
    "a missing first text": (
        [(float("nan"), "b")],
        0,
        "input 0 has nan as its first text, expected text",
        "replace missing values by ''",
    ),
    "bytes": (("a", b"b"), None, "the input has bytes as its second text, expected text", "decode bytes"),
    "a dict": ([{"text": "a"}], 0, "input 0 is dict, expected a pair of texts", PAIRS_HINT),
    "a lone surrogate": (
        [("a", "\ud800")],
        0,
        "text 0 has a lone surrogate, U+D800 at character 0: not valid Unicode",
        "decode the input properly",
    ),
}


@pytest.mark.parametrize("name", BAD_INPUTS)
def test_what_is_not_a_pair_of_texts_is_refused(model: CrossEncoder, name: str) -> None:
    inputs, index, message, hint = BAD_INPUTS[name]
    with pytest.raises(InputError) as caught:
        model.predict(inputs)
    assert caught.value.message == message
    assert hint in caught.value.hint
    assert caught.value.index == index


def test_pairs_come_in_arrays_lists_and_columns(model: CrossEncoder) -> None:
    from datasets import Dataset

    pairs = [PAIR, ("a", "b")]
    expected = model.predict(pairs)
    table = Dataset.from_dict({"pair": [list(pair) for pair in pairs]})
    for inputs in ([np.array(pair) for pair in pairs], table["pair"], tuple(map(list, pairs))):
        assert np.array_equal(model.predict(inputs), expected)


# ---- rank -----------------------------------------------------------------------------------------------------------

BAD_RANKINGS: dict[str, tuple[tuple[Any, ...], dict[str, Any], type[StoptError], str, str]] = {
    "a list of queries": (
        (["q"], ["d"]),
        {},
        InputError,
        "the query is list, expected a text",
        "rank takes one query; call it for each",
    ),
    "one document": (
        ("q", "d"),
        {},
        InputError,
        "documents is one text, expected a list of texts",
        "wrap it: [document]",
    ),
    "a pair as a document": (
        ("q", ["d", ("q", "d")]),
        {},
        InputError,
        "document 1 is a pair, expected a text",
        "for pairs of your own use predict",
    ),
    "a number as a document": (
        ("q", ["d", 3]),
        {},
        InputError,
        "input 1 is 3, expected a text or a pair of texts",
        "decode bytes",
    ),
    "a negative top_k": (
        ("q", ["d"]),
        {"top_k": -1},
        OptionError,
        "top_k is -1",
        "a number of documents, or None for all",
    ),
    "True as top_k": (
        ("q", ["d"]),
        {"top_k": True},
        OptionError,
        "top_k is True",
        "a number of documents, or None for all",
    ),
    "two values per pair": (
        ("q", ["d"]),
        {"activation_fn": lambda x: torch.cat([x, x], dim=1)},
        OptionError,
        "activation_fn makes an array of shape (2,) of each pair",
        "rank needs one value to sort by",
    ),
}


@pytest.mark.parametrize("name", BAD_RANKINGS)
def test_what_cannot_be_ranked_is_refused(model: CrossEncoder, name: str) -> None:
    arguments, options, kind, message, hint = BAD_RANKINGS[name]
    for form in ({}, {"convert_to_tensor": True}, {"convert_to_numpy": False}):
        found = error_of(lambda form=form: model.rank(*arguments, **options, **form), kind)
        assert found[0] == message
        assert hint in found[1]


def test_rank_needs_one_label(classifier: CrossEncoder) -> None:
    message, hint = error_of(lambda: classifier.rank("q", ["d"]), OptionError)
    assert message == "rank needs a model with one label; this one has 3"
    assert hint == "use predict with (query, document) pairs, and sort by the label that matters"


def test_equal_scores_keep_the_order_of_the_documents(model: CrossEncoder) -> None:
    documents = ["Paris.", "a", "Paris.", "b", "Paris."]
    order = [each["corpus_id"] for each in model.rank(PAIR[0], documents)]
    assert [row for row in order if documents[row] == "Paris."] == [0, 2, 4]
    assert [
        each["corpus_id"] for each in model.rank(PAIR[0], np.array(documents), apply_softmax=True)
    ] == list(range(5))


# ---- options --------------------------------------------------------------------------------------------------------

BAD_ACTIVATIONS: dict[str, tuple[Any, str, str]] = {
    "a misspelt name": ("Sigmiod", "activation_fn 'Sigmiod' is unknown", "did you mean 'Sigmoid'?"),
    "a class": (
        torch.nn.Sigmoid,
        "activation_fn is the class Sigmoid, expected a function",
        "make one of it: Sigmoid()",
    ),
    "a number": (3, "activation_fn is 3, expected a function", "or the name of one: 'Sigmoid', 'Identity'"),
    "a function that adds up": (
        lambda x: x.sum(),
        "activation_fn made an array of shape () of logits of shape (2, 1)",
        "it must return an array with a row per pair",
    ),
    "a function that loses rows": (
        lambda x: x[:1],
        "activation_fn made an array of shape (1, 1) of logits of shape (2, 1)",
        "it must return an array with a row per pair",
    ),
    "a function that returns nothing": (
        lambda x: None,
        "activation_fn made NoneType of logits of shape (2, 1)",
        "it must return an array with a row per pair",
    ),
}


@pytest.mark.parametrize("name", BAD_ACTIVATIONS)
def test_what_is_no_activation_is_refused(model: CrossEncoder, name: str) -> None:
    function, message, hint = BAD_ACTIVATIONS[name]
    found = error_of(lambda: model.predict([PAIR, PAIR], activation_fn=function), OptionError)
    assert found[0] == message
    assert hint in found[1]


def test_activation_is_checked_before_the_model_is_opened(model: CrossEncoder) -> None:
    message, _ = error_of(lambda: CrossEncoder("/nowhere", activation_fn="softmax"), OptionError)
    assert message == "activation_fn 'softmax' is unknown"
    with pytest.raises(OptionError, match="'gelu' is unknown"):
        model.activation_fn = "gelu"
    assert model.activation_fn == "Sigmoid"


def test_activation_sees_all_logits_at_once(model: CrossEncoder) -> None:
    seen: list[tuple[int, ...]] = []

    def watch(logits: Any) -> Any:
        seen.append(tuple(logits.shape))
        return logits

    model.predict([PAIR] * 5, batch_size=2, activation_fn=watch)
    assert seen == [(5, 1)]


def test_num_labels_must_be_the_models(tiny: Tiny) -> None:
    folder = tiny("bert", kind="cross-encoder", num_labels=3)
    options = {"backend": "torch", "device": "cpu"}
    assert CrossEncoder(folder, num_labels=3, **options).num_labels == 3
    message, hint = error_of(lambda: CrossEncoder(folder, num_labels=1, **options), OptionError)
    assert message == "num_labels is 1, but the model's classifier has 3"
    assert hint == "leave num_labels out; stopt runs trained models and makes no new classifiers"


def test_max_length_is_checked(tiny: Tiny, model: CrossEncoder) -> None:
    folder = tiny("bert", kind="cross-encoder")
    message, hint = error_of(lambda: CrossEncoder(folder, backend="torch", max_length=4096), OptionError)
    assert message == "max_seq_length 4096 is more than the model's 128 positions"
    assert hint == "use at most 128"
    message, hint = error_of(lambda: CrossEncoder(folder, backend="torch", max_length=0), OptionError)
    assert message == "max_seq_length is 0"
    assert hint == "a positive number of tokens"


def test_options_of_a_call_are_checked(model: CrossEncoder) -> None:
    message, hint = error_of(lambda: model.predict(PAIR, device="cuda:3"), OptionError)
    assert message == "the model is on 'cpu', not on 'cuda:3'"
    assert hint == "give device= to the constructor instead"
    message, _ = error_of(lambda: model.rank("q", ["d"], device="cuda:3"), OptionError)
    assert message == "the model is on 'cpu', not on 'cuda:3'"
    message, hint = error_of(lambda: model.predict(PAIR, prompt_name="qeury"), OptionError)
    assert message == "there is no prompt named 'qeury'"
    assert hint == "did you mean 'query'?"
    message, hint = error_of(lambda: model.predict(PAIR, batch_size=0), OptionError)
    assert message == "batch_size is 0"
    assert hint == "a positive number of texts, or None"


# ---- older names ----------------------------------------------------------------------------------------------------


def test_older_names_still_work_and_say_so(model: CrossEncoder) -> None:
    expected = model.predict([PAIR], activation_fn="Identity")
    with pytest.warns(DeprecationWarning, match="is now called|has no effect") as caught:
        found = model.predict(sentences=[PAIR], activation_fct=torch.nn.Identity(), num_workers=2)
    assert np.array_equal(found, expected)
    assert [str(warning.message) for warning in caught] == [
        "sentences= is now called inputs=",
        "activation_fct= is now called activation_fn=",
        "num_workers= has no effect",
    ]
    assert {warning.filename for warning in caught} == {__file__}
    with pytest.warns(DeprecationWarning, match="activation_fct= is now called activation_fn="):
        (first,) = model.rank(PAIR[0], [PAIR[1]], activation_fct="Identity")
    assert first["score"] == expected[0]
    with pytest.warns(DeprecationWarning, match="max_length is now called max_seq_length"):
        assert model.max_length == model.max_seq_length == 128


def test_max_length_can_still_be_set(tiny: Tiny) -> None:
    model = CrossEncoder(tiny("bert", kind="cross-encoder"), backend="torch", device="cpu")
    with pytest.warns(DeprecationWarning, match="max_length is now called max_seq_length"):
        model.max_length = 9
    assert model.max_seq_length == 9


# ---- what it opens --------------------------------------------------------------------------------------------------


def test_models_of_another_kind_say_which_class_opens_them(tiny: Tiny) -> None:
    for kind, name, article in (
        (None, "SentenceTransformer", "a dense embedding model"),
        ("splade", "SparseEncoder", "a sparse encoder"),
    ):
        folder = tiny("bert", **({} if kind is None else {"kind": kind}))
        for backend in ("torch", "onnx", None):
            message, hint = error_of(
                lambda folder=folder, backend=backend: CrossEncoder(folder, backend=backend), OptionError
            )
            assert message == f"{folder} is {article}, not a cross-encoder"
            assert f"open it with {name}" in hint


@pytest.mark.parametrize("layout", ["current", "legacy", "oldest", "plain"])
def test_a_cross_encoder_is_no_sentence_transformer(tiny: Tiny, layout: str) -> None:
    folder = tiny("bert", kind="cross-encoder", layout=layout)
    message, hint = error_of(lambda: SentenceTransformer(folder, backend="torch"), OptionError)
    assert message == f"{folder} is a cross-encoder, not a dense embedding model"
    assert "open it with CrossEncoder" in hint


def test_it_says_what_it_is(model: CrossEncoder) -> None:
    assert repr(model).startswith("CrossEncoder(")
    assert model.get_backend() == "torch"
    assert model.prompts == {"query": "query: "}


# ---- without torch --------------------------------------------------------------------------------------------------

HEAVY = {"torch", "transformers", "optimum", "nncf", "onnx", "sentence_transformers", "datasets", "scipy"}
SCORE = """
import json, sys
from stopt import CrossEncoder, MissingExtra
folder, options, pairs = json.loads(sys.argv[1])
model = CrossEncoder(folder, **options)
print(json.dumps(model.predict(pairs).tolist()))
print(json.dumps([each["corpus_id"] for each in model.rank("q", ["a", "Paris"])]))
for form in ({"convert_to_tensor": True}, {"convert_to_numpy": False}):
    for call in (lambda: model.predict(pairs, **form), lambda: model.rank("q", ["a"], **form)):
        try:
            call()
        except MissingExtra as error:
            print(error.message, error.hint)
"""


@pytest.mark.parametrize("engine", ["onnx", "openvino"])
def test_scoring_works_where_torch_is_not_installed(
    exported: Tiny, model: CrossEncoder, tmp_path: Path, engine: str
) -> None:
    folder = exported("bert", kind="cross-encoder", prompts={"query": "query: "})
    pairs = [PAIR, ("a", "word " * 300)]
    options = {"backend": engine, "model_kwargs": {"dtype": "float32"}}
    done = run_without(HEAVY, tmp_path, "-c", SCORE, json.dumps([str(folder), options, pairs]))
    assert done.returncode == 0, done.stderr
    scores, order, *errors = done.stdout.splitlines()
    assert json.loads(scores) == pytest.approx(model.predict(pairs).tolist(), abs=1e-4)
    assert json.loads(order) == [each["corpus_id"] for each in model.rank("q", ["a", "Paris"])]
    assert errors == ["torch is not installed pip install 'stopt[torch]'"] * 4
