"""Sparse encoders, cross-encoders, tables and routers as data; and every refusal that is theirs."""

import json
import shutil
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from sentence_transformers import CrossEncoder, SentenceTransformer, SparseEncoder
from tiny import HIDDEN, POSITIONS
from tiny_kinds import STATIC_WIDTH

from stopt.errors import (
    CorruptModel,
    OptionError,
    SourceError,
    StoptError,
    UnsupportedModel,
    UntrustedModel,
)
from stopt.reading import read_spec
from stopt.spec import (
    Activation,
    Dense,
    ModelKind,
    ModelSpec,
    Normalize,
    Pooling,
    PoolingMode,
    SparseAutoEncoder,
    SparseStaticEmbedding,
    SpladePooling,
    StaticEmbedding,
    Task,
    TransformerSpec,
)

Tiny = Callable[..., Path]

SETTINGS = "config_sentence_transformers.json"
TABLE = "model.safetensors"
SPLADE = "1_SpladePooling/config.json"
WEIGHTS = "query_0_SparseStaticEmbedding/model.safetensors"
ROUTER = "router_config.json"
INNER_ROUTER = "2_Router/router_config.json"


def _edit(folder: Path, file: str, *removed: str, **changes: Any) -> Path:
    """Change and remove keys of a JSON file of the model."""
    path = folder / file
    values = json.loads(path.read_text()) if path.is_file() else {}
    kept = {key: value for key, value in values.items() if key not in removed}
    path.write_text(json.dumps({**kept, **changes}))
    return folder


def _set_type(folder: Path, position: int, kind: str) -> Path:
    entries = json.loads((folder / "modules.json").read_text())
    entries[position]["type"] = kind
    (folder / "modules.json").write_text(json.dumps(entries))
    return folder


def _refused(
    folder: Path, error: type[StoptError], match: str, hint: str, kind: ModelKind | None = None
) -> None:
    """Check that the folder is refused with this error, message and hint."""
    with pytest.raises(error, match=match) as caught:
        read_spec(folder, kind)
    assert hint in caught.value.hint


def _head(spec: ModelSpec) -> tuple[Task, int | None]:
    assert isinstance(spec.front, TransformerSpec)
    return spec.front.task, spec.front.head_size


# ---- SPLADE ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["current", "legacy"])
@pytest.mark.parametrize("architecture", ["bert", "distilbert", "modernbert"])
def test_splade_reads_as_sentence_transformers_does(tiny: Tiny, architecture: str, layout: str) -> None:
    folder = tiny(architecture, kind="splade", layout=layout, prompts={"query": "q: "})
    ours, theirs = read_spec(folder), SparseEncoder(str(folder), device="cpu")
    width = theirs.encode("text").shape[0]
    assert (ours.kind, ours.similarity) == (ModelKind.SPARSE, theirs.similarity_fn_name)
    assert _head(ours) == (Task.MASKED_LM, width)
    assert (ours.embedding_dimension, ours.tokenizer.max_seq_length) == (width, theirs.max_seq_length)
    assert ours.prompts["query"] == theirs.prompts["query"] == "q: "
    assert ours.modules == (SpladePooling(),)


@pytest.mark.parametrize(("strategy", "maximum"), [("max", True), ("sum", False)])
@pytest.mark.parametrize(("activation", "double"), [("relu", False), ("log1p_relu", True)])
def test_splade_pooling_is_read(
    tiny_copy: Tiny, strategy: str, maximum: bool, activation: str, double: bool
) -> None:
    folder = tiny_copy(kind="splade")
    _edit(folder, SPLADE, pooling_strategy=strategy, activation_function=activation)
    assert read_spec(folder).modules == (SpladePooling(maximum=maximum, double_log=double),)
    _edit(folder, SPLADE, "embedding_dimension", word_embedding_dimension=None)
    assert read_spec(folder).modules == (SpladePooling(maximum=maximum, double_log=double),)


