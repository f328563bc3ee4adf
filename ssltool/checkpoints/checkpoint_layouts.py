"""The registry of checkpoint layouts: how other programs name what they save.

A layout gives the prefix of the backbone. If a file holds several networks, this is the one that the program itself
evaluates, such as the online network in MoCo v3 and the teacher in DINO.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from ssltool.checkpoints.parameter_names import NamingScheme, find_naming_schemes
from ssltool.checkpoints.unknown_networks import describe_unknown
from ssltool.errors import SSLToolError
from ssltool.files.misfit import name_keys
from ssltool.models.vit import VITS
from ssltool.registry import Registry

CONTAINERS = (
    "teacher",
    "target_encoder",
    "state_dict_ema",
    "model_ema",
    "ema",
    "ema_model",
    "ema_state_dict",
    "params_ema",
    "state_dict",
    "model",
    "model_state_dict",
    "module",
    "encoder",
    "backbone",
)
"""Top-level keys of the weights. Those that a program evaluates come first: DINO's teacher, the target of I-JEPA, and
moving averages."""

WRAPPERS = ("module.", "_orig_mod.")
"""Prefixes added by DistributedDataParallel and torch.compile."""

HEADS = (
    "fc",
    "_fc",
    "head",
    "head_dist",
    "heads",
    "pre_logits",
    "linear",
    "classifier",
    "projection_head",
    "prototypes",
    "pred",
    "proj",
    "aux1",
    "aux2",
    "AuxLogits",
)
"""Modules that are not part of the backbone although they may have its prefix; they are ignored and listed."""

TIMM_HEADS: Mapping[str, int] = {"vit_small": 6}
"""Attention heads in timm, DINO and most other programs where they differ from ssltool's (MoCo v3's): one for every 64
dimensions. MoCo v3's vit_small has 12."""

MOCO_HEADS: Mapping[str, int] = {}

PUBLISHED_HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16, 1408: 16, 1536: 24}
"""Attention heads of published ViTs by their width."""

TIMM, TORCHVISION, UNKNOWN = "timm", "torchvision", "unknown"
"""Programs of files that hold only the weights of a network."""

UNSPECIFIC = (TIMM, TORCHVISION, UNKNOWN, "Lightning", "open_clip")
"""Programs whose networks may differ in what weights do not show."""


@dataclass(frozen=True)
class CheckpointLayout:
    """The layout of the checkpoints of a program.

    Args:
        program: the name of the program.
        method: ssltool's name of the method that trained the network; None if the file does not show it.
        prefix: the prefix of the backbone's parameters.
        requires: prefixes of parameter names, or top-level keys, that a file of this layout contains.
        excludes: prefixes of parameter names, or top-level keys, that a file of this layout does not contain.
        stem: the stem of ResNets whose first convolution is 3x3; None if the program has none.
        heads: attention heads of ViTs that have another number than ssltool's ViT of the same size, by ssltool's
            name; None if they are unknown.
        stem_assumes: what the stem of a ResNet with a 3x3 first convolution may differ in, in words.
        assumes: what the network may differ in, in words.
        first_epoch: the number of the first epoch, 0 or 1; the file has that of the last completed one.
        mean_of_patches: whether the program takes the mean over the patches as the output of timm's ViTs.
    """

    program: str
    method: str | None
    prefix: str
    requires: tuple[str, ...] = ()
    excludes: tuple[str, ...] = ()
    stem: str | None = None
    heads: Mapping[str, int] | None = field(default_factory=lambda: TIMM_HEADS)
    stem_assumes: tuple[str, ...] = ()
    assumes: tuple[str, ...] = ()
    first_epoch: int = 1
    mean_of_patches: bool = False

    @property
    def names_program(self) -> bool:
        """Whether only one program writes such files. If not, what weights do not show may be different."""
        return self.program not in UNSPECIFIC

    @property
    def settings_of_network(self) -> bool:
        """Whether the program's settings may change what the network computes."""
        return not self.names_program or self.program in ("solo-learn", "MAE", "V-JEPA")

    def attention_heads(self) -> dict[int, int]:
        """The attention heads of the program's ViTs by their width, as far as they are known."""
        own = {VITS[name][0]: heads for name, heads in (self.heads or {}).items()}
        return PUBLISHED_HEADS | own if self.names_program else own

    def matches(self, names: Collection[str], entries: Collection[str]) -> bool:
        """Whether a file with these parameter ``names`` and top-level ``entries`` has this layout."""

        def present(marker: str) -> bool:
            return marker in entries or any(name.startswith(marker) for name in names)

        return all(map(present, self.requires)) and not any(map(present, self.excludes))


