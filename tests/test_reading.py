"""Model folders as data: every layout there is, and every refusal with its message and hint."""

import json
import re
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformer as Reference
from tiny import ARCHITECTURES, HIDDEN, POSITIONS

from stopt.errors import CorruptModel, SourceError, StoptError, UnsupportedModel, UntrustedModel
from stopt.reading import read_spec
from stopt.spec import Activation, Dense, LayerNorm, ModelSpec, Normalize, Pooling, PoolingMode, merge_prompts

Tiny = Callable[..., Path]

SETTINGS = "config_sentence_transformers.json"
BERT = "sentence_bert_config.json"
TOKENIZER = "tokenizer_config.json"
POOLING = "1_Pooling/config.json"
DENSE = "2_Dense/config.json"


def _edit(folder: Path, file: str, *removed: str, **changes: Any) -> Path:
    """Change and remove keys of a JSON file of the model."""
    path = folder / file
    values = json.loads(path.read_text()) if path.is_file() else {}
    kept = {key: value for key, value in values.items() if key not in removed}
    path.write_text(json.dumps({**kept, **changes}))
    return folder


def _write(folder: Path, file: str, value: Any) -> Path:
    (folder / file).write_text(value if isinstance(value, str) else json.dumps(value))
    return folder


def _set_types(folder: Path, *types: Any) -> Path:
    """Give the modules other types, in order."""
    entries = json.loads((folder / "modules.json").read_text())
    for entry, kind in zip(entries, types, strict=False):
        entry["type"] = kind
    return _write(folder, "modules.json", entries)


def _add_module(folder: Path, kind: str, path: str) -> Path:
    entries = json.loads((folder / "modules.json").read_text())
    entries.append({"idx": len(entries), "name": str(len(entries)), "path": path, "type": kind})
    return _write(folder, "modules.json", entries)


def _refused(folder: Path, kind: type[StoptError], match: str, hint: str) -> StoptError:
    """Check that the folder is refused with this error, message and hint."""
    with pytest.raises(kind, match=match) as caught:
        read_spec(folder)
    assert hint in caught.value.hint
    return caught.value


def _reference(folder: Path) -> Reference:
    return Reference(str(folder), device="cpu")


# ---- layouts --------------------------------------------------------------------------------------------------------

MODULES = {"dense": 8, "layer_norm": True, "dropout": True, "normalize": True}


@pytest.mark.parametrize("layout", ["current", "legacy"])
def test_modules_are_read_in_order_from_both_layouts(tiny: Tiny, layout: str) -> None:
    spec = read_spec(tiny("bert", layout=layout, **MODULES))
    assert spec.modules == (
        Pooling((PoolingMode.MEAN,)),
        Dense("3_Dense", HIDDEN, 8),
        LayerNorm("4_LayerNorm", 8),
        Normalize(),
    )


