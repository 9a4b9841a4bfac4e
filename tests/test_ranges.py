"""Ranges of embeddings: computed over any number of texts, kept in a file, used where they hold."""

import json
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stopt.embeddings.calibration import RangeOptions, calibrate_ranges
from stopt.embeddings.call import quantize_call, ranges_for_call
from stopt.embeddings.quantization import quantize_embeddings
from stopt.embeddings.ranges import RANGES, Provenance, Ranges, RangesBuilder
from stopt.errors import ArtifactError, CorruptModel, InputError, OptionError, SourceError, StoptWarning
from stopt.reading import read_spec
from stopt.runtime.sentence_transformer import SentenceTransformer

Tiny = Callable[..., Path]

TEXTS = [f"text number {number} of {number % 7} kinds" * (1 + number % 3) for number in range(120)]
SOURCE = Provenance(
    120, "ab" * 32, "minmax", None, 120, "", "onnx/model.onnx", "onnx", "float32", None, False
)


def _embeddings(rows: int = 1000, width: int = 12, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, width)).astype(np.float32)


def _built(builder: RangesBuilder, embeddings: np.ndarray, size: int) -> Ranges:
    for start in range(0, len(embeddings), size):
        builder.add(embeddings[start : start + size])
    return builder.finish()


# ---- computing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_minimum_and_maximum_are_exact_in_blocks_of_any_size(size: int) -> None:
    embeddings = _embeddings()
    ranges = _built(RangesBuilder(), embeddings, size)
    assert np.array_equal(ranges.array, np.stack((embeddings.min(0), embeddings.max(0))))
    assert ranges.array.dtype == np.float32


@pytest.mark.parametrize("percentile", [99, 99.9, 60])
def test_percentiles_of_what_fits_are_exact(percentile: float) -> None:
    embeddings = _embeddings()
    ranges = _built(RangesBuilder(percentile), embeddings, 64)
    np.testing.assert_allclose(
        ranges.array, np.percentile(embeddings, [100 - percentile, percentile], axis=0), atol=1e-6
    )


def test_percentiles_of_more_are_those_of_a_uniform_sample() -> None:
    # rows rise, so that a sample that favours early or late ones gives itself away
    embeddings = np.linspace(0, 1, 100_000, dtype=np.float32)[:, None] * np.ones(4, np.float32)
    builder = RangesBuilder(90, capacity_bytes=4 * 4 * 4000)
    ranges = _built(builder, embeddings, 777)
    assert builder.sampled == 4000
    # a rank is off by sqrt(.1 * .9 / 4000) = .0047 (one standard deviation)
    np.testing.assert_allclose(ranges.minimum, 0.1, atol=0.02)
    np.testing.assert_allclose(ranges.maximum, 0.9, atol=0.02)


def test_every_row_has_the_same_chance_to_be_in_the_sample() -> None:
    size, rows, runs = 20, 200, 400
    found = np.zeros(rows)
    for run in range(runs):
        builder = RangesBuilder(90, capacity_bytes=4 * size)
        builder._random = np.random.default_rng(run)
        _built(builder, np.arange(rows, dtype=np.float32)[:, None], 33)
        found[builder._sample[:, 0].astype(int)] += 1
    # binomial with mean 40 and deviation 6
    assert 40 - 5 * 6 < found.min() < found.max() < 40 + 5 * 6
    assert abs(found[:100].sum() - found[100:].sum()) < 5 * np.sqrt(runs * size)


def test_the_same_rows_give_the_same_sample() -> None:
    embeddings = _embeddings(5000)
    first, second = (_built(RangesBuilder(99, capacity_bytes=4800), embeddings, 500) for _ in range(2))
    assert first.fingerprint == second.fingerprint


def test_memory_does_not_grow_with_the_corpus() -> None:
    block, peaks = _embeddings(1000, 64), []
    for blocks in (20, 200):
        builder = RangesBuilder(99, capacity_bytes=1_000_000)
        tracemalloc.start()
        try:
            for _ in range(blocks):
                builder.add(block)
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0] + 100_000