_PAPER = "noncontrastive-ssl"
"""The code of the collapse paper."""

_CLASS_TOKEN = ("the class token is the output",)

_SOLO = ("the padding of solo-learn's first convolution (else --stem small)",)
_SCAN = ("a stem without pooling; SCAN's network for STL-10 has one",)

CHECKPOINT_LAYOUTS: Registry[CheckpointLayout] = Registry(
    "checkpoint layout",
    __name__,
    {
        "noncontrastive-ssl/distill": CheckpointLayout(_PAPER, "distill", "", ("teacher_mean",)),
        "ressl": CheckpointLayout("ReSSL", "ressl", "encoder_q.net.", ("encoder_k.net.",)),
        "moco": CheckpointLayout("moco", "moco", "encoder_q.", ("encoder_k.",)),
        "noncontrastive-ssl/byol": CheckpointLayout(
            _PAPER,
            "byol",
            "base_encoder.",
            ("base_encoder.fc.3.weight", "momentum_encoder."),
            ("base_encoder.fc.4.running_mean",),
        ),
        "moco-v3": CheckpointLayout("moco-v3", "mocov3", "base_encoder.", ("momentum_encoder.",), heads=MOCO_HEADS),
        "noncontrastive-ssl/nnsiam": CheckpointLayout(_PAPER, "nnsiam", "encoder.", ("predictor.", "queue_ptr")),
        # SimSiam's own code has no ViTs, so those in such files may have any number of heads.
        "simsiam": CheckpointLayout("simsiam", "simsiam", "encoder.", ("predictor.",), ("classifier.",), heads=None),
        "patrickhua/simsiam": CheckpointLayout(
            "PatrickHua/SimSiam",
            "simsiam",
            "backbone.",
            ("encoder.0.", "encoder.1.layer1.", "predictor.layer1."),
            stem="small",
        ),
        "patrickhua/simclr": CheckpointLayout(
            "PatrickHua/SimSiam",
            "simclr",
            "backbone.",
            ("encoder.0.", "encoder.1.layer1.", "projector.layer2."),
            stem="small",
        ),
        "solo-learn/mocov3": CheckpointLayout(
            "solo-learn",
            "mocov3",
            "backbone.",
            ("classifier.", "momentum_projector.", "predictor."),
            ("projector.0.bias",),
            "small-padded",
            {"vit_tiny": 12},
            stem_assumes=_SOLO,
        ),
        "solo-learn/mae": CheckpointLayout(
            "solo-learn", None, "backbone.", ("classifier.", "decoder.decoder_embed."), heads={"vit_tiny": 12}
        ),
        "solo-learn": CheckpointLayout(
            "solo-learn", None, "backbone.", ("classifier.",), stem="small-padded", stem_assumes=_SOLO
        ),
        "solo-learn/encoder": CheckpointLayout(
            "solo-learn", None, "encoder.", ("classifier.",), stem="small-padded", stem_assumes=_SOLO
        ),  # earlier versions
        "barlowtwins": CheckpointLayout("barlowtwins", "barlow", "backbone.", ("projector.", "bn.running_mean")),
        "vicreg": CheckpointLayout(
            "vicreg",
            "vicreg",
            "backbone.",
            ("projector.0.bias", "projector.3.bias", "projector.6.weight"),
            ("projector.6.bias", "online_head.", "pytorch-lightning_version"),
        ),
        "directclr": CheckpointLayout("DirectCLR", None, "backbone.", ("online_head.",)),
        "dinov3/run": CheckpointLayout("DINOv3", None, "teacher.backbone.", ("teacher.backbone.rope_embed.",)),
        "dinov2/run": CheckpointLayout("DINOv2", None, "teacher.backbone.", ("teacher.dino_head.",)),
        "dinov3": CheckpointLayout("DINOv3", None, "backbone.", ("backbone.rope_embed.",)),
        "dinov3/convnext": CheckpointLayout("DINOv3", None, "backbone.", ("backbone.norms.3.", "dino_head.")),
        "dinov2": CheckpointLayout("DINOv2", None, "backbone.", ("dino_head.",)),
        "ibot": CheckpointLayout("iBOT", None, "backbone.", ("ibot_loss",)),
        "dino": CheckpointLayout("dino", "dino", "backbone.", ("head.last_layer.",)),
        "scan": CheckpointLayout("SCAN", None, "backbone.", ("contrastive_head.",), stem_assumes=_SCAN),
        "scan/clusters": CheckpointLayout("SCAN", None, "backbone.", ("cluster_head.",), stem_assumes=_SCAN),
        **{
            f"lightly-train/{network}/{part}": CheckpointLayout(
                "lightly-train",
                None,
                f"{network}embedding_model.wrapped_model.{part}.",
                ("lightly_train", *marker),
                mean_of_patches=part == "_model",
            )
            for network, marker in (("teacher_", ("student_", "teacher_")), ("student_", ()), ("", ()))
            for part in ("_model", "_features")
        },
        "openmmlab": CheckpointLayout("OpenMMLab", None, "backbone.", ("meta", "state_dict")),
        "vissl": CheckpointLayout("VISSL", None, "_feature_blocks."),
        **{
            f"stable-pretraining/{kind}": CheckpointLayout(
                "stable-pretraining", None, prefix, (marker,), ("encoder.teacher.vit.",), assumes=words
            )
            for kind, prefix, marker, words in (
                ("backbone's teacher", "backbone.teacher.", "backbone.ema_coefficient", ()),
                ("encoder's teacher", "encoder.teacher.", "encoder.ema_coefficient", ()),
                ("MAE", "encoder.vit.", "encoder.patch_embed.", _CLASS_TOKEN),
                ("probes", "backbone.", "callbacks_modules.", ()),
            )
        },
        "lightly/vit": CheckpointLayout("lightly", None, "backbone.vit."),
        "lightly/projection-head": CheckpointLayout("lightly", None, "backbone.", ("projection_head.",)),
        "lightly/prediction-head": CheckpointLayout("lightly", None, "backbone.", ("prediction_head.",)),
        "lightning": CheckpointLayout("Lightning", None, "backbone.", ("pytorch-lightning_version",)),
        "lightly/teacher-vit": CheckpointLayout("lightly", None, "teacher_backbone.vit."),
        "lightly/teacher": CheckpointLayout("lightly", None, "teacher_backbone."),
        "swav/deepcluster": CheckpointLayout("swav", "deepcluster", "", ("prototypes.prototypes0.",)),
        "swav": CheckpointLayout("swav", "swav", "", ("projection_head.",)),
        "v-jepa": CheckpointLayout("V-JEPA", None, "backbone.", ("target_encoder", "predictor")),
        "i-jepa": CheckpointLayout("I-JEPA", None, "", ("target_encoder", "predictor")),
        "msn": CheckpointLayout("MSN", None, "", ("target_encoder", "prototypes")),
        "paws": CheckpointLayout("PAWS", "paws", "", ("encoder", "fc.fc1.", "opt")),
        "mae": CheckpointLayout("MAE", None, "", ("decoder_embed.", "decoder_blocks."), first_epoch=0),
        "dinov3/release": CheckpointLayout("DINOv3", None, "", ("rope_embed.periods",)),
        "dinov3/convnext-release": CheckpointLayout("DINOv3", None, "", ("norms.3.", "downsample_layers.")),
        "dinov2/release": CheckpointLayout("DINOv2", None, "", ("mask_token", "blocks.0.ls1.")),
        "dinov2/block-chunks": CheckpointLayout("DINOv2", None, "", ("mask_token", "blocks.0.0.ls1.")),
        "dinov2/registers": CheckpointLayout("DINOv2", None, "", ("register_tokens",)),
        "beit": CheckpointLayout("BEiT", None, "", ("blocks.0.attn.relative_position_bias_table",)),
        "beit/shared": CheckpointLayout("BEiT", None, "", ("rel_pos_bias.relative_position_bias_table",)),
        "clip/openai": CheckpointLayout("CLIP", None, "visual.", ("visual.ln_pre.", "input_resolution")),
        "clip": CheckpointLayout("open_clip", None, "visual.", ("visual.ln_pre.",)),
        "clip/image-encoder": CheckpointLayout("open_clip", None, "", ("ln_pre.",)),
        "torchvision/vit": CheckpointLayout(TORCHVISION, None, "", ("conv_proj.",)),
        "timm/vit": CheckpointLayout(TIMM, None, "", ("patch_embed.",)),
        "timm/convnext": CheckpointLayout(TIMM, None, "", ("stages.0.blocks.0.conv_dw.",), heads=None),
        "efficientnet-pytorch": CheckpointLayout("EfficientNet-PyTorch", None, "", ("_conv_stem.",)),
        "timm/efficientnet": CheckpointLayout(TIMM, None, "", ("conv_stem.",), heads=None),
        "timm/resnet": CheckpointLayout(TIMM, None, "", ("conv1.0.",), heads=None),
        "wide_resnet/paws": CheckpointLayout(UNKNOWN, None, "", ("layer1.0.conv1.bias",)),
        "wide_resnet/solo-learn": CheckpointLayout(UNKNOWN, None, "", ("block1.layer.0.conv1.",)),
        "wide_resnet": CheckpointLayout(UNKNOWN, None, "", ("stages.0.0.conv1.bias",)),
        "torchvision": CheckpointLayout(TORCHVISION, None, "", heads=None),  # and any bare ResNet
    },
)
"""Tried in this order; the first that matches is used."""