@pytest.mark.parametrize("layout", ["current", "legacy"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_reads_as_sentence_transformers_does(
    tiny: Tiny, architecture: str, layout: str
) -> None:
    folder = tiny(architecture, layout=layout)
    ours, theirs = read_spec(folder), _reference(folder)
    read = (ours.tokenizer.max_seq_length, ours.embedding_dimension, ours.similarity)
    assert read == (
        theirs.max_seq_length,
        theirs.get_sentence_embedding_dimension(),
        theirs.similarity_fn_name,
    )


@pytest.mark.parametrize(
    "path",
    [
        "sentence_transformers.models.Pooling",
        "sentence_transformers.models.Pooling.Pooling",
        "sentence_transformers.models.pooling.Pooling",
        "sentence_transformers.sentence_transformer.modules.Pooling",
        "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
    ],
)
def test_a_module_is_known_by_every_path_it_ever_had(tiny_copy: Tiny, path: str) -> None:
    folder = _set_types(tiny_copy(), "sentence_transformers.models.Transformer", path)
    assert read_spec(folder).modules == (Pooling((PoolingMode.MEAN,)),)


def test_normalize_of_the_newest_layout_is_read(tiny_copy: Tiny) -> None:
    folder = _add_module(tiny_copy(), "sentence_transformers.base.modules.normalize.Normalize", "2_Normalize")
    (folder / "2_Normalize").mkdir()
    _write(folder, "2_Normalize/config.json", {"module_input_name": "sentence_embedding"})
    assert read_spec(folder).modules[-1] == Normalize()


def test_normalize_needs_no_folder(tiny_copy: Tiny) -> None:
    folder = tiny_copy(normalize=True)
    shutil.rmtree(folder / "2_Normalize")
    assert read_spec(folder).modules[-1] == Normalize()


@pytest.mark.parametrize(
    ("architectures", "is_causal", "mode"),
    [
        (["BertModel"], None, PoolingMode.MEAN),
        (["Qwen3ForCausalLM"], None, PoolingMode.LAST_TOKEN),
        (["Qwen3ForCausalLM"], True, PoolingMode.LAST_TOKEN),
        (["Qwen3ForCausalLM"], False, PoolingMode.MEAN),
        (None, None, PoolingMode.MEAN),
        ([], None, PoolingMode.MEAN),
    ],
)
def test_a_folder_without_modules_is_pooled_by_its_architecture(
    tiny_copy: Tiny, architectures: Any, is_causal: bool | None, mode: PoolingMode
) -> None:
    folder = tiny_copy("bert", modules_json=False)
    _edit(folder, "config.json", architectures=architectures)
    if is_causal is not None:
        _edit(folder, "config.json", is_causal=is_causal)
    assert read_spec(folder).modules == (Pooling((mode,)),)


@pytest.mark.parametrize("architecture", ["bert", "qwen3"])
def test_a_folder_without_modules_is_pooled_as_in_sentence_transformers(
    tiny: Tiny, architecture: str
) -> None:
    folder = tiny(architecture, modules_json=False)
    assert read_spec(folder).modules == (Pooling((PoolingMode(_reference(folder)[1].pooling_mode),)),)


def test_a_transformer_in_a_subfolder_is_read_there(tiny_copy: Tiny) -> None:
    folder = tiny_copy(layout="legacy", max_seq_length=40)
    (folder / "0_Transformer").mkdir()
    for file in [
        *folder.glob("*token*"),
        folder / BERT,
        folder / "config.json",
        folder / "model.safetensors",
    ]:
        file.rename(folder / "0_Transformer" / file.name)
    entries = json.loads((folder / "modules.json").read_text())
    entries[0]["path"] = "0_Transformer"
    spec = read_spec(_write(folder, "modules.json", entries))
    read = (spec.transformer.path, spec.tokenizer.path, spec.tokenizer.max_seq_length)
    assert read == ("0_Transformer", "0_Transformer", 40)


def test_a_hub_snapshot_of_links_into_blobs_is_read(tiny: Tiny, tmp_path: Path) -> None:
    source, snapshot = tiny(), tmp_path / "snapshots" / "abc"
    (tmp_path / "blobs").mkdir()
    for number, file in enumerate(path for path in source.rglob("*") if path.is_file()):
        link = snapshot / file.relative_to(source)
        link.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, tmp_path / "blobs" / str(number))
        link.symlink_to(tmp_path / "blobs" / str(number))
    assert read_spec(snapshot) == read_spec(source)


def test_the_real_minilm_is_read(minilm: Path) -> None:
    spec = read_spec(minilm)
    read = (spec.modules, spec.embedding_dimension, spec.tokenizer.max_seq_length)
    assert read == ((Pooling((PoolingMode.MEAN,)), Normalize()), 384, 256)


# ---- pooling --------------------------------------------------------------------------------------------------------


def _modes(folder: Path) -> tuple[PoolingMode, ...]:
    (pooling,) = read_spec(folder).modules
    assert isinstance(pooling, Pooling)
    return pooling.modes


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, ["mean"]),
        ({"pooling_mode_cls_token": True}, ["cls"]),
        ({"pooling_mode_mean_tokens": False}, ["mean"]),
        (
            {
                "pooling_mode_lasttoken": True,
                "pooling_mode_weightedmean_tokens": True,
                "pooling_mode_mean_sqrt_len_tokens": True,
                "pooling_mode_mean_tokens": True,
                "pooling_mode_max_tokens": True,
                "pooling_mode_cls_token": True,
            },
            ["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"],
        ),
        ({"pooling_mode": "max", "pooling_mode_cls_token": True}, ["max"]),
        ({"pooling_mode": "cls"}, ["cls"]),
        ({"pooling_mode": ["cls"]}, ["cls"]),
        ({"pooling_mode": ["max", "cls"]}, ["max", "cls"]),
    ],
    ids=str,
)
def test_pooling_modes_are_read_as_sentence_transformers_does(
    tiny_copy: Tiny, config: dict[str, Any], expected: list[str]
) -> None:
    folder = _write(tiny_copy(), POOLING, {"word_embedding_dimension": HIDDEN, **config})
    theirs = _reference(folder)[1].pooling_mode
    assert [str(mode) for mode in _modes(folder)] == expected
    assert list([theirs] if isinstance(theirs, str) else theirs) == expected