def test_splade_pooling_that_says_nothing_is_max_of_relu(tiny_copy: Tiny) -> None:
    folder = _edit(tiny_copy(kind="splade"), SPLADE, "pooling_strategy", "activation_function")
    assert read_spec(folder).modules == (SpladePooling(),)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"pooling_strategy": "maxx"}, r"the pooling strategy 'maxx' \(did you mean 'max'\?\)"),
        ({"activation_function": "relu2"}, r"the activation 'relu2' \(did you mean 'relu'\?\)"),
    ],
    ids=str,
)
def test_unknown_splade_pooling_is_refused(tiny_copy: Tiny, changes: Any, match: str) -> None:
    _refused(_edit(tiny_copy(kind="splade"), SPLADE, **changes), UnsupportedModel, match, "SpladePooling")


def test_a_masked_language_model_is_dense_unless_it_is_to_be_sparse(tiny: Tiny) -> None:
    """As sentence-transformers' two classes have it."""
    folder = tiny(kind="splade", layout="plain")
    dense, sparse = read_spec(folder), read_spec(folder, ModelKind.SPARSE)
    assert (dense.kind, dense.modules) == (ModelKind.DENSE, (Pooling((PoolingMode.MEAN,)),))
    assert _head(dense) == (Task.FEATURES, None)
    assert (sparse.kind, sparse.modules, sparse.similarity) == (ModelKind.SPARSE, (SpladePooling(),), "dot")
    assert SparseEncoder(str(folder), device="cpu")[1].pooling_strategy == "max"
    assert _head(sparse) == (Task.MASKED_LM, sparse.embedding_dimension)


def test_without_settings_the_modules_tell_the_kind(tiny_copy: Tiny) -> None:
    folder = tiny_copy(kind="splade")
    (folder / SETTINGS).unlink()
    spec = read_spec(folder)
    assert (spec.kind, spec.similarity, spec.prompts) == (ModelKind.SPARSE, "dot", {})


@pytest.mark.parametrize("size", [None, 0, "many", True])
def test_a_vocabulary_without_a_size_is_corrupt(tiny_copy: Tiny, size: Any) -> None:
    folder = _edit(tiny_copy(kind="splade"), "config.json", vocab_size=size)
    _refused(folder, CorruptModel, "vocab_size is .*, expected a positive whole number", "")


def test_logits_that_nothing_pools_are_refused(tiny_copy: Tiny) -> None:
    folder = tiny_copy(kind="splade")
    entries = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps(entries[:1]))
    _refused(folder, UnsupportedModel, "no Pooling or SpladePooling module", "")


# ---- sparse autoencoders --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["current", "legacy"])
def test_a_sparse_autoencoder_is_read(tiny: Tiny, layout: str) -> None:
    spec = read_spec(tiny(kind="csr", dense=16, k=4, normalize=True, layout=layout))
    assert (spec.kind, spec.embedding_dimension, spec.similarity) == (ModelKind.SPARSE, 48, "dot")
    assert spec.modules[1:] == (
        Dense("2_Dense", HIDDEN, 16),
        SparseAutoEncoder("3_SparseAutoEncoder", 16, 48, 4, normalize=True),
    )


def test_its_former_name_is_known(tiny_copy: Tiny) -> None:
    folder = _set_type(tiny_copy(kind="csr"), 2, "sentence_transformers.sparse_encoder.models.CSRSparsity")
    (folder / SETTINGS).unlink()
    assert isinstance(read_spec(folder).modules[-1], SparseAutoEncoder)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"k": 49}, "keeps 49 of 48 values"),
        ({"k": 0}, "k is 0, expected a positive whole number"),
        ({"input_dim": 7}, "SparseAutoEncoder expects 7 values and gets 32"),
        ({"normalize": "yes"}, "normalize is 'yes', expected true or false"),
    ],
    ids=str,
)
def test_a_sparse_autoencoder_that_cannot_be_is_corrupt(tiny_copy: Tiny, changes: Any, match: str) -> None:
    _refused(
        _edit(tiny_copy(kind="csr"), "2_SparseAutoEncoder/config.json", **changes), CorruptModel, match, ""
    )


