"""A stand-in for the package flash-attn: its two functions' contract, on any device, in any dtype, one text at a time.

What transformers does around them is left as it is, so that what it passes on is seen here.
"""

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from transformers import modeling_flash_attention_utils, modeling_utils

from stopt.runtime.sessions import torch as torch_session

__all__ = ["Flash", "standing_in"]


@dataclass
class Flash:
    """The calls: tokens of the texts that each was for; padded batches as the tokens of each row."""

    varlen: list[list[int]] = field(default_factory=list)
    dense: list[list[int]] = field(default_factory=list)

    def flash_attn_func(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        dropout_p: float = 0.0,
        softmax_scale: float | None = None,
        causal: bool = False,
        window_size: tuple[int, int] = (-1, -1),
        softcap: float = 0.0,
    ) -> torch.Tensor:
        """(B, T, heads, D) to the same."""
        self.dense.append([q.shape[1]] * q.shape[0])
        rows = zip(q, k, v, strict=True)
        return torch.stack([_attend(*row, softmax_scale, causal, window_size, softcap) for row in rows])

    @torch.compiler.disable
    def flash_attn_varlen_func(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        cu_seqlens_q: torch.Tensor,
        cu_seqlens_k: torch.Tensor,
        max_seqlen_q: int,
        max_seqlen_k: int,
        dropout_p: float = 0.0,
        softmax_scale: float | None = None,
        causal: bool = False,
        window_size: tuple[int, int] = (-1, -1),
        softcap: float = 0.0,
    ) -> torch.Tensor:
        """(N, heads, D) to the same; the texts lie where `cu_seqlens_q` says."""
        assert cu_seqlens_q.dtype == cu_seqlens_k.dtype == torch.int32
        assert torch.equal(cu_seqlens_q, cu_seqlens_k)
        lengths = cu_seqlens_q.diff().tolist()
        assert int(cu_seqlens_q[0]) == 0
        assert len(q) == len(k) == len(v) == sum(lengths)
        assert min(lengths) > 0
        assert type(max_seqlen_q) is type(max_seqlen_k) is int
        assert max_seqlen_q == max_seqlen_k == max(lengths)
        self.varlen.append(lengths)
        texts = zip(*(each.split(lengths) for each in (q, k, v)), strict=True)
        return torch.cat([_attend(*text, softmax_scale, causal, window_size, softcap) for text in texts])


def _attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    scale: float | None,
    causal: bool,
    window: tuple[int, int],
    softcap: float,
) -> torch.Tensor:
    """Attention of one text, (T, heads, D); a window says how many tokens before and after are seen, -1 is all."""
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    scores = torch.einsum("qhd,khd->hqk", q, k) * (scale or q.shape[-1] ** -0.5)
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    distance = torch.arange(len(k))[None, :] - torch.arange(len(q))[:, None]
    left, right = window
    hidden = (distance > 0) & causal
    hidden |= (distance < -left) & (left >= 0)
    hidden |= (distance > right) & (right >= 0)
    weights = scores.masked_fill(hidden, -torch.inf).softmax(-1)
    return torch.einsum("hqk,khd->qhd", weights, v)


def standing_in(monkeypatch: pytest.MonkeyPatch) -> Flash:
    """Have transformers, and stopt, find flash attention here."""
    flash = Flash()
    for name in ("_flash_fn", "_flash_varlen_fn", "_pad_fn", "_unpad_fn", "_process_flash_kwargs_fn"):
        monkeypatch.setattr(modeling_flash_attention_utils, name, None)
    functions: tuple[Any, ...] = (
        flash.flash_attn_func,
        flash.flash_attn_varlen_func,
        modeling_flash_attention_utils._pad_input,
        modeling_flash_attention_utils._unpad_input,
    )
    monkeypatch.setattr(modeling_flash_attention_utils, "_lazy_imports", lambda _: functions)
    monkeypatch.setattr(modeling_utils, "is_flash_attn_2_available", lambda: True)
    monkeypatch.setattr(torch_session, "check_flash", lambda *_: None)
    return flash