def test_half_precision_embeddings_have_float32_ranges() -> None:
    assert Ranges.of(_embeddings().astype(np.float16)).array.dtype == np.float32


@pytest.mark.parametrize("percentile", [50, 100, 0, -1, 101, float("nan")])
def test_a_percentile_out_of_bounds_is_refused(percentile: float) -> None:
    with pytest.raises(OptionError, match="percentile is") as caught:
        RangesBuilder(percentile)
    assert "99.9" in caught.value.hint


def test_nothing_has_no_ranges() -> None:
    with pytest.raises(InputError, match="no embeddings") as caught:
        Ranges.of(np.empty((0, 4), np.float32))
    assert "texts" in caught.value.hint


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_found(value: float) -> None:
    builder, embeddings = RangesBuilder(), _embeddings()
    builder.add(embeddings)
    embeddings[5, 2] = value
    with pytest.raises(InputError, match="embedding 1005 has NaN or infinity") as caught:
        builder.add(embeddings)
    assert caught.value.index == 1005
    assert "stopt check" in caught.value.hint


def test_embeddings_of_two_widths_have_no_common_ranges() -> None:
    builder = RangesBuilder()
    builder.add(_embeddings(width=4))
    with pytest.raises(InputError, match="of 4 and 5 dimensions") as caught:
        builder.add(_embeddings(width=5))
    assert "same model" in caught.value.hint


@pytest.mark.parametrize("wrong", [np.zeros(3, np.float32), np.zeros((2, 3), np.int8)])
def test_what_are_no_embeddings_is_refused(wrong: np.ndarray) -> None:
    with pytest.raises(InputError, match="expected float embeddings") as caught:
        RangesBuilder().add(wrong)
    assert "float32" in caught.value.hint


# ---- the object and its file ----------------------------------------------------------------------------------------


def test_ranges_come_back_from_a_file_bit_for_bit(tmp_path: Path) -> None:
    ranges = replace(Ranges.of(_embeddings()), provenance=SOURCE)
    ranges.write(tmp_path / RANGES)
    again = Ranges.stored(tmp_path)
    assert again is not None
    assert again.array.tobytes() == ranges.array.tobytes()
    assert again.fingerprint == ranges.fingerprint
    assert again.provenance == SOURCE
    assert [file.name for file in tmp_path.iterdir()] == [RANGES]


def test_a_folder_without_ranges_has_none(tmp_path: Path) -> None:
    assert Ranges.stored(tmp_path) is None


def test_ranges_do_not_change() -> None:
    ranges = Ranges.of(_embeddings())
    with pytest.raises(ValueError, match="read-only"):
        ranges.minimum[0] = 5


def test_leading_dimensions_are_a_slice() -> None:
    ranges = Ranges.of(_embeddings())
    assert np.array_equal(ranges.truncated(5).array, ranges.array[:, :5])
    assert ranges.truncated(None) is ranges.truncated(12) is ranges.truncated(99) is ranges


def test_other_values_have_another_fingerprint() -> None:
    assert Ranges.of(_embeddings()).fingerprint != Ranges.of(_embeddings(seed=1)).fingerprint


@pytest.mark.parametrize("shape", [(3, 4), (4,), (2, 2, 2), (2, 0)])
def test_an_array_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="ranges") as caught:
        Ranges.from_array(np.zeros(shape))
    assert caught.value.hint


def test_arrays_of_another_dtype_are_refused() -> None:
    with pytest.raises(InputError, match="float64") as caught:
        Ranges(np.zeros(2), np.ones(2))  # type: ignore[arg-type]
    assert "from_array" in caught.value.hint