# ---- cross-encoders -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("labels", [1, 3])
@pytest.mark.parametrize("layout", ["current", "legacy", "oldest", "plain"])
@pytest.mark.parametrize("activation", [None, "Sigmoid", "Identity"])
def test_a_cross_encoder_reads_as_sentence_transformers_does(
    tiny: Tiny, labels: int, layout: str, activation: str | None
) -> None:
    folder = tiny(kind="cross-encoder", num_labels=labels, layout=layout, activation=activation)
    ours, theirs = read_spec(folder), CrossEncoder(str(folder), device="cpu")
    assert ours.kind is ModelKind.CROSS_ENCODER
    assert ours.activation == type(theirs.activation_fn).__name__
    assert ours.embedding_dimension == theirs.num_labels == labels
    assert _head(ours) == (Task.CLASSIFICATION, labels)
    assert ours.tokenizer.max_seq_length == theirs.max_length == POSITIONS
    assert ours.modules == ()


@pytest.mark.parametrize(
    ("changes", "removed"),
    [
        ({}, ["id2label"]),
        ({"num_labels": 5}, ["id2label"]),
        ({"num_labels": 5}, []),
        ({"architectures": None}, []),
        ({"architectures": ["BertModel"]}, []),
    ],
    ids=str,
)
def test_labels_are_counted_as_sentence_transformers_does(
    tiny_copy: Tiny, changes: Any, removed: list[str]
) -> None:
    folder = _edit(tiny_copy(kind="cross-encoder", num_labels=3), "config.json", *removed, **changes)
    labels = read_spec(folder).embedding_dimension
    (folder / "model.safetensors").unlink()
    from transformers import AutoConfig, BertForSequenceClassification

    config = AutoConfig.from_pretrained(folder)
    config.num_labels = labels
    shutil.move(folder / "config.json", folder / "kept")
    BertForSequenceClassification(config).save_pretrained(folder)
    shutil.move(folder / "kept", folder / "config.json")
    assert CrossEncoder(str(folder), device="cpu").num_labels == labels


def test_an_activation_in_the_settings_wins_over_the_config(tiny_copy: Tiny) -> None:
    folder = tiny_copy(kind="cross-encoder", activation="Sigmoid")
    _edit(folder, "config.json", sentence_transformers={"activation_fn": "torch.nn.Tanh"})
    assert read_spec(folder).activation is Activation.SIGMOID
    _edit(folder, SETTINGS, activation_fn=None)
    theirs = CrossEncoder(str(folder), device="cpu").activation_fn
    assert read_spec(folder).activation == Activation.TANH == type(theirs).__name__


@pytest.mark.parametrize("layout", ["current", "legacy"])
def test_an_activation_that_is_code_is_not_trusted(tiny_copy: Tiny, layout: str) -> None:
    folder = tiny_copy(kind="cross-encoder", layout=layout, activation="Sigmoid")
    if layout == "current":
        _edit(folder, SETTINGS, activation_fn="os.system")
    else:
        _edit(folder, "config.json", sentence_transformers={"activation_fn": "os.system"})
    _refused(folder, UntrustedModel, "import the activation function 'os.system'", "classes of torch.nn")


def test_a_dense_module_may_write_the_scores(tiny: Tiny) -> None:
    folder = tiny(kind="dense-cross-encoder", num_labels=2)
    spec = read_spec(folder)
    dense = spec.modules[1]
    assert isinstance(dense, Dense)
    assert (dense.target, spec.embedding_dimension, spec.feature) == ("scores", 2, "scores")
    assert spec.activation == type(CrossEncoder(str(folder), device="cpu").activation_fn).__name__


def test_a_cross_encoder_without_scores_is_refused(tiny_copy: Tiny) -> None:
    folder = _edit(tiny_copy(), SETTINGS, model_type="CrossEncoder")
    _refused(folder, UnsupportedModel, "nothing in it makes scores", "")


def test_rerankers_that_are_language_models_are_refused_with_the_reason(tiny_copy: Tiny) -> None:
    folder = tiny_copy("qwen3", modules_json=False)
    why = "does 'text-generation', which needs chat templates and a graph that generates text"
    _refused(folder, UnsupportedModel, why, "stopt runs", ModelKind.CROSS_ENCODER)
    folder = _set_type(tiny_copy(), 1, "sentence_transformers.cross_encoder.modules.logit_score.LogitScore")
    _edit(folder, SETTINGS, model_type="CrossEncoder")
    _edit(folder, "sentence_bert_config.json", transformer_task="text-generation")
    _refused(folder, UnsupportedModel, "module LogitScore .reranking with a language model", "stopt runs")


