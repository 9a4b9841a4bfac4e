"""Our scores are sentence-transformers' own, for every architecture, layout and engine; compared live."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from parity.comparing import ENGINES, TOLERANCES, Exported
from sentence_transformers import CrossEncoder as Oracle
from tiny import POSITIONS

from stopt import CrossEncoder
from stopt.spec import Activation

Tiny = Callable[..., Path]
Load = Callable[[Path], Oracle]

QUERY = "What is the capital of France?"
DOCUMENTS = (
    "Paris is the capital of France.",
    "A man is playing the guitar on a small stage.",
    "rice " * 2 * POSITIONS,
    "",
    "今天天气很好,我们去公园。東京は日本の首都です。",
    "He drove to the stadium; the train had been late (again).",
    "Paris",
)
# of every length, either text past the limit, both, and neither
PAIRS: tuple[tuple[str, str], ...] = (
    *((QUERY, document) for document in DOCUMENTS),
    ("The quick brown fox jumps over the lazy dog. " * POSITIONS, "a fox"),
    ("water " * POSITIONS, "rice and " * POSITIONS),
    ("water " * POSITIONS, "the crème brûlée " * (POSITIONS // 8)),
    ("", ""),
    ("Great job 😀", "  two  spaces,\ta tab and a line\nbreak "),
)
# T5, Gemma 3 and Qwen3 have no classifier here
ARCHITECTURES = (
    "bert",
    "distilbert",
    "albert",
    "electra",
    "deberta-v2",
    "roberta",
    "xlm-roberta",
    "mpnet",
    "modernbert",
)
# with token types and without, with a second separator between the texts, relative and rotary positions; one label and
# three, with prompts; layouts old and new
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("bert", {"prompts": {"query": "query: ", "long": "Rate this pair, please: "}}),
    "bert-3": ("bert", {"num_labels": 3}),
    "distilbert-3-legacy": ("distilbert", {"num_labels": 3, "activation": "Tanh", "layout": "legacy"}),
    "roberta-legacy": ("roberta", {"activation": "Identity", "layout": "legacy"}),
    "deberta": ("deberta-v2", {"activation": "Identity"}),
    "modernbert": ("modernbert", {"default_prompt_name": "query", "prompts": {"query": "query: "}}),
}
# scores of different pairs are at least this far apart somewhere, or equality would prove nothing
CLEARLY_DIFFERENT = 0.1


@pytest.fixture(scope="session")
def theirs() -> Load:
    """sentence-transformers on torch, loaded once per folder."""
    loaded: dict[Path, Oracle] = {}

    def load(folder: Path) -> Oracle:
        if folder not in loaded:
            loaded[folder] = Oracle(str(folder), device="cpu")
        return loaded[folder]

    return load


@pytest.fixture(scope="session")
def model_folder(exported: Exported) -> Callable[[str], Path]:
    """Folder of one of `MODELS`, with both plain files."""

    def find(name: str) -> Path:
        architecture, options = MODELS[name]
        return exported(architecture, kind="cross-encoder", **options)

    return find


def serve(folder: Path, engine: str, **options: Any) -> CrossEncoder:
    """Our model on one of `ENGINES`."""
    return CrossEncoder(folder, device="cpu", **ENGINES[engine], **options)


def largest_error(found: Any, expected: Any) -> float:
    """Largest difference of a score, relative to scores over 1."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    assert found.shape == expected.shape
    assert np.isfinite(expected).all()
    return float(np.nan_to_num(np.abs(found - expected) / np.maximum(1, np.abs(expected)), nan=np.inf).max())


@contextmanager
def _their_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


# ---- predict --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_labels", [1, 3])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_logits_of_every_architecture_equal_sentence_transformers(
    tiny: Tiny, theirs: Load, architecture: str, num_labels: int
) -> None:
    folder = tiny(architecture, kind="cross-encoder", num_labels=num_labels)
    expected = theirs(folder).predict(list(PAIRS), activation_fn=torch.nn.Identity())
    assert expected.std(axis=0).min() > CLEARLY_DIFFERENT
    found = serve(folder, "torch").predict(list(PAIRS), activation_fn="Identity")
    assert found.dtype == expected.dtype == np.float32
    assert largest_error(found, expected) <= TOLERANCES["torch"]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", MODELS)
