"""The losses as modules. They hold options, no parameters."""

from __future__ import annotations

from inspect import Parameter, Signature
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from typing_extensions import Unpack

from . import functional
from ._options import LossKeywords, LossOptions, ScoreLossKeywords, ScoreLossOptions, option_of, parameters

__all__ = ["AdaptiveQuintupletLoss", "AdaptiveQuintupletScoreLoss"]


class _Loss(nn.Module):
    """Options as attributes, which may also be set later."""

    options: LossOptions
    _kind: type[LossOptions]
    _takes: Signature

    def __init_subclass__(cls, kind: type[LossOptions] | None = None) -> None:
        if kind is not None:
            cls._kind, cls._takes = kind, Signature(parameters(kind, Parameter.POSITIONAL_OR_KEYWORD))
            for name in cls._takes.parameters:
                setattr(cls, name, option_of("options", kind.create, name))
        # What inspect shows; a user's own class may take something else.
        cls.__signature__ = cls._takes if cls.__init__ is _Loss.__init__ else None  # type: ignore

    def __init__(self, *values: Any, **options: Any) -> None:
        super().__init__()
        try:
            given = self._takes.bind(*values, **options).arguments
        except TypeError as error:
            raise TypeError(f"{type(self).__name__}() {error}") from error
        self.options = self._kind.create(**given)

    if TYPE_CHECKING:  # the options are attributes that no annotation names

        def __getattr__(self, name: str) -> Any: ...

        def __setattr__(self, name: str, value: Any) -> None: ...

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in self._takes.parameters)