# ---- tables ---------------------------------------------------------------------------------------------------------


def test_a_table_is_read_from_its_header(tiny: Tiny) -> None:
    folder = tiny(kind="static", normalize=True, dense=8)
    spec, theirs = read_spec(folder), SentenceTransformer(str(folder), device="cpu")
    rows = theirs[0].embedding.num_embeddings
    assert spec.front == StaticEmbedding("", "embedding.weight", rows, STATIC_WIDTH)
    assert (spec.kind, spec.embedding_dimension) == (ModelKind.DENSE, 8)
    assert spec.modules == (Dense("1_Dense", STATIC_WIDTH, 8), Normalize())
    assert (spec.tokenizer.max_seq_length, spec.tokenizer.add_special_tokens) == (None, False)


@pytest.mark.parametrize("layout", ["model2vec", "plain"])
@pytest.mark.parametrize("normalize", [True, False])
def test_the_layouts_of_model2vec_are_read(tiny: Tiny, layout: str, normalize: bool) -> None:
    spec = read_spec(tiny(kind="static", layout=layout, normalize=normalize))
    assert isinstance(spec.front, StaticEmbedding)
    assert (spec.front.path, spec.front.tensor, spec.front.width) == ("", "embeddings", STATIC_WIDTH)
    assert spec.modules == ((Normalize(),) if normalize else ())