def detect_layout(
    path: str, names: Collection[str], entries: Collection[str], anchor: str | None = None
) -> tuple[CheckpointLayout, NamingScheme]:
    """Detects the layout of the file ``path`` from its parameter ``names`` and top-level ``entries``.

    If no registered layout matches and the file holds a single network, under any prefix, the program is "unknown".

    Args:
        anchor: a parameter name of the network that the user names; a network with it may have any other names.

    Returns:
        The layout, and the naming scheme of the backbone's parameters.

    Raises:
        SSLToolError: if the file holds no network, or several and no registered layout matches.
    """
    networks = find_naming_schemes(names)
    if anchor is not None:
        named = NamingScheme("the network's own", anchor)
        networks = find_naming_schemes(names, [named]) or networks or ({"": named} if names else {})
    for layout in CHECKPOINT_LAYOUTS.values():
        if layout.prefix in networks and layout.matches(names, entries):
            return layout, networks[layout.prefix]
    if not networks:
        raise SSLToolError(f"{path} contains no network that ssltool knows; {describe_unknown(names, entries)}")
    if len(networks) > 1:
        raise SSLToolError(
            f"{path} contains several networks ({name_keys(networks)}) and matches no layout that ssltool supports; "
            "choose one with --key"
        )
    ((prefix, scheme),) = networks.items()
    return CheckpointLayout(UNKNOWN, None, prefix, heads=None), scheme