class AdaptiveQuintupletLoss(_Loss, kind=LossOptions):
    """Adaptive Offline Quintuplet loss for image-text matching, from embeddings.

    Chen, Deng, Luo, "Adaptive Offline Quintuplet Loss for Image-Text Matching", ECCV 2020, arXiv 2003.03669. For
    pair i with similarity p_i, hardest online negatives n_i (text) and m_i (image), and offline negatives scored
    a_i = sim(x_i, ỹ_i), b_i = sim(x̃_i, y_i), c_i = sim(x̃_i, ỹ_i), d_i = sim(x̂_i, ŷ_i)::

        w_i = β − (a_i − n_i)/α          v_i = β − (b_i − m_i)/α
        L_i = w_i·[γ_on + n_i − p_i]₊ + v_i·[γ_on + m_i − p_i]₊
            + [γ_off + a_i − p_i]₊ + [γ_off + b_i − p_i]₊ + [γ_off + c_i − p_i]₊ + [γ_off + d_i − p_i]₊

    The (B, B) score matrix is never stored: extra memory grows with B, not B². An option may also be set later, as
    ``loss.online = "hardest"`` after a few epochs of ``"all"``.

    Args:
        margin_online: γ_on, margin of the online hinges, in units of the similarity.
        margin_offline: γ_off, margin of the offline hinges.
        alpha: α > 0, how fast the adaptive weight falls with the gap a_i − n_i.
        beta: β, the adaptive weight at gap 0.
        objective: the paper's ladder, each rung adding to the one before: ``"online_triplet"`` (w = v = 1, no
            offline terms; takes only image and text), ``"offline_triplet"`` (+ a, b), ``"offline_quintuplet"``
            (+ c, d), ``"adaptive_quintuplet"`` (+ weights w, v).
        online: ``"hardest"`` (the paper), ``"semihard"`` (the hardest that scores below the positive) or ``"all"``
            (the sum of the hinges over all negatives; a few epochs of it first keep training from collapsing).
        similarity: ``"dot"``, ``"cosine"`` or ``"order"`` (−‖max(0, y − x)‖₂).
        reduction: ``"sum"`` (the paper), ``"mean"`` or ``"none"``.
        detach_weight: treat w and v as constants in the backward pass (the authors' code does not).
        clamp_weight: clamp w and v at 0 (the authors' code does not; they go negative once a gap exceeds α·β).
        gather_distributed: take negatives from the batches of all ranks of the default process group. The loss is then
            that of the concatenated batch on every rank (``"none"``: of this rank's pairs), and ``backward()`` on every
            rank gives each the gradient of that loss by its own rows. DistributedDataParallel *averages* the parameter
            gradients of N ranks: multiply the loss by N before ``backward()`` to train as one process would, for
            ``"sum"`` and for ``"mean"`` alike. Batch sizes may differ between ranks. One process alone: no effect.

    Shape:
        - image x, text y: (B, D), float32, float16, bfloat16 or float64, normally L2-normalised by the encoder.
        - hard_image x̃, hard_text ỹ: (B, D), or (B, K, D) candidates of which the hardest is used.
        - hard_text_image x̂, the image ỹ belongs to: as hard_text. hard_image_text ŷ, a text of x̃: as hard_image.
        - group_ids: (B,) integers; pairs with equal ids are never each other's negatives.
        - output: float32 (float64 for float64 input); (), or (B,) with ``reduction="none"``.

    Raises:
        TypeError: an argument of the wrong type or dtype, or an offline negative the objective needs is missing.
        ValueError: a wrong shape or device, an unknown name, a hyper-parameter that is not finite; with
            ``gather_distributed``, arguments that differ between ranks.
        RuntimeError: with ``gather_distributed``, another rank refused its arguments, is gone, or did not come within
            the timeout that ``torch.distributed.init_process_group`` was given.

    Example:
        >>> import torch, aoq_ext
        >>> x, y, x_tilde, y_tilde, x_hat, y_hat = torch.nn.functional.normalize(
        ...     torch.randn(6, 8, 16, generator=torch.Generator().manual_seed(0)), dim=-1).requires_grad_().unbind()
        >>> loss_fn = aoq_ext.AdaptiveQuintupletLoss()
        >>> loss = loss_fn(x, y, x_tilde, y_tilde, x_hat, y_hat)
        >>> loss.backward()
        >>> loss.shape
        torch.Size([])
    """

    if TYPE_CHECKING:

        def __init__(self, *values: Any, **options: Unpack[LossKeywords]) -> None: ...

    def forward(
        self,
        image: Tensor,  # (B, D)
        text: Tensor,  # (B, D)
        hard_image: Tensor | None = None,  # (B, D) or (B, K, D)
        hard_text: Tensor | None = None,  # (B, D) or (B, K, D)
        hard_text_image: Tensor | None = None,  # as hard_text
        hard_image_text: Tensor | None = None,  # as hard_image
        group_ids: Tensor | None = None,  # (B,)
    ) -> Tensor:
        return functional.embedding_loss(
            image, text, hard_image, hard_text, hard_text_image, hard_image_text, group_ids, self.options
        )


class AdaptiveQuintupletScoreLoss(_Loss, kind=ScoreLossOptions):
    """Adaptive Offline Quintuplet loss from a given score matrix, for cross-attention models such as SCAN and BFAN.

    Options and mathematics: see :class:`AdaptiveQuintupletLoss`.

    Shape:
        - scores S: (B, B), images in rows, texts in columns, the pairs on the diagonal. A score of −inf is never a
          negative, so it masks.
        - hard_text_scores a, hard_image_scores b, hard_pair_scores c, partner_pair_scores d: (B,).
        - group_ids: (B,) integers. Output as for :class:`AdaptiveQuintupletLoss`.
        - scores with ``gather_distributed``: (B, C), this rank's images against the C texts of all ranks in rank order.
    """

    if TYPE_CHECKING:

        def __init__(self, *values: Any, **options: Unpack[ScoreLossKeywords]) -> None: ...

    def forward(
        self,
        scores: Tensor,  # (B, B)
        hard_text_scores: Tensor | None = None,  # (B,)
        hard_image_scores: Tensor | None = None,  # (B,)
        hard_pair_scores: Tensor | None = None,  # (B,)
        partner_pair_scores: Tensor | None = None,  # (B,)
        group_ids: Tensor | None = None,  # (B,)
    ) -> Tensor:
        return functional.score_loss(
            scores, hard_text_scores, hard_image_scores, hard_pair_scores, partner_pair_scores, group_ids, self.options
        )