def test_a_limit_in_tokenizer_json_is_read(tiny_copy: Tiny) -> None:
    folder = tiny_copy(kind="static", truncation=5)
    assert read_spec(folder).tokenizer.max_seq_length == 5
    file = "tokenizer.json"
    cut = {"direction": "Left", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    spec = read_spec(_edit(folder, file, truncation=cut)).tokenizer
    assert (spec.max_seq_length, spec.truncation_side) == (4, "left")
    _edit(folder, file, truncation={**cut, "strategy": "OnlySecond"})
    _refused(folder, UnsupportedModel, "cuts the second text of a pair only", "")
    _refused(
        _edit(folder, file, truncation="yes"), CorruptModel, "'truncation' is 'yes', expected an object", ""
    )
    (folder / file).unlink()
    _refused(folder, SourceError, r"tokenizer\.json is missing", "fetch the model again")


def test_reading_a_table_reads_no_values(tiny_copy: Tiny) -> None:
    folder = tiny_copy(kind="static")
    path = folder / TABLE
    before = path.read_bytes()
    path.write_bytes(before[:-400] + b"\xff" * 400)
    assert read_spec(folder).embedding_dimension == STATIC_WIDTH


@pytest.mark.parametrize(
    ("extra", "match"),
    [
        ({"mapping": torch.zeros(9, dtype=torch.int64)}, r"tokens that share rows .model2vec's vocabulary"),
        ({"weights": torch.zeros(9)}, "a weight per token beside the table"),
        ({"embeddings": torch.zeros(9, 3, dtype=torch.int8)}, "a table of I8 values"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else None,
)
def test_tables_of_model2vec_that_would_give_other_vectors_are_refused(
    tiny_copy: Tiny, extra: dict[str, torch.Tensor], match: str
) -> None:
    folder = tiny_copy(kind="static", layout="model2vec")
    path = folder / "model.safetensors"
    save_file({**load_file(path), **extra}, path)
    _refused(folder, UnsupportedModel, match, "StaticEmbedding")


def test_a_table_that_is_a_pickle_is_refused(tiny_copy: Tiny) -> None:
    folder = tiny_copy(kind="static")
    (folder / TABLE).rename((folder / TABLE).with_name("pytorch_model.bin"))
    _refused(folder, UnsupportedModel, "only as a pickle", "")


def test_a_table_that_is_not_there_is_named(tiny_copy: Tiny) -> None:
    folder = tiny_copy(kind="static")
    (folder / TABLE).unlink()
    _refused(folder, SourceError, r"model\.safetensors is missing", "fetch the model again, weights included")


def _header(**tensor: Any) -> bytes:
    text = json.dumps({"embedding.weight": tensor}).encode()
    return struct.pack("<Q", len(text)) + text


GOOD = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x05",
        struct.pack("<Q", 2**60) + b"{}",
        struct.pack("<Q", 4) + b"nope",
        struct.pack("<Q", 2) + b"[]",
        _header(**GOOD),
        _header(**{**GOOD, "data_offsets": [-8, 0]}) + b"0" * 16,
        _header(**{**GOOD, "shape": ["2", 2]}) + b"0" * 16,
        _header(**{**GOOD, "shape": [2, 3]}) + b"0" * 16,
        _header(**{**GOOD, "shape": [2**40, 2**40]}) + b"0" * 16,
        _header(dtype="F32") + b"0" * 16,
        _header(**GOOD)[:20],
    ],
    ids=[
        "empty",
        "a byte",
        "long",
        "no JSON",
        "list",
        "cut",
        "before",
        "texts",
        "size",
        "huge",
        "keys",
        "short",
    ],
)
def test_a_table_that_is_cut_short_is_corrupt(tiny_copy: Tiny, data: bytes) -> None:
    folder = tiny_copy(kind="static")
    (folder / TABLE).write_bytes(data)
    _refused(folder, CorruptModel, "is not a safetensors file, or cut short", "fetch the file again")


def test_the_weights_of_another_model_are_no_table(tiny_copy: Tiny, tiny: Tiny) -> None:
    folder = tiny_copy(kind="static")
    shutil.copy(tiny() / "model.safetensors", folder / TABLE)
    _refused(
        folder, CorruptModel, "has no table embedding.weight or embeddings; it has", "another kind of model"
    )


def test_a_table_after_another_module_is_refused(tiny_copy: Tiny) -> None:
    folder = _set_type(tiny_copy(), 1, "sentence_transformers.models.StaticEmbedding")
    _refused(folder, UnsupportedModel, "StaticEmbedding after another module", "")


# ---- routers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["current", "legacy"])
def test_an_inference_free_model_is_read_route_by_route(tiny: Tiny, layout: str) -> None:
    folder = tiny(kind="inference-free", layout=layout, max_seq_length=40)
    spec, theirs = read_spec(folder), SparseEncoder(str(folder), device="cpu")
    query, document = spec.routes["query"], spec.routes["document"]
    width = theirs.encode_query("text").shape[0]
    assert query.front == SparseStaticEmbedding("query_0_SparseStaticEmbedding", width)
    assert (query.modules, query.embedding_dimension) == ((), width)
    assert (query.tokenizer.max_seq_length, query.tokenizer.add_special_tokens) == (40, False)
    assert (document.modules, _head(document)) == ((SpladePooling(),), (Task.MASKED_LM, width))
    assert (spec.kind, spec.front, spec.modules) == (ModelKind.SPARSE, document.front, document.modules)
    assert (spec.default_route, spec.similarity) == (theirs[0].default_route, "dot")


@pytest.mark.parametrize("layout", ["current", "legacy"])
def test_modules_around_a_router_belong_to_every_route(tiny: Tiny, layout: str) -> None:
    folder = tiny(kind="router", normalize=True, layout=layout)
    spec = read_spec(folder)
    names = {task: [type(each).__name__ for each in route.modules] for task, route in spec.routes.items()}
    assert names == {
        "query": ["Pooling", "Dense", "Normalize"],
        "document": ["Pooling", "Dense", "Dense", "Normalize"],
    }
    assert spec.routes["query"].front is not None
    assert spec.routes["query"].front == spec.routes["document"].front == spec.front
    assert spec.modules == spec.routes["document"].modules


ROUTES: list[tuple[dict[str, Any], str]] = [
    ({}, "the first is the default"),
    ({"default_route": "document"}, "stated default"),
    ({"allow_empty_key": False}, "no default"),
    ({"allow_empty_key": False, "default_route": "document"}, "stated default, no empty key"),
    ({"route_mappings": {("query", "text"): "document"}}, "task and modality"),
    ({"route_mappings": {("search", None): "query"}}, "a task of its own"),
    ({"route_mappings": {(None, "text"): "document"}}, "modality"),
    ({"route_mappings": {(None, None): "query"}}, "everything"),
    ({"route_mappings": {("query", "image"): "document"}}, "another modality"),
    ({"route_mappings": {("query", ("image", "text")): "document"}}, "several modalities"),
]


@pytest.mark.parametrize("options", [options for options, _ in ROUTES], ids=[name for _, name in ROUTES])
def test_routes_are_resolved_as_sentence_transformers_does(tiny: Tiny, options: dict[str, Any]) -> None:
    folder = tiny(kind="router", **options)
    spec, router = read_spec(folder), SentenceTransformer(str(folder), device="cpu")[2]
    mapped = [task for task, _ in options.get("route_mappings", {}) if task]
    for task in ("query", "document", *mapped):
        try:
            route = router._resolve_route(task, "text")
        except ValueError:
            assert task not in spec.routes
            continue
        assert len(spec.routes[task].modules) == 1 + len(router.sub_modules[route]), task
    try:
        route = router._resolve_route(None, "text")
    except ValueError:
        assert spec.default_route is None
    else:
        assert spec.default_route is not None
        assert len(spec.routes[spec.default_route].modules) == 1 + len(router.sub_modules[route])


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"structure": {}}, "has no 'types' and 'structure'"),
        ({"types": None}, "has no 'types' and 'structure'"),
        ({"structure": {"query": []}}, "has the route 'query' without modules"),
        ({"structure": {"query": ["other"]}}, "has no type for the module 'other'"),
        ({"parameters": {"default_route": "passage"}}, "names the route 'passage'; it has query, document"),
        ({"parameters": {"route_mappings": {"('a', 'text')": "x"}}}, "names the route 'x'"),
        ({"parameters": {"route_mappings": {"__import__('os')": "query"}}}, "has the route mapping"),
        ({"parameters": {"route_mappings": {"(" * 300: "query"}}}, "has the route mapping"),
        ({"parameters": {"route_mappings": {"(1, 'text')": "query"}}}, r"expected .\('task', 'modality'\)"),
        ({"parameters": {"allow_empty_key": "yes"}}, "allow_empty_key is 'yes', expected true or false"),
    ],
    ids=str,
)
def test_a_router_that_makes_no_sense_is_corrupt(tiny_copy: Tiny, changes: Any, match: str) -> None:
    _refused(_edit(tiny_copy(kind="router"), INNER_ROUTER, **changes), CorruptModel, match, "")