@pytest.mark.parametrize(("config", "expected"), [({}, True), ({"include_prompt": False}, False)])
def test_include_prompt_is_true_unless_said_otherwise(tiny_copy: Tiny, config: Any, expected: bool) -> None:
    folder = _write(tiny_copy(), POOLING, {"embedding_dimension": HIDDEN, "pooling_mode": "mean", **config})
    assert read_spec(folder).modules == (Pooling((PoolingMode.MEAN,), include_prompt=expected),)


def test_unknown_pooling_mode_is_refused_with_a_suggestion(tiny_copy: Tiny) -> None:
    folder = _edit(tiny_copy(), POOLING, pooling_mode="maen")
    _refused(folder, UnsupportedModel, r"pooling mode 'maen' \(did you mean 'mean'\?\)", "")


@pytest.mark.parametrize("modes", [[], 3, {}, True])
def test_pooling_without_a_mode_is_corrupt(tiny_copy: Tiny, modes: Any) -> None:
    _refused(_edit(tiny_copy(), POOLING, pooling_mode=modes), CorruptModel, "names no pooling mode", "")


# ---- dense ----------------------------------------------------------------------------------------------------------


def _dense(folder: Path) -> Dense:
    return next(module for module in read_spec(folder).modules if isinstance(module, Dense))


def test_dense_without_an_activation_is_tanh_as_in_sentence_transformers(tiny_copy: Tiny) -> None:
    folder = _edit(tiny_copy(dense=8), DENSE, "activation_function")
    assert type(_reference(folder)[2].activation_function).__name__ == _dense(folder).activation == "Tanh"


@pytest.mark.parametrize("activation", Activation)
@pytest.mark.parametrize("package", ["torch.nn", "torch.nn.modules.activation"])
def test_dense_may_name_any_plain_activation_of_torch(
    tiny_copy: Tiny, activation: Activation, package: str
) -> None:
    folder = _edit(tiny_copy(dense=8), DENSE, activation_function=f"{package}.{activation}")
    assert _dense(folder).activation is activation


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ("sentence_embedding", "sentence_embedding")),
        ({"module_input_name": "token_embeddings"}, ("token_embeddings", "token_embeddings")),
        (
            {"module_input_name": "token_embeddings", "module_output_name": None},
            ("token_embeddings", "token_embeddings"),
        ),
    ],
    ids=str,
)
def test_dense_writes_what_it_reads_unless_said_otherwise(
    tiny_copy: Tiny, changes: Any, expected: tuple[str, str]
) -> None:
    folder = tiny_copy(dense=HIDDEN)
    _edit(folder, DENSE, "module_input_name", "module_output_name", **changes)
    dense = _dense(folder)
    assert (dense.source, dense.target) == expected


def test_dense_without_bias_is_read(tiny_copy: Tiny) -> None:
    assert not _dense(_edit(tiny_copy(dense=8), DENSE, bias=False)).bias


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"use_residual": True}, "a Dense module with a residual connection"),
        ({"module_output_name": "scores"}, "a Dense module on the feature 'scores'"),
        (
            {"module_input_name": "all_layer_embeddings"},
            "a Dense module on the feature 'all_layer_embeddings'",
        ),
        ({"activation_function": "torch.nn.PReLU"}, "activation function 'torch.nn.PReLU'"),
    ],
    ids=str,
)
def test_a_dense_module_that_cannot_be_run_is_refused(tiny_copy: Tiny, changes: Any, reason: str) -> None:
    _refused(_edit(tiny_copy(dense=8), DENSE, **changes), UnsupportedModel, reason, "")


@pytest.mark.parametrize(
    "name",
    [
        "torch.utils.collect_env.main",
        "torch.nn.Identity.__init__",
        "torch.nnx.Tanh",
        "os.system",
        "Tanh",
        "torch.Tensor",
        "evil.nn.Tanh",
        None,
        3,
        ["Tanh"],
    ],
)
def test_activations_outside_torch_nn_are_not_trusted(tiny_copy: Tiny, name: Any) -> None:
    folder = _edit(tiny_copy(dense=8), DENSE, activation_function=name)
    _refused(
        folder, UntrustedModel, "wants to import the activation function", "classes of torch.nn: Identity"
    )


@pytest.mark.parametrize(
    ("file", "changes", "match"),
    [
        (DENSE, {"in_features": 31}, "Dense expects 31 values and gets 32"),
        ("3_LayerNorm/config.json", {"dimension": 9}, "LayerNorm expects 9 values and gets 8"),
    ],
)
def test_modules_that_do_not_fit_together_are_corrupt(
    tiny_copy: Tiny, file: str, changes: Any, match: str
) -> None:
    folder = _edit(tiny_copy(dense=8, layer_norm=True), file, **changes)
    _refused(folder, CorruptModel, match, "different models")