def test_scores_equal_sentence_transformers(
    model_folder: Callable[[str], Path], theirs: Load, name: str, engine: str
) -> None:
    folder = model_folder(name)
    expected = theirs(folder).predict(list(PAIRS))
    assert np.ptp(expected, axis=0).min() > CLEARLY_DIFFERENT
    model = serve(folder, engine)
    found = model.predict(list(PAIRS))
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    assert model.num_labels == theirs(folder).num_labels
    assert largest_error(found, expected) <= TOLERANCES[engine]


@pytest.mark.parametrize("layout", ["current", "legacy", "oldest", "plain"])
@pytest.mark.parametrize(
    ("num_labels", "activation"), [(1, None), (1, "Identity"), (3, None), (3, "Sigmoid"), (2, "GELU")]
)
def test_every_layout_has_sentence_transformers_activation(
    tiny: Tiny, theirs: Load, num_labels: int, activation: str | None, layout: str
) -> None:
    folder = tiny("bert", kind="cross-encoder", num_labels=num_labels, activation=activation, layout=layout)
    model = serve(folder, "torch")
    assert model.activation_fn == type(theirs(folder).activation_fn).__name__
    assert largest_error(model.predict(list(PAIRS)), theirs(folder).predict(list(PAIRS))) <= 1e-5


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("num_labels", [1, 2])
def test_scores_of_a_dense_module_equal_sentence_transformers(
    exported: Exported, theirs: Load, num_labels: int, engine: str
) -> None:
    folder = exported("bert", kind="dense-cross-encoder", num_labels=num_labels)
    expected = theirs(folder).predict(list(PAIRS))
    found = serve(folder, engine).predict(list(PAIRS))
    assert largest_error(found, expected) <= TOLERANCES[engine]


def inputs_of_every_form() -> Sequence[Any]:
    pairs = PAIRS[:3]
    return [
        pairs[0],
        list(pairs[0]),
        np.array(pairs[0]),
        [pairs[0]],
        pairs,
        [list(pair) for pair in pairs],
        np.array(pairs),
        np.array(pairs, dtype=object),
        [],
        (),
        np.empty((0, 2), dtype="U1"),
    ]


@pytest.mark.parametrize("form", [{}, {"convert_to_tensor": True}, {"convert_to_numpy": False}], ids=str)
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", ["bert", "bert-3"])
def test_results_have_sentence_transformers_types_and_shapes(
    model_folder: Callable[[str], Path], theirs: Load, name: str, engine: str, form: dict[str, bool]
) -> None:
    folder = model_folder(name)
    model = serve(folder, engine)
    for inputs in inputs_of_every_form():
        expected, found = theirs(folder).predict(inputs, **form), model.predict(inputs, **form)
        assert type(found) is type(expected)
        pairs = zip(found, expected, strict=True) if isinstance(found, list) else [(found, expected)]
        for ours, wanted in pairs:
            assert type(ours) is type(wanted)
            assert (ours.dtype, ours.shape) == (wanted.dtype, wanted.shape)
            assert ours.shape[:1] == (0,) or largest_error(ours, wanted) <= TOLERANCES[engine]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("num_labels", [1, 3])
def test_scores_in_half_precision_equal_sentence_transformers(
    tiny: Tiny, num_labels: int, dtype: str
) -> None:
    folder = tiny("bert", kind="cross-encoder", num_labels=num_labels)
    expected = Oracle(str(folder), device="cpu", model_kwargs={"torch_dtype": getattr(torch, dtype)})
    model = CrossEncoder(folder, backend="torch", device="cpu", model_kwargs={"dtype": dtype})
    # the same arithmetic up to the activation, which is ours in float32
    rounding = float(torch.finfo(getattr(torch, dtype)).eps)
    for form in ({"convert_to_tensor": True}, {}):
        ours, wanted = (each.predict(list(PAIRS), batch_size=1, **form) for each in (model, expected))
        assert (ours.dtype, ours.shape) == (wanted.dtype, wanted.shape)
        values = [each.float() if form else each for each in (ours, wanted)]
        assert largest_error(*values) <= 8 * rounding