@pytest.mark.parametrize(
    ("kind", "error", "match"),
    [
        ("sentence_transformers.models.Router", UnsupportedModel, "a Router inside of a Router"),
        ("sentence_transformers.models.WordWeights", UnsupportedModel, "module WordWeights"),
        ("sentence_transformers.models.Transformer", UnsupportedModel, "a second Transformer module"),
        ("os.path.join", UntrustedModel, "wants to import 'os.path.join'"),
    ],
)
def test_modules_of_a_route_are_checked_like_any(
    tiny_copy: Tiny, kind: str, error: type[StoptError], match: str
) -> None:
    folder = tiny_copy(kind="router")
    types = json.loads((folder / INNER_ROUTER).read_text())["types"]
    _edit(folder, INNER_ROUTER, types={**types, next(iter(types)): kind})
    _refused(folder, error, match, "")


def test_a_route_may_not_leave_the_folder(tiny_copy: Tiny) -> None:
    folder = tiny_copy(kind="inference-free")
    names = {"query": ["../x"]}
    _edit(folder, ROUTER, structure=names, types={"../x": "sentence_transformers.models.Dense"})
    _refused(folder, UntrustedModel, "leaves the model folder", "inside its own folder")


def test_weights_of_tokens_in_another_place_are_refused(tiny_copy: Tiny) -> None:
    folder = tiny_copy(kind="inference-free")
    _edit(folder, "query_0_SparseStaticEmbedding/config.json", path="idf.json")
    _refused(folder, UnsupportedModel, "has its weights in a JSON file elsewhere", "")


def test_weights_of_tokens_that_are_none_are_corrupt(tiny_copy: Tiny) -> None:
    folder = tiny_copy(kind="inference-free")
    save_file({"weight": torch.zeros(3, 3)}, folder / WEIGHTS)
    _refused(
        folder, CorruptModel, r"tensor weight is F32 \(3, 3\), expected one float per token", "another kind"
    )