# ---- sequence length ------------------------------------------------------------------------------------------------


def _lengths(folder: Path) -> tuple[int | None, int | None]:
    """The limit that stopt reads, and the one of sentence-transformers."""
    return read_spec(folder).tokenizer.max_seq_length, _reference(folder).max_seq_length


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, POSITIONS),
        ({"max_seq_length": None}, POSITIONS),
        ({"max_seq_length": 20}, 20),
        ({"max_seq_length": 20, "tokenizer_args": {"model_max_length": 30}}, 30),
        ({"max_seq_length": 20, "processor_kwargs": {"model_max_length": 30}}, 30),
        ({"tokenizer_args": {"model_max_length": 30}}, 30),
    ],
    ids=str,
)
def test_the_models_own_limit_wins_as_in_sentence_transformers(
    tiny_copy: Tiny, changes: Any, expected: int
) -> None:
    folder = _edit(tiny_copy(layout="legacy"), BERT, "max_seq_length", **changes)
    assert _lengths(folder) == (expected, expected)


@pytest.mark.parametrize("limit", [20, 500, int(1e30)])
def test_without_one_the_smaller_of_tokenizer_and_positions_counts(tiny_copy: Tiny, limit: int) -> None:
    folder = _edit(tiny_copy(), TOKENIZER, model_max_length=limit)
    assert _lengths(folder) == (min(limit, POSITIONS),) * 2


def test_a_tokenizer_without_a_limit_leaves_it_to_the_positions(tiny_copy: Tiny) -> None:
    assert _lengths(_edit(tiny_copy(), TOKENIZER, "model_max_length")) == (POSITIONS, POSITIONS)


def test_positions_of_minus_one_are_no_limit(tiny_copy: Tiny) -> None:
    folder = _edit(tiny_copy(), "config.json", max_position_embeddings=-1)
    assert read_spec(_edit(folder, TOKENIZER, "model_max_length")).tokenizer.max_seq_length is None


def test_no_limit_may_exceed_the_position_table(tiny_copy: Tiny) -> None:
    """Improves on sentence-transformers, which reads past the table's end."""
    folder = _edit(tiny_copy(layout="legacy"), BERT, max_seq_length=4 * POSITIONS)
    assert read_spec(folder).tokenizer.max_seq_length == POSITIONS


@pytest.mark.parametrize("architecture", ["roberta", "xlm-roberta", "mpnet"])
def test_the_roberta_family_loses_the_positions_before_its_first(tiny_copy: Tiny, architecture: str) -> None:
    """Improves on sentence-transformers, which counts the two positions that no token can have."""
    folder = _edit(tiny_copy(architecture), TOKENIZER, "model_max_length")
    spec = read_spec(folder).tokenizer
    assert (spec.max_seq_length, spec.position_limit) == (POSITIONS, POSITIONS)


@pytest.mark.parametrize("architecture", ["modernbert", "gemma3", "qwen3", "deberta-v2", "t5"])
def test_computed_positions_are_no_limit_to_what_the_model_itself_asks_for(
    tiny_copy: Tiny, architecture: str
) -> None:
    folder = _edit(tiny_copy(architecture, layout="legacy"), BERT, max_seq_length=4 * POSITIONS)
    assert _lengths(folder) == (4 * POSITIONS, 4 * POSITIONS)


@pytest.mark.parametrize("section", ["text", "common"])
def test_max_length_of_processing_kwargs_is_the_limit(tiny_copy: Tiny, section: str) -> None:
    folder = _edit(tiny_copy(), BERT, processing_kwargs={section: {"max_length": 12}})
    assert read_spec(folder).tokenizer.max_seq_length == 12


@pytest.mark.parametrize(
    "name", ["sentence_roberta_config.json", "sentence_distilbert_config.json", "sentence_xlnet_config.json"]
)
def test_the_older_names_of_its_configuration_are_read(tiny_copy: Tiny, name: str) -> None:
    folder = tiny_copy(layout="legacy", max_seq_length=20)
    (folder / BERT).rename(folder / name)
    assert _lengths(folder) == (20, 20)


@pytest.mark.parametrize("length", [0, -1, "20", 20.5, True])
def test_a_limit_that_is_no_number_of_tokens_is_corrupt(tiny_copy: Tiny, length: Any) -> None:
    folder = _edit(tiny_copy(layout="legacy"), BERT, max_seq_length=length)
    _refused(folder, CorruptModel, "max_seq_length is .*, expected a positive whole number", "")


# ---- sentence_bert_config.json --------------------------------------------------------------------------------------