def _changed(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda document: document.update(changes)


def _source(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda document: document["provenance"].update(changes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_changed(schema=2), "has schema 2, this stopt reads 1"),
        (_changed(minimum=[0.0]), "shapes"),
        (_changed(minimum=[9.0] * 12), "above its maximum"),
        (_changed(minimum=None), "a list of numbers"),
        (_changed(minimum=["0"] * 12), "a list of numbers"),
        (_changed(minimum=[True] * 12), "a list of numbers"),
        (_changed(maximum=[1e39] * 12), "does not fit float32"),
        (_changed(maximum=[10**400] * 12), "does not fit float32"),
        (_changed(minimum=[], maximum=[]), "shapes"),
        (lambda document: document.pop("maximum"), "'maximum'"),
        (_changed(provenance=[]), "other members"),
        (_source(more=1), "other members"),
        (_source(texts="120"), "another type"),
        (_source(truncate_dim=1.5), "another type"),
        (_source(normalized=0), "another type"),
        (_source(percentile="99"), "another type"),
        (_source(sha256=None), "another type"),
    ],
)
def test_a_damaged_file_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    document = replace(Ranges.of(_embeddings()), provenance=SOURCE).document()
    document["provenance"] = dict(document["provenance"])
    change(document)
    (tmp_path / RANGES).write_text(json.dumps(document))
    with pytest.raises(CorruptModel, match=message) as caught:
        Ranges.stored(tmp_path)
    assert "stopt calibrate" in caught.value.hint


@pytest.mark.parametrize("part", [0, 0.5, 0.99])
def test_a_file_cut_short_is_refused(tmp_path: Path, part: float) -> None:
    Ranges.of(_embeddings()).write(tmp_path / RANGES)
    data = (tmp_path / RANGES).read_bytes()
    (tmp_path / RANGES).write_bytes(data[: int(part * len(data))])
    with pytest.raises(CorruptModel, match="not valid JSON") as caught:
        Ranges.stored(tmp_path)
    assert caught.value.hint


def test_a_missing_file_is_a_source_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="is missing"):
        Ranges.read(tmp_path / "none.json")


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    with pytest.raises(ArtifactError, match="cannot be written") as caught:
        Ranges.of(_embeddings()).write(tmp_path / "file" / RANGES)
    assert caught.value.hint
    assert (tmp_path / "file").read_text() == "old"


# ---- calibrating a model --------------------------------------------------------------------------------------------


@pytest.fixture
def model(tiny: Tiny) -> SentenceTransformer:
    folder = tiny("bert", prompts={"query": "query: ", "document": ""})
    return SentenceTransformer(folder, backend="torch")


def test_calibration_takes_the_ranges_of_what_the_model_encodes(model: SentenceTransformer) -> None:
    ranges = calibrate_ranges(model, TEXTS)
    embeddings = model.encode(TEXTS)
    assert np.array_equal(ranges.array, np.stack((embeddings.min(0), embeddings.max(0))))
    assert ranges.provenance is not None
    assert (ranges.provenance.texts, ranges.provenance.method) == (120, "minmax")
    assert (ranges.provenance.backend, ranges.provenance.precision) == ("torch", "float32")
    assert ranges.provenance.prompt == ""


