"""The encoder's self-attention without copies: on a GPU they take a tenth of a training step. And the decoder's to the
encoder's states, which is told how much silence each of them stands for."""

from typing import Any

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import WhisperForConditionalGeneration
from transformers.models.whisper.modeling_whisper import WhisperAttention


class LeanAttention(WhisperAttention):
    """transformers' layer, to the same result; torch's kernels take queries, keys and values as the projections lay
    them, which transformers rearranges first, and the gradients once more."""

    def forward(  # type: ignore[override]  # an encoder has no other states, and no cache
        self, hidden_states: Float[Tensor, "batch position width"], attention_mask: Tensor | None = None, **others: Any
    ) -> tuple[Float[Tensor, "batch position width"], Tensor | None]:
        if self.config._attn_implementation != "sdpa":  # type: ignore[union-attr]
            return super().forward(hidden_states, attention_mask=attention_mask, **others)  # type: ignore[return-value]
        projections = (self.q_proj, self.k_proj, self.v_proj)
        heads = [
            projection(hidden_states).unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)
            for projection in projections
        ]
        dropout = self.dropout if self.training else 0.0
        attended = scaled_dot_product_attention(*heads, attn_mask=attention_mask, dropout_p=dropout, scale=self.scaling)
        return self.out_proj(attended.transpose(1, 2).flatten(2)), None


class CrossAttention(WhisperAttention):
    """transformers' layer, with a mask that its decoder hands through to every attention (model/silence.py)."""

    def forward(  # type: ignore[override]
        self, hidden_states: Float[Tensor, "batch token width"], silence: Tensor | None = None, **others: Any
    ) -> tuple[Float[Tensor, "batch token width"], Tensor | None]:
        return super().forward(hidden_states, **others | {"attention_mask": silence})  # type: ignore[return-value]


def change_attention(network: WhisperForConditionalGeneration) -> None:
    """Let the encoder's blocks use LeanAttention, and the decoder's CrossAttention, in place."""
    for layer in network.model.encoder.layers:
        if type(layer.self_attn) is WhisperAttention:
            layer.self_attn.__class__ = LeanAttention
    for layer in network.model.decoder.layers:
        if type(layer.encoder_attn) is WhisperAttention:
            layer.encoder_attn.__class__ = CrossAttention