def test_a_dtype_that_the_files_ask_for_is_kept(tiny_copy: Tiny) -> None:
    folder = _edit(tiny_copy(), BERT, model_args={"torch_dtype": "torch.bfloat16"})
    assert read_spec(folder).transformer.dtype == "bfloat16"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"transformer_task": "fill-mask"}, "its transformer does 'fill-mask', expected feature-extraction"),
        ({"tokenizer_name_or_path": "bert-base-uncased"}, "its tokenizer is in another place"),
        ({"model_args": {"output_hidden_states": True}}, "model argument 'output_hidden_states'"),
        ({"config_args": {"num_hidden_layers": 1}}, "configuration argument 'num_hidden_layers'"),
        ({"tokenizer_args": {"add_eos_token": True}}, "tokenizer argument 'add_eos_token'"),
        ({"processing_kwargs": {"text": {"padding": "max_length"}}}, "processing argument 'padding'"),
    ],
    ids=str,
)
def test_settings_that_would_change_vectors_are_refused(tiny_copy: Tiny, changes: Any, reason: str) -> None:
    _refused(_edit(tiny_copy(), BERT, **changes), UnsupportedModel, reason, "")


# ---- config_sentence_transformers.json ------------------------------------------------------------------------------

PROMPTS: list[tuple[Any, Any]] = [
    (None, {}),
    (None, {"query": "q: "}),
    (None, {"passage": "p: "}),
    ({}, {"query": None, "document": "d: "}),
    ({"query": "mine "}, {"query": "q: ", "document": "d: "}),
    ({"query": ""}, {"query": "q: "}),
    ({"query": None}, {"query": "q: "}),
    ({"other": "o: "}, {"passage": "p: "}),
]


@pytest.mark.parametrize(("given_prompts", "stored"), PROMPTS, ids=str)
def test_prompts_merge_as_in_sentence_transformers(tiny_copy: Tiny, given_prompts: Any, stored: Any) -> None:
    folder = _edit(tiny_copy(), SETTINGS, prompts=stored)
    merged = merge_prompts(given_prompts, read_spec(folder).prompts, ("query", "document"))
    assert merged == Reference(str(folder), device="cpu", prompts=given_prompts).prompts


@pytest.mark.parametrize("name", ["cosine", "dot", "euclidean", "manhattan", None])
def test_similarity_is_read_as_sentence_transformers_does(tiny_copy: Tiny, name: str | None) -> None:
    folder = _edit(tiny_copy(), SETTINGS, similarity_fn_name=name)
    assert read_spec(folder).similarity == _reference(folder).similarity_fn_name


def test_unknown_similarity_is_refused(tiny_copy: Tiny) -> None:
    folder = _edit(tiny_copy(), SETTINGS, similarity_fn_name="cosin")
    _refused(folder, UnsupportedModel, r"similarity 'cosin' \(did you mean 'cosine'\?\)", "")


def test_truncate_dim_is_read_as_sentence_transformers_does(tiny: Tiny) -> None:
    folder = tiny(truncate_dim=7)
    assert read_spec(folder).truncate_dim == _reference(folder).truncate_dim == 7


def test_default_prompt_name_is_read(tiny: Tiny) -> None:
    assert (
        read_spec(tiny(prompts={"query": "q: "}, default_prompt_name="query")).default_prompt_name == "query"
    )


def test_without_settings_there_are_defaults(tiny_copy: Tiny) -> None:
    folder = tiny_copy()
    (folder / SETTINGS).unlink()
    spec = read_spec(folder)
    assert (spec.prompts, spec.default_prompt_name, spec.similarity) == ({}, None, "cosine")


@pytest.mark.parametrize("kind", ["MultiVectorEncoder", "ColBERT", ["SparseEncoder"]])
def test_other_kinds_of_model_are_refused_by_name(tiny_copy: Tiny, kind: Any) -> None:
    folder = _edit(tiny_copy(), SETTINGS, model_type=kind)
    match = (
        rf"it is a {re.escape(str(kind))}, not a dense embedding model, a sparse encoder or a cross-encoder"
    )
    _refused(folder, UnsupportedModel, match, "stopt runs Transformer, StaticEmbedding")


# ---- modules that are not supported ---------------------------------------------------------------------------------

UNSUPPORTED = (
    "models.BoW",
    "models.CLIPModel",
    "models.CNN",
    "models.LSTM",
    "models.WeightedLayerPooling",
    "models.WordEmbeddings",
    "models.WordWeights",
    "cross_encoder.modules.logit_score.LogitScore",
    "sparse_encoder.models.MLMTransformer",
    "sparse_encoder.models.SpladePooling",
    "sparse_encoder.modules.sparse_auto_encoder.SparseAutoEncoder",
    "sparse_encoder.modules.sparse_static_embedding.SparseStaticEmbedding",
)