def test_calibration_in_windows_is_calibration_at_once(
    model: SentenceTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, said = calibrate_ranges(model, TEXTS), []
    monkeypatch.setattr("stopt.embeddings.calibration.WINDOW", 50)
    parts = calibrate_ranges(model, iter(TEXTS), say=said.append)
    # the batches differ, and with them the last bits
    np.testing.assert_allclose(parts.array, whole.array, atol=1e-5)
    assert parts.provenance == whole.provenance
    assert said == ["50 texts encoded", "100 texts encoded", "120 texts encoded"]


@pytest.mark.parametrize("options", [{"prompt_name": "query"}, {"prompt": "query: "}])
def test_prompts_are_applied(model: SentenceTransformer, options: dict[str, str]) -> None:
    ranges = calibrate_ranges(model, TEXTS, RangeOptions(**options))
    embeddings = model.encode(TEXTS, **options)
    assert np.array_equal(ranges.array, np.stack((embeddings.min(0), embeddings.max(0))))
    assert ranges.provenance is not None
    assert ranges.provenance.prompt == "query: "


def test_the_default_prompt_is_applied(tiny: Tiny) -> None:
    folder = tiny("bert", prompts={"passage": "passage: "}, default_prompt_name="passage")
    model = SentenceTransformer(folder, backend="torch")
    ranges = calibrate_ranges(model, TEXTS)
    assert ranges.provenance is not None
    assert ranges.provenance.prompt == "passage: "
    assert np.array_equal(ranges.maximum, model.encode(TEXTS).max(0))


def test_an_unknown_prompt_is_refused(model: SentenceTransformer) -> None:
    with pytest.raises(OptionError, match="no prompt named 'qery'") as caught:
        calibrate_ranges(model, TEXTS, RangeOptions(prompt_name="qery"))
    assert "query" in caught.value.hint


def test_the_hash_is_of_the_texts_and_their_borders(model: SentenceTransformer) -> None:
    def digest(texts: list[str]) -> str:
        provenance = calibrate_ranges(model, texts).provenance
        assert provenance is not None
        return provenance.sha256

    first = digest(TEXTS)
    assert digest(list(TEXTS)) == first
    assert digest(TEXTS[::-1]) != first
    assert digest([*TEXTS[:-2], TEXTS[-2] + TEXTS[-1][:1], TEXTS[-1][1:]]) != first


def test_percentiles_say_so(model: SentenceTransformer) -> None:
    ranges = calibrate_ranges(model, TEXTS, RangeOptions(percentile=95))
    found = np.percentile(model.encode(TEXTS), [5, 95], axis=0)
    np.testing.assert_allclose(ranges.array, found, atol=1e-6)
    assert ranges.provenance is not None
    assert (ranges.provenance.method, ranges.provenance.percentile, ranges.provenance.sampled) == (
        "percentile",
        95,
        120,
    )


def test_a_router_takes_the_route_of_documents_unless_told(tmp_path: Path) -> None:
    from tiny_kinds import build_router

    model = SentenceTransformer(build_router(tmp_path / "router", allow_empty_key=False), backend="torch")
    for options, encode in ((None, model.encode_document), (RangeOptions(task="query"), model.encode_query)):
        ranges, embeddings = calibrate_ranges(model, TEXTS, options), encode(TEXTS)
        np.testing.assert_allclose(ranges.array, np.stack((embeddings.min(0), embeddings.max(0))), atol=1e-6)


def test_a_stored_truncation_is_left_out_so_that_ranges_serve_any(tiny: Tiny) -> None:
    model = SentenceTransformer(tiny("bert", truncate_dim=8), backend="torch")
    assert calibrate_ranges(model, TEXTS).dimension == 32
    scaled = calibrate_ranges(model, TEXTS, RangeOptions(normalize_embeddings=True))
    assert scaled.dimension == 8
    assert scaled.provenance is not None
    assert (scaled.provenance.truncate_dim, scaled.provenance.normalized) == (8, True)


@pytest.mark.parametrize("texts", [[], TEXTS[:15]])
def test_too_few_texts_are_refused(model: SentenceTransformer, texts: list[str]) -> None:
    with pytest.raises(InputError, match=f"{len(texts)} texts are too few") as caught:
        calibrate_ranges(model, texts)
    assert "hundreds" in caught.value.hint


def test_few_texts_warn(model: SentenceTransformer) -> None:
    with pytest.warns(StoptWarning, match="only 20 texts"):
        calibrate_ranges(model, TEXTS[:20])


@pytest.mark.parametrize("texts", ["one text", [*TEXTS, 5]])
def test_what_are_no_texts_is_refused(model: SentenceTransformer, texts: Any) -> None:
    with pytest.raises(InputError) as caught:
        calibrate_ranges(model, texts)
    assert caught.value.hint


# ---- where ranges hold ----------------------------------------------------------------------------------------------

WIDTH = 32  # of the tiny models


def _ranges(width: int = WIDTH, **source: Any) -> Ranges:
    return replace(Ranges.of(_embeddings(width=width)), provenance=replace(SOURCE, **source))


def _for_call(folder: Path, given: Any, **options: Any) -> Any:
    return ranges_for_call(folder, read_spec(folder), given, **{"precision": "int8", **options})


@pytest.mark.parametrize(
    ("model", "source", "call", "width"),
    [
        ({}, {}, {}, 32),
        ({}, {}, {"truncate_dim": 8}, 8),
        ({}, {}, {"truncate_dim": 64}, 32),
        ({}, {"truncate_dim": 16}, {"truncate_dim": 16}, 16),
        ({}, {"truncate_dim": 16}, {"truncate_dim": 8}, 8),
        ({}, {"normalized": True}, {"normalize": True}, 32),
        ({}, {"normalized": True, "truncate_dim": 16}, {"normalize": True, "truncate_dim": 16}, 16),
        # unit length already, so that scaling it again is nothing
        ({"normalize": True}, {}, {"normalize": True}, 32),
        ({"normalize": True}, {}, {"normalize": True, "truncate_dim": 32}, 32),
        ({"normalize": True}, {}, {"truncate_dim": 8}, 8),
    ],
)
def test_stored_ranges_serve_calls_they_hold_for(
    tiny_copy: Tiny, model: dict, source: dict, call: dict, width: int
) -> None:
    folder = tiny_copy("bert", **model)
    stored = _ranges(source.get("truncate_dim", WIDTH), **source)
    stored.write(folder / RANGES)
    assert _for_call(folder, None, **call).fingerprint == stored.truncated(width).fingerprint
    assert _for_call(folder, stored, **call).fingerprint == stored.truncated(width).fingerprint


@pytest.mark.parametrize(
    ("model", "source", "call", "message", "hint"),
    [
        ({}, {}, {"normalize": True}, "not scaled .* are scaled", "--normalize-embeddings"),
        ({}, {"normalized": True}, {}, "of embeddings scaled .* not scaled", "stopt calibrate"),
        (
            {"normalize": True},
            {},
            {"normalize": True, "truncate_dim": 8},
            "are scaled",
            "--normalize-embeddings --truncate-dim 8",
        ),
        ({}, {"normalized": True}, {"normalize": True, "truncate_dim": 8}, "leading 8 scaled", "-dim 8"),
        ({}, {"truncate_dim": 16}, {}, "16 dimensions.* have 32", "truncate_dim=16"),
    ],
)
def test_ranges_that_do_not_hold_are_refused(
    tiny_copy: Tiny, model: dict, source: dict, call: dict, message: str, hint: str
) -> None:
    folder = tiny_copy("bert", **model)
    stored = _ranges(source.get("truncate_dim", WIDTH), **source)
    stored.write(folder / RANGES)
    for given in (None, stored):
        with pytest.raises(OptionError, match=message) as caught:
            _for_call(folder, given, **call)
        assert hint in caught.value.hint


def test_ranges_of_unknown_origin_must_have_the_width_of_the_call(tiny: Tiny) -> None:
    unknown = Ranges.of(_embeddings(width=WIDTH))
    assert _for_call(tiny(), unknown) is unknown
    with pytest.raises(OptionError, match="do not hold for the leading 8") as caught:
        _for_call(tiny(), unknown, truncate_dim=8)
    assert "truncated(8)" in caught.value.hint


def test_given_ranges_win_over_stored_ones(tiny_copy: Tiny) -> None:
    folder, given = tiny_copy(), _embeddings(2, WIDTH)
    given.sort(axis=0)
    _ranges().write(folder / RANGES)
    assert _for_call(folder, given) is given
    assert _for_call(folder, "call") == "call"


@pytest.mark.parametrize("precision", ["float32", None, "binary", "ubinary"])
def test_other_precisions_need_no_ranges(tiny_copy: Tiny, precision: str | None) -> None:
    folder = tiny_copy()
    (folder / RANGES).write_text("damaged")
    assert _for_call(folder, None, precision=precision) is None


def test_ranges_of_another_model_are_corrupt(tiny_copy: Tiny) -> None:
    folder = tiny_copy()
    _ranges(24).write(folder / RANGES)
    with pytest.raises(CorruptModel, match="24 dimensions, the model's embeddings have 32") as caught:
        _for_call(folder, None)
    assert "--force" in caught.value.hint


def test_new_ranges_are_seen_by_a_model_that_is_open(tiny_copy: Tiny) -> None:
    folder = tiny_copy()
    assert _for_call(folder, None) is None
    for seed in range(2):
        ranges = Ranges.of(_embeddings(width=WIDTH, seed=seed))
        ranges.write(folder / RANGES)
        assert _for_call(folder, None).fingerprint == ranges.fingerprint


@pytest.mark.parametrize("shape", [(WIDTH, 2), (2, 8), (2,)])
def test_a_given_array_of_another_shape_is_refused_before_work(tiny: Tiny, shape: tuple[int, ...]) -> None:
    with pytest.raises(OptionError, match=r"expected \(2, 32\)") as caught:
        _for_call(tiny(), np.zeros(shape))
    assert "smallest" in caught.value.hint


def test_a_word_that_is_no_ranges_is_refused(tiny: Tiny) -> None:
    with pytest.raises(OptionError, match=r"ranges are 'ranges\.json'") as caught:
        _for_call(tiny(), "ranges.json")
    assert "Ranges.read" in caught.value.hint


# ---- quantising a call ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["int8", "uint8"])
def test_few_embeddings_without_ranges_are_refused(precision: str) -> None:
    with pytest.raises(OptionError, match=f"{precision} needs ranges, which 99") as caught:
        quantize_call(_embeddings(99), precision, None)
    assert "stopt calibrate" in caught.value.hint
    assert "ranges='call'" in caught.value.hint


def test_enough_embeddings_have_ranges_of_their_own() -> None:
    assert np.array_equal(
        quantize_call(_embeddings(100), "int8", None), quantize_embeddings(_embeddings(100), "int8")
    )


@pytest.mark.filterwarnings("ignore:int8 ranges")
def test_ranges_of_the_call_can_be_asked_for_by_name() -> None:
    assert np.all(quantize_call(_embeddings(1), "int8", "call") == -128)


@pytest.mark.parametrize("precision", ["int8", "uint8", "binary", "ubinary"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_model_that_gives_no_numbers_is_not_quantised(precision: str, value: float) -> None:
    embeddings = _embeddings(5000)
    embeddings[4500, 1] = value
    with pytest.raises(InputError, match="embedding 4500 has NaN or infinity") as caught:
        quantize_call(embeddings, precision, None)
    assert caught.value.index == 4500


# ---- encode ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def calibrated(tiny_copy: Tiny) -> SentenceTransformer:
    """A model with ranges in its folder."""
    folder = tiny_copy("bert", prompts={"query": "query: ", "document": ""})
    model = SentenceTransformer(folder, backend="torch")
    calibrate_ranges(model, TEXTS).write(folder / RANGES)
    return model


@pytest.mark.parametrize("precision", ["int8", "uint8"])
@pytest.mark.parametrize("method", ["encode", "encode_query", "encode_document"])
def test_stored_ranges_quantise_every_call(
    calibrated: SentenceTransformer, method: str, precision: str
) -> None:
    encode = getattr(calibrated, method)
    ranges = Ranges.stored(calibrated.pipeline.root)
    for texts in (TEXTS[:3], TEXTS[5], TEXTS):
        codes = encode(texts, precision=precision)
        assert np.array_equal(codes, quantize_embeddings(encode(texts), precision, ranges))


def test_a_text_alone_has_the_codes_that_it_has_among_others(calibrated: SentenceTransformer) -> None:
    together = calibrated.encode(TEXTS, precision="int8").astype(int)
    alone = np.stack([calibrated.encode(text, precision="int8") for text in TEXTS])
    assert np.abs(together - alone).max() <= 1  # a float on the edge of a step, in another batch
    assert np.mean(together == alone) > 0.99


def test_leading_dimensions_have_the_codes_that_they_have_in_the_whole(
    calibrated: SentenceTransformer,
) -> None:
    whole, cut = (calibrated.encode(TEXTS, precision="uint8", truncate_dim=dim) for dim in (None, 8))
    assert np.array_equal(whole[:, :8], cut)


def test_ranges_that_do_not_hold_for_a_call_are_refused_before_it_runs(
    calibrated: SentenceTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(calibrated.pipeline), "stream", lambda *_, **__: pytest.fail("it ran"))
    with pytest.raises(OptionError, match="not scaled to unit length") as caught:
        calibrated.encode(TEXTS, precision="int8", normalize_embeddings=True)
    assert "--normalize-embeddings" in caught.value.hint


@pytest.mark.parametrize("form", [Ranges.from_array, np.asarray])
def test_ranges_may_be_given(calibrated: SentenceTransformer, form: Callable[[Any], Any]) -> None:
    array = np.stack((np.full(WIDTH, -3), np.full(WIDTH, 3))).astype(np.float32)
    codes = calibrated.encode(TEXTS[:2], precision="int8", ranges=form(array))
    assert np.array_equal(codes, quantize_embeddings(calibrated.encode(TEXTS[:2]), "int8", array))


@pytest.mark.parametrize("precision", ["int8", "uint8"])
def test_few_texts_without_ranges_are_refused(model: SentenceTransformer, precision: str) -> None:
    for texts in ("one", TEXTS[:99]):
        with pytest.raises(OptionError, match=f"{precision} needs ranges") as caught:
            model.encode(texts, precision=precision)
        assert "stopt calibrate" in caught.value.hint
    assert model.encode(TEXTS[:100], precision=precision).dtype == precision
    assert len(model.encode([], precision=precision)) == 0


@pytest.mark.filterwarnings("ignore:int8 ranges")
def test_ranges_of_the_call_are_what_sentence_transformers_does(calibrated: SentenceTransformer) -> None:
    assert np.all(calibrated.encode("one", precision="int8", ranges="call") == -128)
    codes = calibrated.encode(TEXTS, precision="int8", ranges="call")
    assert np.array_equal(codes, quantize_embeddings(calibrated.encode(TEXTS), "int8"))


def test_a_damaged_file_of_ranges_is_no_reason_to_quantise_without(calibrated: SentenceTransformer) -> None:
    (calibrated.pipeline.root / RANGES).write_text("{")
    with pytest.raises(CorruptModel):
        calibrated.encode(TEXTS, precision="int8")
    assert calibrated.encode(TEXTS[0]).shape == (WIDTH,)


def test_ranges_of_the_folder_serve_its_conversion_in_the_cache(tiny_copy: Tiny) -> None:
    folder = tiny_copy()
    model = SentenceTransformer(folder, backend="onnx")
    assert model.pipeline.root != folder
    ranges = calibrate_ranges(model, TEXTS)
    assert ranges.provenance is not None
    assert ranges.provenance.file == "onnx/model.onnx"
    ranges.write(folder / RANGES)
    assert np.array_equal(
        model.encode(TEXTS[0], precision="int8"),
        quantize_embeddings(model.encode(TEXTS[0]), "int8", ranges),
    )


def test_ranges_of_the_folder_serve_every_route_of_its_conversion(tiny_copy: Tiny) -> None:
    folder = tiny_copy(kind="router", allow_empty_key=False)
    model = SentenceTransformer(folder, backend="onnx")
    ranges = calibrate_ranges(model, TEXTS)
    ranges.write(folder / RANGES)
    for encode in (model.encode_query, model.encode_document):
        codes = encode(TEXTS[0], precision="int8")
        assert np.array_equal(codes, quantize_embeddings(encode(TEXTS[0]), "int8", ranges))
    model.set_pooling_include_prompt(False)
    assert model.encode_query(TEXTS[0], precision="int8").shape == (8,)


def test_a_model_that_gets_ranges_is_not_converted_anew(tiny_copy: Tiny) -> None:
    folder = tiny_copy()
    first = SentenceTransformer(folder, backend="onnx")
    calibrate_ranges(first, TEXTS).write(folder / RANGES)
    assert SentenceTransformer(folder, backend="onnx").file == first.file