# ---- options --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("softmax", [False, True])
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", ["bert", "bert-3"])
def test_activations_and_softmax_equal_sentence_transformers(
    model_folder: Callable[[str], Path], theirs: Load, name: str, engine: str, softmax: bool
) -> None:
    folder = model_folder(name)
    model = serve(folder, engine)
    functions = [
        (None, None),
        ("ReLU", torch.nn.ReLU()),
        (Activation.SIGMOID, torch.nn.Sigmoid()),
        (torch.nn.LeakyReLU(0.5), torch.nn.LeakyReLU(0.5)),
        (torch.tanh, torch.tanh),
        (lambda x: 2 * x + 1, lambda x: 2 * x + 1),
        (lambda x: x[:, 0] - x[:, -1], lambda x: x[:, 0] - x[:, -1]),
    ]
    for ours, wanted in functions:
        expected = theirs(folder).predict(list(PAIRS), activation_fn=wanted, apply_softmax=softmax)
        found = model.predict(list(PAIRS), activation_fn=ours, apply_softmax=softmax)
        assert found.dtype == np.float32
        assert largest_error(found, expected) <= TOLERANCES[engine]


@pytest.mark.parametrize("engine", ENGINES)
def test_activation_of_the_model_equals_sentence_transformers(
    model_folder: Callable[[str], Path], engine: str
) -> None:
    folder = model_folder("bert")
    expected = Oracle(str(folder), device="cpu", activation_fn=torch.nn.Tanh()).predict(list(PAIRS))
    model = serve(folder, engine, activation_fn=torch.nn.Tanh())
    assert largest_error(model.predict(list(PAIRS)), expected) <= TOLERANCES[engine]
    model = serve(folder, engine)
    model.activation_fn = "Tanh"
    assert largest_error(model.predict(list(PAIRS)), expected) <= TOLERANCES[engine]


def test_weights_of_an_activation_are_not_trained(tiny: Tiny, theirs: Load) -> None:
    folder = tiny("bert", kind="cross-encoder", num_labels=3)
    layer = torch.nn.Linear(3, 2)
    expected = theirs(folder).predict(list(PAIRS), activation_fn=layer)
    found = serve(folder, "torch").predict(list(PAIRS), activation_fn=layer, convert_to_tensor=True)
    assert not found.requires_grad
    assert largest_error(found, expected) <= 1e-5


@pytest.mark.parametrize("engine", ENGINES)
def test_prompts_equal_sentence_transformers(
    model_folder: Callable[[str], Path], theirs: Load, engine: str
) -> None:
    folder = model_folder("bert")
    model = serve(folder, engine)
    bare = theirs(folder).predict(list(PAIRS))
    assert model.prompts == theirs(folder).prompts
    for options in ({"prompt_name": "query"}, {"prompt_name": "long"}, {"prompt": "Read: "}, {"prompt": ""}):
        expected = theirs(folder).predict(list(PAIRS), **options)
        assert options == {"prompt": ""} or np.abs(expected - bare).max() > CLEARLY_DIFFERENT / 10
        assert largest_error(model.predict(list(PAIRS), **options), expected) <= TOLERANCES[engine]
    folder = model_folder("modernbert")  # whose prompt is put before every query
    with_default, without = (
        theirs(folder).predict(list(PAIRS)),
        theirs(folder).predict(list(PAIRS), prompt=""),
    )
    assert np.abs(with_default - without).max() > CLEARLY_DIFFERENT / 10
    assert largest_error(serve(folder, engine).predict(list(PAIRS)), with_default) <= TOLERANCES[engine]


# down to the special tokens alone; RoBERTa has four, and fewer are an error in transformers
@pytest.mark.parametrize(
    ("architecture", "length"),
    [
        *(("bert", length) for length in (3, 4, 5, 8, 9, 20, 60, POSITIONS)),
        *(("roberta", length) for length in (5, 6, 9, 20)),
        *(("modernbert", length) for length in (4, 9, 20)),
    ],
)
def test_pairs_are_cut_where_sentence_transformers_cuts_them(
    tiny: Tiny, architecture: str, length: int
) -> None:
    folder = tiny(architecture, kind="cross-encoder", activation="Identity")
    expected = Oracle(str(folder), device="cpu", max_length=length).predict(list(PAIRS))
    model = serve(folder, "torch", max_length=length)
    assert model.max_seq_length == length
    assert largest_error(model.predict(list(PAIRS)), expected) <= 1e-5
    model = serve(folder, "torch")
    model.max_seq_length = length
    assert largest_error(model.predict(list(PAIRS)), expected) <= 1e-5