@pytest.mark.parametrize("kind", UNSUPPORTED)
def test_unsupported_modules_are_refused_by_name(tiny_copy: Tiny, kind: str) -> None:
    folder = _add_module(tiny_copy(), f"sentence_transformers.{kind}", "2_Other")
    name = kind.rpartition(".")[2]
    _refused(folder, UnsupportedModel, rf"module {name} \(", "")


@pytest.mark.parametrize("kind", UNSUPPORTED)
def test_unsupported_first_modules_are_refused_by_name(tiny_copy: Tiny, kind: str) -> None:
    folder = _set_types(tiny_copy(), f"sentence_transformers.{kind}")
    name = kind.rpartition(".")[2]
    _refused(folder, UnsupportedModel, rf"module {name} \(", "")


def test_a_model_that_does_not_start_with_a_transformer_is_refused(tiny_copy: Tiny) -> None:
    folder = _set_types(tiny_copy(), "sentence_transformers.models.Normalize")
    _refused(folder, UnsupportedModel, "its first module is Normalize, expected Transformer", "")


def test_a_second_transformer_is_refused(tiny_copy: Tiny) -> None:
    folder = _add_module(tiny_copy(), "sentence_transformers.models.Transformer", "")
    _refused(folder, UnsupportedModel, "a second Transformer module", "")


def test_every_reason_is_listed_in_one_error(tiny_copy: Tiny) -> None:
    folder = _add_module(tiny_copy(dense=8), "sentence_transformers.models.WordWeights", "3_WordWeights")
    _edit(folder, DENSE, activation_function="torch.nn.PReLU")
    _edit(folder, BERT, tokenizer_name_or_path="elsewhere")
    error = _refused(folder, UnsupportedModel, "WordWeights", "")
    assert isinstance(error, UnsupportedModel)
    assert [any(part in reason for reason in error.reasons) for part in ("WordW", "PReLU", "tokenizer")] == [
        True,
        True,
        True,
    ]


def test_a_folder_without_a_fast_tokenizer_is_refused(tiny_copy: Tiny) -> None:
    folder = tiny_copy()
    (folder / "tokenizer.json").unlink()
    _refused(folder, UnsupportedModel, r"there is no tokenizer\.json", "save_pretrained")


# ---- code ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("os.path.join", UntrustedModel),
        ("antigravity", UntrustedModel),
        ("modeling_evil.Evil", UntrustedModel),
        ("sentence_transformers_evil.models.Pooling", UntrustedModel),
        ("sentence_transformers.base.sampler.pickle", UnsupportedModel),
        ("sentence_transformers.evil", UnsupportedModel),
        ("", UntrustedModel),
        ("x" * 1_000_000, UntrustedModel),
        (7, CorruptModel),
    ],
    ids=lambda value: str(value)[:40],
)
@pytest.mark.parametrize("position", [0, 1])
def test_types_that_would_be_imported_are_refused_and_nothing_is_imported(
    tiny_copy: Tiny, kind: Any, error: type[StoptError], position: int
) -> None:
    folder = tiny_copy()
    (folder / "modeling_evil.py").write_text("raise SystemExit('code of the model ran')")
    entries = json.loads((folder / "modules.json").read_text())
    entries[position]["type"] = kind
    _write(folder, "modules.json", entries)
    before = set(sys.modules)
    with pytest.raises(error) as caught:
        read_spec(folder)
    assert set(sys.modules) == before
    assert len(str(caught.value)) < 1000


def test_refusing_code_says_that_none_is_ever_run(tiny_copy: Tiny) -> None:
    folder = _set_types(tiny_copy(), "modeling_evil.Evil")
    _refused(folder, UntrustedModel, "wants to import 'modeling_evil.Evil'", "never runs code")


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_auto_map_at_the_top_is_no_more_than_data(tiny_copy: Tiny, file: str) -> None:
    folder = tiny_copy()
    before = read_spec(folder)
    (folder / "modeling_evil.py").write_text("raise SystemExit('code of the model ran')")
    assert read_spec(_edit(folder, file, auto_map={"AutoModel": "modeling_evil.Evil"})) == before


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("config.json", {"text_config": {"auto_map": {"AutoModel": "modeling_evil.Evil"}}}),
        ("tokenizer_config.json", {"custom_pipelines": {"evil": {"impl": "evil.Pipeline"}}}),
        ("1_Pooling/config.json", {"auto_map": {"AutoModel": "modeling_evil.Evil"}}),
        ("config_sentence_transformers.json", {"auto_map": {"AutoModel": "modeling_evil.Evil"}}),
    ],
)
def test_code_named_elsewhere_is_refused(tiny_copy: Tiny, file: str, changes: dict[str, Any]) -> None:
    folder = _edit(tiny_copy(), file, auto_map=None)
    _refused(_edit(folder, file, **changes), UntrustedModel, "names code of its own", "never runs code")


