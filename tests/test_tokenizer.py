"""Tokenising without transformers: its ids, its token types and its truncation, for every family."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer as Reference
from tiny import ARCHITECTURES, CORPUS
from tokenizers import Tokenizer, normalizers, pre_tokenizers
from transformers import AutoTokenizer

from stopt.errors import CorruptModel, InputError
from stopt.reading import read_spec
from stopt.runtime.tokenizer import LONG_TEXT, Batch, TextTokenizer

Tiny = Callable[..., Path]

TEXTS = (
    *CORPUS,
    "",
    " ",
    "\t\n\r ",
    "  leading and trailing  ",
    "a  b\tc\nd\u00a0e\u3000f",
    "ÀÉÎÕÜ Çñ ÅØÆ İstanbul ẞ ﬁ ½ ①",
    "e\u0301 cafe\u0301 (combining)",
    "👩‍👩‍👧‍👦 🇩🇪 👍🏽 😀😀",
    "汉字漢字 カタカナ ひらがな 한국어",
    "العربية עברית हिन्दी ไทย",
    "control \x00 \x07 \x7f \u200b \ufeff \ufffd",
    "[CLS] [SEP] [MASK] [PAD] <s> </s> <mask> <pad> <bos> <eos> <|endoftext|> <unk>",
    "x" * 150,
    "unbelievably_long-and/strange:tokens@example.com?q=1&r=2#z",
    "word " * 400,
    "长" * 400,
)
PAIRS = (
    ("a man plays the guitar", "What is the capital of France?"),
    ("", ""),
    ("short", "word " * 200),
    ("word " * 200, "short"),
    ("word " * 70, "fox " * 80),
)


def _open(folder: Path) -> TextTokenizer:
    return TextTokenizer(folder, read_spec(folder).tokenizer)


@cache
def _reference(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(folder)


@cache
def _sentence_transformer(folder: Path) -> Reference:
    return Reference(str(folder), device="cpu")


def _assert_same(batch: Batch, expected: Any, *, token_types: bool) -> None:
    assert np.array_equal(batch.input_ids, expected["input_ids"])
    assert np.array_equal(batch.attention_mask, expected["attention_mask"])
    if (
        "token_type_ids" in expected and batch.token_type_ids.any()
    ):  # zeros where the transformer has no types
        assert np.array_equal(batch.token_type_ids, expected["token_type_ids"])


def _compare(folder: Path, texts: Any, limit: int | None = None) -> None:
    """Compare with transformers, padded and truncated as sentence-transformers asks it to."""
    spec = read_spec(folder).tokenizer
    spec = spec if limit is None else replace(spec, max_seq_length=limit)
    tokenizer = TextTokenizer(folder, spec)
    expected = _reference(folder)(
        list(texts),
        padding=True,
        truncation="longest_first",
        max_length=spec.max_seq_length,
        return_tensors="np",
    )
    _assert_same(tokenizer.pad(tokenizer.tokenize(list(texts))), expected, token_types=spec.token_types)


# ---- every family ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_texts_become_the_tokens_of_transformers(tiny: Tiny, architecture: str) -> None:
    _compare(tiny(architecture), TEXTS)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_pairs_become_the_tokens_of_transformers(tiny: Tiny, architecture: str) -> None:
    _compare(tiny(architecture), PAIRS)


@pytest.mark.parametrize("limit", [5, 8, 17, 18])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_texts_and_pairs_are_cut_where_transformers_cuts(tiny: Tiny, architecture: str, limit: int) -> None:
    _compare(tiny(architecture), TEXTS, limit)
    _compare(tiny(architecture), PAIRS, limit)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("key", ["padding_side", "truncation_side"])
@pytest.mark.parametrize("architecture", ["bert", "qwen3"])
def test_either_side_is_padded_and_cut_as_in_transformers(
    tiny_copy: Tiny, architecture: str, key: str, side: str
) -> None:
    folder = _configure(tiny_copy(architecture), {key: side})
    _compare(folder, TEXTS, 16)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_token_types_are_passed_on_only_where_transformers_gives_them(tiny: Tiny, architecture: str) -> None:
    folder = tiny(architecture)
    given = "token_type_ids" in _reference(folder)("text")
    known = json.loads((folder / "config.json").read_text()).get("type_vocab_size", 0) > 1  # 0 for DeBERTa
    assert read_spec(folder).tokenizer.token_types == (given and known)


def test_the_real_minilm_tokenises_as_transformers(minilm: Path) -> None:
    _compare(minilm, TEXTS)


# ---- what tokenizer_config.json and the classes change ---------------------------------------------------------------


def _configure(folder: Path, changes: dict[str, Any], *removed: str) -> Path:
    file = folder / "tokenizer_config.json"
    config = {key: value for key, value in json.loads(file.read_text()).items() if key not in removed}
    file.write_text(json.dumps({**config, **changes}))
    return folder


def _rebuild(folder: Path, change: Callable[[Tokenizer], None]) -> Path:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    change(tokenizer)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize(
    "changes",
    [
        {"do_lower_case": True},
        {"do_lower_case": False},
        {"strip_accents": True},
        {"strip_accents": False},
        {"do_lower_case": False, "strip_accents": True},
        {"tokenize_chinese_chars": False},
    ],
    ids=str,
)
@pytest.mark.parametrize("architecture", ["bert", "distilbert", "electra", "mpnet"])
def test_settings_of_the_bert_family_replace_those_of_tokenizer_json(
    tiny_copy: Tiny, architecture: str, changes: dict[str, Any], stored: bool
) -> None:
    folder = _rebuild(
        tiny_copy(architecture),
        lambda t: setattr(t, "normalizer", normalizers.BertNormalizer(lowercase=stored)),
    )
    _compare(_configure(folder, changes), TEXTS)


def test_without_do_lower_case_the_default_of_the_class_counts(tiny_copy: Tiny) -> None:
    folder = _rebuild(
        tiny_copy("bert"), lambda t: setattr(t, "normalizer", normalizers.BertNormalizer(lowercase=False))
    )
    _compare(_configure(folder, {}, "do_lower_case", "strip_accents", "tokenize_chinese_chars"), TEXTS)


def test_do_lower_case_does_nothing_to_other_normalisers(tiny_copy: Tiny) -> None:
    folder = _rebuild(tiny_copy("bert"), lambda t: setattr(t, "normalizer", normalizers.NFC()))
    _compare(_configure(folder, {"do_lower_case": True}), TEXTS)


@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize("value", [True, False, None, "absent"])
@pytest.mark.parametrize("architecture", ["roberta", "modernbert", "qwen3"])
def test_add_prefix_space_counts_as_in_transformers(
    tiny_copy: Tiny, architecture: str, value: Any, stored: bool
) -> None:
    folder = _rebuild(
        tiny_copy(architecture),
        lambda t: setattr(t, "pre_tokenizer", pre_tokenizers.ByteLevel(add_prefix_space=stored)),
    )
    changes = {} if value == "absent" else {"add_prefix_space": value}
    _compare(_configure(folder, changes, "add_prefix_space"), TEXTS)


@pytest.mark.parametrize("tokenizer_class", ["GemmaTokenizer", "GemmaTokenizerFast", "LlamaTokenizer"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"add_bos_token": True, "add_eos_token": True},
        {"add_bos_token": False, "add_eos_token": True},
        {"add_bos_token": True, "add_eos_token": False},
        {"add_bos_token": False, "add_eos_token": False},
    ],
    ids=str,
)
def test_start_and_end_tokens_come_as_the_configuration_says(
    tiny_copy: Tiny, tokenizer_class: str, changes: dict[str, Any]
) -> None:
    folder = tiny_copy("gemma3")
    _configure(folder, {"tokenizer_class": tokenizer_class, **changes}, "add_bos_token", "add_eos_token")
    _compare(folder, TEXTS)
    _compare(folder, PAIRS)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_without_tokenizer_config_the_class_of_the_model_counts(tiny_copy: Tiny, architecture: str) -> None:
    folder = tiny_copy(architecture)
    (folder / "tokenizer_config.json").unlink()
    _compare(folder, TEXTS, 40)


def test_special_tokens_may_be_objects(tiny_copy: Tiny) -> None:
    folder = tiny_copy("bert")
    file = folder / "special_tokens_map.json"
    roles = {
        role: {"content": token, "lstrip": False} for role, token in json.loads(file.read_text()).items()
    }
    file.write_text(json.dumps(roles))
    _configure(folder, {}, *roles)
    assert _open(folder).spec.pad_token == "[PAD]"


# ---- lower-casing ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["bert", "roberta", "xlm-roberta", "gemma3"])
def test_do_lower_case_of_the_model_lowers_as_sentence_transformers_does(
    tiny: Tiny, architecture: str
) -> None:
    folder = tiny(architecture, layout="legacy", do_lower_case=True)
    expected = _sentence_transformer(folder).tokenize(list(TEXTS))
    tokenizer = _open(folder)
    batch = tokenizer.pad(tokenizer.tokenize(TEXTS))
    assert np.array_equal(batch.input_ids, expected["input_ids"].numpy())


def test_lower_casing_is_not_added_where_it_is_already(tiny: Tiny) -> None:
    folder = tiny("roberta", do_lower_case=True)
    spec = replace(read_spec(folder).tokenizer, lower_case=True)
    twice = TextTokenizer(folder, spec).tokenize(TEXTS)
    once = _open(folder).tokenize(TEXTS)
    assert [row.ids.tolist() for row in twice] == [row.ids.tolist() for row in once]


# ---- prompts ---------------------------------------------------------------------------------------------------------

PROMPTS = (
    "query: ",
    " ",
    "Represent this sentence for searching: ",
    "q",
    "查询：",
    "word " * 300,
    "end [SEP]",
)


@pytest.mark.parametrize("prompt", PROMPTS, ids=lambda prompt: prompt[:12])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_prompt_has_as_many_tokens_as_in_sentence_transformers(
    tiny: Tiny, architecture: str, prompt: str
) -> None:
    folder = tiny(architecture)
    expected = _sentence_transformer(folder)[0]._get_prompt_length(prompt)
    assert _open(folder).count_prompt(prompt) == expected


def test_a_special_token_without_a_role_at_the_end_of_a_prompt_counts_as_in_sentence_transformers(
    tiny_copy: Tiny,
) -> None:
    folder = tiny_copy("qwen3")
    expected = _sentence_transformer(folder)[0]._get_prompt_length("query: <|im_start|>")
    assert _open(folder).count_prompt("query: <|im_start|>") == expected


# ---- very long texts -------------------------------------------------------------------------------------------------

LONG = LONG_TEXT + 5_000
LONG_TEXTS = {
    "words": "The quick brown fox jumps. " * (LONG // 27),
    "one word": "x" * LONG,
    "no spaces": "今天天气很好" * (LONG // 6),
    "spaces first": " " * LONG + "the end",
    "long words": ("y" * 300 + " ") * (LONG // 301),
    "emoji": "👩‍👩‍👧‍👦" * (LONG // 7),
}


@pytest.mark.parametrize("text", LONG_TEXTS.values(), ids=LONG_TEXTS)
@pytest.mark.parametrize("architecture", ["bert", "roberta", "xlm-roberta"])
def test_a_very_long_text_becomes_the_same_tokens_as_without_shortcuts(
    tiny: Tiny, architecture: str, text: str
) -> None:
    _compare(tiny(architecture), [text])


FEW = 300_000
FEW_TOKENS = {
    "spaces": " " * FEW + "the quick brown fox",
    "lines": "\n" * FEW + "the quick brown fox",
    "one word": "x" * FEW + " the quick brown fox",
    "accents": "e" + "\u0301" * FEW + " the quick brown fox",
    "in the middle": "the quick" + " " * FEW + "brown fox",
    "words of 5 000": ("y" * 5_000 + " ") * (FEW // 5_000) + " the end",
}


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("text", FEW_TOKENS.values(), ids=FEW_TOKENS)
@pytest.mark.parametrize("architecture", ["bert", "roberta", "t5", "xlm-roberta"])
def test_a_very_long_text_of_few_tokens_is_read_to_its_end(
    tiny_copy: Tiny, architecture: str, text: str, side: str
) -> None:
    folder = _configure(tiny_copy(architecture), {"truncation_side": side})
    _compare(folder, [text if side == "right" else text[::-1]])


def test_half_a_word_at_the_cut_is_not_taken_for_the_word(tiny: Tiny) -> None:
    # cut after 32 768 characters, the word of 200 letters is one of 68, which is not unknown and has enough tokens
    text = "\n" * (LONG_TEXT // 2 - 68) + "y" * 200 + "\n" * LONG_TEXT
    _compare(tiny("bert"), [text], limit=16)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_text_that_is_cut_before_it_has_enough_tokens_is_named(
    tiny_copy: Tiny, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, side: str
) -> None:
    monkeypatch.setattr("stopt.runtime.tokenizer.MOST_CHARACTERS", 100_000)
    tokenizer = _open(_configure(tiny_copy("bert"), {"truncation_side": side}))
    size = 1024 * (tokenizer.spec.max_seq_length or 0)
    text = "the fox" + " " * 300_000 + "the fox"
    rows = tokenizer.tokenize(["fine", text, "word " * 60_000])
    assert rows[1].ids.tolist() == tokenizer.tokenize(["the fox"])[0].ids.tolist()
    end = {"left": "last", "right": "first"}[side]
    assert caplog.messages == [
        f"text 1 has 300014 characters, and the {end} {size} of them make only 2 tokens; the others are left out"
    ]


def test_the_odd_token_of_very_long_pairs_goes_where_it_goes_without_shortcuts(tiny: Tiny) -> None:
    # the first has more tokens, but fewer among its first 32 768 characters
    first = ("a" + " " * 100) * 324 + "a " * 600
    second = "b " * 400 + " " * 40_000
    _compare(tiny("bert"), [(first, second)])


@pytest.mark.parametrize("architecture", ["bert", "xlm-roberta"])
def test_very_long_pairs_become_the_same_tokens_as_without_shortcuts(tiny: Tiny, architecture: str) -> None:
    long = ("y" * 90 + " ") * 800
    _compare(tiny(architecture), [(long, "short"), ("short", long), (long, "a " * 300)])


def test_a_text_cut_on_the_left_is_not_shortened_on_the_right(tiny_copy: Tiny) -> None:
    folder = _configure(tiny_copy("bert"), {"truncation_side": "left"})
    _compare(folder, [LONG_TEXTS["words"] + "the very end"])


def test_ten_megabytes_are_one_text(tiny: Tiny) -> None:
    tokenizer = _open(tiny("bert"))
    (row,) = tokenizer.tokenize(["The quick brown fox. " * 500_000])
    assert len(row) == tokenizer.spec.max_seq_length


# ---- errors and threads ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["bad \ud800 text", "\udfff", ("fine", "bad \udc80")], ids=repr)
def test_a_lone_surrogate_is_refused_with_its_place(tiny: Tiny, text: Any) -> None:
    with pytest.raises(InputError, match=r"text 1 has a lone surrogate, U[+]D[89A-F]") as caught:
        _open(tiny()).tokenize(["fine", text])
    assert caught.value.index == 1
    assert "decode" in caught.value.hint


def test_a_lone_surrogate_far_beyond_the_cut_is_cut_off(tiny: Tiny) -> None:
    tokenizer = _open(tiny())
    (row,) = tokenizer.tokenize(["a b c d " * 10_000 + "\ud800"])
    assert len(row) == tokenizer.spec.max_seq_length


@pytest.mark.parametrize("content", ["", "{", "{}", "[]", '{"model": {"type": "Nothing"}}'], ids=repr)
def test_a_broken_tokenizer_json_is_corrupt(tiny_copy: Tiny, content: str) -> None:
    folder = tiny_copy()
    (folder / "tokenizer.json").write_text(content)
    with pytest.raises(CorruptModel, match=r"tokenizer\.json is not a tokenizer") as caught:
        _open(folder)
    assert "fetch the file again" in caught.value.hint


def test_a_padding_token_that_does_not_exist_is_corrupt(tiny_copy: Tiny) -> None:
    folder = _configure(tiny_copy(), {"pad_token": "[NONE]"})
    with pytest.raises(CorruptModel, match=r"has no token '\[NONE\]', which its configuration pads with"):
        _open(folder)


def test_threads_can_share_a_tokenizer(tiny: Tiny) -> None:
    tokenizer = _open(tiny())
    texts = [*TEXTS, *PAIRS]
    expected = [row.ids.tolist() for row in tokenizer.tokenize(texts)]
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: tokenizer.tokenize(texts), range(40)))
    assert all([row.ids.tolist() for row in rows] == expected for rows in results)


def test_padding_to_a_given_length_is_never_shorter_than_the_longest_text(tiny: Tiny) -> None:
    tokenizer = _open(tiny())
    rows = tokenizer.tokenize(["a b c d e f", "a"])
    widths = [tokenizer.pad(rows, length=length).input_ids.shape[1] for length in (3, 20)]
    assert widths == [8, 20]


@pytest.mark.parametrize("architecture", ["bert", "qwen3"])
def test_positions_count_real_tokens_from_zero_whichever_side_is_padded(
    tiny: Tiny, architecture: str
) -> None:
    tokenizer = _open(tiny(architecture))
    rows = tokenizer.tokenize(["the quick brown fox", "a"])
    batch = tokenizer.pad(rows)
    counted = [
        ids[mask == 1].tolist() for ids, mask in zip(batch.position_ids, batch.attention_mask, strict=True)
    ]
    assert counted == [list(range(len(row))) for row in rows]