@pytest.mark.parametrize("engine", ENGINES)
def test_company_and_order_do_not_change_a_score(model_folder: Callable[[str], Path], engine: str) -> None:
    model = serve(model_folder("bert-3"), engine)
    alone = np.stack([model.predict(pair) for pair in PAIRS])
    for options in ({"batch_size": 1}, {"batch_size": 5}, {"max_batch_tokens": 300}):
        assert largest_error(model.predict(list(PAIRS), **options), alone) <= 1e-5
    assert largest_error(model.predict(list(PAIRS[::-1]))[::-1], alone) <= 1e-5


# ---- rank -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", ["bert", "roberta-legacy", "modernbert"])
def test_ranking_equals_sentence_transformers(
    model_folder: Callable[[str], Path], theirs: Load, name: str, engine: str
) -> None:
    folder = model_folder(name)
    model = serve(folder, engine)
    calls: list[dict[str, Any]] = [
        {},
        {"top_k": 3},
        {"top_k": 0},
        {"top_k": 100, "return_documents": True},
        {"prompt": "query: "},
        {"activation_fn": torch.nn.Identity()},
        {"apply_softmax": True},
        {"convert_to_tensor": True, "top_k": 2},
        {"convert_to_numpy": False, "top_k": 2},
    ]
    for options in calls:
        # two of the documents are the same: their order is that of the call
        documents = [*DOCUMENTS, DOCUMENTS[0]]
        expected = theirs(folder).rank(QUERY, documents, **options)
        found = model.rank(QUERY, documents, **options)
        assert [list(each) for each in found] == [list(each) for each in expected]
        assert [each["corpus_id"] for each in found] == [each["corpus_id"] for each in expected]
        assert [each.get("text") for each in found] == [each.get("text") for each in expected]
        scores = [[each["score"] for each in results] for results in (found, expected)]
        assert [type(score) for score in scores[0]] == [type(score) for score in scores[1]]
        assert not expected or largest_error(*scores) <= TOLERANCES[engine]
    assert model.rank(QUERY, []) == theirs(folder).rank(QUERY, []) == []


# ---- files travel both ways -----------------------------------------------------------------------------------------

FILES = {"onnx": "onnx/model.onnx", "openvino": "openvino/openvino_model.xml"}
THEIR_OPTIONS: dict[str, dict[str, Any]] = {
    "onnx": {"provider": "CPUExecutionProvider"},
    "openvino": {"ov_config": {"INFERENCE_PRECISION_HINT": "f32"}},
}


@pytest.mark.parametrize("backend", FILES)
@pytest.mark.parametrize("name", ["bert-3", "roberta-legacy"])
def test_sentence_transformers_serves_what_we_export(
    model_folder: Callable[[str], Path], theirs: Load, name: str, backend: str
) -> None:
    folder = model_folder(name)
    options = {**THEIR_OPTIONS[backend], "file_name": FILES[backend], "export": False}
    with _their_warnings():
        model = Oracle(str(folder), device="cpu", backend=backend, model_kwargs=options)
    expected = theirs(folder).predict(list(PAIRS))
    assert largest_error(model.predict(list(PAIRS)), expected) <= TOLERANCES[backend]


@pytest.mark.parametrize("backend", FILES)
def test_we_serve_what_sentence_transformers_exports(
    tiny: Tiny, theirs: Load, tmp_path: Path, backend: str
) -> None:
    source = tiny("bert", kind="cross-encoder", num_labels=3)
    with _their_warnings():
        model = Oracle(str(source), device="cpu", backend=backend, model_kwargs={"export": True})
        model.save_pretrained(str(tmp_path / "theirs"))
    assert (tmp_path / "theirs" / FILES[backend]).is_file()
    found = serve(tmp_path / "theirs", backend).predict(list(PAIRS))
    assert largest_error(found, theirs(source).predict(list(PAIRS))) <= TOLERANCES[backend]