# ---- paths -----------------------------------------------------------------------------------------------------------

PATHS = (
    "../x",
    "..",
    "a/../..",
    "1_Pooling/../../x",
    "/etc",
    "/",
    "//host/share",
    "\\\\host\\share",
    "..\\x",
    "\\x",
    "C:\\x",
    "C:x",
    "C:/x",
    "x\0y",
)


@pytest.mark.parametrize("position", [0, 1])
@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_module_paths_that_leave_the_folder_are_refused(tiny_copy: Tiny, path: str, position: int) -> None:
    folder = tiny_copy()
    entries = json.loads((folder / "modules.json").read_text())
    entries[position]["path"] = path
    _write(folder, "modules.json", entries)
    _refused(folder, UntrustedModel, "leaves the model folder", "inside its own folder")


@pytest.mark.parametrize(
    "file", ["modules.json", "config.json", SETTINGS, BERT, TOKENIZER, "tokenizer.json", POOLING]
)
def test_files_linked_to_another_place_are_refused(tiny_copy: Tiny, tmp_path: Path, file: str) -> None:
    folder = tiny_copy()
    (folder / file).rename(tmp_path / "outside.json")
    (folder / file).symlink_to(tmp_path / "outside.json")
    _refused(folder, UntrustedModel, "is a link to .*, outside the model folder", "copy the file")


def test_a_linked_module_folder_is_refused(tiny_copy: Tiny, tmp_path: Path) -> None:
    folder = tiny_copy()
    (folder / "1_Pooling").rename(tmp_path / "outside")
    (folder / "1_Pooling").symlink_to(tmp_path / "outside")
    _refused(folder, UntrustedModel, "is a link to .*, outside the model folder", "copy the file")


def test_a_link_inside_the_folder_is_followed(tiny_copy: Tiny) -> None:
    folder = tiny_copy()
    (folder / POOLING).rename(folder / "pooling.json")
    (folder / POOLING).symlink_to(folder / "pooling.json")
    assert read_spec(folder).modules == (Pooling((PoolingMode.MEAN,)),)


@pytest.mark.parametrize("position", [0, 1])
@pytest.mark.parametrize("path", ["x" * 5000, "a/" * 3000], ids=["long name", "long path"])
def test_a_path_too_long_for_the_system_is_a_known_error(tiny_copy: Tiny, path: str, position: int) -> None:
    folder = tiny_copy()
    entries = json.loads((folder / "modules.json").read_text())
    entries[position]["path"] = path
    _write(folder, "modules.json", entries)
    with pytest.raises(StoptError):
        read_spec(folder)


# ---- broken files ----------------------------------------------------------------------------------------------------

FILES = ("modules.json", "config.json", SETTINGS, BERT, POOLING, TOKENIZER, "special_tokens_map.json")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ('{"a": 1', "not valid JSON"),
        ("", "not valid JSON"),
        ('{"a": 1, "a": 2}', "the key 'a' appears twice"),
        ('{"a": {"b": 1, "b": 1}}', "the key 'b' appears twice"),
        ('{"a": NaN}', "NaN is not a JSON number"),
        ('{"a": -Infinity}', "-Infinity is not a JSON number"),
        ("[" * 200_000, "nested too deeply"),
        ('\ufeff{"a": 1}', "not valid JSON"),
    ],
    ids=["cut short", "empty", "duplicate", "inner duplicate", "NaN", "infinity", "deep", "BOM"],
)
@pytest.mark.parametrize("file", FILES)
def test_json_that_two_readers_may_understand_differently_is_corrupt(
    tiny_copy: Tiny, file: str, text: str, match: str
) -> None:
    folder = tiny_copy()
    (folder / file).write_text(text, "utf-8")
    _refused(folder, CorruptModel, match, "fetch the file again")


@pytest.mark.parametrize("file", FILES)
def test_bytes_that_are_not_utf8_are_corrupt(tiny_copy: Tiny, file: str) -> None:
    folder = tiny_copy()
    (folder / file).write_bytes(b'{"a": "\xff"}')
    _refused(folder, CorruptModel, "is not UTF-8 text: invalid start byte at byte 7", "")