def test_former_names_of_sparse_modules_are_known(tiny_copy: Tiny) -> None:
    folder = tiny_copy(kind="inference-free")
    types = json.loads((folder / ROUTER).read_text())["types"]
    first = next(iter(types))
    _edit(folder, ROUTER, types={**types, first: "sentence_transformers.sparse_encoder.models.IDF"})
    assert isinstance(read_spec(folder).routes["query"].front, SparseStaticEmbedding)


# ---- the kind that is wanted ----------------------------------------------------------------------------------------

KINDS: list[tuple[dict[str, Any], ModelKind]] = [
    ({}, ModelKind.DENSE),
    ({"modules_json": False}, ModelKind.DENSE),
    ({"kind": "static"}, ModelKind.DENSE),
    ({"kind": "static", "layout": "plain"}, ModelKind.DENSE),
    ({"kind": "router"}, ModelKind.DENSE),
    ({"kind": "splade"}, ModelKind.SPARSE),
    ({"kind": "csr"}, ModelKind.SPARSE),
    ({"kind": "inference-free"}, ModelKind.SPARSE),
    ({"kind": "cross-encoder"}, ModelKind.CROSS_ENCODER),
    ({"kind": "cross-encoder", "layout": "legacy"}, ModelKind.CROSS_ENCODER),
    ({"kind": "cross-encoder", "layout": "plain"}, ModelKind.CROSS_ENCODER),
    ({"kind": "dense-cross-encoder"}, ModelKind.CROSS_ENCODER),
]
NAMES = {
    ModelKind.DENSE: ("a dense embedding model", "SentenceTransformer"),
    ModelKind.SPARSE: ("a sparse encoder", "SparseEncoder"),
    ModelKind.CROSS_ENCODER: ("a cross-encoder", "CrossEncoder"),
}


@pytest.mark.parametrize(("options", "found"), KINDS, ids=str)
@pytest.mark.parametrize("wanted", ModelKind)
def test_a_model_of_another_kind_says_what_to_open_it_with(
    tiny: Tiny, options: dict[str, Any], found: ModelKind, wanted: ModelKind
) -> None:
    folder = tiny(**options)
    if wanted is found:
        assert read_spec(folder, wanted) == read_spec(folder)
        return
    name, opener = NAMES[found]
    _refused(
        folder,
        OptionError,
        f"is {name}, not {NAMES[wanted][0]}",
        f"open it with {opener}, or leave out --kind",
        wanted,
    )


def test_sparse_modules_in_a_dense_model_are_refused(tiny_copy: Tiny) -> None:
    folder = _edit(tiny_copy(kind="csr"), SETTINGS, model_type="SentenceTransformer")
    _refused(folder, UnsupportedModel, "SparseAutoEncoder .of a sparse encoder, in a dense model", "")


# ---- wrong values ---------------------------------------------------------------------------------------------------

WRONG = [
    None,
    True,
    -1,
    1.5,
    "x",
    "",
    [],
    ["x"],
    {},
    {"x": "y"},
    [[]],
    {"query": ["x"]},
    {"activation_fn": 3},
]
OTHERS: list[dict[str, Any]] = [
    {"kind": "splade"},
    {"kind": "csr"},
    {"kind": "inference-free"},
    {"kind": "router"},
    {"kind": "static"},
    {"kind": "static", "layout": "plain"},
    {"kind": "cross-encoder"},
    {"kind": "cross-encoder", "layout": "legacy", "activation": "Sigmoid"},
]


@settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
@given(data=st.data())
def test_a_wrong_value_anywhere_is_read_or_refused_but_never_a_crash(
    tiny: Tiny, tiny_copy: Tiny, data: st.DataObject
) -> None:
    options = data.draw(st.sampled_from(OTHERS))
    source = tiny(**options)
    files = sorted(
        str(path.relative_to(source)) for path in source.rglob("*.json") if path.name != "modules.json"
    )
    file = data.draw(st.sampled_from(files))
    key = data.draw(st.sampled_from(sorted(json.loads((source / file).read_text())) or ["x"]))
    folder = tiny_copy(**options)
    _edit(folder, file, **{key: data.draw(st.sampled_from(WRONG))})
    with suppress(StoptError):
        assert isinstance(read_spec(folder), ModelSpec)
    shutil.rmtree(folder)
