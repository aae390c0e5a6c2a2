"""Swin Transformer (arXiv:2103.14030): attention within windows that shift from block to block."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint
from torchvision.ops import StochasticDepth

from .backbone import Backbone

__all__ = [
    "BasicLayer",
    "Mlp",
    "PatchEmbed",
    "PatchMerging",
    "SwinTransformer",
    "SwinTransformerBlock",
    "WindowAttention",
    "window_partition",
    "window_reverse",
]

# Added to the logits of pairs that only the cyclic shift brought into one window.
_MASKED = -100.0


def _pair(value):
    return (value, value) if isinstance(value, int) else tuple(value)


def window_partition(x, window_size):
    """Cut a map of tokens into square windows.

    Args:
        x (Tensor): (B, H, W, C); H and W are multiples of `window_size`.
        window_size (int): side of a window.

    Returns:
        Tensor: (B * windows, window_size, window_size, C), row by row.
    """
    x = x.unflatten(2, (-1, window_size)).unflatten(1, (-1, window_size))
    return x.transpose(2, 3).flatten(0, 2)


def window_reverse(windows, window_size, H, W):
    """Undo :func:`window_partition`.

    Args:
        windows (Tensor): (B * windows, window_size, window_size, C).
        window_size (int): side of a window.
        H (int): height of the map.
        W (int): width of the map.

    Returns:
        Tensor: (B, H, W, C).
    """
    x = windows.unflatten(0, (-1, H // window_size, W // window_size))
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)


class Mlp(nn.Module):
    """Two linear layers with an activation between them, and dropout behind each.

    Args:
        in_features (int): input channels.
        hidden_features (int, optional): channels between the layers; by default `in_features`.
        out_features (int, optional): output channels; by default `in_features`.
        act_layer (type): class of the activation.
        drop (float): dropout rate.
    """

    def __init__(self, in_features, hidden_features=None, out_features=None, act_layer=nn.GELU, drop=0.0):
        super().__init__()
        hidden_features = hidden_features or in_features
        self.fc1 = nn.Linear(in_features, hidden_features)
        self.act = act_layer()
        self.fc2 = nn.Linear(hidden_features, out_features or in_features)
        self.drop = nn.Dropout(drop)

    def forward(self, x):
        """Map (..., in_features) to (..., out_features)."""
        return self.drop(self.fc2(self.drop(self.act(self.fc1(x)))))


class WindowAttention(nn.Module):
    """Multi-head self attention within windows, with a learned bias per relative position.

    Args:
        dim (int): channels.
        window_size (tuple[int, int]): height and width of a window.
        num_heads (int): number of heads.
        qkv_bias (bool): biases for query, key and value.
        qk_scale (float, optional): factor on the queries; by default 1 / sqrt(channels per head).
        attn_drop (float): dropout rate of the attention weights.
        proj_drop (float): dropout rate of the output.
    """

    def __init__(self, dim, window_size, num_heads, qkv_bias=True, qk_scale=None, attn_drop=0.0, proj_drop=0.0):
        super().__init__()
        self.dim = dim
        self.window_size = window_size
        self.num_heads = num_heads
        self.scale = qk_scale or (dim // num_heads) ** -0.5

        height, width = window_size
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * height - 1) * (2 * width - 1), num_heads))
        y, x = (axis.flatten() for axis in torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij"))
        # Row of the table for each pair of tokens: both distances start at 0, the vertical one counts by rows.
        down, right = (axis[:, None] - axis + span - 1 for axis, span in ((y, height), (x, width)))
        self.register_buffer("relative_position_index", down * (2 * width - 1) + right)

        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.attn_drop = nn.Dropout(attn_drop)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)
        # After the draws of the linear layers: the order decides which weights a seed gives.
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.softmax = nn.Softmax(dim=-1)

    def forward(self, x, mask=None):
        """Args:
            x (Tensor): (B * windows, T, dim), T tokens per window.
            mask (Tensor, optional): (windows, T, T), added to the logits.

        Returns:
            Tensor: (B * windows, T, dim).
        """
        query, key, value = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        logits = (query * self.scale) @ key.transpose(-2, -1)
        bias = self.relative_position_bias_table[self.relative_position_index]
        logits = logits + bias.permute(2, 0, 1)
        if mask is not None:
            logits = (logits.unflatten(0, (-1, len(mask))) + mask[:, None]).flatten(0, 1)
        weights = self.attn_drop(self.softmax(logits))
        return self.proj_drop(self.proj((weights @ value).transpose(1, 2).flatten(2)))


class SwinTransformerBlock(nn.Module):
    """Window attention and an MLP, each behind a norm and beside an identity.

    The caller sets the attributes `H` and `W`, the size of the map, before :meth:`forward`.

    Args:
        dim (int): channels.
        num_heads (int): number of heads.
        window_size (int): side of a window.
        shift_size (int): how far the windows are shifted, 0 <= shift_size < window_size.
        mlp_ratio (float): hidden channels of the MLP per channel.
        qkv_bias (bool): see :class:`WindowAttention`, as for `qk_scale` and `attn_drop`.
        drop (float): dropout rate of the projection and the MLP.
        drop_path (float): rate at which, in training, a sample skips the attention or the MLP.
        act_layer (type): class of the activation.
        norm_layer (type): class of the norms.
    """

    def __init__(
        self,
        dim,
        num_heads,
        window_size=7,
        shift_size=0,
        mlp_ratio=4.0,
        qkv_bias=True,
        qk_scale=None,
        drop=0.0,
        attn_drop=0.0,
        drop_path=0.0,
        act_layer=nn.GELU,
        norm_layer=nn.LayerNorm,
    ):
        super().__init__()
        assert 0 <= shift_size < window_size, f"shift_size {shift_size} is not in [0, {window_size})"
        self.dim, self.num_heads, self.mlp_ratio = dim, num_heads, mlp_ratio
        self.window_size, self.shift_size = window_size, shift_size
        self.norm1 = norm_layer(dim)
        self.attn = WindowAttention(dim, _pair(window_size), num_heads, qkv_bias, qk_scale, attn_drop, drop)
        self.drop_path = StochasticDepth(drop_path, mode="row") if drop_path > 0.0 else nn.Identity()
        self.norm2 = norm_layer(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), act_layer=act_layer, drop=drop)
        self.H = None
        self.W = None

    def _attend(self, x, mask):
        """Attention on a map (B, H, W, C): pad, shift, cut into windows, and all the way back."""
        height, width = x.shape[1:3]
        size, shift = self.window_size, self.shift_size
        x = F.pad(x, (0, 0, 0, -width % size, 0, -height % size))
        padded = x.shape[1:3]
        if shift > 0:
            x = x.roll((-shift, -shift), dims=(1, 2))
        windows = self.attn(window_partition(x, size).flatten(1, 2), mask if shift > 0 else None)
        x = window_reverse(windows.unflatten(1, (size, size)), size, *padded)
        if shift > 0:
            x = x.roll((shift, shift), dims=(1, 2))
        return x[:, :height, :width]

    def forward(self, x, mask_matrix):
        """Args:
            x (Tensor): (B, H * W, C).
            mask_matrix (Tensor): (windows, T, T), the mask of shifted windows.

        Returns:
            Tensor: (B, H * W, C).
        """
        assert x.shape[1] == self.H * self.W, f"{x.shape[1]} tokens for a map of {self.H} x {self.W}"
        attended = self._attend(self.norm1(x).unflatten(1, (self.H, self.W)), mask_matrix)
        x = x + self.drop_path(attended.flatten(1, 2))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class PatchMerging(nn.Module):
    """Halves the resolution: 2x2 tokens become one, with twice the channels.

    Args:
        dim (int): input channels.
        norm_layer (type): class of the norm.
    """

    def __init__(self, dim, norm_layer=nn.LayerNorm):
        super().__init__()
        self.dim = dim
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)
        self.norm = norm_layer(4 * dim)

    def forward(self, x, H, W):
        """Map (B, H * W, dim) to (B, ceil(H / 2) * ceil(W / 2), 2 * dim)."""
        assert x.shape[1] == H * W, f"{x.shape[1]} tokens for a map of {H} x {W}"
        x = F.pad(x.unflatten(1, (H, W)), (0, 0, 0, W % 2, 0, H % 2))
        # Order of the weights: down before right.
        corners = [x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return self.reduction(self.norm(torch.cat(corners, dim=-1).flatten(1, 2)))


class BasicLayer(nn.Module):
    """One stage: blocks with and without shift in turn, then optionally a lower resolution.

    Args:
        dim (int): channels.
        depth (int): number of blocks.
        num_heads (int): number of heads.
        drop_path (float or list[float]): see :class:`SwinTransformerBlock`; a list has a rate per block.
        downsample (type, optional): class that lowers the resolution, as :class:`PatchMerging`.
        use_checkpoint (bool): compute the blocks again in the backward pass, to save memory.

    The other arguments are those of :class:`SwinTransformerBlock`.
    """

    def __init__(
        self,
        dim,
        depth,
        num_heads,
        window_size=7,
        mlp_ratio=4.0,
        qkv_bias=True,
        qk_scale=None,
        drop=0.0,
        attn_drop=0.0,
        drop_path=0.0,
        norm_layer=nn.LayerNorm,
        downsample=None,
        use_checkpoint=False,
    ):
        super().__init__()
        self.depth, self.use_checkpoint = depth, use_checkpoint
        self.window_size, self.shift_size = window_size, window_size // 2
        rates = drop_path if isinstance(drop_path, list) else [drop_path] * depth
        self.blocks = nn.ModuleList(
            SwinTransformerBlock(
                dim,
                num_heads,
                window_size,
                shift_size=self.shift_size if i % 2 else 0,
                mlp_ratio=mlp_ratio,
                qkv_bias=qkv_bias,
                qk_scale=qk_scale,
                drop=drop,
                attn_drop=attn_drop,
                drop_path=rates[i],
                norm_layer=norm_layer,
            )
            for i in range(depth)
        )
        self.downsample = None if downsample is None else downsample(dim=dim, norm_layer=norm_layer)

    def _shift_mask(self, H, W, device):
        """The mask (windows, T, T) of an H x W map: 0 for tokens that were neighbours before the shift."""
        size, shift = self.window_size, self.shift_size
        # Per axis: 0 before the last window, in that one 1 and, for what the shift brought there, 2.
        bands = []
        for length in (H, W):
            band = torch.zeros(length + -length % size, device=device)
            band[-size:] = 1
            band[len(band) - shift :] = 2
            bands.append(band)
        regions = window_partition((bands[0][:, None] * 3 + bands[1])[None, ..., None], size).flatten(1)
        return (regions[:, None] != regions[:, :, None]) * _MASKED

    def forward(self, x, H, W):
        """Args:
            x (Tensor): (B, H * W, dim).
            H (int): height of the map.
            W (int): width of the map.

        Returns:
            tuple: the result (B, H * W, dim), H, W, and the input of the next stage with its height and width.
        """
        mask = self._shift_mask(H, W, x.device)
        for block in self.blocks:
            block.H, block.W = H, W
            x = checkpoint(block, x, mask, use_reentrant=False) if self.use_checkpoint else block(x, mask)
        if self.downsample is None:
            return x, H, W, x, H, W
        return x, H, W, self.downsample(x, H, W), (H + 1) // 2, (W + 1) // 2


class PatchEmbed(nn.Module):
    """Projects the patches of an image, after zero padding at the bottom and the right.

    Args:
        patch_size (int or tuple[int, int]): size of a patch.
        in_chans (int): channels of the image.
        embed_dim (int): output channels.
        norm_layer (type, optional): class of a norm behind the projection.
    """

    def __init__(self, patch_size=4, in_chans=3, embed_dim=96, norm_layer=None):
        super().__init__()
        self.patch_size = _pair(patch_size)
        self.in_chans = in_chans
        self.embed_dim = embed_dim
        self.proj = nn.Conv2d(in_chans, embed_dim, kernel_size=self.patch_size, stride=self.patch_size)
        self.norm = None if norm_layer is None else norm_layer(embed_dim)

    def forward(self, x):
        """Map (N, in_chans, H, W) to (N, embed_dim, H', W')."""
        x = self.proj(F.pad(x, (0, -x.shape[3] % self.patch_size[1], 0, -x.shape[2] % self.patch_size[0])))
        return x if self.norm is None else self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class SwinTransformer(Backbone):
    """The backbone; its outputs are "p0", "p1", ... of stride 4, 8, ...

    Args:
        pretrain_img_size (int or tuple[int, int]): image size of the absolute position embedding.
        patch_size (int or tuple[int, int]): size of a patch.
        in_chans (int): channels of the image.
        embed_dim (int): channels of the first stage; they double from stage to stage.
        depths (Sequence[int]): blocks per stage.
        num_heads (Sequence[int]): heads per stage.
        window_size (int): side of a window, in tokens.
        mlp_ratio (float): hidden channels of an MLP per channel.
        qkv_bias (bool): biases for query, key and value.
        qk_scale (float, optional): factor on the queries; by default 1 / sqrt(channels per head).
        drop_rate (float): dropout rate of embeddings, projections and MLPs.
        attn_drop_rate (float): dropout rate of the attention weights.
        drop_path_rate (float): stochastic depth rate of the last block; it rises linearly from 0.
        norm_layer (type): class of the norms.
        ape (bool): add an absolute position embedding.
        patch_norm (bool): a norm behind the patch projection.
        out_indices (Sequence[int]): the stages whose results are returned.
        frozen_stages (int): 0 freezes the patch projection, 1 also the absolute position embedding, i >= 2 also the
            first i - 1 stages; -1 nothing.
        use_checkpoint (bool): compute the blocks again in the backward pass, to save memory.
    """

    def __init__(
        self,
        pretrain_img_size=224,
        patch_size=4,
        in_chans=3,
        embed_dim=96,
        depths=(2, 2, 6, 2),
        num_heads=(3, 6, 12, 24),
        window_size=7,
        mlp_ratio=4.0,
        qkv_bias=True,
        qk_scale=None,
        drop_rate=0.0,
        attn_drop_rate=0.0,
        drop_path_rate=0.2,
        norm_layer=nn.LayerNorm,
        ape=False,
        patch_norm=True,
        out_indices=(0, 1, 2, 3),
        frozen_stages=-1,
        use_checkpoint=False,
    ):
        super().__init__()
        self.ape, self.pretrain_img_size = ape, pretrain_img_size
        self.embed_dim, self.patch_norm = embed_dim, patch_norm
        self.out_indices, self.frozen_stages = out_indices, frozen_stages
        self.num_layers = len(depths)
        self.num_features = [embed_dim * 2**i for i in range(self.num_layers)]

        self.patch_embed = PatchEmbed(patch_size, in_chans, embed_dim, norm_layer if patch_norm else None)
        if ape:
            grid = [image // patch for image, patch in zip(_pair(pretrain_img_size), _pair(patch_size), strict=True)]
            self.absolute_pos_embed = nn.Parameter(torch.zeros(1, embed_dim, *grid))
            nn.init.trunc_normal_(self.absolute_pos_embed, std=0.02)
        self.pos_drop = nn.Dropout(drop_rate)

        rates = torch.linspace(0, drop_path_rate, sum(depths), device="cpu").tolist()
        self.layers = nn.ModuleList()
        for i, depth in enumerate(depths):
            self.layers.append(
                BasicLayer(
                    self.num_features[i],
                    depth,
                    num_heads[i],
                    window_size,
                    mlp_ratio=mlp_ratio,
                    qkv_bias=qkv_bias,
                    qk_scale=qk_scale,
                    drop=drop_rate,
                    attn_drop=attn_drop_rate,
                    drop_path=rates[:depth],
                    norm_layer=norm_layer,
                    downsample=PatchMerging if i + 1 < self.num_layers else None,
                    use_checkpoint=use_checkpoint,
                )
            )
            del rates[:depth]
        for i in out_indices:
            self.add_module(f"norm{i}", norm_layer(self.num_features[i]))

        self._freeze_stages()
        self._out_features = [f"p{i}" for i in out_indices]
        self._out_feature_channels = {f"p{i}": self.num_features[i] for i in out_indices}
        self._out_feature_strides = {f"p{i}": 2 ** (i + 2) for i in out_indices}
        self.apply(self._init_weights)

    @property
    def size_divisibility(self):
        """32, the stride of the fourth stage."""
        return 32

    def _freeze_stages(self):
        frozen = [self.patch_embed] if self.frozen_stages >= 0 else []
        if self.frozen_stages >= 1 and self.ape:
            self.absolute_pos_embed.requires_grad = False
        if self.frozen_stages >= 2:
            frozen += [self.pos_drop, *self.layers[: self.frozen_stages - 1]]
        for module in frozen:
            module.eval().requires_grad_(False)

    @staticmethod
    def _init_weights(module):
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            module.reset_parameters()

    def forward(self, x):
        """Args:
            x (Tensor): (N, in_chans, H, W) images.

        Returns:
            dict[str, Tensor]: (N, Ci, Hi, Wi) by name.
        """
        x = self.patch_embed(x)
        height, width = x.shape[2:]
        if self.ape:
            x = x + F.interpolate(self.absolute_pos_embed, size=(height, width), mode="bicubic")
        x = self.pos_drop(x.flatten(2).transpose(1, 2))
        outputs = {}
        for i, layer in enumerate(self.layers):
            result, h, w, x, height, width = layer(x, height, width)
            if i in self.out_indices:
                result = getattr(self, f"norm{i}")(result).transpose(1, 2)
                outputs[f"p{i}"] = result.unflatten(2, (h, w)).contiguous()
        return outputs