@pytest.mark.parametrize("file", [name for name in FILES if name != "modules.json"])
@pytest.mark.parametrize(("value", "kind"), [([], "list"), ("x", "str"), (None, "NoneType")], ids=repr)
def test_something_else_than_an_object_is_corrupt(tiny_copy: Tiny, file: str, value: Any, kind: str) -> None:
    folder = tiny_copy()
    (folder / file).write_text(json.dumps(value))
    _refused(folder, CorruptModel, f"holds a JSON {kind}, expected an object", "")


@pytest.mark.parametrize("value", [{}, [], None, "x", 3])
def test_modules_that_are_no_list_are_corrupt(tiny_copy: Tiny, value: Any) -> None:
    _refused(
        _write(tiny_copy(), "modules.json", json.dumps(value)), CorruptModel, "is not a list of modules", ""
    )


@pytest.mark.parametrize(
    ("entry", "match"),
    [
        ("x", "module 0 needs a 'type' and a 'path'"),
        ({}, "module 0 needs a 'type' and a 'path'"),
        (
            {"type": "sentence_transformers.models.Transformer", "path": 3},
            "module 0 needs a 'type' and a 'path'",
        ),
    ],
    ids=str,
)
def test_a_module_that_is_none_is_corrupt(tiny_copy: Tiny, entry: Any, match: str) -> None:
    _refused(_write(tiny_copy(), "modules.json", [entry]), CorruptModel, match, "")


@pytest.mark.parametrize("width", [-1, 0, 10**12, "32", True, None, 32.0])
def test_a_hidden_size_that_is_none_is_corrupt(tiny_copy: Tiny, width: Any) -> None:
    folder = _edit(tiny_copy(), "config.json", hidden_size=width)
    _refused(folder, CorruptModel, "no usable hidden_size", "")


WRONG = [None, True, -1, 1.5, 1e400, "x", "", [], ["x"], {}, {"x": "y"}, [[]], {"text": 3}]


def _keys(folder: Path) -> list[tuple[str, str]]:
    files = (
        "config.json",
        SETTINGS,
        BERT,
        TOKENIZER,
        "special_tokens_map.json",
        POOLING,
        DENSE,
        "3_LayerNorm/config.json",
    )
    extra = [
        (BERT, key)
        for key in (
            "model_args",
            "tokenizer_args",
            "config_args",
            "processing_kwargs",
            "max_seq_length",
            "do_lower_case",
        )
    ]
    extra += [(TOKENIZER, "pad_token_type_id"), (SETTINGS, "truncate_dim"), ("config.json", "rope_theta")]
    return [(file, key) for file in files for key in json.loads((folder / file).read_text())] + extra


@settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
@given(data=st.data())
def test_a_wrong_value_anywhere_is_read_or_refused_but_never_a_crash(
    tiny_copy: Tiny, data: st.DataObject
) -> None:
    folder = tiny_copy(dense=8, layer_norm=True)
    file, key = data.draw(st.sampled_from(_keys(folder)))
    _edit(folder, file, **{key: data.draw(st.sampled_from(WRONG))})
    with suppress(StoptError):
        assert isinstance(read_spec(folder), ModelSpec)
    shutil.rmtree(folder)


# ---- missing files ---------------------------------------------------------------------------------------------------


def test_a_folder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    _refused(tmp_path / "none", SourceError, "none does not exist", "name the folder")


def test_a_file_is_not_a_folder(tiny: Tiny) -> None:
    _refused(tiny() / "config.json", SourceError, "is a file, not a folder", "name the folder")


def test_an_empty_folder_is_no_model(tmp_path: Path) -> None:
    _refused(tmp_path, SourceError, r"config\.json is missing", "sentence-transformers model")


def test_a_peft_adapter_is_told_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    _refused(tmp_path, SourceError, r"config\.json is missing", "merge_and_unload")


def test_missing_settings_of_a_module_are_named(tiny_copy: Tiny) -> None:
    folder = tiny_copy()
    (folder / POOLING).unlink()
    _refused(folder, SourceError, r"1_Pooling.config\.json is missing", "sentence-transformers model")


def test_reading_opens_no_weights(tiny_copy: Tiny) -> None:
    folder = tiny_copy(dense=8)
    (folder / "model.safetensors").write_bytes(b"")
    (folder / "2_Dense" / "model.safetensors").write_bytes(b"")
    assert read_spec(folder).embedding_dimension == 8


def test_pooling_in_the_model_folder_itself_reads_its_configuration(tiny_copy: Tiny) -> None:
    folder = tiny_copy()
    _edit(folder, "config.json", pooling_mode="cls")
    entries = json.loads((folder / "modules.json").read_text())
    entries[1]["path"] = ""
    assert _modes(_write(folder, "modules.json", entries)) == (PoolingMode.CLS,)
